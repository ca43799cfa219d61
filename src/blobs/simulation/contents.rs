//! The blobs of all runs: made once, because hashing them takes longer than a run.

use std::collections::HashMap;
use std::sync::OnceLock;

use fastrand::Rng;

use crate::oci::{Algorithm, Checksum, Digest};

/// How many there are.
pub(super) const CONTENTS: usize = 32;

const SIZES: [usize; 10] = [0, 1, 511, 4095, 4096, 4097, 8192, 40_000, 65_535, 65_536];

/// A blob, by its place in the pool.
pub(super) type Number = usize;

/// A blob that may be stored.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    pub(super) digest: Digest,
    pub(super) checksum: Checksum,
}

impl Content {
    pub(super) fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(super) fn blocks(&self) -> u64 {
        super::super::space::blocks(self.size())
    }
}

#[derive(Debug)]
struct Pool {
    contents: Vec<Content>,
    numbers: HashMap<Digest, Number>,
}

/// The blob of this number.
pub(super) fn content(number: Number) -> &'static Content {
    &pool().contents[number]
}

/// Which blob has this digest.
pub(super) fn number(digest: Digest) -> Number {
    pool().numbers[&digest]
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| {
        let mut random = Rng::with_seed(1);
        let contents: Vec<_> = (0..CONTENTS).map(|n| make(n, &mut random)).collect();
        let digests = contents.iter().map(|content| content.digest);
        let numbers = digests.enumerate().map(|(n, digest)| (digest, n)).collect();
        Pool { contents, numbers }
    })
}

/// No byte is zero, so that one that was lost is noticed.
fn make(n: Number, random: &mut Rng) -> Content {
    let size = SIZES.get(n).copied();
    let size = size.unwrap_or_else(|| random.usize(0..30_000));
    let algorithm = if n % 8 == 7 {
        Algorithm::Sha512
    } else {
        Algorithm::Sha256
    };
    loop {
        let bytes: Vec<u8> = (0..size).map(|_| random.u8(1..)).collect();
        let digest = Digest::of(algorithm, &bytes);
        // Few shards, so that blobs meet in them.
        if size < 512 || digest.encoded().starts_with(['0', '1', '2', '3']) {
            let checksum = Checksum::of(&bytes);
            return Content {
                bytes,
                digest,
                checksum,
            };
        }
    }
}
