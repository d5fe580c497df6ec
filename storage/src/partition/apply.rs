//! How a frame's rows get into a partition, a bounded chunk at a time. That the frame is applied
//! becomes true with its last chunk, and durable together with its rows; before that nothing of it
//! is published. Whatever is applied twice changes nothing, so a frame that a crash cut short is
//! simply applied again.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use rocksdb::WriteBatch;

use super::row_cache::ViewVersion;
use super::store::{Current, PartitionStore, earlier};
use super::{Applied, ApplyReport, Progress, StoreError, ViewPolicies, ViewState};
use crate::keys::{OnlineKey, PendingKey, TailKey};
use crate::names::{TenantId, ViewId};
use crate::order::{Micros, RowVersion, is_expired};
use crate::record::RowRecord;
use crate::row::{OwnedRow, RowHeader, RowKind, encode_row};

/// A write batch has at most this many rows, and ends after this many bytes of them.
const CHUNK_ROWS: usize = 1024;
const CHUNK_BYTES: usize = 4 << 20;

impl PartitionStore {
    /// Applies the rows that a frame has for this partition: [`PartitionStore::apply_some`] to the
    /// frame's end.
    pub fn apply(
        &mut self,
        frame: u64,
        ingest_time: Micros,
        rows: &[RowRecord],
        now: Micros,
        policies: &dyn ViewPolicies,
    ) -> Result<ApplyReport, StoreError> {
        loop {
            if let Progress::Done(report) = self.apply_some(frame, ingest_time, rows, CHUNK_ROWS, now, policies)? {
                return Ok(report);
            }
        }
    }

    /// Applies the next of the rows that a frame has for this partition, `limit` at most, fewer where
    /// they are large. `rows` are all of the frame's, in ascending order of ordinals within a slot,
    /// the same at each call until the frame is done; what may come in between is anything but
    /// another frame. Frames come in ascending order; those without rows here may be left out, but
    /// the last of a run of them should be passed, so that the position advances. A frame at or
    /// before [`PartitionStore::applied`] changes nothing.
    ///
    /// `now` is store time at or after `ingest_time`: rows due by it are visible at once. It must
    /// not exceed what later reads may be given.
    ///
    /// After an error the position has not advanced, and the same call may be made again.
    pub fn apply_some(
        &mut self,
        frame: u64,
        ingest_time: Micros,
        rows: &[RowRecord],
        limit: usize,
        now: Micros,
        policies: &dyn ViewPolicies,
    ) -> Result<Progress, StoreError> {
        if frame <= self.applied.frame {
            return Ok(Progress::Done(ApplyReport { already_applied: true, ..ApplyReport::default() }));
        }
        let begun = self.begin(frame, rows)?;
        let applied = Applied { frame, ingest_time };
        if rows.is_empty() {
            self.applied = applied;
            self.applied_unwritten = true;
            return Ok(Progress::Done(begun.report));
        }
        let Some(rest) = rows.get(begun.rows..).filter(|rest| !rest.is_empty()) else {
            return Err(StoreError::OutOfTurn { frame, unfinished: frame });
        };
        let chunk = &rest[..chunk_length(rest, limit)];
        let mut batch = WriteBatch::default();
        let staged = self.stage_rows(&mut batch, chunk, applied, now, policies)?;
        let is_first = begun.rows == 0;
        let done = begun.and(chunk.len(), staged.step);
        if done.rows < rows.len() {
            if is_first {
                self.database.put_unfinished(&mut batch, frame);
            }
            self.database.write(batch)?;
            self.keep_changed(&staged.changed);
            self.next_due = earlier(self.next_due, staged.next_due);
            let progress = Progress::Begun { rows: done.rows };
            self.unfinished = Some(Unfinished::Here(frame, done));
            return Ok(progress);
        }
        let mut views = HashMap::new();
        for (view, added) in &done.added {
            self.view_for(&mut views, added.tenant, *view).add(added);
        }
        if self.unfinished.is_some() {
            self.database.delete_unfinished(&mut batch);
        }
        self.database.put_applied(&mut batch, applied);
        self.put_views(&mut batch, &views);
        self.database.write(batch)?;
        self.keep_changed(&staged.changed);
        self.next_due = earlier(self.next_due, staged.next_due);
        self.applied = applied;
        self.applied_unwritten = false;
        self.unfinished = None;
        self.take_views(views);
        Ok(Progress::Done(done.report))
    }

