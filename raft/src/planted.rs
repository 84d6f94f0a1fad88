//! Bugs on purpose, for tests/sim: see the module of this name in `storage/batch`, which this crate must not know.

/// Whether the bug of this name is planted.
#[cfg(not(ottla_sim))]
#[inline(always)]
pub const fn is(_name: &str) -> bool {
    false
}

/// Set by tests/sim before it simulates.
#[cfg(ottla_sim)]
pub static PLANTED: std::sync::OnceLock<String> = std::sync::OnceLock::new();

#[cfg(ottla_sim)]
pub fn is(name: &str) -> bool {
    PLANTED.get().is_some_and(|planted| planted == name)
}
