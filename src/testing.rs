//! A store in one process for tests: a real log over files that live in memory, real partitions, a
//! real registry, and a clock moved by hand. It can be restarted, and its log can be made to fail.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, Float64Array};
use async_trait::async_trait;
use bytes::Bytes;
use hydrant_storage::files::Files;
use hydrant_storage::files::lossy::LossyFiles;
use hydrant_storage::keys::{OnlineKey, encode_values, slot_of, slot_seed};
use hydrant_storage::names::{Name, TenantId, ViewId};
use hydrant_storage::order::Micros;
use hydrant_storage::partition::{Lookup, PartitionOptions, ReadMode, SharedResources};
use hydrant_storage::record::{RowRecord, SharedFrame};
use hydrant_storage::row::{Cell, OwnedRow, RowHeader, RowKind, RowLayout, RowPacker};
use hydrant_storage::value::{DataType, ScalarType, Value};
use tokio::sync::watch;

use crate::clock::{ManualClock, StoreTime};
use crate::cluster::LocalMetadata;
use crate::log::{AppendError, AppendRequest, Appended, LocalLog, LogError, LogOptions, Sealed, WriteLog};
use crate::partition::{LandedFrames, PartitionError, PartitionSettings, Partitions, PartitionsConfig};
use crate::registry::catalog::{Applied, Feature, JoinKey, Standing, View};
use crate::registry::definition::{Definition, EntitySpec, Metadata, Spec};
use crate::registry::yaml;
use crate::registry::{Registry, RevisionBarrier};
use crate::tenancy::{Action, Identity, Permit, Tenancy};

/// 2026-01-01T00:00:00Z.
pub(crate) const START: Micros = 1_767_225_600_000_000;
pub(crate) const SECOND: Micros = 1_000_000;
pub(crate) const HOUR: Micros = 3_600 * SECOND;

pub(crate) const DEFINITIONS: &str = r"
apiVersion: hydrant/v1
kind: Entity
metadata: {name: airport}
spec: {joinKeys: [{name: origin, type: string}]}
---
apiVersion: hydrant/v1
kind: Entity
metadata: {name: station}
spec: {joinKeys: [{name: station, type: int64}]}
---
apiVersion: hydrant/v1
kind: Source
metadata: {name: weather}
spec:
  type: push
  eventTime: event_timestamp
  maxFuture: 10m
  columns:
    - {name: origin, type: string}
    - {name: station, type: int64}
    - {name: event_timestamp, type: timestamp}
    - {name: created, type: timestamp}
    - {name: temp, type: float64}
    - {name: wind, type: float64}
    - {name: profile, type: list<float32>}
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: airport_weather}
spec:
  entities: [airport]
  source: weather
  ttl: 3h
  features:
    - {name: temp}
    - {name: wind, default: -1.0}
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: station_weather}
spec:
  entities: [station]
  source: weather
  features:
    - {name: temp}
    - {name: profile, type: vector<2>}
---
apiVersion: hydrant/v1
kind: FeatureService
metadata: {name: delay_model}
spec:
  features:
    - airport_weather
    - {view: airport_weather, features: [temp], as: dest_weather, keys: {origin: dest}}
---
apiVersion: hydrant/v1
kind: FeatureService
metadata: {name: quick_model}
spec:
  latencyBudget: 5ms
  features: [airport_weather]
";

/// The longest that a test waits for what must happen.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

pub(crate) fn permit(action: Action) -> Permit {
    Tenancy::default().authorize(&Identity::loopback(), action).expect("the loopback caller may")
}

/// A row of `airport_weather` written; what an as-known read at a time may find.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub key: Vec<u8>,
    pub row: OwnedRow,
}

pub(crate) struct TestStore {
    pub clock: Arc<ManualClock>,
    pub time: Arc<StoreTime>,
    pub log: Arc<TestLog>,
    pub registry: Registry,
    pub partitions: Partitions,
    pub written: Arc<Mutex<Vec<Written>>>,
    files: LossyFiles,
    settings: PartitionSettings,
    directory: Arc<tempfile::TempDir>,
}

