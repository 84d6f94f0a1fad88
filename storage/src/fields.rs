//! Fixed-length structures of binary formats, taken apart front to back.

pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// `bytes` are as long as all fields together.
    pub(crate) fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields(bytes)
    }

    pub(crate) fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_at(N);
        self.0 = rest;
        let mut bytes = [0; N];
        bytes.copy_from_slice(field);
        bytes
    }
}
