//! The search for the highest rate that a server keeps up. It proposes rates and is told how they
//! came out; it sends nothing itself.

use super::tally::Tally;

/// Rates are tried upwards or downwards by this factor until one side is found...
const STRIDE: f64 = 0.85;
/// ...and the range between the two is halved so often.
const HALVINGS: u32 = 2;
/// Below this share of what was reached at first, nothing is sought any more.
const LOWEST: f64 = 0.25;
const HIGHEST: f64 = 4.0;
/// The share of the requests that has to be answered in the time in which they were due.
pub const IN_TIME: f64 = 0.985;

#[derive(Clone, Debug)]
pub struct RateSearch {
    reached: f64,
    next: f64,
    kept_up: Option<f64>,
    not_kept_up: Option<f64>,
    halvings: u32,
}

impl RateSearch {
    /// `reached` is what a closed loop got, in requests a second.
    pub fn from(reached: f64) -> Self {
        Self { reached, next: reached * 0.95, kept_up: None, not_kept_up: None, halvings: 0 }
    }

    /// The rate to try; `None` at the end of the search.
    pub fn next(&self) -> Option<f64> {
        let within = (LOWEST * self.reached..=HIGHEST * self.reached).contains(&self.next);
        (within && self.halvings <= HALVINGS).then_some(self.next)
    }

    /// How the rate that was proposed came out.
    pub fn tell(&mut self, kept_up: bool) {
        let side = if kept_up { &mut self.kept_up } else { &mut self.not_kept_up };
        *side = Some(self.next);
        self.next = match (self.kept_up, self.not_kept_up) {
            (Some(kept), Some(not_kept)) => {
                self.halvings += 1;
                f64::midpoint(kept, not_kept)
            }
            (Some(kept), None) => kept / STRIDE,
            (None, _) => self.next * STRIDE,
        };
    }

    /// The highest rate that was kept up; `None` where none was, as on a machine that is busy with
    /// something else.
    pub fn found(&self) -> Option<f64> {
        self.kept_up
    }
}

/// Whether a rate was kept up: nearly all was answered in its time, soon enough, and nothing failed.
pub fn kept_up(tally: &Tally, rate: f64, p99_limit_micros: f64) -> bool {
    let in_time = tally.rate() >= IN_TIME * rate && tally.percentile_micros(99.0) <= p99_limit_micros;
    in_time && tally.failed() == 0 && tally.refused() == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(reached: f64, limit: f64) -> (Option<f64>, usize) {
        let mut search = RateSearch::from(reached);
        let mut trials = 0;
        while let Some(rate) = search.next() {
            trials += 1;
            search.tell(rate <= limit);
        }
        (search.found(), trials)
    }

    #[test]
    fn the_limit_is_found_from_above_and_from_below() {
        for (reached, limit) in [(1_000.0, 990.0), (1_000.0, 500.0), (1_000.0, 1_800.0)] {
            let (rate, trials) = found(reached, limit);
            let rate = rate.expect("one is kept up");
            assert!(rate <= limit && rate > 0.94 * limit, "{rate} of {limit}");
            assert!(trials <= 12, "{trials}");
        }
    }

    #[test]
    fn a_server_that_keeps_up_nothing_or_everything_ends_the_search() {
        let (rate, trials) = found(1_000.0, 0.0);
        assert!(rate.is_none() && trials < 15, "{trials}");
        let (rate, trials) = found(1_000.0, f64::INFINITY);
        assert!(rate.is_some_and(|rate| rate > 3_000.0) && trials < 15, "{trials}");
    }
}