impl TestStore {
    pub async fn start() -> Self {
        Self::start_with(PartitionSettings { count: 3, threads: 2, ..PartitionSettings::default() }).await
    }

    pub async fn start_with(settings: PartitionSettings) -> Self {
        let clock = Arc::new(ManualClock::new(START));
        let directory = Arc::new(tempfile::tempdir().expect("a directory"));
        Self::open(LossyFiles::new(1), clock, settings, directory, Arc::default()).await
    }

    /// Stops in order and starts again over the same files.
    pub async fn restart(self) -> Self {
        let Self { clock, log, registry, partitions, written, files, settings, directory, .. } = self;
        partitions.shutdown().await;
        drop((log, registry, partitions));
        Self::open(files, clock, settings, directory, written).await
    }

    /// Stops in order and starts again with what the partitions hold and nothing else: the error that
    /// the first partition reports.
    pub async fn restart_with_an_empty_log(self) -> Result<(), PartitionError> {
        let Self { clock, log, registry, partitions, settings, directory, .. } = self;
        partitions.shutdown().await;
        drop((log, registry, partitions));
        let (partitions, ..) = Self::start_parts(&LossyFiles::new(2), &clock, &settings, &directory).await;
        let waited = partitions.wait_serving(soon()).await;
        partitions.shutdown().await;
        waited
    }

    /// Stops in order and starts again with one partition that can't be opened: the partitions, and the
    /// log that they follow.
    pub async fn restart_with_a_damaged_partition(
        self,
        partition: usize,
    ) -> (Partitions, Arc<TestLog>, Arc<tempfile::TempDir>) {
        let Self { clock, log, registry, partitions, files, settings, directory, .. } = self;
        partitions.shutdown().await;
        drop((log, registry, partitions));
        let current = directory.path().join(format!("partitions/{partition}/CURRENT"));
        std::fs::write(current, "no manifest\n").expect("written");
        let (partitions, log, ..) = Self::start_parts(&files, &clock, &settings, &directory).await;
        let waited = partitions.handles()[partition].wait_serving(soon()).await;
        assert!(matches!(waited, Err(PartitionError::Parked { .. })), "{waited:?}");
        // The folder is gone once nobody has it.
        (partitions, log, directory)
    }

    async fn open(
        files: LossyFiles,
        clock: Arc<ManualClock>,
        settings: PartitionSettings,
        directory: Arc<tempfile::TempDir>,
        written: Arc<Mutex<Vec<Written>>>,
    ) -> Self {
        let (partitions, log, time, registry) = Self::start_parts(&files, &clock, &settings, &directory).await;
        partitions.wait_serving(soon()).await.expect("every partition serves");
        Self { clock, time, log, registry, partitions, written, files, settings, directory }
    }

