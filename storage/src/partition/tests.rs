mod blocks;
mod cached;
mod chunks;
mod crash;
mod model;
mod rules;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::keys::{TailKey, encode_values, slot_of, slot_seed};
use crate::order::{Position, RowVersion};
use crate::record::RowRecord;
use crate::row::{Cell, OwnedRow, RowKind, RowLayout, RowPacker};
use crate::value::{DataType, ScalarType, Value};

const TENANT: TenantId = TenantId(1);
const VIEW: ViewId = ViewId(10);
const OTHER_VIEW: ViewId = ViewId(11);

/// A store in a directory of its own, which can be closed and opened again.
struct Bench {
    directory: TempDir,
    shared: SharedResources,
    options: PartitionOptions,
    store: Option<PartitionStore>,
    policies: Policies,
}

#[derive(Default)]
struct Policies(HashMap<ViewId, ViewPolicy>);

impl ViewPolicies for Policies {
    fn policy(&self, tenant: TenantId, view: ViewId) -> Option<ViewPolicy> {
        assert_eq!(tenant, TENANT);
        self.0.get(&view).copied()
    }
}

const POLICY: ViewPolicy = ViewPolicy { longest_ttl: None, gone_before: None, online: true, offline: true, landed: 0 };

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut PartitionOptions)) -> Self {
        let mut options =
            PartitionOptions { block_cache_bytes: 4 << 20, memtable_bytes: 1 << 20, ..Default::default() };
        change(&mut options);
        let shared = SharedResources::new(&options).expect("background threads");
        let policies = Policies([(VIEW, POLICY), (OTHER_VIEW, POLICY)].into());
        let directory = TempDir::new().expect("a temporary directory");
        let mut bench = Self { directory, shared, options, store: None, policies };
        bench.reopen();
        bench
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("partitions").join("0")
    }

    fn open_at(&self, path: &Path, range: SlotRange) -> Result<PartitionStore, StoreError> {
        PartitionStore::open(path, range, &self.options, &self.shared)
    }

    /// Drops the store, without a flush, and opens what is on disk.
    fn reopen(&mut self) {
        self.store = None;
        self.store = Some(self.open_at(&self.path(), SlotRange::ALL).expect("the store opens"));
    }

    fn store(&mut self) -> &mut PartitionStore {
        self.store.as_mut().expect("the store is open")
    }

    fn view(&mut self) -> Arc<ReadView> {
        self.store().publish().expect("no frame is half applied")
    }

    fn apply(&mut self, frame: &TestFrame) -> ApplyReport {
        let store = self.store.as_mut().expect("the store is open");
        store.apply(frame.number, frame.ingest_time, &frame.rows, frame.now, &self.policies).expect("applied")
    }

    /// Applies two rows more of a frame.
    fn apply_two(&mut self, frame: &TestFrame) -> Progress {
        let store = self.store.as_mut().expect("the store is open");
        let TestFrame { number, ingest_time, rows, now } = frame;
        store.apply_some(*number, *ingest_time, rows, 2, *now, &self.policies).expect("applied")
    }

    fn sweep(&mut self, now: Micros) -> SweepReport {
        let store = self.store.as_mut().expect("the store is open");
        store.sweep_expired(now, &self.policies, usize::MAX).expect("swept")
    }

    fn promote(&mut self, through: Micros) {
        while self.store().promote(through, 3).expect("promoted") {}
    }

    fn look_up(&mut self, key: i64) -> Lookup {
        let bytes = key_bytes(key);
        let name = OnlineKey { slot: slot_of_key(&bytes), tenant: TENANT, view: VIEW, key: &bytes };
        self.view().lookup(&[name], ReadMode::MayBlock).remove(0)
    }

    fn row(&mut self, key: i64) -> Option<OwnedRow> {
        match self.look_up(key) {
            Lookup::Row(row) => Some(OwnedRow::clone(&row)),
            Lookup::Absent => None,
            other => panic!("a row or none, not {other:?}"),
        }
    }

    /// The value of the online row, if it is a full one.
    fn value(&mut self, key: i64) -> Option<i64> {
        self.row(key).filter(|row| row.header().kind == RowKind::Full).map(|row| value_of(&row))
    }

    fn tail(&mut self, view: ViewId, after_frame: u64) -> Vec<TailRow> {
        let rows = self.view().tail(TENANT, view, after_frame);
        rows.collect::<Result<_, _>>().expect("an undamaged tail")
    }

    /// All that a reader can tell of the store.
    fn contents(&mut self) -> Contents {
        let keys: Vec<Vec<u8>> = (0..KEYS).map(key_bytes).collect();
        let views = [VIEW, OTHER_VIEW];
        let names: Vec<OnlineKey<'_>> = views
            .iter()
            .flat_map(|view| {
                keys.iter().map(|key| OnlineKey { slot: slot_of_key(key), tenant: TENANT, view: *view, key })
            })
            .collect();
        let view = self.view();
        let online = view.lookup(&names, ReadMode::MayBlock).into_iter().map(|found| match found {
            Lookup::Row(row) => Some(OwnedRow::clone(&row)),
            Lookup::Absent => None,
            other => panic!("a row or none, not {other:?}"),
        });
        let online = online.collect();
        Contents {
            online,
            tails: views.map(|view| self.tail(view, 0)),
            states: views.map(|id| view.view_state(id)),
            applied: view.applied(),
            next_due: view.next_due(),
        }
    }
}

