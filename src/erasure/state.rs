//! Erasures as they are kept: a value that is replaced as a whole. Until an erasure is done, the key stands
//! in it, so that a restart can go on; afterwards only that it was done, and how many rows that were.

use hydrant_storage::erased::ErasedKey;
use hydrant_storage::names::{Name, TenantId, ViewId};
use hydrant_storage::order::Micros;
use hydrant_storage::value::{DataType, ScalarType};
use serde::{Deserialize, Serialize};

/// The version of the persisted form.
const FORMAT: u32 = 1;

/// All erasures, those that were asked for first in front.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    format: u32,
    pub last: u64,
    pub erasures: Vec<Erasure>,
}

/// An erasure, as it is told and kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erasure {
    /// Counts up from 1, over all tenants.
    pub id: u64,
    pub tenant: Name,
    pub entity: Name,
    /// The views whose rows of the key go.
    pub views: Vec<Name>,
    /// Store time.
    pub requested: Micros,
    pub requested_by: String,
    /// When it was found that nothing is left; `None`: it is not done.
    pub finished: Option<Micros>,
    /// Rows of requests up to this frame go; `None`: it has not begun.
    pub through: Option<u64>,
    /// What was erased so far.
    pub erased: Places,
    /// What a search of all places found afterwards: nothing.
    pub left: Option<Places>,
    /// Backups that were made before it, and hold the key if it was there.
    pub backups: Vec<Name>,
    /// What was in the way when it was tried last.
    pub problem: Option<String>,
    /// Gone once it is done.
    pub(super) key: Option<Key>,
}

/// How many rows and files, place by place. Of what a crash cut off some may be missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// Rows that reads could get or were to get.
    pub online_rows: u64,
    /// Rows that had not landed.
    pub tail_rows: u64,
    pub log_rows: u64,
    pub log_segments: u64,
    pub history_rows: u64,
    pub history_files: u64,
    /// Files of older versions of history, deleted before their time.
    pub older_files: u64,
    /// Backfills that were under way, of which what was staged is removed.
    pub staged_backfills: u64,
    pub spine_rows: u64,
    pub spines: u64,
    /// Saved training sets that have lost rows.
    pub training_sets: u64,
}

/// What is to be erased: what was given, and what that was in views and spines when it was asked for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Key {
    /// One for each join key of the entity.
    pub given: Vec<GivenValue>,
    pub views: Vec<KeyOfView>,
    pub spines: Vec<KeyInSpines>,
}

/// The value of a join key, encoded as a key by itself.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GivenValue {
    pub name: Name,
    pub kind: String,
    pub value: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyOfView {
    pub tenant: TenantId,
    pub view: ViewId,
    pub types: Vec<String>,
    pub values: Vec<Option<Vec<u8>>>,
    pub whole: Option<(u16, Vec<u8>)>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct KeyInSpines {
    pub columns: Vec<String>,
    pub types: Vec<String>,
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither logs nor panics repeat what is to be erased.
        formatter.debug_struct("Key").finish_non_exhaustive()
    }
}

impl Key {
    /// Bytes of the longest of its encoded forms.
    pub fn longest(&self) -> usize {
        let of_view = |view: &KeyOfView| {
            let values = view.values.iter().flatten().map(Vec::len);
            values.chain(view.whole.iter().map(|(_, whole)| whole.len())).max()
        };
        let of_views = self.views.iter().filter_map(of_view);
        of_views.chain(self.spines.iter().map(|spine| spine.key.len())).max().unwrap_or_default()
    }
}

impl Default for State {
    fn default() -> Self {
        Self { format: FORMAT, last: 0, erasures: Vec::new() }
    }
}

impl State {
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("erasures have names, numbers and text only")
    }

    /// Reads what [`Self::encode`] wrote; the error says what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        // The text of an error of the parser could repeat what it has read.
        let state: Self = serde_json::from_slice(bytes).map_err(|error| {
            format!("it is no list of erasures, at line {} and column {}", error.line(), error.column())
        })?;
        match state.format {
            FORMAT => Ok(state),
            format => Err(format!("it has format {format}, and this version reads format {FORMAT}")),
        }
    }

    /// The one that is to be done next, of those that don't rest.
    pub fn next(&self, rests: impl Fn(u64) -> bool) -> Option<&Erasure> {
        self.erasures.iter().find(|erasure| erasure.key.is_some() && !rests(erasure.id))
    }

    pub fn get_mut(&mut self, id: u64) -> Option<&mut Erasure> {
        self.erasures.iter_mut().find(|erasure| erasure.id == id)
    }
}

impl Erasure {
    pub fn is_done(&self) -> bool {
        self.finished.is_some()
    }

    /// Whether it waits to erase the same key, however definitions have changed since it was asked for.
    pub(super) fn is_of(&self, entity: &Name, key: &Key) -> bool {
        self.entity == *entity && self.key.as_ref().is_some_and(|own| own.given == key.given)
    }
}

impl Places {
    pub fn add(&mut self, other: &Self) {
        self.online_rows += other.online_rows;
        self.tail_rows += other.tail_rows;
        self.log_rows += other.log_rows;
        self.log_segments += other.log_segments;
        self.history_rows += other.history_rows;
        self.history_files += other.history_files;
        self.older_files += other.older_files;
        self.staged_backfills += other.staged_backfills;
        self.spine_rows += other.spine_rows;
        self.spines += other.spines;
        self.training_sets += other.training_sets;
    }

    /// Whether rows are found somewhere.
    pub fn has_rows(&self) -> bool {
        self.online_rows + self.tail_rows + self.log_rows + self.history_rows + self.spine_rows > 0
    }
}

impl KeyOfView {
    /// For rows of frames up to `through`; `None`: its types are not known to this version.
    pub fn to_erased(&self, through: u64) -> Option<ErasedKey> {
        Some(ErasedKey {
            tenant: self.tenant,
            view: self.view,
            types: types_of(&self.types)?,
            values: self.values.clone(),
            whole: self.whole.clone(),
            through,
        })
    }
}

pub(super) fn types_of(names: &[String]) -> Option<Vec<ScalarType>> {
    let scalar = |name: &String| match name.parse().ok()? {
        DataType::Scalar(scalar) => Some(scalar),
        _ => None,
    };
    names.iter().map(scalar).collect()
}
