//! When requests are due: at a fixed rate, or at rates that follow one another. The instants are
//! settled before the first request leaves, and no answer changes them.

use std::time::Duration;

/// The instants at which the requests of one run are due.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrivals {
    phases: Vec<Phase>,
}

/// A time of one rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Phase {
    /// Requests a second.
    pub rate: f64,
    pub begins: Duration,
    pub lasts: Duration,
    /// The number of its first request.
    pub first: u64,
    pub requests: u64,
}

/// When a request is due, and in which phase.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Due {
    pub phase: usize,
    pub at: Duration,
}

impl Arrivals {
    pub fn steady(rate: f64, lasts: Duration) -> Self {
        Self::phases_of(&[(rate, lasts)])
    }

    /// The rate, `factor` times as much, and the rate again, each for as long as asked for.
    pub fn burst(rate: f64, factor: f64, lasts: Duration) -> Self {
        Self::phases_of(&[(rate, lasts), (rate * factor, lasts), (rate, lasts)])
    }

    /// Rates in requests a second (finite, above 0), and for how long.
    pub fn phases_of(rates: &[(f64, Duration)]) -> Self {
        let (mut begins, mut first) = (Duration::ZERO, 0);
        let phase = |&(rate, lasts): &(f64, Duration)| {
            let requests = (rate * lasts.as_secs_f64()).round() as u64;
            let phase = Phase { rate, begins, lasts, first, requests };
            begins += lasts;
            first += requests;
            phase
        };
        Self { phases: rates.iter().map(phase).collect() }
    }

    pub fn phases(&self) -> &[Phase] {
        &self.phases
    }

    pub fn requests(&self) -> u64 {
        self.phases.iter().map(|phase| phase.requests).sum()
    }

    /// From the first request's instant to the end of the last phase.
    pub fn lasts(&self) -> Duration {
        self.phases.iter().map(|phase| phase.lasts).sum()
    }

    /// When a request is due; `None` after the last.
    pub fn due(&self, number: u64) -> Option<Due> {
        let (index, phase) = self.phases.iter().enumerate().find(|(_, phase)| number < phase.first + phase.requests)?;
        let into = Duration::from_secs_f64((number - phase.first) as f64 / phase.rate);
        Some(Due { phase: index, at: phase.begins + into })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_at_even_distances() {
        let arrivals = Arrivals::steady(100.0, Duration::from_secs(2));
        assert_eq!((arrivals.requests(), arrivals.lasts()), (200, Duration::from_secs(2)));
        assert_eq!(arrivals.due(0).map(|due| due.at), Some(Duration::ZERO));
        assert_eq!(arrivals.due(150).map(|due| due.at), Some(Duration::from_millis(1_500)));
        assert_eq!(arrivals.due(200), None);
    }

    #[test]
    fn a_burst_is_one_step_up_and_one_step_down() {
        let arrivals = Arrivals::burst(10.0, 10.0, Duration::from_secs(1));
        assert_eq!(arrivals.requests(), 10 + 100 + 10);
        let due = |number| arrivals.due(number).expect("it is due");
        assert_eq!(due(9), Due { phase: 0, at: Duration::from_millis(900) });
        assert_eq!(due(10), Due { phase: 1, at: Duration::from_secs(1) });
        assert_eq!(due(60), Due { phase: 1, at: Duration::from_millis(1_500) });
        assert_eq!(due(110), Due { phase: 2, at: Duration::from_secs(2) });
        assert_eq!(arrivals.due(120), None);
    }
}
