//! Bugs on purpose, for tests/sim: a checker that has never caught anything proves nothing. A place that could go wrong asks
//! `planted!("name")`; the answer is false, known when it is compiled, everywhere but in a simulation that was told to plant
//! the bug of that name. tests/sim/src/planted.rs lists them all.

/// Whether the bug of this name is planted.
#[macro_export]
macro_rules! planted {
    ($name:literal) => {
        $crate::planted::is($name)
    };
}

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
