//! Seeded choice of keys, uniform or Zipf, the same in every run. It chooses numbers; what key a
//! number stands for is its caller's affair.

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
    /// Its exponent, above 0.
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
    /// `keys` is at least 1.
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
            Some(zipf) => spread(zipf.rank(&mut self.random), self.keys),
        }
    }
}

/// Puts each rank at a place of its own: the factor is a prime, so no two ranks meet.
fn spread(rank: u64, keys: u64) -> u64 {
    const PRIME: u128 = 2_654_435_761;
    (u128::from(rank) * PRIME % u128::from(keys)) as u64
}

/// Hörmann, Derflinger: Rejection-inversion to generate variates from monotone discrete distributions
/// (1996). It takes any exponent above 0, in constant time and without a table.
#[derive(Clone, Copy, Debug)]
struct Zipf {
    items: f64,
    exponent: f64,
    /// The integral of the density's envelope at its two ends.
    low: f64,
    high: f64,
    /// Below this distance a rank is taken without a further look.
    sure: f64,
}

impl Zipf {
    fn new(items: u64, exponent: f64) -> Self {
        let mut zipf = Self { items: items as f64, exponent, low: 0.0, high: 0.0, sure: 0.0 };
        zipf.low = zipf.integral(1.5) - 1.0;
        zipf.high = zipf.integral(zipf.items + 0.5);
        zipf.sure = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.density(2.0));
        zipf
    }

    /// From 0, the most frequent.
    fn rank(&self, random: &mut Random) -> u64 {
        loop {
            let area = self.high + random.fraction() * (self.low - self.high);
            let place = self.inverse(area);
            let rank = (place + 0.5).floor().clamp(1.0, self.items);
            if rank - place <= self.sure || area >= self.integral(rank + 0.5) - self.density(rank) {
                return rank as u64 - 1;
            }
        }
    }

    fn density(&self, place: f64) -> f64 {
        (-self.exponent * place.ln()).exp()
    }

    /// The density's integral from 1: `(place^(1 - exponent) - 1) / (1 - exponent)`, or the logarithm
    /// where the exponent is 1.
    fn integral(&self, place: f64) -> f64 {
        let logarithm = place.ln();
        let power = (1.0 - self.exponent) * logarithm;
        if power.abs() < 1e-8 { logarithm } else { power.exp_m1() / power * logarithm }
    }

    fn inverse(&self, area: f64) -> f64 {
        let power = (area * (1.0 - self.exponent)).max(-1.0);
        if power.abs() < 1e-8 { area.exp() } else { (power.ln_1p() / power * area).exp() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_draws_each_rank_as_often_as_its_power_says() {
        const ITEMS: u64 = 1_000;
        const DRAWS: usize = 200_000;
        for exponent in [0.5, 0.99, 1.0, 1.2, 2.0] {
            let zipf = Zipf::new(ITEMS, exponent);
            let mut random = Random::new(3);
            let mut counts = vec![0_usize; ITEMS as usize];
            (0..DRAWS).for_each(|_| counts[zipf.rank(&mut random) as usize] += 1);
            let total: f64 = (1..=ITEMS).map(|rank| (rank as f64).powf(-exponent)).sum();
            for rank in [1_usize, 2, 3, 10] {
                let expected = DRAWS as f64 * (rank as f64).powf(-exponent) / total;
                let drawn = counts[rank - 1] as f64;
                assert!(
                    (drawn - expected).abs() < 5.0 * expected.sqrt() + 1.0,
                    "{exponent}: {rank}: {drawn}, {expected}"
                );
            }
        }
    }

    #[test]
    fn hot_keys_are_spread_and_each_has_its_own_place() {
        for keys in [1, 7, 1_024, 10_000] {
            let mut places: Vec<u64> = (0..keys).map(|rank| spread(rank, keys)).collect();
            places.sort_unstable();
            assert_eq!(places, (0..keys).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_keys_all_of_them_within_the_range() {
        for choice in [Choice::Uniform, Choice::Zipf(0.99)] {
            let draw = |seed| {
                let mut keys = Keys::new(choice, 100, seed);
                (0..1_000).map(|_| keys.draw()).collect::<Vec<_>>()
            };
            assert_eq!(draw(1), draw(1));
            assert_ne!(draw(1), draw(2));
            assert!(draw(1).iter().all(|key| *key < 100));
        }
    }
}
