//! Where every random bit of a simulated cluster comes from.
//!
//! Whoever wants random bits in this process (uuids, `rand`, openraft, the hash keys of the standard library) asks the
//! C library's `getrandom` for them, as the build flags of this directory make sure. This file defines that function:
//! before `seed` it is the kernel's, from then on it is a generator with that seed. So no code needs to know that it is
//! simulated, and a hash map that is walked is walked in the same order again.

use std::ffi::{c_uint, c_void};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

static SEEDED: Mutex<Option<StdRng>> = Mutex::new(None);

/// From now on all random bits of this process follow from `seed`. What drew bits before keeps them: call it on the fresh
/// thread that simulates.
pub fn seed(seed: u64) {
    *SEEDED.lock() = Some(StdRng::seed_from_u64(seed));
}

/// # Safety
/// As getrandom(2): `buffer` is valid for writes of `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    // SAFETY: the caller hands over a buffer of this length to write to; zeroes are as good as what it held.
    let bytes = unsafe {
        std::ptr::write_bytes(buffer.cast::<u8>(), 0, length);
        std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length)
    };
    if let Some(seeded) = SEEDED.lock().as_mut() {
        seeded.fill_bytes(bytes);
        return length as isize;
    }
    match rustix::rand::getrandom(bytes, rustix::rand::GetRandomFlags::from_bits_retain(flags)) {
        Ok(count) => count as isize,
        Err(error) => {
            // SAFETY: the C library's errno of this thread.
            unsafe { *errno() = error.raw_os_error() };
            -1
        }
    }
}

unsafe extern "C" {
    #[link_name = "__errno_location"]
    fn errno() -> *mut i32;
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    /// What a fresh thread makes of a seed.
    fn draws(seed: u64) -> String {
        std::thread::spawn(move || {
            super::seed(seed);
            let map: HashMap<u32, ()> = (0..100).map(|key| (key, ())).collect();
            let order: Vec<_> = map.keys().copied().collect();
            format!("{} {} {order:?}", uuid::Uuid::new_v4(), rand::random::<u64>())
        })
        .join()
        .unwrap()
    }

    #[test]
    fn one_seed_is_one_outcome() {
        let first = draws(7);
        assert_eq!(first, draws(7), "ids, random numbers and the order of a hash map follow from the seed");
        assert_ne!(first, draws(8));
    }
}
