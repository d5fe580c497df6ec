//! Work of which one piece is under way at a time, and none begins any more once the server stops. Whoever
//! comes while another is under way is refused and does not wait, but for the server's own work, which waits.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use crate::error::{Code, Error, Result};

/// The one place.
#[derive(Debug)]
pub struct OneAtATime(Arc<Semaphore>);

impl Default for OneAtATime {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl OneAtATime {
    /// Takes the place until what is returned is dropped. Refusals: `busy`, where it is taken; UNAVAILABLE
    /// once it was closed.
    pub fn enter(&self, busy: impl FnOnce() -> Error) -> Result<OwnedSemaphorePermit> {
        self.0.clone().try_acquire_owned().map_err(|refused| match refused {
            TryAcquireError::NoPermits => busy(),
            TryAcquireError::Closed => stopping(),
        })
    }

    /// Takes the place once it is free: for work of the server's own. UNAVAILABLE once it was closed.
    pub async fn wait(&self) -> Result<OwnedSemaphorePermit> {
        self.0.clone().acquire_owned().await.map_err(|_| stopping())
    }

    /// Lets none begin, and waits for the one that is under way.
    pub async fn close(&self) {
        // Only a closed semaphore refuses, and then somebody else has closed it.
        if let Ok(place) = self.0.acquire().await {
            self.0.close();
            drop(place);
        }
    }
}

fn stopping() -> Error {
    Error::new(Code::Unavailable, "SHUTTING_DOWN", "the server is stopping")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_servers_own_work_waits_for_the_place_and_others_are_refused() {
        let place = OneAtATime::default();
        let busy = || Error::new(Code::ResourceExhausted, "MATERIALIZE_BUSY", "taken");
        let taken = place.enter(busy).expect("it is free");
        assert_eq!(place.enter(busy).expect_err("it is taken").reason, "MATERIALIZE_BUSY");
        let mut waiting = std::pin::pin!(place.wait());
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(taken);
        let own = waiting.await.expect("it is free now");
        assert_eq!(place.enter(busy).expect_err("the server's own work has it").reason, "MATERIALIZE_BUSY");
        drop(own);
        place.close().await;
        assert_eq!(place.wait().await.expect_err("it was closed").reason, "SHUTTING_DOWN");
    }
}
