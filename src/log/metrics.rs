//! Every counter of the log: name, unit, help.

use std::sync::Arc;

use crate::counter::Counter;

#[derive(Debug)]
pub struct LogMetrics {
    pub appends: Arc<Counter>,
    pub bytes: Arc<Counter>,
    pub syncs: Arc<Counter>,
    pub duplicates: Arc<Counter>,
    pub refused: Arc<Counter>,
    pub damaged_frames: Arc<Counter>,
}

impl Default for LogMetrics {
    fn default() -> Self {
        Self {
            appends: Counter::count("hydrant.log.appends", "requests made durable"),
            bytes: Counter::new("hydrant.log.written", "By", "bytes of the requests made durable"),
            syncs: Counter::count("hydrant.log.syncs", "syncs, each of one or many requests"),
            duplicates: Counter::count("hydrant.log.duplicates", "requests that had been taken before"),
            refused: Counter::count("hydrant.log.refused", "requests that the log refused"),
            damaged_frames: Counter::count("hydrant.log.frames.damaged", "reads that met a damaged frame"),
        }
    }
}

impl LogMetrics {
    pub fn counters(&self) -> Vec<Arc<Counter>> {
        let all = [&self.appends, &self.bytes, &self.syncs, &self.duplicates, &self.refused, &self.damaged_frames];
        all.into_iter().cloned().collect()
    }
}
