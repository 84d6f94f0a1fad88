//! Whole clusters in one thread: the production code on a simulated network, simulated disks and simulated time, broken by
//! faults that follow from a seed, watched by checkers (`check`).
//!
//! ```text
//! make sim SEEDS=100                     seeds, each in a process of its own
//! cd tests/sim && cargo run --profile sim -- --seed 7            one seed
//! cd tests/sim && cargo run --profile sim -- --seed 7 --log      the same, telling what happens
//! cd tests/sim && cargo run --profile sim -- planted             each planted bug must be caught
//! ```
//!
//! The same seed twice is the same trace, which is tested first (`same`). All of it needs the flags of
//! `.cargo/config.toml` in this directory, so it is built from here.

#[cfg(ottla_sim)]
mod check;
#[cfg(ottla_sim)]
mod cluster;
#[cfg(ottla_sim)]
mod command;
#[cfg(ottla_sim)]
mod entropy;
#[cfg(ottla_sim)]
mod faults;
#[cfg(ottla_sim)]
mod payload;
#[cfg(ottla_sim)]
mod plan;
#[cfg(ottla_sim)]
mod planted;
#[cfg(ottla_sim)]
mod probe;
#[cfg(ottla_sim)]
mod run;
#[cfg(ottla_sim)]
mod trace;
#[cfg(ottla_sim)]
mod workload;
#[cfg(ottla_sim)]
mod world;

#[cfg(ottla_sim)]
fn main() -> std::process::ExitCode {
    command::main()
}

#[cfg(not(ottla_sim))]
fn main() {
    eprintln!("build this in tests/sim, whose .cargo/config.toml turns the simulation on");
    std::process::exit(2);
}
