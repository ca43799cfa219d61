//! What is asked for, in order: generated, and the same in every run.

use std::collections::HashMap;

use fastrand::Rng;

/// How many blobs there are in a trace that follows Zipf.
const BLOBS: usize = 20_000;

/// Sizes are log-normal, as those of layers are: this is the middle one, in bytes.
const MEDIAN_SIZE: f64 = 3_000_000.0;

/// The standard deviation of the sizes' logarithm.
const DEVIATION: f64 = 1.8;

const SIZES: std::ops::RangeInclusive<f64> = 1_000.0..=2_000_000_000.0;

/// One blob that is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) blob: u64,
    /// In bytes.
    pub(crate) size: u64,
}

/// Every trace, with its name.
pub(crate) fn all(requests: usize) -> Vec<(&'static str, Vec<Request>)> {
    vec![
        ("Zipf 0.7", zipf(requests, 0.7)),
        ("Zipf 0.9", zipf(requests, 0.9)),
        ("Zipf 1.1", zipf(requests, 1.1)),
        ("Zipf 0.9 with scans", with_scans(requests)),
        ("CI", builds(requests)),
    ]
}

/// The bytes of every blob that occurs, once.
pub(crate) fn footprint(trace: &[Request]) -> u64 {
    let sizes: HashMap<u64, u64> = trace.iter().map(|it| (it.blob, it.size)).collect();
    sizes.into_values().sum()
}

/// The size of a blob, always the same.
fn request(blob: u64) -> Request {
    let mut random = Rng::with_seed(blob.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    // Box and Muller.
    let (radius, angle) = (1.0 - random.f64(), random.f64());
    let normal = (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos();
    let size = MEDIAN_SIZE * (DEVIATION * normal).exp();
    let size = size.clamp(*SIZES.start(), *SIZES.end()) as u64;
    Request { blob, size }
}

/// Draws numbers below a count, the n-th in proportion to `n^-exponent`.
struct Zipf {
    sums: Vec<f64>,
}

impl Zipf {
    fn new(count: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let mut next = |rank: usize| {
            sum += (rank as f64).powf(-exponent);
            sum
        };
        Self {
            sums: (1..=count).map(&mut next).collect(),
        }
    }

    fn draw(&self, random: &mut Rng) -> u64 {
        let all = self.sums.last().copied().unwrap_or_default();
        let at = random.f64() * all;
        self.sums.partition_point(|sum| *sum < at) as u64
    }
}

fn zipf(requests: usize, exponent: f64) -> Vec<Request> {
    let (distribution, mut random) = (Zipf::new(BLOBS, exponent), Rng::with_seed(1));
    let mut draw = || request(distribution.draw(&mut random));
    (0..requests).map(|_| draw()).collect()
}

/// After every 4,000 requests 1,000 blobs that are asked for once: somebody copies a registry, or scans it.
fn with_scans(requests: usize) -> Vec<Request> {
    let popular = zipf(requests, 0.9);
    let mut scanned = 1_000_000..;
    let mut trace = Vec::with_capacity(requests);
    for part in popular.chunks(4_000) {
        trace.extend_from_slice(part);
        trace.extend(scanned.by_ref().take(1_000).map(request));
    }
    trace.truncate(requests);
    trace
}

/// Builds: each pulls the five layers of one of 200 base images, popular by Zipf, and three layers of the application
/// that were never there before; one to four jobs pull the same soon after. A base image is renewed now and then.
fn builds(requests: usize) -> Vec<Request> {
    let (bases, mut random) = (Zipf::new(200, 0.9), Rng::with_seed(2));
    let mut generations = [0_u64; 200];
    let mut fresh = 1_000_000..;
    let mut waiting: Vec<Vec<Request>> = Vec::new();
    let mut trace = Vec::with_capacity(requests);
    while trace.len() < requests {
        let base = bases.draw(&mut random) as usize;
        if random.u8(..100) == 0 {
            generations[base] += 1;
        }
        let first = (base as u64 * 1_000 + generations[base]) * 5;
        let mut pull: Vec<_> = (first..first + 5).map(request).collect();
        pull.extend(fresh.by_ref().take(3).map(request));
        let jobs = random.usize(1..=4);
        waiting.extend(std::iter::repeat_n(pull, jobs));
        // About twenty jobs are always under way.
        while waiting.len() > 20 {
            let next = random.usize(..waiting.len());
            trace.append(&mut waiting.swap_remove(next));
        }
    }
    trace.truncate(requests);
    trace
}
