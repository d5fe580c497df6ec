//! The search for the highest rate that a server keeps up. It proposes rates and is told how they
//! came out; it sends nothing itself. A machine may stall for a moment, so a rate that was not kept up is
//! tried again before it counts, and so is, in the end, the lowest that was not. A rate counts as kept
//! up only where it was.

use super::tally::Tally;

/// Rates are tried upwards or downwards by this factor until one side is found...
const STRIDE: f64 = 0.85;
/// ...and the range between the two is halved so often.
const HALVINGS: u32 = 2;
/// Below this share of what was reached at first, nothing is sought any more.
const LOWEST: f64 = 0.25;
const HIGHEST: f64 = 4.0;
/// Where the machine comes to no rest, the search ends all the same.
const MAX_TRIALS: u32 = 28;
/// How often what seemed too much is tried once more when all is done.
const LAST_LOOKS: u32 = 2;
/// The share of the requests that has to be answered in the time in which they were due.
pub const IN_TIME: f64 = 0.985;

#[derive(Clone, Debug)]
pub struct RateSearch {
    reached: f64,
    next: f64,
    kept_up: Option<f64>,
    not_kept_up: Option<f64>,
    halvings: u32,
    last_looks: u32,
    step: Step,
    trials: u32,
    repeated: u32,
}

/// Why the next rate is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    First,
    /// It was not kept up a moment ago.
    Again,
    /// It was not kept up some time ago, and bounds what was found.
    LastLook,
    Done,
}

impl RateSearch {
    /// `reached` is what a closed loop got, in requests a second.
    pub fn from(reached: f64) -> Self {
        Self {
            reached,
            next: reached * 0.95,
            kept_up: None,
            not_kept_up: None,
            halvings: 0,
            last_looks: 0,
            step: Step::First,
            trials: 0,
            repeated: 0,
        }
    }

    /// The rate to try; `None` at the end of the search.
    pub fn next(&self) -> Option<f64> {
        let within = (LOWEST * self.reached..=HIGHEST * self.reached).contains(&self.next);
        (within && self.step != Step::Done && self.trials < MAX_TRIALS).then_some(self.next)
    }

    /// How the rate that was proposed came out.
    pub fn tell(&mut self, kept_up: bool) {
        self.trials += 1;
        self.repeated += u32::from(self.step != Step::First);
        match (kept_up, self.step) {
            (false, Step::First) => {
                self.step = Step::Again;
                return;
            }
            (false, Step::LastLook | Step::Done) => {
                self.step = Step::Done;
                return;
            }
            (false, Step::Again) => self.not_kept_up = Some(self.next),
            (true, Step::LastLook) => {
                // What bounded the search was the machine's doing: it goes on upwards.
                self.kept_up = Some(self.next);
                (self.not_kept_up, self.halvings) = (None, 0);
            }
            (true, _) => self.kept_up = Some(self.next),
        }
        self.step = Step::First;
        self.next = match (self.kept_up, self.not_kept_up) {
            (Some(kept), Some(not_kept)) if self.halvings < HALVINGS => {
                self.halvings += 1;
                f64::midpoint(kept, not_kept)
            }
            (Some(_), Some(not_kept)) => {
                self.step = if self.last_looks < LAST_LOOKS { Step::LastLook } else { Step::Done };
                self.last_looks += 1;
                not_kept
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

    /// Rates tried so far, repetitions included.
    pub fn trials(&self) -> u32 {
        self.trials
    }

    /// Those among them that had not been kept up before.
    pub fn repeated(&self) -> u32 {
        self.repeated
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

    /// The rate that is found, and after how many trials, where those of these numbers fail whatever
    /// the rate.
    fn found(reached: f64, limit: f64, disturbed: &[u32]) -> (Option<f64>, u32) {
        let mut search = RateSearch::from(reached);
        while let Some(rate) = search.next() {
            search.tell(rate <= limit && !disturbed.contains(&search.trials()));
        }
        (search.found(), search.trials())
    }

    #[test]
    fn the_limit_is_found_from_above_and_from_below() {
        for (reached, limit) in [(1_000.0, 990.0), (1_000.0, 500.0), (1_000.0, 1_800.0)] {
            let (rate, trials) = found(reached, limit, &[]);
            let rate = rate.expect("one is kept up");
            assert!(rate <= limit && rate > 0.94 * limit, "{rate} of {limit}");
            assert!(trials <= 16, "{trials}");
        }
    }

    #[test]
    fn a_server_that_keeps_up_nothing_or_everything_ends_the_search() {
        let (rate, trials) = found(1_000.0, 0.0, &[]);
        assert!(rate.is_none() && trials < 20, "{trials}");
        let (rate, trials) = found(1_000.0, f64::INFINITY, &[]);
        assert!(rate.is_some_and(|rate| rate > 3_000.0) && trials < 15, "{trials}");
    }

    #[test]
    fn a_stall_of_the_machine_is_not_taken_for_the_servers_limit() {
        let stalls: [&[u32]; 5] = [&[0], &[1, 3, 5], &[0, 1], &[0, 1, 2, 3, 4, 5], &[2, 3, 4]];
        for disturbed in stalls {
            let (rate, trials) = found(1_000.0, 1_000.0, disturbed);
            let rate = rate.expect("one is kept up");
            assert!(rate <= 1_000.0 && rate > 0.94 * 1_000.0, "{rate} after {disturbed:?}");
            assert!(trials <= 24, "{trials}");
        }
    }

    #[test]
    fn a_search_on_a_machine_without_rest_ends() {
        let every_third: Vec<u32> = (0..1_000).filter(|number| number % 3 != 0).collect();
        let (_, trials) = found(1_000.0, 1_000.0, &every_third);
        assert!(trials <= MAX_TRIALS, "{trials}");
    }
}
