//! Why a value is what it is: for one entity and one instant the row of each view that counts, with all
//! that is known of it, and the rows that lost to it, each with the rule by which. Which row counts,
//! and whether it has expired, is decided by `storage::order` alone.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::sync::Arc;

use arrow_array::ArrayRef;
use hydrant_storage::cast::to_exact;
use hydrant_storage::history::{HistoryError, MergedRuns, RowAt, Run, Since, SlotSet, Sought, TailRun};
use hydrant_storage::keys::{KeyReader, slot_of};
use hydrant_storage::names::Name;
use hydrant_storage::order::{CellStatus, Micros, Position, RowVersion, is_expired, missing_cell_status, row_status};
use hydrant_storage::record::ProducerStamp;
use hydrant_storage::row::value_at;
use hydrant_storage::value::{DataType, ScalarType, Value};

use super::asof::Mode;
use super::failure::JoinError;
use super::plan::refuse_without_history;
use super::service::History;
use super::sources::{Cut, ViewRows};
use super::work::{Stop, Stoppable, blocking};
use crate::error::{Error, Result, Violation};
use crate::log::{LogError, WriteLog};
use crate::registry::catalog::{Lookup, ServiceColumn, View};
use crate::registry::masking::Masking;
use crate::registry::reads::ReadKind;
use crate::registry::selection::{SelectedService, Selection};
use crate::tenancy::{Action, Permit};

/// Rows that lost, of each view, at most.
pub const MOST_LOSERS: usize = 100;

/// After so many rows of a key it is asked whether somebody still waits.
const ROWS_BETWEEN_LOOKS: u64 = 1_024;

/// What is asked about one entity.
#[derive(Clone, Debug)]
pub struct WhyRequest {
    /// `name` or `name@N`.
    pub services: Vec<String>,
    /// `view:feature`.
    pub features: Vec<String>,
    /// Only these of the columns that they have; none: all.
    pub columns: Vec<String>,
    /// The request columns, of one value each.
    pub entities: Vec<(String, ArrayRef)>,
    pub at: Micros,
    pub mode: Mode,
    /// Only rows ingested at or before it count; `None`: before now.
    pub cutoff: Option<Micros>,
    /// Rows that lost, of each view; [`MOST_LOSERS`] at most.
    pub losers: usize,
}

/// What each value is, and why.
#[derive(Clone, Debug)]
pub struct Why {
    pub at: Micros,
    pub mode: Mode,
    pub cutoff: Micros,
    pub revision: u64,
    /// `name@N` of each service.
    pub services: Vec<String>,
    pub lookups: Vec<WhyLookup>,
    pub cells: Vec<WhyCell>,
}

/// One view under one key and one ttl.
#[derive(Clone, Debug)]
pub struct WhyLookup {
    pub view: Arc<View>,
    /// What the caller calls the view: `name`, or `owner/name` of another tenant's.
    pub name: String,
    /// The request columns that are its key.
    pub keys: Vec<Name>,
    pub ttl: Option<Micros>,
    /// The row that counts, be it a tombstone or expired.
    pub winner: Option<ToldRow>,
    /// Those that are nearest to the instant by their event time, the nearest first.
    pub losers: Vec<Lost>,
    /// Of the key, whatever became of them.
    pub rows: u64,
    /// The instant lies before this one, and rows that counted may be gone by the view's retention; `None`: none
    /// are. A row that counts is the right one all the same: those that are gone are older.
    pub lacks_before: Option<Micros>,
}

/// What is known of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldRow {
    pub version: RowVersion,
    pub ingest_time: Micros,
    pub deleted: bool,
    /// Of the definition that it was written under.
    pub revision: u64,
    pub feature_count: u16,
    pub has_landed: bool,
    /// Older than the ttl at the instant.
    pub is_expired: bool,
    /// Who sent it; `None`: nobody said, or the log has it no more.
    pub sent_by: Option<ProducerStamp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub row: ToldRow,
    pub rule: Rule,
}

