//! placeholder
#[derive(Clone)]
pub struct Metadata;
