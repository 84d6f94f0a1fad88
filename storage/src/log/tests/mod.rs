//! Tests of the log as a whole, on the simulated disk.

mod append;
mod compact;
mod damage;
mod golden;
mod model;
mod recover;
mod retain;
mod sealed;
pub(crate) mod support;
