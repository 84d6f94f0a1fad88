//! Tests of the log as a whole, on the simulated disk.

mod append;
mod bootstrap;
mod compact;
mod damage;
mod golden;
mod model;
mod recover;
mod retain;
mod sealed;
pub(crate) mod support;
mod tiered;
