//! placeholder
pub mod disk {
    #[derive(Debug)]
    pub struct File;
    impl File {
        pub fn as_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
            None
        }
    }
}
pub mod log {
    pub struct LogSlice {
        pub file: Option<std::sync::Arc<super::disk::File>>,
        pub position: u64,
        pub len: usize,
    }
}