    /// What has been done of the frame, which must be the one that is due.
    fn begin(&self, frame: u64, rows: &[RowRecord]) -> Result<Step, StoreError> {
        match &self.unfinished {
            Some(Unfinished::Here(unfinished, step)) if *unfinished == frame => return Ok(step.clone()),
            Some(Unfinished::Here(unfinished, _)) => {
                return Err(StoreError::OutOfTurn { frame, unfinished: *unfinished });
            }
            // Frames without rows here were passed over before it, and that wasn't written.
            Some(Unfinished::Found(unfinished)) if *unfinished < frame => {
                return Err(StoreError::OutOfTurn { frame, unfinished: *unfinished });
            }
            Some(Unfinished::Found(_)) | None => {}
        }
        match rows.iter().find(|row| !self.range.contains(row.slot)) {
            Some(foreign) => Err(StoreError::ForeignSlot { slot: foreign.slot, range: self.range }),
            None => Ok(Step::default()),
        }
    }

    /// Adds rows of one frame to a batch.
    fn stage_rows<'a>(
        &self,
        batch: &mut WriteBatch,
        rows: &'a [RowRecord],
        applied: Applied,
        now: Micros,
        policies: &dyn ViewPolicies,
    ) -> Result<Staged<'a>, StoreError> {
        let mut next_due = None;
        let mut step = Step::default();
        // Of each key the greatest visible row, and what its view's ttl is.
        let mut candidates: BTreeMap<Vec<u8>, (RowVersion, &RowRecord, Option<Micros>)> = BTreeMap::new();
        let (mut key_buffer, mut row_buffer) = (Vec::new(), Vec::new());
        for row in rows {
            let Some(policy) = policies.policy(row.tenant, row.view) else {
                step.report.unknown_view_rows += 1;
                continue;
            };
            let name = name_of(row);
            let version = row.version(applied.frame, applied.ingest_time);
            let visible = version.is_visible_at(now);
            let header = header_of(row, version, applied);
            row_buffer.clear();
            encode_row(&name, &header, &row.body, &mut row_buffer);
            // What history had before doesn't land once more.
            if policy.offline && applied.frame > policy.landed && row.origin.is_none() {
                key_buffer.clear();
                TailKey { name, version }.encode(&mut key_buffer);
                batch.put_cf(self.database.tail(), &key_buffer, &row_buffer);
                step.report.tailed_rows += 1;
                let added = step.added_to(row.tenant, row.view);
                added.tail_rows += 1;
                added.tail_bytes += (key_buffer.len() + row_buffer.len()) as u64;
            }
            if visible {
                step.added_to(row.tenant, row.view).saw(version.event_time);
            }
            if !policy.online {
                continue;
            }
            key_buffer.clear();
            if !visible {
                let due = version.due_time();
                PendingKey { due, name, position: version.position }.encode(&mut key_buffer);
                batch.put_cf(self.database.pending(), &key_buffer, &row_buffer);
                step.report.pending_rows += 1;
                next_due = earlier(next_due, Some(due));
                continue;
            }
            name.encode(&mut key_buffer);
            match candidates.get_mut(&key_buffer) {
                Some(greatest) => {
                    step.report.late_rows += 1;
                    if version > greatest.0 {
                        *greatest = (version, row, policy.longest_ttl);
                    }
                }
                None => {
                    candidates.insert(key_buffer.clone(), (version, row, policy.longest_ttl));
                }
            }
        }
        let names: Vec<&[u8]> = candidates.keys().map(Vec::as_slice).collect();
        let (mut changed, mut changed_names) = (Vec::new(), Vec::new());
        for ((name, (version, row, ttl)), current) in candidates.iter().zip(self.current_versions(&names)?) {
            match current {
                Current::Damaged => step.report.shadowed_rows += 1,
                // What has become a stub gets its values again where it counts once more.
                Current::Row(current, kind)
                    if *version < current || (*version == current && !is_refilled(row, kind, *version, now, *ttl)) =>
                {
                    step.report.late_rows += 1;
                }
                Current::None | Current::Row(..) => {
                    let mut header = header_of(row, *version, applied);
                    if header.kind == RowKind::Full && is_expired(version.event_time, now, *ttl) {
                        header.kind = RowKind::ExpiredStub;
                        step.report.expired_rows += 1;
                    }
                    let body: &[u8] = if header.kind == RowKind::Full { &row.body } else { &[] };
                    row_buffer.clear();
                    encode_row(&name_of(row), &header, body, &mut row_buffer);
                    batch.put_cf(self.database.latest(), name, &row_buffer);
                    changed_names.push(name.as_slice());
                    changed.push((*row, header));
                    step.report.current_rows += 1;
                }
            }
        }
        let change = self.changes_rows(changed_names.into_iter());
        Ok(Staged { step, next_due, changed: Changed { change, rows: changed } })
    }

    /// Once a batch is written: who has read these rows finds them in memory as they are now.
    fn keep_changed(&self, changed: &Changed<'_>) {
        let change = ViewVersion { version: changed.change, opened: self.database.opened() };
        for (row, header) in &changed.rows {
            let kept = || {
                let body = if header.kind == RowKind::Full { Bytes::copy_from_slice(&row.body) } else { Bytes::new() };
                OwnedRow::new(*header, body)
            };
            self.database.row_cache().replace(&name_of(row), change, kept);
        }
    }
}

