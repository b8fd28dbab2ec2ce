//! A small deterministic generator for the tests that throw random bytes at the parsers, and how long they do.

use std::time::{Duration, Instant};

/// Names the seconds for which each of these tests goes on; without it, each has a number of rounds.
const SECONDS: &str = "PGKEEL_FUZZ_SECONDS";

/// Numbers of rounds, from 0: so many, or as many as there is time for (`make fuzz`).
pub fn rounds(usually: u64) -> impl Iterator<Item = u64> {
    let seconds = std::env::var(SECONDS).ok().and_then(|text| text.parse().ok());
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    (0..).take_while(move |round| until.map_or(*round < usually, |until| Instant::now() < until))
}

/// xorshift64*: the same seed gives the same bytes on every machine, so a failing test can be repeated.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// 64 bits.
    #[allow(clippy::should_implement_trait, reason = "it never ends, so it is no iterator's")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number in `0..limit`; `limit` must not be zero.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 16) as usize % limit
    }

    /// So many bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 32) as u8).collect()
    }
}
