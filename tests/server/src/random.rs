//! Repeatable randomness: the same seed gives the same run, so a failure can be repeated.

/// SplitMix64, see Steele, Lea, Flood: "Fast splittable pseudorandom number generators".
pub struct Random(u64);

impl Random {
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number of `0..limit`, uniformly distributed.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit
    }

    /// Returns a number of `0..limit`. Small numbers are far more frequent than large numbers.
    pub fn skewed_below(&mut self, limit: u64) -> u64 {
        let u = (self.number() >> 11) as f64 / (1u64 << 53) as f64;
        ((limit as f64).powf(u) - 1.0) as u64
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}
