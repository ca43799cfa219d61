//! Checksums: how damage on a disk is noticed at a fraction of what a digest costs.

use std::fmt;

/// The CRC-32 (ISO 3309, as in gzip) of a blob's bytes.
///
/// It finds every flipped bit and every run of up to 32 damaged bits, and misses other damage once in four thousand
/// million times. It proves nothing about who made the bytes: that is what a [`Digest`](super::Digest) is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum(pub u32);

/// Computes a [`Checksum`] piece by piece.
#[derive(Clone, Debug, Default)]
pub struct Checksummer(crc32fast::Hasher);

impl Checksum {
    /// The checksum of `content`.
    pub fn of(content: &[u8]) -> Self {
        Self(crc32fast::hash(content))
    }
}

impl Checksummer {
    /// Takes in the next bytes of the content.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of everything that was taken in.
    pub fn finish(self) -> Checksum {
        Checksum(self.0.finalize())
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_check_value_of_the_standard() {
        assert_eq!(Checksum::of(b"123456789").to_string(), "cbf43926");
    }

    proptest! {
        #[test]
        fn pieces_have_the_checksum_of_the_whole(content in proptest::collection::vec(any::<u8>(), 0..2000), at in 0..2000_usize) {
            let (head, tail) = content.split_at(at.min(content.len()));
            let mut pieces = Checksummer::default();
            pieces.update(head);
            pieces.update(tail);
            prop_assert_eq!(pieces.finish(), Checksum::of(&content));
        }

        #[test]
        fn one_flipped_bit_is_found(mut content in proptest::collection::vec(any::<u8>(), 1..2000), at in any::<prop::sample::Index>(), bit in 0..8) {
            let before = Checksum::of(&content);
            *at.get_mut(&mut content) ^= 1_u8 << bit;
            prop_assert_ne!(Checksum::of(&content), before);
        }
    }
}
