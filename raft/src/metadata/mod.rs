//! What the cluster knows about itself: records (facts in the log), the image (their sum), `decide` (requests to
//! records) and `replay` (records to image). Everything here is synchronous and takes time, randomness and ids as values.

pub mod decide;
pub mod election;
pub mod features;
pub mod ids;
pub mod image;
pub mod placement;
pub mod records;
pub mod replay;
