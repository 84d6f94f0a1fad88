//! CRC-32C (Castagnoli), the checksum of a batch. One call site of crc-fast, so that a change of the crate is a
//! change of one line and the cross-check below guards it.

/// CRC-32C of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// CRC-32C of two slices as if they were one.
pub(crate) fn crc32c_of_two(first: &[u8], second: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(first);
    digest.update(second);
    // A 32-bit algorithm fills only the low half.
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bit by bit, from the polynomial's definition: slow, and shares nothing with the crate.
    fn reference(bytes: &[u8]) -> u32 {
        const POLYNOMIAL_REVERSED: u32 = 0x82F6_3B78;
        let mut table = [0u32; 256];
        for (index, entry) in table.iter_mut().enumerate() {
            let mut value = index as u32;
            for _ in 0..8 {
                value = if value & 1 == 1 { (value >> 1) ^ POLYNOMIAL_REVERSED } else { value >> 1 };
            }
            *entry = value;
        }
        !bytes.iter().fold(!0u32, |crc, byte| (crc >> 8) ^ table[((crc ^ u32::from(*byte)) & 0xff) as usize])
    }

    #[test]
    fn known_vectors() {
        // RFC 3720, appendix B.4, and the check value of the CRC catalogue.
        assert_eq!(crc32c(b""), 0);
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0u8; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xffu8; 32]), 0x62A8_AB43);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&ascending), 0x46DD_794E);
    }

    #[test]
    fn every_length_up_to_two_kilobytes_agrees_with_the_table() {
        // Vector code changes its path at many lengths and alignments.
        let bytes: Vec<u8> = (0..2100u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for length in 0..2048 {
            for start in [0, 1, 7] {
                let slice = &bytes[start..start + length];
                assert_eq!(crc32c(slice), reference(slice), "start {start}, length {length}");
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_table(bytes in proptest::collection::vec(any::<u8>(), 0..20_000), cut in any::<prop::sample::Index>()) {
            prop_assert_eq!(crc32c(&bytes), reference(&bytes));
            let (first, second) = bytes.split_at(cut.index(bytes.len() + 1));
            prop_assert_eq!(crc32c_of_two(first, second), reference(&bytes));
        }
    }
}
