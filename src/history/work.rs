//! Work that blocks, and how it ends: who waits for it holds a [`Waiter`], and once that is dropped,
//! by a hang-up, a deadline or an error, the work finds its [`Stop`] set and gives up. What the work
//! has taken (a place, memory, disk) goes with it, not with who waited.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hydrant_storage::history::{HistoryError, Run, RunBatch};

use super::failure::JoinError;
use crate::error::{Code, Error, Result};

/// What the work asks now and then. The default one is never set.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

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
        self.0.load(Ordering::Relaxed)
    }

    /// `Err` if nobody waits any more.
    pub fn check(&self) -> Result<(), JoinError> {
        if self.is_set() { Err(JoinError::Stopped) } else { Ok(()) }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Runs what computes or waits for a disk where it may. Dropping the future stops the work.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce(&Stop) -> Result<T, JoinError> + Send + 'static,
) -> Result<T> {
    let (_waiter, stop) = begin();
    match tokio::task::spawn_blocking(move || work(&stop)).await {
        Ok(outcome) => Ok(outcome?),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::new(Code::Unavailable, "SHUTTING_DOWN", "the server is shutting down")),
        },
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