#[derive(Debug, PartialEq)]
struct Contents {
    online: Vec<Option<OwnedRow>>,
    tails: [Vec<TailRow>; 2],
    states: [Option<ViewState>; 2],
    applied: Applied,
    next_due: Option<Micros>,
}

/// A frame and the store time at which it is applied.
#[derive(Clone, Debug)]
struct TestFrame {
    number: u64,
    ingest_time: Micros,
    now: Micros,
    rows: Vec<RowRecord>,
}

/// Keys of tests are the numbers below it.
const KEYS: i64 = 6;

fn key_bytes(key: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    assert!(encode_values(&[Value::Int64(key)], &[ScalarType::Int64], &mut bytes).expect("an int64"));
    bytes
}

fn slot_of_key(key: &[u8]) -> u16 {
    slot_of(slot_seed(TENANT, &["entity"]), key)
}

fn layout() -> RowLayout {
    RowLayout::new(&[DataType::Scalar(ScalarType::Int64)])
}

fn body(value: i64) -> Bytes {
    let layout = layout();
    let column: arrow_array::ArrayRef = Arc::new(arrow_array::Int64Array::from(vec![value]));
    let mut body = Vec::new();
    RowPacker::new(&layout, vec![Some(column)]).expect("its type").pack(0, &mut body).expect("a short row");
    body.into()
}

fn value_of(row: &OwnedRow) -> i64 {
    match row.cell(&layout(), 0) {
        Ok(Cell::Int64(value)) => value,
        other => panic!("an int64, not {other:?}"),
    }
}

/// A row known on arrival. The tests below change what they are about.
fn row(key: i64, event_time: Micros, value: i64) -> RowRecord {
    let key = key_bytes(key);
    RowRecord {
        tenant: TENANT,
        view: VIEW,
        slot: slot_of_key(&key),
        ordinal: 0,
        key: key.into(),
        event_time,
        known_time: None,
        tombstone: false,
        revision: 1,
        feature_count: 1,
        body: body(value),
        origin: None,
    }
}

fn tombstone(key: i64, event_time: Micros) -> RowRecord {
    RowRecord { tombstone: true, body: Bytes::new(), ..row(key, event_time, 0) }
}

/// A frame whose ingest time is its number times 100, applied at once; rows get their ordinals.
fn frame(number: u64, rows: impl IntoIterator<Item = RowRecord>) -> TestFrame {
    let ingest_time = number as Micros * 100;
    let number_row = |(ordinal, row): (usize, RowRecord)| RowRecord { ordinal: ordinal as u32, ..row };
    let mut rows: Vec<_> = rows.into_iter().enumerate().map(number_row).collect();
    rows.sort_by_key(|row| (row.slot, row.ordinal));
    TestFrame { number, ingest_time, now: ingest_time, rows }
}
