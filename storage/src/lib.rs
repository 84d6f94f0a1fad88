//! placeholder
pub mod log {
    pub struct LogSlice;
}
