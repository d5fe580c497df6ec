//! A token bucket: so many a second, and at once as many as a second gives. One atomic number and no
//! lock (the generic cell rate algorithm: ITU-T I.371); it reads no clock, and an empty bucket says
//! when to come again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const NANOS: u64 = 1_000_000_000;

/// How far ahead of its rate a bucket may run.
const BURST: u64 = NANOS;

const UNLIMITED: u64 = u64::MAX;

/// A bucket; without a limit at first.
#[derive(Debug)]
pub struct Bucket {
    epoch: Instant,
    per_second: AtomicU64,
    /// When all that was taken is paid for, in nanoseconds since the epoch.
    paid: AtomicU64,
    /// All that was ever taken, less what was put back, also without a limit.
    taken: AtomicU64,
}

/// The bucket is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// `None` where the rate is zero, so that waiting is in vain.
    pub retry_after: Option<Duration>,
}

impl Bucket {
    pub fn new(epoch: Instant) -> Self {
        Self { epoch, per_second: AtomicU64::new(UNLIMITED), paid: AtomicU64::new(0), taken: AtomicU64::new(0) }
    }

    /// `None`: without limit. What is owed from before is as much as it was, so at a higher rate it is paid for
    /// the sooner; at a lower one it takes no longer, since it was taken by a right that held. Without a limit
    /// nothing is owed.
    pub fn set(&self, now: Instant, per_second: Option<u64>) {
        let before = self.per_second.swap(per_second.unwrap_or(UNLIMITED), Ordering::Relaxed);
        let now = self.nanos(now);
        let owed = |paid: u64| {
            let ahead = paid.saturating_sub(now);
            let left = match per_second {
                Some(after) if after > before => u128::from(ahead) * u128::from(before) / u128::from(after),
                Some(_) => u128::from(ahead),
                None => 0,
            };
            Some(paid.min(now.saturating_add(u64::try_from(left).unwrap_or(u64::MAX))))
        };
        // It always succeeds, since what is owed can always be told.
        let _previous = self.paid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, owed);
    }

    pub fn limit(&self) -> Option<u64> {
        let per_second = self.per_second.load(Ordering::Relaxed);
        (per_second != UNLIMITED).then_some(per_second)
    }

    /// Takes `amount`. More than a second gives is taken from a full bucket only, which then takes as
    /// much longer to fill: no amount is refused for ever.
    pub fn take(&self, now: Instant, amount: u64) -> Result<(), Exhausted> {
        let Some(per_second) = self.limit() else {
            self.taken.fetch_add(amount, Ordering::Relaxed);
            return Ok(());
        };
        if amount == 0 {
            return Ok(());
        }
        let Some(price) = price(amount, per_second) else { return Err(Exhausted { retry_after: None }) };
        let now = self.nanos(now);
        let afford = |paid: u64| {
            let begin = paid.max(now);
            let end = begin.saturating_add(price);
            (begin == now || end - now <= BURST).then_some(end)
        };
        match self.paid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, afford) {
            Ok(_) => {
                self.taken.fetch_add(amount, Ordering::Relaxed);
                Ok(())
            }
            Err(paid) => {
                // When the bucket holds the amount, or is full where it never holds as much.
                let wait = (paid - now).saturating_sub(BURST.saturating_sub(price));
                Err(Exhausted { retry_after: Some(Duration::from_nanos(wait.max(1))) })
            }
        }
    }

    /// Puts back what was taken for something that was not done.
    pub fn give_back(&self, amount: u64) {
        let price = self.limit().and_then(|per_second| price(amount, per_second)).unwrap_or(0);
        let less = |paid: u64| Some(paid.saturating_sub(price));
        self.taken.fetch_sub(amount, Ordering::Relaxed);
        // It always succeeds, since there is always a smaller number.
        let _previous = self.paid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// What is taken and not paid for yet, the last of it as a whole: of one a second, one is in use until the
    /// second is over. 0 without a limit.
    pub fn used(&self, now: Instant) -> u64 {
        // Prices are rounded up: what that makes altogether is less than a thousandth of one.
        const ROUNDED: u128 = 1_000_000;
        let ahead = self.paid.load(Ordering::Relaxed).saturating_sub(self.nanos(now));
        let used = u128::from(ahead) * u128::from(self.limit().unwrap_or(0));
        u64::try_from(used.saturating_sub(ROUNDED).div_ceil(u128::from(NANOS))).unwrap_or(u64::MAX)
    }

    /// All that was taken since the bucket was made, less what was put back.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The time in which `amount` flows in; `None` where nothing does.
fn price(amount: u64, per_second: u64) -> Option<u64> {
    let price = (u128::from(amount) * u128::from(NANOS)).div_ceil(u128::from(per_second).max(1));
    (per_second > 0).then(|| u64::try_from(price).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn bucket(per_second: u64) -> (Bucket, Instant) {
        let now = Instant::now();
        let bucket = Bucket::new(now);
        bucket.set(now, Some(per_second));
        (bucket, now)
    }

    #[test]
    fn a_second_s_worth_may_be_taken_at_once_and_then_the_rate_holds() {
        let (bucket, mut now) = bucket(1_000);
        let taken = (0..5_000).filter(|_| bucket.take(now, 1).is_ok()).count();
        assert_eq!(taken, 1_000);
        assert_eq!(bucket.used(now), 1_000);
        let mut later = 0;
        for _ in 0..10_000 {
            now += MILLI;
            later += (0..5).filter(|_| bucket.take(now, 1).is_ok()).count();
        }
        assert_eq!(later, 10_000, "one a millisecond, however often it is asked");
    }

    #[test]
    fn an_empty_bucket_says_when_the_amount_will_be_there() {
        let (bucket, now) = bucket(100);
        bucket.take(now, 100).expect("full");
        let wait = bucket.take(now, 30).expect_err("empty").retry_after.expect("it fills");
        assert_eq!(wait, 300 * MILLI);
        assert!(bucket.take(now + wait - MILLI, 30).is_err());
        assert!(bucket.take(now + wait, 30).is_ok());
    }

    #[test]
    fn more_than_a_second_s_worth_is_taken_from_a_full_bucket_and_paid_for_afterwards() {
        let (bucket, now) = bucket(100);
        bucket.take(now, 1).expect("full");
        let wait = bucket.take(now, 500).expect_err("not full any more").retry_after.expect("it fills");
        assert_eq!(wait, 10 * MILLI);
        let now = now + wait;
        bucket.take(now, 500).expect("full again");
        assert_eq!(bucket.used(now), 500);
        assert!(bucket.take(now + 3_999 * MILLI, 1).is_err());
        assert!(bucket.take(now + 4_010 * MILLI, 1).is_ok());
    }

    #[test]
    fn what_was_not_used_is_put_back_and_a_new_limit_holds_at_once() {
        let (bucket, now) = bucket(10);
        bucket.take(now, 10).expect("full");
        bucket.give_back(4);
        assert_eq!(bucket.used(now), 6);
        bucket.take(now, 4).expect("put back");
        assert_eq!(bucket.take(now, 1), Err(Exhausted { retry_after: Some(100 * MILLI) }));
        bucket.set(now, Some(0));
        assert_eq!(bucket.take(now, 1), Err(Exhausted { retry_after: None }));
        bucket.set(now, None);
        bucket.take(now, 90).expect("without limit");
        assert_eq!(bucket.taken(), 100, "what is refused or put back was not taken");
    }

    #[test]
    fn a_raised_rate_owes_no_more_than_was_taken_and_a_lowered_one_takes_no_longer_to_pay() {
        let (bucket, now) = bucket(10);
        bucket.take(now, 10).expect("full");
        bucket.set(now, Some(1_000));
        assert_eq!(bucket.used(now), 10, "what was taken, and not a second's worth of the new rate");
        bucket.take(now, 990).expect("the raise holds at once");
        assert_eq!(bucket.take(now, 1), Err(Exhausted { retry_after: Some(MILLI) }));
        bucket.set(now, Some(10));
        assert_eq!(bucket.used(now), 10);
        bucket.take(now + 100 * MILLI, 1).expect("it is paid for within the second");
        bucket.set(now, None);
        bucket.set(now, Some(5));
        assert_eq!(bucket.used(now), 0, "without a limit nothing is owed");
    }

    #[test]
    fn of_one_a_second_one_is_in_use_until_the_second_is_over() {
        for per_second in [1, 3, 7, 1_000] {
            let (bucket, now) = bucket(per_second);
            bucket.take(now, 1).expect("full");
            let second = Duration::from_secs(1) / u32::try_from(per_second).expect("few");
            assert_eq!(bucket.used(now), 1, "{per_second}");
            assert_eq!(bucket.used(now + second / 2), 1, "{per_second}");
            assert_eq!(bucket.used(now + second + Duration::from_nanos(1)), 0, "{per_second}");
        }
    }

    #[test]
    fn threads_together_take_no_more_than_there_is() {
        let (bucket, now) = bucket(10_000);
        let taken: usize = std::thread::scope(|scope| {
            let take = || (0..8_000).filter(|_| bucket.take(now, 1).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().expect("it ends")).sum()
        });
        assert_eq!(taken, 10_000);
    }
}
