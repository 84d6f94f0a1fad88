//! The `ottla` binary: see [`ottla_broker::cli`].

use std::process::ExitCode;

/// Frames of up to a mebibyte are taken and given back on every request.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ottla_broker::cli::main()
}
