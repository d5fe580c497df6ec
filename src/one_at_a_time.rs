//! Work of which one piece is under way at a time, and none begins any more once the server stops. Whoever
//! comes while another is under way is refused and does not wait.

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
            TryAcquireError::Closed => Error::new(Code::Unavailable, "SHUTTING_DOWN", "the server is stopping"),
        })
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