/// Why a row doesn't count. The first that holds is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    AfterCutoff,
    LaterThanInstant,
    /// As known only.
    NotYetKnown,
    SmallerEventTime,
    SmallerKnownTime,
    EarlierPosition,
}

#[derive(Clone, Debug)]
pub struct WhyCell {
    pub name: String,
    /// Index into the lookups.
    pub lookup: usize,
    pub data_type: DataType,
    /// The row's, or the default.
    pub value: Value,
    pub status: CellStatus,
    pub cause: Cause,
    pub is_default: bool,
}

/// Why a cell has its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The row that counts holds it, as a value or as a null.
    Written,
    /// A part of the key is null.
    NullKey,
    /// There is no row of the key.
    NoRow,
    /// There are rows of the key, and none of them counts.
    NoneCounts,
    /// No row of the key counts, and one that did may be gone by the view's retention.
    PerhapsGone,
    Deleted,
    /// The row was written before the feature was added.
    OlderThanFeature,
    Expired,
    /// The caller may not see it.
    Masked,
}

/// What decides which rows count.
#[derive(Clone, Copy, Debug)]
struct Asked {
    at: Micros,
    mode: Mode,
    cutoff: Micros,
}

/// The rows of one key, seen so far.
struct Seen {
    winner: Option<RowAt>,
    /// Whether history has the winner.
    winner_has_landed: bool,
    losers: BinaryHeap<Near>,
    most: usize,
    rows: u64,
}

/// A row by how near it is to the instant, the farthest greatest.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Near {
    distance: u64,
    version: Reverse<RowVersion>,
    row: Kept,
}

/// What is kept of a row that may have lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kept {
    ingest_time: Micros,
    deleted: bool,
    revision: u64,
    feature_count: u16,
    has_landed: bool,
}

impl History {
    /// Explains each value of an entity at an instant, as a training set with the same mode and cut-off
    /// would hold it. FAILED_PRECONDITION for a view without history; RESOURCE_EXHAUSTED where as many
    /// reads of the past are under way as may be. Dropping the future ends the read.
    pub async fn why(&self, permit: &Permit, request: WhyRequest) -> Result<Why> {
        permit.require(Action::ReadOnline)?;
        permit.check_reads(&request.services, &request.features)?;
        if request.losers > MOST_LOSERS {
            let message = format!("{} rows that lost are asked for; at most {MOST_LOSERS}", request.losers);
            return Err(Error::invalid("TOO_MANY_LOSERS", message).with("limit", MOST_LOSERS));
        }
        let parts = &self.inner.parts;
        let snapshot = parts.snapshots.load();
        let tenant = snapshot.tenant(permit.tenant())?;
        let mut selection = snapshot.select(tenant, &request.services, &request.features)?;
        selection.require_unique_names()?;
        selection.require_training_rights()?;
        selection.mask(Masking::AsGranted, permit.may_see_pii())?;
        // Keys of what isn't asked about may be given too.
        let (is_narrowed, known) = (!request.columns.is_empty(), selection.request_columns.clone());
        let selection = narrowed(selection, &request.columns)?;
        let is_idle = |name: &str| {
            is_narrowed
                && known.iter().any(|column| column.name.as_str() == name)
                && !selection.request_columns.iter().any(|column| column.name.as_str() == name)
        };
        let entities: Vec<(String, ArrayRef)> =
            request.entities.into_iter().filter(|(name, _)| !is_idle(name)).collect();
        for lookup in &selection.lookups {
            refuse_without_history(&lookup.view)?;
        }
        let keys = keys_of(&selection, &entities)?;
        let place = self.take_place()?;
        let metrics = self.inner.metrics.clone();
        metrics.lookups.add_for(permit.tenant(), 1);
        metrics.lookup_keys.add_for(permit.tenant(), keys.len() as u64);
        let patience = self.inner.options.patience;
        let cut = Cut::take(parts.log.as_ref(), &parts.partitions, request.cutoff, patience).await?;
        let asked = Asked { at: request.at, mode: request.mode, cutoff: cut.cutoff };
        let mut views = Vec::with_capacity(selection.lookups.len());
        for lookup in &selection.lookups {
            views.push(cut.rows_of(&parts.tables, &snapshot, &lookup.view).await?);
        }
        let (log, most, reads) = (parts.log.clone(), request.losers, selection.reads().clone());
        let explained = blocking(move |stop| {
            let explained = explain(&selection, &views, &keys, asked, most, log.as_ref(), stop);
            drop(place);
            explained.inspect_err(|error| metrics.note_damage(error))
        })
        .await?;
        parts.snapshots.reads().note(permit.caller(), &reads, ReadKind::Online);
        Ok(explained)
    }
}

