//! The control records that are not settled yet: what they ask for beside the partitions has not been
//! done, as far as is known here, so they are kept in memory, and the log keeps them and all that comes
//! after them. What they say is not the log's affair.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hydrant_storage::record::{Frame, SharedFrame};
use tokio::sync::watch;

#[derive(Debug)]
pub struct Controls {
    /// By number. Each is bounded as a request is, and whoever adds one waits until it is settled.
    unsettled: Mutex<BTreeMap<u64, SharedFrame>>,
    /// Every control record through this frame is settled.
    settled: watch::Sender<u64>,
}

impl Default for Controls {
    fn default() -> Self {
        Self { unsettled: Mutex::default(), settled: watch::Sender::new(u64::MAX) }
    }
}

impl Controls {
    /// Keeps a durable frame, if it is a control record.
    pub fn note(&self, frame: &SharedFrame) {
        let Frame { number, control: Some(_), .. } = **frame else { return };
        let mut unsettled = self.lock();
        unsettled.insert(number, frame.clone());
        self.publish(&unsettled);
    }

    /// What it asks for is done.
    pub fn settle(&self, frame: u64) {
        let mut unsettled = self.lock();
        unsettled.remove(&frame);
        self.publish(&unsettled);
    }

    /// The oldest first.
    pub fn unsettled(&self) -> Vec<SharedFrame> {
        self.lock().values().cloned().collect()
    }

    pub fn settled(&self) -> watch::Receiver<u64> {
        self.settled.subscribe()
    }

    fn publish(&self, unsettled: &BTreeMap<u64, SharedFrame>) {
        self.settled.send_replace(unsettled.keys().next().map_or(u64::MAX, |first| first - 1));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, SharedFrame>> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
