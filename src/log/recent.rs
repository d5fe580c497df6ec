//! The newest durable frames, decoded, for the partitions that keep up. Bounded in bytes; what has
//! left it is read from disk.

use std::collections::VecDeque;
use std::mem::size_of;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hydrant_storage::record::{RowRecord, SharedFrame};

#[derive(Debug)]
pub struct RecentFrames {
    limit: usize,
    frames: Mutex<Frames>,
}

/// A frame and the bytes that it takes in the log.
#[derive(Clone, Debug)]
pub struct SizedFrame {
    pub frame: SharedFrame,
    pub len: usize,
}

#[derive(Debug, Default)]
struct Frames {
    /// Without gaps.
    ordered: VecDeque<SizedFrame>,
    bytes: usize,
}

impl RecentFrames {
    pub fn new(limit: usize) -> Self {
        Self { limit, frames: Mutex::default() }
    }

    /// Adds the frame after the last one.
    pub fn push(&self, added: SizedFrame) {
        let mut frames = self.lock();
        frames.bytes += memory(&added);
        frames.ordered.push_back(added);
        while frames.bytes > self.limit {
            let Some(oldest) = frames.ordered.pop_front() else { break };
            frames.bytes -= memory(&oldest);
        }
    }

    /// The frames after `after`, at least one and at most `max_bytes` if more; `None` if the first
    /// of them is not here.
    pub fn read_from(&self, after: u64, max_bytes: usize) -> Option<Vec<SharedFrame>> {
        let frames = self.lock();
        let first = frames.ordered.front()?.frame.number;
        let skipped = usize::try_from((after + 1).checked_sub(first)?).ok()?;
        let mut wanted = frames.ordered.iter().skip(skipped);
        let head = wanted.next()?;
        let mut left = max_bytes.saturating_sub(head.len);
        let mut taken = vec![head.frame.clone()];
        for next in wanted {
            let Some(rest) = left.checked_sub(next.len) else { break };
            left = rest;
            taken.push(next.frame.clone());
        }
        Some(taken)
    }

    /// Lets go of all frames: they are read from disk if they are wanted again.
    pub fn clear(&self) {
        *self.lock() = Frames::default();
    }

    fn lock(&self) -> MutexGuard<'_, Frames> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Roughly what a decoded frame takes.
fn memory(sized: &SizedFrame) -> usize {
    sized.len + sized.frame.rows.len() * size_of::<RowRecord>()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hydrant_storage::record::Frame;

    use super::*;

    fn numbers(frames: Option<Vec<SharedFrame>>) -> Option<Vec<u64>> {
        frames.map(|frames| frames.iter().map(|frame| frame.number).collect())
    }

    #[test]
    fn the_newest_frames_are_kept_within_the_bound() {
        let recent = RecentFrames::new(350);
        assert_eq!(numbers(recent.read_from(0, 100)), None);
        for number in 1..=5 {
            let frame = Arc::new(Frame { number, ingest_time: 0, stamp: None, rows: Vec::new(), control: None });
            recent.push(SizedFrame { frame, len: 100 });
        }
        assert_eq!(numbers(recent.read_from(1, 1000)), None);
        assert_eq!(numbers(recent.read_from(2, 1000)), Some(vec![3, 4, 5]));
        assert_eq!(numbers(recent.read_from(2, 200)), Some(vec![3, 4]));
        assert_eq!(numbers(recent.read_from(3, 0)), Some(vec![4]));
        assert_eq!(numbers(recent.read_from(5, 1000)), None);
    }
}