/// The selection with only some of its columns, and the lookups that these need; NOT_FOUND names a
/// column that it doesn't have.
fn narrowed(selection: Selection, columns: &[String]) -> Result<Selection> {
    if columns.is_empty() {
        return Ok(selection);
    }
    let known: HashSet<&str> = selection.columns.iter().map(|column| column.name.as_str()).collect();
    if let Some(unknown) = columns.iter().find(|column| !known.contains(column.as_str())) {
        const SHOWN: usize = 20;
        let names: Vec<&str> = selection.columns.iter().map(|column| column.name.as_str()).take(SHOWN).collect();
        let more = if selection.columns.len() > SHOWN { ", …" } else { "" };
        let message = format!("what is asked about has no column '{}'", unknown.chars().take(160).collect::<String>());
        return Err(Error::not_found("COLUMN_NOT_FOUND", message).hint(format!("it has {}{more}", names.join(", "))));
    }
    let wanted: HashSet<&str> = columns.iter().map(String::as_str).collect();
    let mut kept: Vec<ServiceColumn> =
        selection.columns.into_iter().filter(|column| wanted.contains(column.name.as_str())).collect();
    let mut needed: Vec<usize> = kept.iter().map(|column| column.lookup).collect();
    needed.sort_unstable();
    needed.dedup();
    let mut lookups: Vec<Option<Lookup>> = selection.lookups.into_iter().map(Some).collect();
    for column in &mut kept {
        column.lookup = needed.partition_point(|lookup| *lookup < column.lookup);
    }
    let lookups = needed.iter().filter_map(|lookup| lookups[*lookup].take()).collect();
    let services = selection.services.into_iter().map(|service| SelectedService { columns: Vec::new(), ..service });
    let mut narrowed = Selection::new(services.collect(), Vec::new(), lookups, kept, selection.revision)?;
    narrowed.note_unread();
    Ok(narrowed)
}

