//! The answer as its caller sees it: batches in the spine's order, then a report. Behind it stands
//! one blocking task; dropping the stream stops that task, wherever it is.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use futures::Stream;
use tokio::sync::mpsc;

use super::failure::JoinError;
use super::plan::Plan;
use super::reading::Reading;
use super::report::Report;
use super::work::{self, Stop, Waiter};
use crate::error::{Error, Result};

/// A training set that is being made. Ends after the first error.
#[derive(Debug)]
pub struct HistoricalStream {
    plan: Arc<Plan>,
    reading: Arc<Reading>,
    messages: mpsc::Receiver<Message>,
    report: Option<Report>,
    ended: bool,
    _waiter: Waiter,
}

/// What the task sends.
#[derive(Debug)]
enum Message {
    Batch(RecordBatch),
    Report(Box<Report>),
    Failed(Error),
}

/// The task's end of the stream.
#[derive(Debug)]
pub struct Answer {
    messages: mpsc::Sender<Message>,
    /// Set when the stream has been dropped.
    pub stop: Stop,
}

/// A stream for an answer, of which at most `batches` batches wait to be taken.
pub fn answer(plan: Arc<Plan>, reading: Arc<Reading>, batches: usize) -> (Answer, HistoricalStream) {
    let (sender, messages) = mpsc::channel(batches.max(1));
    let (waiter, stop) = work::begin();
    let stream = HistoricalStream { plan, reading, messages, report: None, ended: false, _waiter: waiter };
    (Answer { messages: sender, stop }, stream)
}

impl HistoricalStream {
    /// Of the answer: the spine's columns, then the features.
    pub fn schema(&self) -> SchemaRef {
        self.plan.output.clone()
    }

    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// How its views are read.
    pub fn reading(&self) -> &Arc<Reading> {
        &self.reading
    }

    /// How many rows the answer will have: as many as the spine.
    pub fn rows(&self) -> u64 {
        self.reading.spine.rows
    }

    /// Known when the stream has ended without an error.
    pub fn report(&self) -> Option<&Report> {
        self.report.as_ref()
    }
}

impl Stream for HistoricalStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match self.messages.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Message::Batch(batch))) => Poll::Ready(Some(Ok(batch))),
            Poll::Ready(Some(Message::Report(report))) => {
                self.ended = true;
                self.report = Some(*report);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Message::Failed(error))) => {
                self.ended = true;
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                self.ended = true;
                Poll::Ready(Some(Err(Error::internal("the join ended without a report"))))
            }
        }
    }
}

impl Answer {
    /// Waits until there is room; for a thread that may block.
    pub fn send(&self, batch: RecordBatch) -> Result<(), JoinError> {
        self.messages.blocking_send(Message::Batch(batch)).map_err(|_| JoinError::Stopped)
    }

    pub fn end(self, outcome: Result<Report>) {
        let message = match outcome {
            Ok(report) => Message::Report(Box::new(report)),
            Err(error) => Message::Failed(error),
        };
        // A caller that has gone away needs no answer.
        drop(self.messages.blocking_send(message));
    }
}