    async fn start_parts(
        files: &LossyFiles,
        clock: &Arc<ManualClock>,
        settings: &PartitionSettings,
        directory: &tempfile::TempDir,
    ) -> (Partitions, Arc<TestLog>, Arc<StoreTime>, Registry) {
        let shared_files: Arc<dyn Files> = Arc::new(files.clone());
        let (log, time) = LocalLog::open(shared_files.clone(), Path::new("/log"), LogOptions::default(), clock.clone())
            .expect("a log");
        let log = Arc::new(TestLog::new(log));
        log.seal().await.expect("a seal");
        let metadata = LocalMetadata::open(shared_files, Path::new("/registry")).expect("metadata");
        let registry = Registry::open(Arc::new(metadata), time.clone(), log.clone()).await.expect("a registry");
        let definitions = yaml::parse("test.yaml", DEFINITIONS).expect("definitions").definitions;
        let definitions = definitions.into_iter().map(|located| located.definition).collect();
        registry.apply(&permit(Action::ChangeDefinitions), definitions, None).await.expect("definitions apply");
        let storage = PartitionOptions::default();
        let config = PartitionsConfig {
            directory: directory.path().join("partitions"),
            settings: settings.clone(),
            resources: Arc::new(SharedResources::new(&storage).expect("shared resources")),
            storage,
            log: log.clone(),
            snapshots: registry.reader(),
            store_time: time.clone(),
            landed: Arc::new(LandedFrames::default()),
        };
        (Partitions::start(config).expect("partitions"), log, time, registry)
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Moves wall time, and store time after it.
    pub async fn advance(&self, by: Duration) {
        self.clock.advance(by);
        self.log.seal().await.expect("a seal");
    }

    pub fn view(&self, name: &str) -> Arc<View> {
        let snapshot = self.registry.snapshot();
        let tenant = snapshot.tenants.values().next().expect("the tenant");
        tenant.views.get(name).expect("the view").clone()
    }

    /// Writes rows of `airport_weather` as one request: (origin, event time, known time, temp), where
    /// no temp is a deletion.
    pub async fn write(&self, rows: &[(&str, Micros, Option<Micros>, Option<f64>)]) -> Appended {
        let view = self.view("airport_weather");
        let records = rows.iter().enumerate().map(|(ordinal, (origin, event_time, known_time, temp))| {
            let key = airport_key(origin);
            let column: ArrayRef = Arc::new(Float64Array::from(vec![*temp]));
            let packer = RowPacker::new(&view.layout, vec![Some(column), None]).expect("columns fit");
            let mut body = Vec::new();
            if temp.is_some() {
                packer.pack(0, &mut body).expect("the row packs");
            }
            RowRecord {
                tenant: view.tenant,
                view: view.id,
                slot: slot_of(view.slot_seed, &key),
                ordinal: u32::try_from(ordinal).expect("few rows"),
                key: Bytes::from(key),
                event_time: *event_time,
                known_time: *known_time,
                tombstone: temp.is_none(),
                revision: view.applied.revision,
                feature_count: packer.feature_count(),
                body: Bytes::from(body),
                origin: None,
            }
        });
        let mut records: Vec<RowRecord> = records.collect();
        records.sort_by_key(|row| (row.slot, row.ordinal));
        let prepared = self.registry.snapshot().revision;
        let request = AppendRequest::of_rows(records.clone(), None, prepared);
        let appended = self.log.append(request).await.expect("the log takes it");
        let mut written = self.written.lock().expect("no test panicked here");
        written.extend(records.into_iter().map(|record| {
            let header = RowHeader {
                kind: if record.tombstone { RowKind::Tombstone } else { RowKind::Full },
                version: record.version(appended.frame, appended.ingest_time),
                ingest_time: appended.ingest_time,
                revision: record.revision,
                feature_count: record.feature_count,
            };
            Written { key: record.key.to_vec(), row: OwnedRow::new(header, record.body) }
        }));
        appended
    }

    /// Writes and waits until every partition has applied it.
    pub async fn write_applied(&self, rows: &[(&str, Micros, Option<Micros>, Option<f64>)]) -> Appended {
        let appended = self.write(rows).await;
        self.partitions.wait_applied(appended.frame, soon()).await.expect("it is applied");
        appended
    }

    /// The temp of the greatest row of an airport, straight from its partition.
    pub fn temp(&self, origin: &str) -> Option<f64> {
        let view = self.view("airport_weather");
        let key = airport_key(origin);
        let slot = slot_of(view.slot_seed, &key);
        let read_view = self.partitions.of_slot(slot).view().expect("the partition serves");
        let online = OnlineKey { slot, tenant: view.tenant, view: view.id, key: &key };
        let found = read_view.lookup(&[online], ReadMode::MayBlock).pop().expect("one answer");
        let Lookup::Row(row) = found else { return None };
        match row.cell(&view.layout, 0).expect("a sound row") {
            Cell::Float64(temp) => Some(temp),
            _ => None,
        }
    }
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

/// A view that is in no registry: its keys and its features, with their types and defaults.
pub(crate) fn made_up_view(
    number: u32,
    keys: &[(&str, ScalarType)],
    features: &[(&str, DataType, Option<Value>)],
) -> Arc<View> {
    let metadata =
        Metadata { name: name("v"), description: String::new(), owner: String::new(), tags: BTreeMap::new() };
    let types: Vec<DataType> = features.iter().map(|(_, data_type, _)| *data_type).collect();
    let feature = |(feature, data_type, default): &(&str, DataType, Option<Value>)| Feature {
        name: name(feature),
        description: String::new(),
        data_type: *data_type,
        column: name(feature),
        default: default.clone(),
        tags: BTreeMap::new(),
    };
    let entities: Vec<&str> = keys.iter().map(|(key, _)| *key).collect();
    Arc::new(View {
        applied: Applied {
            definition: Definition { metadata, spec: Spec::Entity(EntitySpec { join_keys: Vec::new() }) },
            revision: 3,
            created: 0,
            updated: 0,
            updated_by: String::new(),
            etag: String::new(),
        },
        id: ViewId(number),
        tenant: TenantId(1),
        name: name(&format!("view{number}")),
        version: 1,
        source: name("source"),
        join_keys: keys.iter().map(|(key, key_type)| JoinKey { name: name(key), key_type: *key_type }).collect(),
        slot_seed: slot_seed(TenantId(1), &entities),
        ttl: None,
        refill: None,
        longest_ttl: None,
        retention: None,
        features: features.iter().map(feature).collect(),
        layout: Arc::new(RowLayout::new(&types)),
        online: true,
        offline: true,
        freshness: None,
        standing: Standing::Served,
    })
}

pub(crate) fn airport_key(origin: &str) -> Vec<u8> {
    let mut key = Vec::new();
    let encoded = encode_values(&[Value::String(origin.to_owned())], &[ScalarType::String], &mut key);
    assert!(encoded.expect("a string key"), "the key is not null");
    key
}

/// A log whose reads can be held up, fail or panic.
#[derive(Debug)]
pub(crate) struct TestLog {
    inner: LocalLog,
    held: Mutex<bool>,
    released: Condvar,
    failures: AtomicU32,
    panics: AtomicU32,
    pub trimmed: watch::Sender<u64>,
}

impl TestLog {
    fn new(inner: LocalLog) -> Self {
        Self {
            inner,
            held: Mutex::new(false),
            released: Condvar::new(),
            failures: AtomicU32::new(0),
            panics: AtomicU32::new(0),
            trimmed: watch::channel(0).0,
        }
    }

    /// Holds up (or lets go) whoever reads.
    pub fn hold(&self, held: bool) {
        *self.held.lock().expect("no reader panicked here") = held;
        self.released.notify_all();
    }

    pub fn fail_reads(&self, times: u32) {
        self.failures.store(times, Ordering::SeqCst);
    }

    pub fn panic_in_reads(&self, times: u32) {
        self.panics.store(times, Ordering::SeqCst);
    }
}

fn take_one(count: &AtomicU32) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

#[async_trait]
impl RevisionBarrier for TestLog {
    async fn raise(&self, revision: u64) {
        self.require(revision).await;
    }
}

#[async_trait]
impl WriteLog for TestLog {
    async fn append(&self, request: AppendRequest) -> Result<Appended, AppendError> {
        self.inner.append(request).await
    }

    fn read_from(&self, after: u64, max_bytes: usize) -> Result<Vec<SharedFrame>, LogError> {
        let held = self.held.lock().expect("no reader panicked here");
        drop(self.released.wait_while(held, |held| *held).expect("no reader panicked here"));
        if take_one(&self.failures) {
            return Err(LogError::Overloaded);
        }
        assert!(!take_one(&self.panics), "a panic on purpose");
        self.inner.read_from(after, max_bytes)
    }

    async fn require(&self, preparation: u64) {
        self.inner.require(preparation).await;
    }

    async fn close(&self) {
        self.inner.close().await;
    }

    fn durable(&self) -> watch::Receiver<u64> {
        self.inner.durable()
    }

    async fn seal(&self) -> Result<Sealed, LogError> {
        self.inner.seal().await
    }

    fn unsettled(&self) -> Vec<SharedFrame> {
        self.inner.unsettled()
    }

    fn settle(&self, frame: u64) {
        self.inner.settle(frame);
    }

    fn settled(&self) -> watch::Receiver<u64> {
        self.inner.settled()
    }

    fn trim(&self, through: u64) -> Result<(), LogError> {
        self.inner.trim(through)?;
        self.trimmed.send_replace(through);
        Ok(())
    }
}