/// The encoded key of each lookup; `None` where a part is null.
fn keys_of(selection: &Selection, entities: &[(String, ArrayRef)]) -> Result<Vec<Option<Vec<u8>>>> {
    let mut wrong = Vec::new();
    let mut note = |name: &str, message: String| {
        wrong.push(Violation { path: format!("entities.{name}"), message });
    };
    let mut columns: Vec<Option<ArrayRef>> = vec![None; selection.request_columns.len()];
    for (name, column) in entities {
        let place = selection.request_columns.iter().position(|wanted| wanted.name.as_str() == name);
        let Some(place) = place else {
            note(name, "no view of the request is keyed by this column".to_owned());
            continue;
        };
        if column.len() != 1 {
            note(name, format!("it has {} values; one entity is explained at a time", column.len()));
            continue;
        }
        match to_exact(column, DataType::Scalar(selection.request_columns[place].key_type)) {
            Ok(exact) => match exact.misfits.first() {
                Some(misfit) => note(name, misfit.reason.to_string()),
                None if columns[place].is_some() => note(name, "the column is given twice".to_owned()),
                None => columns[place] = Some(exact.array),
            },
            Err(lossy) => note(name, lossy.to_string()),
        }
    }
    for wanted in &selection.request_columns {
        if !entities.iter().any(|(name, _)| name == wanted.name.as_str()) {
            note(wanted.name.as_str(), format!("the column is missing; its type is {}", wanted.key_type.as_str()));
        }
    }
    if !wrong.is_empty() {
        let keyed_by: Vec<String> = selection
            .request_columns
            .iter()
            .map(|wanted| format!("{} ({})", wanted.name, wanted.key_type.as_str()))
            .collect();
        return Err(Error::wrong_places("BAD_ENTITY_COLUMNS", "the entity columns don't fit the request", wrong)
            .hint(format!("what it asks for is keyed by {}", keyed_by.join(", "))));
    }
    let of_lookup = |lookup: &Lookup| {
        let place = |name: &Name| selection.request_columns.iter().position(|wanted| wanted.name == *name);
        let arrays: Option<Vec<ArrayRef>> = lookup.keys.iter().map(|name| columns.get(place(name)?)?.clone()).collect();
        let arrays = arrays.ok_or_else(|| Error::internal("an entity column that was checked is gone"))?;
        let types: Vec<ScalarType> = lookup.view.join_keys.iter().map(|key| key.key_type).collect();
        let reader = KeyReader::new(&arrays, &types)
            .map_err(|error| Error::internal(format!("keys of the checked types can't be read: {error}")))?;
        let mut key = Vec::new();
        Ok(reader.encode(0, &mut key).then_some(key))
    };
    selection.lookups.iter().map(of_lookup).collect()
}

fn explain(
    selection: &Selection,
    views: &[ViewRows],
    keys: &[Option<Vec<u8>>],
    asked: Asked,
    most: usize,
    log: &dyn WriteLog,
    stop: &Stop,
) -> Result<Why, JoinError> {
    let Asked { at, mode, cutoff } = asked;
    let mut senders = Senders { log, known: Vec::new() };
    let mut columns_of: Vec<Vec<usize>> = vec![Vec::new(); selection.lookups.len()];
    for (index, column) in selection.columns.iter().enumerate() {
        columns_of[column.lookup].push(index);
    }
    let (mut lookups, mut cells) = (Vec::new(), Vec::new());
    for (number, lookup) in selection.lookups.iter().enumerate() {
        let seen = match &keys[number] {
            Some(key) if selection.is_read(number) => rows_of_key(&views[number], key, asked, most, stop)?,
            _ => Seen { winner: None, winner_has_landed: false, losers: BinaryHeap::new(), most: 0, rows: 0 },
        };
        let lacks_before = views[number].lacks_before(at, lookup.ttl);
        for index in &columns_of[number] {
            let column = &selection.columns[*index];
            let (status, cause, value) = match column.is_masked {
                true => (CellStatus::Masked, Cause::Masked, Value::Null),
                false => cell(&seen, keys[number].is_none(), column.feature, column.data_type, asked, lookup.ttl)?,
            };
            let cause = match cause {
                Cause::NoRow | Cause::NoneCounts if lacks_before.is_some() => Cause::PerhapsGone,
                cause => cause,
            };
            let default = column.default.as_ref().filter(|_| status.takes_default());
            let explained = WhyCell {
                name: column.name.clone(),
                lookup: number,
                data_type: column.data_type,
                is_default: default.is_some(),
                value: default.cloned().unwrap_or(value),
                status,
                cause,
            };
            cells.push((*index, explained));
        }
        let mut told = |version: RowVersion, kept: Kept| -> Result<ToldRow, JoinError> {
            stop.check()?;
            Ok(ToldRow {
                version,
                ingest_time: kept.ingest_time,
                deleted: kept.deleted,
                revision: kept.revision,
                feature_count: kept.feature_count,
                has_landed: kept.has_landed,
                is_expired: is_expired(version.event_time, at, lookup.ttl),
                sent_by: senders.of(version.position)?,
            })
        };
        let won = seen.winner.as_ref().map(|row| (row.version(), Kept::of(row, seen.winner_has_landed)));
        let winner = won.map(|(version, kept)| told(version, kept)).transpose()?;
        let mut losers = Vec::with_capacity(seen.losers.len());
        for Near { version: Reverse(version), row, .. } in seen.losers.into_sorted_vec() {
            let rule = rule(version, row.ingest_time, won.map(|(version, _)| version), asked);
            losers.push(Lost { row: told(version, row)?, rule });
        }
        let (view, name, keys) = (lookup.view.clone(), selection.name_of(&lookup.view), lookup.keys.clone());
        lookups.push(WhyLookup { view, name, keys, ttl: lookup.ttl, winner, losers, rows: seen.rows, lacks_before });
    }
    // In the order of the request, whichever lookups they are of.
    cells.sort_by_key(|(index, _)| *index);
    let cells = cells.into_iter().map(|(_, cell)| cell).collect();
    let services = selection.services.iter();
    let services = services.map(SelectedService::reference);
    Ok(Why { at, mode, cutoff, revision: selection.revision, services: services.collect(), lookups, cells })
}

