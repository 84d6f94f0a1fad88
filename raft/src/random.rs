//! Random bits: this crate's only door to them. They come from the operating system, unless a simulation has seeded the
//! thread it runs on.

use std::cell::RefCell;

use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
use uuid::Uuid;

thread_local! {
    static SEEDED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// From now on all random bits that this thread asks for follow from `seed`.
pub fn seed_this_thread(seed: u64) {
    SEEDED.with_borrow_mut(|seeded| *seeded = Some(StdRng::seed_from_u64(seed)));
}

pub fn fill(bytes: &mut [u8]) {
    SEEDED.with_borrow_mut(|seeded| match seeded {
        Some(generator) => generator.fill_bytes(bytes),
        None => rand::rng().fill_bytes(bytes),
    });
}

pub fn bits() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

pub fn uuid() -> Uuid {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seeded_thread_repeats_itself_and_others_do_not() {
        let draw = || (uuid(), bits());
        let of_seed = |seed| {
            std::thread::spawn(move || {
                seed_this_thread(seed);
                (draw(), draw())
            })
            .join()
            .unwrap()
        };
        assert_eq!(of_seed(7), of_seed(7));
        assert_ne!(of_seed(7), of_seed(8));
        assert_ne!(draw(), draw());
    }
}
