//! How long a view was fresh and how long it was not, by the minute for the last hours and by the hour
//! for the window of its promise. Time of which nothing is known is in neither. Bounded, exact to the
//! microsecond, and without a clock: every stretch is handed in.

use std::collections::VecDeque;

use hydrant_storage::order::Micros;

use crate::registry::promise::FreshnessSpec;

pub const MINUTE: Micros = 60_000_000;
pub const HOUR: Micros = 60 * MINUTE;

/// What the minutes are kept for: the longest span of a burn rate.
pub const RECENT: Micros = 6 * HOUR;

/// Measured time, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    pub good: Micros,
    pub bad: Micros,
}

/// The measured time of one view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    minutes: Ring,
    hours: Ring,
}

/// Stretches of equal width, the oldest first, of which so many are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    width: Micros,
    room: usize,
    /// The number of the first cell: its beginning divided by the width.
    first: i64,
    cells: VecDeque<Spent>,
}

impl Budget {
    pub fn new(window: Micros) -> Self {
        Self { minutes: Ring::new(MINUTE, RECENT), hours: Ring::new(HOUR, window) }
    }

    /// As it was stored; what lies before the window is let go.
    pub fn restored(window: Micros, minutes: (i64, Vec<Spent>), hours: (i64, Vec<Spent>)) -> Self {
        let mut budget = Self::new(window);
        budget.minutes.refill(minutes);
        budget.hours.refill(hours);
        budget
    }

    pub fn minutes(&self) -> &Ring {
        &self.minutes
    }

    pub fn hours(&self) -> &Ring {
        &self.hours
    }

    /// The promise's window has another length from now on. One that became longer has unmeasured time
    /// at its beginning.
    pub fn set_window(&mut self, window: Micros) {
        self.hours.room = room(HOUR, window);
        self.hours.shrink();
    }

    /// Adds the stretch from `from` to `to`, which was good up to `fresh_until` and bad from there on.
    pub fn add(&mut self, from: Micros, to: Micros, fresh_until: Micros) {
        let turn = fresh_until.clamp(from, to.max(from));
        for ring in [&mut self.minutes, &mut self.hours] {
            ring.add(from, turn, |spent, micros| spent.good += micros);
            ring.add(turn, to, |spent, micros| spent.bad += micros);
        }
    }

    /// What was measured in the window before `now`, to whole hours at its beginning.
    pub fn in_window(&self, window: Micros, now: Micros) -> Spent {
        self.hours.since(now.saturating_sub(window))
    }

    /// How many times faster than the budget can bear it was spent over `span` before `now`, to whole
    /// minutes at its beginning: 1 spends exactly the budget in a window. Unmeasured time spends nothing.
    pub fn burn_rate(&self, promise: &FreshnessSpec, span: Micros, now: Micros) -> f64 {
        debug_assert!(span <= RECENT, "the minutes don't reach so far");
        let bad = self.minutes.since(now.saturating_sub(span)).bad;
        bad as f64 / span as f64 / promise.target.allowance()
    }
}

impl Ring {
    fn new(width: Micros, span: Micros) -> Self {
        Self { width, room: room(width, span), first: 0, cells: VecDeque::new() }
    }

    pub fn first(&self) -> i64 {
        self.first
    }

    pub fn cells(&self) -> impl Iterator<Item = Spent> {
        self.cells.iter().copied()
    }

    fn refill(&mut self, (first, cells): (i64, Vec<Spent>)) {
        (self.first, self.cells) = (first, cells.into());
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.cells.len() > self.room {
            self.cells.pop_front();
            self.first += 1;
        }
    }

    fn add(&mut self, from: Micros, to: Micros, put: fn(&mut Spent, Micros)) {
        let mut at = from;
        while at < to {
            let number = at.div_euclid(self.width);
            let end = (number + 1).saturating_mul(self.width).min(to);
            if let Some(cell) = self.cell(number) {
                put(cell, end - at);
            }
            at = end;
        }
    }

    /// The cell of this number; `None` where it lies before all that are kept.
    fn cell(&mut self, number: i64) -> Option<&mut Spent> {
        let ahead = number.saturating_sub(self.first);
        // Beyond all that could stay beside it, or the first there ever was.
        if self.cells.is_empty() || ahead >= (self.cells.len() + self.room) as i64 {
            self.cells.clear();
            self.first = number;
        }
        let index = usize::try_from(number - self.first).ok()?;
        while self.cells.len() <= index {
            self.cells.push_back(Spent::default());
        }
        self.shrink();
        let index = usize::try_from(number - self.first).ok()?;
        self.cells.get_mut(index)
    }