/// Looks at every row of a key, in one run of files after the other and in the tails.
fn rows_of_key(rows: &ViewRows, key: &[u8], asked: Asked, most: usize, stop: &Stop) -> Result<Seen, JoinError> {
    let view = rows.view();
    let slot = slot_of(view.slot_seed, key);
    let slots: SlotSet = [slot].into_iter().collect();
    let sought = Arc::new(Sought::of_slots(Some(&slots)));
    let all: Vec<usize> = (0..view.features.len()).collect();
    let mut seen = Seen { winner: None, winner_has_landed: false, losers: BinaryHeap::new(), most, rows: 0 };
    let kept_from = rows.table().retained_from;
    for chain in rows.table().chains_with(Some(&slots), None) {
        stop.check()?;
        let run = Since::new(Stoppable::new(rows.table().open_chain_for(&chain, &all, &sought)?, stop), kept_from);
        seen.take_all(Box::new(run), true, (slot, key), asked, stop)?;
    }
    let landed = rows.table().landed_through;
    for mut tail in rows.key_tails().filter(|tail| tail.range().contains(slot)) {
        tail.seek_key(slot, key);
        let tail = tail.map(|row| row.map_err(|error| HistoryError::Tail(Box::new(error))));
        let run = TailRun::new(tail, view.layout.clone(), all.clone(), landed + 1..=u64::MAX);
        let run = Since::new(Stoppable::new(run, stop), kept_from);
        seen.take_all(Box::new(run), false, (slot, key), asked, stop)?;
    }
    Ok(seen)
}

impl Seen {
    fn take_all(
        &mut self,
        run: Box<dyn Run>,
        has_landed: bool,
        (slot, key): (u16, &[u8]),
        asked: Asked,
        stop: &Stop,
    ) -> Result<(), JoinError> {
        let mut cursor = MergedRuns::new(vec![run], None)?;
        cursor.seek(slot, key)?;
        while let Some(row) = cursor.peek() {
            if row.batch.compare_key(row.index, slot, key).is_ne() {
                break;
            }
            self.rows += 1;
            if self.rows.is_multiple_of(ROWS_BETWEEN_LOOKS) {
                stop.check()?;
            }
            let greatest = self.winner.as_ref().is_none_or(|winner| winner.version() < row.version());
            let lost = if asked.may_count(row.version(), row.ingest_time()) && greatest {
                let before = std::mem::replace(&mut self.winner_has_landed, has_landed);
                self.winner.replace(row.clone()).map(|lost| (lost, before))
            } else {
                Some((row.clone(), has_landed))
            };
            if let Some((lost, has_landed)) = lost {
                self.lose(&lost, has_landed, asked.at);
            }
            cursor.advance()?;
        }
        Ok(())
    }

