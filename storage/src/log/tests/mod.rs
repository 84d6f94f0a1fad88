//! Tests of the log as a whole, on the simulated disk.

mod append;
mod support;
