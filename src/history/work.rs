//! Work that blocks, and how it ends: who waits for it holds a [`Waiter`], and once that is dropped,
//! by a hang-up, a deadline or an error, the work finds its [`Stop`] set and gives up. What the work
//! has taken (a place, memory, disk) goes with it, not with who waited.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hydrant_storage::history::{HistoryError, Run, RunBatch};

use super::failure::JoinError;
use crate::error::{Code, Error, Result};

/// What the work asks now and then. The default one is never set.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Told>);

#[derive(Debug, Default)]
struct Told {
    stop: AtomicBool,
    /// How far the work is, in rows that it passes.
    passed: AtomicU64,
}

/// Held by who waits; sets the stop when it is dropped.
#[derive(Debug)]
pub struct Waiter(Stop);

/// The two ends of one piece of work.
pub fn begin() -> (Waiter, Stop) {
    let stop = Stop::default();
    (Waiter(stop.clone()), stop)
}

impl Stop {
    pub fn is_set(&self) -> bool {
        self.0.stop.load(Ordering::Relaxed)
    }

    /// Tells those who ask how far the work is that it has passed so many more rows.
    pub fn note_passed(&self, rows: u64) {
        self.0.passed.fetch_add(rows, Ordering::Relaxed);
    }

    /// Rows passed so far.
    pub fn passed(&self) -> u64 {
        self.0.passed.load(Ordering::Relaxed)
    }

    /// Nobody waits for what hasn't ended yet.
    pub fn set(&self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }

    /// `Err` if nobody waits any more.
    pub fn check(&self) -> Result<(), JoinError> {
        if self.is_set() { Err(JoinError::Stopped) } else { Ok(()) }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.set();
    }
}

/// Runs what computes or waits for a disk where it may. Dropping the future stops the work.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce(&Stop) -> Result<T, JoinError> + Send + 'static,
) -> Result<T> {
    let (_waiter, stop) = begin();
    blocking_until(stop, work).await
}

/// The same, of work that ends when this stop is set.
pub async fn blocking_until<T: Send + 'static>(
    stop: Stop,
    work: impl FnOnce(&Stop) -> Result<T, JoinError> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(move || work(&stop)).await {
        Ok(outcome) => Ok(outcome?),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::new(Code::Unavailable, "SHUTTING_DOWN", "the server is shutting down")),
        },
    }
}

/// Does each piece of work on one of at most `threads` threads, this one among them. The first failure
/// sets the stop, and is the one that is told; what was done comes back in no order.
pub fn in_parallel<W: Send, T: Send>(
    work: Vec<W>,
    threads: usize,
    each: impl Fn(W) -> Result<T, JoinError> + Sync,
    stop: &Stop,
) -> Result<Vec<T>, JoinError> {
    let helpers = threads.min(work.len()).saturating_sub(1);
    let (work, failed) = (Mutex::new(work), Mutex::new(None));
    let take = || work.lock().expect("nobody panics while taking").pop();
    let until_done = || {
        let _stop = StopOnPanic(stop);
        let mut done = Vec::new();
        while let Some(piece) = take() {
            match stop.check().and_then(|()| each(piece)) {
                Ok(outcome) => done.push(outcome),
                Err(error) => {
                    failed.lock().expect("nobody panics while telling").get_or_insert(error);
                    stop.set();
                    break;
                }
            }
        }
        done
    };
    let done = std::thread::scope(|scope| {
        let begin = || std::thread::Builder::new().name("join".to_owned()).spawn_scoped(scope, until_done);
        // Where no more threads can be had, those that there are do all of it.
        let helpers: Vec<_> = (0..helpers).map_while(|_| begin().ok()).collect();
        let mut done = until_done();
        for helper in helpers {
            match helper.join() {
                Ok(more) => done.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    match failed.into_inner().expect("nobody panics while telling") {
        None => Ok(done),
        Some(error) => Err(error),
    }
}

/// Work that panics stops the others too.
struct StopOnPanic<'a>(&'a Stop);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set();
        }
    }
}

/// A run that ends with [`JoinError::Stopped`] before its next batch once the stop is set.
pub struct Stoppable<R> {
    run: R,
    stop: Stop,
}

impl<R: Run> Stoppable<R> {
    pub fn new(run: R, stop: &Stop) -> Self {
        Self { run, stop: stop.clone() }
    }
}

impl<R: Run> Run for Stoppable<R> {
    fn next(&mut self) -> Result<Option<Arc<RunBatch>>, HistoryError> {
        self.stop.check().map_err(JoinError::in_run)?;
        self.run.next()
    }

    fn skip_to(&mut self, slot: u16, key: &[u8]) -> Result<(), HistoryError> {
        self.run.skip_to(slot, key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_piece_of_work_is_done_once_on_however_many_threads() {
        for threads in [0, 1, 3, 100] {
            let stop = Stop::default();
            let mut done = in_parallel((0..20).collect(), threads, |piece| Ok(piece * 2), &stop).expect("done");
            done.sort_unstable();
            assert_eq!(done, (0..40).step_by(2).collect::<Vec<_>>());
            assert!(!stop.is_set());
        }
    }

    #[test]
    fn a_panic_stops_the_others_and_goes_on() {
        let stop = Stop::default();
        let each = |piece: u32| match piece {
            3 => panic!("a defect"),
            _ => loop {
                stop.check()?;
                std::thread::yield_now();
            },
        };
        let work = || in_parallel::<_, ()>(vec![1, 2, 3], 3, each, &stop);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).expect_err("the panic comes through");
        assert!(stop.is_set());
    }

    #[test]
    fn the_failure_that_stopped_the_others_is_told() {
        let stop = Stop::default();
        let each = |piece: u32| match piece {
            3 => Err(JoinError::DamagedSpill),
            // Waits for the failure, as long work does.
            _ => loop {
                stop.check()?;
                std::thread::yield_now();
            },
        };
        let outcome: Result<Vec<()>, _> = in_parallel(vec![1, 2, 3], 3, each, &stop);
        assert!(matches!(outcome, Err(JoinError::DamagedSpill)));
        assert!(stop.is_set());
    }
}