    fn lose(&mut self, row: &RowAt, has_landed: bool, at: Micros) {
        let version = row.version();
        let distance = version.event_time.abs_diff(at);
        self.losers.push(Near { distance, version: Reverse(version), row: Kept::of(row, has_landed) });
        if self.losers.len() > self.most {
            self.losers.pop();
        }
    }
}

impl Kept {
    fn of(row: &RowAt, has_landed: bool) -> Self {
        let (revision, feature_count) = (row.revision(), row.feature_count());
        Self { ingest_time: row.ingest_time(), deleted: row.deleted(), revision, feature_count, has_landed }
    }
}

impl Asked {
    /// Whether a row counts unless a greater one does.
    fn may_count(&self, version: RowVersion, ingest_time: Micros) -> bool {
        self.excludes(version, ingest_time).is_none()
    }

    fn excludes(&self, version: RowVersion, ingest_time: Micros) -> Option<Rule> {
        if ingest_time > self.cutoff {
            return Some(Rule::AfterCutoff);
        }
        if version.event_time > self.at {
            return Some(Rule::LaterThanInstant);
        }
        (self.mode == Mode::AsKnown && !version.is_visible_at(self.at)).then_some(Rule::NotYetKnown)
    }
}

/// By which rule a row lost to the one that counts. One that might count alone has lost to a greater.
fn rule(version: RowVersion, ingest_time: Micros, winner: Option<RowVersion>, asked: Asked) -> Rule {
    asked.excludes(version, ingest_time).unwrap_or(match winner {
        Some(winner) if version.event_time < winner.event_time => Rule::SmallerEventTime,
        Some(winner) if version.known_time < winner.known_time => Rule::SmallerKnownTime,
        _ => Rule::EarlierPosition,
    })
}

/// A cell's status, why it has that, and the row's value.
fn cell(
    seen: &Seen,
    is_null_key: bool,
    feature: usize,
    data_type: DataType,
    asked: Asked,
    ttl: Option<Micros>,
) -> Result<(CellStatus, Cause, Value), JoinError> {
    let Some(row) = &seen.winner else {
        let cause = match (is_null_key, seen.rows) {
            (true, _) => Cause::NullKey,
            (false, 0) => Cause::NoRow,
            (false, _) => Cause::NoneCounts,
        };
        return Ok((CellStatus::NotFound, cause, Value::Null));
    };
    let status = row_status(Some((row.version().event_time, row.deleted())), asked.at, ttl);
    if let Some(missing) = missing_cell_status(status, feature, usize::from(row.feature_count())) {
        let cause = match missing {
            CellStatus::Expired => Cause::Expired,
            _ if row.deleted() => Cause::Deleted,
            _ => Cause::OlderThanFeature,
        };
        return Ok((missing, cause, Value::Null));
    }
    let value = value_at(&*row.batch.features[feature], data_type, row.index)
        .map_err(|error| Error::internal(format!("a value of history is of another type: {error}")))?;
    let status = if matches!(value, Value::Null) { CellStatus::Null } else { CellStatus::Present };
    Ok((status, Cause::Written, value))
}

/// Who sent the requests that rows came in, as long as the log has them.
struct Senders<'a> {
    log: &'a dyn WriteLog,
    known: Vec<(u64, Option<ProducerStamp>)>,
}

impl Senders<'_> {
    fn of(&mut self, position: Position) -> Result<Option<ProducerStamp>, JoinError> {
        if let Some((_, known)) = self.known.iter().find(|(frame, _)| *frame == position.frame) {
            return Ok(*known);
        }
        let stamp = match self.log.read_from(position.frame.saturating_sub(1), 1) {
            Ok(frames) => frames.first().filter(|frame| frame.number == position.frame).and_then(|frame| frame.stamp),
            Err(LogError::Trimmed { .. }) => None,
            Err(error) => {
                // What is asked for is why the value counts, which is known without it.
                tracing::warn!(frame = position.frame, %error, "who sent a row can't be told");
                None
            }
        };
        self.known.push((position.frame, stamp));
        Ok(stamp)
    }
}
