//! What use cases tell of their work: that a run has begun, and what came of it. Who is told, and what for,
//! is not known here, and telling neither fails nor waits.

mod origin;

use std::fmt::Debug;
use std::sync::Arc;

use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;

pub use self::origin::{MAX_ORIGINS, Origin, check};

use crate::error::Error;

/// Is told of runs. Called where work is done: it must return at once.
pub trait WatchesRuns: Debug + Send + Sync {
    fn tell(&self, tenant: &Name, run: &Run, news: News);

    /// Rows of a source were ingested, so many of them into its views. They are of no run, but of the time
    /// in which they came.
    fn ingested(&self, tenant: &Name, source: &str, rows: u64, views: &mut dyn Iterator<Item = (&Name, u64)>);
}

/// Whoever is told; `None`: nobody.
pub type Watcher = Option<Arc<dyn WatchesRuns>>;

/// A piece of work. The same again (a retry, also after a restart) is the same run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    Backfill {
        source: Name,
        id: String,
        origins: Vec<Origin>,
    },
    Materialize {
        view: Name,
        begun: Micros,
    },
    /// A training set that is saved.
    TrainingSet {
        name: Name,
        made_of: Arc<MadeOf>,
        begun: Micros,
    },
    /// A training set that is made for whoever asked, and not kept; `number` tells it from others that began
    /// at the same instant.
    Pull {
        made_of: Arc<MadeOf>,
        begun: Micros,
        number: u64,
    },
}

/// What a training set is made of, by the names that its tenant has for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MadeOf {
    /// The services, and the views of features that were asked for by themselves, without versions.
    pub asked: Vec<String>,
    pub inputs: Vec<Input>,
    pub columns: Vec<MadeColumn>,
}

/// Something that a training set takes columns from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A view of the tenant's own.
    View { name: Name, version: u32 },
    /// A service or view that another tenant shares: `owner/name`.
    OfAnother { name: String, version: u32 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeColumn {
    pub name: String,
    pub data_type: String,
    /// Index into the inputs, and what its values are called there; `None`: it is masked, and comes from
    /// nothing.
    pub from: Option<(usize, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    Begun,
    Done(Vec<Written>),
    /// It ended with a refusal: its reason and message.
    Failed(String),
    /// Nobody waits for it any more, or the server stops.
    Stopped,
}

/// What a run has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// A view, or a training set as `name@N`; empty of one that is not kept.
    pub name: String,
    pub rows: u64,
    pub bytes: Option<u64>,
}

/// A run under way. Dropping it before its end tells that it was stopped.
#[derive(Debug)]
pub struct Telling {
    watcher: Watcher,
    tenant: Name,
    run: Run,
    has_ended: bool,
}

impl Telling {
    pub fn begin(watcher: Watcher, tenant: Name, run: Run) -> Self {
        let telling = Self { watcher, tenant, run, has_ended: false };
        telling.tell(News::Begun);
        telling
    }

    /// `stopped`: the reason of an error that says that nobody waited any more.
    pub fn end(mut self, outcome: Result<Vec<Written>, &Error>, stopped: &str) {
        self.has_ended = true;
        self.tell(match outcome {
            Ok(written) => News::Done(written),
            Err(error) if error.reason == stopped => News::Stopped,
            Err(error) => News::Failed(format!("{}: {}", error.reason, error.message)),
        });
    }

    fn tell(&self, news: News) {
        if let Some(watcher) = &self.watcher {
            watcher.tell(&self.tenant, &self.run, news);
        }
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        if !self.has_ended {
            self.tell(News::Stopped);
        }
    }
}
