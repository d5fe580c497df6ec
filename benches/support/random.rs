//! Seeded choice of keys, uniform or Zipf, the same in every run.

use std::fmt;
use std::str::FromStr;

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// In `0..bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }

    /// In `[0, 1)`.
    pub fn fraction(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Spreads the bits of a number.
pub fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// How keys are chosen among those that exist.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choice {
    Uniform,
    /// Its exponent, below 1.
    Zipf(f64),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "uniform" => Ok(Self::Uniform),
            "zipf" => Ok(Self::Zipf(0.99)),
            _ => Err(format!("'{text}' is neither uniform nor zipf")),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => formatter.write_str("uniform"),
            Self::Zipf(exponent) => write!(formatter, "zipf {exponent}"),
        }
    }
}

/// Draws keys from `0..keys`. Hot keys are spread over the whole range.
#[derive(Clone, Debug)]
pub struct Keys {
    keys: u64,
    zipf: Option<Zipf>,
    random: Random,
}

impl Keys {
    pub fn new(choice: Choice, keys: u64, seed: u64) -> Self {
        let zipf = match choice {
            Choice::Uniform => None,
            Choice::Zipf(exponent) => Some(Zipf::new(keys, exponent)),
        };
        Self { keys, zipf, random: Random::new(seed) }
    }

    pub fn draw(&mut self) -> u64 {
        match &self.zipf {
            None => self.random.below(self.keys),
            Some(zipf) => mix(zipf.rank(self.random.fraction())) % self.keys,
        }
    }
}

/// Gray et al., Quickly generating billion-record synthetic databases (1994), as YCSB uses it.
#[derive(Clone, Copy, Debug)]
struct Zipf {
    items: f64,
    theta: f64,
    zeta_items: f64,
    alpha: f64,
    eta: f64,
}

impl Zipf {
    fn new(items: u64, theta: f64) -> Self {
        let zeta = |count: u64| (1..=count).map(|rank| (rank as f64).powf(-theta)).sum::<f64>();
        let (zeta_two, zeta_items) = (zeta(2), zeta(items));
        let eta = (1.0 - (2.0 / items as f64).powf(1.0 - theta)) / (1.0 - zeta_two / zeta_items);
        Self { items: items as f64, theta, zeta_items, alpha: 1.0 / (1.0 - theta), eta }
    }

    fn rank(&self, fraction: f64) -> u64 {
        let scaled = fraction * self.zeta_items;
        if scaled < 1.0 {
            0
        } else if scaled < 1.0 + 0.5_f64.powf(self.theta) {
            1
        } else {
            (self.items * (self.eta * fraction - self.eta + 1.0).powf(self.alpha)) as u64
        }
    }
}
