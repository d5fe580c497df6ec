//! Random numbers that a seed brings back, and where the seeds of a property test come from.

use std::collections::hash_map::RandomState;
use std::env;
use std::hash::{BuildHasher as _, Hasher as _};

/// Replays one case: the seed that a failed test printed.
pub const SEED_VARIABLE: &str = "HYDRANT_TEST_SEED";
/// How many cases are run instead of the test's own number.
pub const CASES_VARIABLE: &str = "HYDRANT_TEST_CASES";

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

/// The seeds of a property test: the one of the environment, or `cases` new ones.
pub fn seeds(cases: u64) -> Vec<u64> {
    if let Some(seed) = number_of(SEED_VARIABLE) {
        return vec![seed];
    }
    let first = RandomState::new().build_hasher().finish();
    let cases = number_of(CASES_VARIABLE).unwrap_or(cases);
    (0..cases).map(|case| first.wrapping_add(case)).collect()
}

fn number_of(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is '{text}', and a whole number is wanted")))
}

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("it is below a usize")
    }

    /// A number from `first` to `last`, both included.
    pub fn between(&mut self, first: i64, last: i64) -> i64 {
        let numbers = last.abs_diff(first) + 1;
        first + i64::try_from(self.next() % numbers).expect("a small range")
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.below(index + 1));
        }
    }
}