/// A frame of which some rows are written, and not all.
#[derive(Debug)]
pub(super) enum Unfinished {
    /// It was begun by this store; the next call goes on with it.
    Here(u64, Step),
    /// It was begun before a crash; it is applied again from its first row.
    Found(u64),
}

impl Unfinished {
    pub fn found(frame: u64) -> Self {
        Self::Found(frame)
    }

    pub fn frame(&self) -> u64 {
        match self {
            Self::Here(frame, _) | Self::Found(frame) => *frame,
        }
    }
}

/// What applying a frame has done so far. Taken over only with the frame's last batch, so that a
/// frame which is applied again after a crash in its middle isn't counted twice.
#[derive(Clone, Debug, Default)]
pub(super) struct Step {
    rows: usize,
    report: ApplyReport,
    /// What is to be added to the views' states.
    added: HashMap<ViewId, ViewState>,
}

/// What a batch will have done once it is written.
struct Staged<'a> {
    step: Step,
    /// The earliest among its pending rows.
    next_due: Option<Micros>,
    changed: Changed<'a>,
}

/// The online rows that a batch changes.
struct Changed<'a> {
    /// The version of the change, for the row cache.
    change: u64,
    rows: Vec<(&'a RowRecord, RowHeader)>,
}

impl Step {
    fn added_to(&mut self, tenant: TenantId, view: ViewId) -> &mut ViewState {
        self.added.entry(view).or_insert_with(|| ViewState::empty(tenant))
    }

    /// With a chunk of so many rows after it.
    fn and(mut self, rows: usize, chunk: Self) -> Self {
        self.rows += rows;
        self.report.add(&chunk.report);
        for (view, added) in chunk.added {
            self.added_to(added.tenant, view).add(&added);
        }
        self
    }
}

impl ViewState {
    pub(super) fn empty(tenant: TenantId) -> Self {
        Self { tenant, newest_event_time: None, tail_rows: 0, tail_bytes: 0 }
    }

    pub(super) fn saw(&mut self, event_time: Micros) {
        self.newest_event_time = self.newest_event_time.max(Some(event_time));
    }

    fn add(&mut self, added: &Self) {
        self.newest_event_time = self.newest_event_time.max(added.newest_event_time);
        self.tail_rows += added.tail_rows;
        self.tail_bytes += added.tail_bytes;
    }
}

impl ApplyReport {
    fn add(&mut self, other: &Self) {
        self.current_rows += other.current_rows;
        self.expired_rows += other.expired_rows;
        self.late_rows += other.late_rows;
        self.pending_rows += other.pending_rows;
        self.unknown_view_rows += other.unknown_view_rows;
        self.shadowed_rows += other.shadowed_rows;
        self.tailed_rows += other.tailed_rows;
    }
}

/// Whether a row that is online as a stub counts again with its values: the ttl was raised since.
fn is_refilled(row: &RowRecord, kind: RowKind, version: RowVersion, now: Micros, ttl: Option<Micros>) -> bool {
    kind == RowKind::ExpiredStub && !row.tombstone && !is_expired(version.event_time, now, ttl)
}

fn name_of(row: &RowRecord) -> OnlineKey<'_> {
    OnlineKey { slot: row.slot, tenant: row.tenant, view: row.view, key: &row.key }
}

fn header_of(row: &RowRecord, version: RowVersion, applied: Applied) -> RowHeader {
    RowHeader {
        kind: if row.tombstone { RowKind::Tombstone } else { RowKind::Full },
        version,
        ingest_time: row.taken_in(applied.frame, applied.ingest_time).ingest_time,
        revision: row.revision,
        feature_count: row.feature_count,
    }
}

/// How many of the rows, which are some, go into one batch.
fn chunk_length(rows: &[RowRecord], limit: usize) -> usize {
    let mut bytes = 0;
    let fits = |row: &&RowRecord| {
        let room = bytes < CHUNK_BYTES;
        bytes += row.key.len() + row.body.len();
        room
    };
    rows.iter().take(limit.clamp(1, CHUNK_ROWS)).take_while(fits).count()
}