    fn since(&self, from: Micros) -> Spent {
        let skipped = usize::try_from(from.div_euclid(self.width) - self.first).unwrap_or(0);
        self.cells
            .iter()
            .skip(skipped)
            .fold(Spent::default(), |sum, cell| Spent { good: sum.good + cell.good, bad: sum.bad + cell.bad })
    }
}

/// Cells that a span may touch: one more, since it begins in the middle of one.
fn room(width: Micros, span: Micros) -> usize {
    let cells = span.max(width) / width + i64::from(span % width != 0);
    usize::try_from(cells).unwrap_or(0) + 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Micros = 24 * HOUR;

    /// Every microsecond that was handed in, as the stretches themselves.
    #[derive(Debug, Default)]
    struct Naive(Vec<(Micros, Micros, bool)>);

    impl Naive {
        fn since(&self, from: Micros, width: Micros) -> Spent {
            let from = from.div_euclid(width) * width;
            let mut spent = Spent::default();
            for (begin, end, good) in &self.0 {
                let within = (*end - from.max(*begin)).max(0);
                *(if *good { &mut spent.good } else { &mut spent.bad }) += within;
            }
            spent
        }
    }

    #[test]
    fn a_stretch_turns_bad_where_its_rows_became_too_old() {
        let mut budget = Budget::new(DAY);
        budget.add(0, 100, 70);
        budget.add(100, 200, i64::MAX);
        budget.add(200, 300, 0);
        assert_eq!(budget.in_window(DAY, 300), Spent { good: 170, bad: 130 });
        budget.add(300, 300, 0);
        assert_eq!(budget.in_window(DAY, 300), Spent { good: 170, bad: 130 });
    }

    #[test]
    fn time_leaves_the_window_by_the_hour() {
        let mut budget = Budget::new(DAY);
        budget.add(0, HOUR, 0);
        budget.add(HOUR, 2 * HOUR, i64::MAX);
        assert_eq!(budget.in_window(DAY, DAY).bad, HOUR);
        assert_eq!(budget.in_window(DAY, DAY + HOUR - 1).bad, HOUR);
        assert_eq!(budget.in_window(DAY, DAY + HOUR).bad, 0);
    }

    #[test]
    fn a_burn_rate_of_one_spends_exactly_the_budget() {
        let promise = FreshnessSpec::of(MINUTE);
        let mut budget = Budget::new(promise.window);
        // 1 % of an hour.
        budget.add(1_000 * HOUR, 1_000 * HOUR + HOUR, 1_000 * HOUR + HOUR - 36_000_000);
        assert!((budget.burn_rate(&promise, HOUR, 1_001 * HOUR) - 1.0).abs() < 1e-9);
        assert!((budget.burn_rate(&promise, 5 * MINUTE, 1_001 * HOUR) - 12.0).abs() < 1e-9);
    }

    #[test]
    fn a_shorter_window_forgets_and_a_longer_one_does_not_invent() {
        let mut budget = Budget::new(2 * DAY);
        budget.add(0, HOUR, 0);
        budget.add(30 * HOUR, 31 * HOUR, i64::MAX);
        budget.set_window(DAY);
        budget.set_window(2 * DAY);
        assert_eq!(budget.in_window(2 * DAY, 31 * HOUR), Spent { good: HOUR, bad: 0 });
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

        /// Stretches with gaps between them, over a few days.
        #[test]
        fn a_budget_is_what_a_naive_reckoning_says(
            stretches in proptest::collection::vec((0_i64..3 * HOUR, 1_i64..3 * HOUR, 0_i64..3 * HOUR), 1..80),
            begin in -DAY..DAY,
        ) {
            let mut budget = Budget::new(DAY);
            let (mut naive, mut now) = (Naive::default(), begin);
            for (gap, length, fresh_for) in stretches {
                let (from, to) = (now + gap, now + gap + length);
                let turn = (from + fresh_for).min(to);
                budget.add(from, to, from + fresh_for);
                naive.0.extend([(from, turn, true), (turn, to, false)]);
                now = to;
                prop_assert_eq!(budget.in_window(DAY, now), naive.since(now - DAY, HOUR));
                for span in [5 * MINUTE, HOUR, RECENT] {
                    let promise = FreshnessSpec::of(MINUTE);
                    let bad = naive.since(now - span, MINUTE).bad as f64;
                    let burned = bad / span as f64 / 0.01;
                    prop_assert!((budget.burn_rate(&promise, span, now) - burned).abs() < 1e-6);
                }
                prop_assert!(budget.minutes.cells.len() <= budget.minutes.room);
                prop_assert!(budget.hours.cells.len() <= budget.hours.room);
                let stored = |ring: &Ring| (ring.first(), ring.cells().collect::<Vec<_>>());
                let restored = Budget::restored(DAY, stored(&budget.minutes), stored(&budget.hours));
                prop_assert_eq!(&restored, &budget);
            }
        }
    }
}
