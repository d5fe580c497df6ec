use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arrow_array::types::Float32Type;
use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray, StringViewArray,
    TimestampMicrosecondArray, TimestampMillisecondArray,
};
use async_trait::async_trait;
use futures::poll;
use hydrant_storage::order::Micros;
use hydrant_storage::record::SharedFrame;
use hydrant_storage::row::{Cell, OwnedRow, RowHeader, RowKind};
use tokio::sync::watch;

use super::{DeleteRequest, Ingest, IngestReport, IngestRequest, IngestSettings, Outcome, Producer};
use crate::error::{Code, Error};
use crate::log::{AppendError, AppendRequest, Appended, LogError, Sealed, WriteLog};
use crate::registry::definition::KnownTimeRule;
use crate::registry::{Registry, yaml};
use crate::rows::MAX_NAMED;
use crate::tenancy::Action;
use crate::testing::{SECOND, START, TestLog, TestStore, permit};

struct Fixture {
    store: TestStore,
    log: Arc<WatchedLog>,
    ingest: Ingest,
}

impl Fixture {
    async fn start() -> Self {
        Self::with(IngestSettings { max_rows: 100, max_key_bytes: 64, ..IngestSettings::default() }).await
    }

    async fn with(settings: IngestSettings) -> Self {
        let store = TestStore::start().await;
        let (inner, registry) = (store.log.clone(), store.registry.clone());
        let log = WatchedLog { inner, registry, views_to_apply: AtomicU32::new(0), appends: AtomicU32::new(0) };
        let log = Arc::new(log);
        let (partitions, snapshots) = (store.partitions.clone(), store.registry.reader());
        let ingest = Ingest::new(log.clone(), partitions, snapshots, store.time.clone(), settings);
        Self { store, log, ingest }
    }

    async fn send(&self, request: IngestRequest) -> Result<IngestReport, Error> {
        self.ingest.ingest(&permit(Action::Write), request).await
    }

    /// The refusal of a request, which must have written nothing.
    async fn refused(&self, request: IngestRequest) -> Error {
        let before = self.durable();
        let refused = self.send(request).await.expect_err("the request is refused");
        assert_eq!(self.durable(), before, "a refused request writes nothing");
        refused
    }

    fn durable(&self) -> u64 {
        *self.store.log.durable().borrow()
    }

    fn frame(&self, report: &IngestReport) -> SharedFrame {
        let number = report.frame.expect("it was written");
        self.store.log.read_from(number - 1, 1).expect("the log reads").remove(0)
    }

    async fn end(self) {
        self.store.partitions.shutdown().await;
    }
}

/// The store's log, before which views are added: between a request's packing and its frame.
#[derive(Debug)]
struct WatchedLog {
    inner: Arc<TestLog>,
    registry: Registry,
    /// How many requests still have a view applied, and its apply answered, right before them.
    views_to_apply: AtomicU32,
    appends: AtomicU32,
}

#[async_trait]
impl WriteLog for WatchedLog {
    async fn append(&self, request: AppendRequest) -> Result<Appended, AppendError> {
        let number = self.appends.fetch_add(1, Ordering::SeqCst);
        if self.views_to_apply.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            let text = format!(
                "apiVersion: hydrant/v1\nkind: FeatureView\nmetadata: {{name: view_{number}}}\n\
                 spec: {{entities: [airport], source: weather, features: [{{name: wind}}]}}\n"
            );
            let definitions = yaml::parse("view.yaml", &text).expect("a view").definitions;
            let definitions = definitions.into_iter().map(|located| located.definition).collect();
            self.registry.apply(&permit(Action::ChangeDefinitions), definitions, None).await.expect("it applies");
        }
        self.inner.append(request).await
    }

    async fn require(&self, preparation: u64) {
        self.inner.require(preparation).await;
    }

    fn read_from(&self, after: u64, max_bytes: usize) -> Result<Vec<SharedFrame>, LogError> {
        self.inner.read_from(after, max_bytes)
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
        self.inner.trim(through)
    }
}

fn strings(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn times(values: &[Option<Micros>]) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(values.to_vec()))
}

fn floats(values: &[Option<f64>]) -> ArrayRef {
    Arc::new(Float64Array::from(values.to_vec()))
}

fn longs(values: &[Option<i64>]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn request(columns: Vec<(&str, ArrayRef)>) -> IngestRequest {
    IngestRequest {
        source: "weather".to_owned(),
        batch: RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
            .expect("columns of one length"),
        producer: None,
        known_time: None,
        ignore_extra: false,
        validate_only: false,
    }
}

/// One row for each origin, all at the start.
fn rows(origins: &[Option<&str>], stations: &[Option<i64>]) -> Vec<(&'static str, ArrayRef)> {
    vec![
        ("origin", strings(origins)),
        ("station", longs(stations)),
        ("event_timestamp", times(&vec![Some(START); origins.len()])),
    ]
}

#[tokio::test]
async fn a_row_goes_to_every_view_whose_key_it_has_and_null_keys_are_counted() {
    let fixture = Fixture::start().await;
    let mut columns = rows(&[Some("EWR"), None, Some("JFK")], &[Some(1), Some(2), None]);
    columns.push(("temp", floats(&[Some(1.5), Some(2.5), None])));
    let report = fixture.send(request(columns)).await.expect("the rows are fine");
    assert_eq!((report.outcome, report.rows), (Outcome::Applied, 3));
    let views: Vec<_> = report.views.iter().map(|view| (view.view.as_str(), view.rows, view.null_keys)).collect();
    assert_eq!(views, [("airport_weather", 2, 1), ("station_weather", 2, 1)]);

    let frame = fixture.frame(&report);
    assert_eq!(frame.rows.len(), 4);
    assert!(frame.rows.is_sorted_by_key(|row| (row.slot, row.ordinal)), "partitions look for rows by bisection");
    let airport = fixture.store.view("airport_weather");
    for row in frame.rows.iter().filter(|row| row.view == airport.id) {
        let header = RowHeader {
            kind: RowKind::Full,
            version: row.version(frame.number, frame.ingest_time),
            ingest_time: frame.ingest_time,
            revision: row.revision,
            feature_count: row.feature_count,
        };
        let packed = OwnedRow::new(header, row.body.clone());
        let temp = packed.cell(&airport.layout, 0).expect("a sound row");
        match row.ordinal {
            0 => assert!(matches!(temp, Cell::Float64(1.5))),
            _ => assert!(matches!(temp, Cell::Null)),
        }
        let wind = packed.cell(&airport.layout, 1).expect("a sound row");
        assert!(matches!(wind, Cell::Null), "a feature column that the request lacks is NULL");
        assert_eq!(row.known_time, None, "known on arrival");
    }
    fixture.end().await;
}

#[tokio::test]
async fn once_an_apply_is_answered_every_row_that_the_log_takes_is_in_the_new_view() {
    let fixture = Fixture::start().await;
    fixture.log.views_to_apply.store(2, Ordering::SeqCst);
    let producer = Some(Producer { id: "loader".to_owned(), sequence: 1 });
    let sent = || IngestRequest { producer: producer.clone(), ..request(rows(&[Some("EWR")], &[None])) };
    let report = fixture.send(sent()).await.expect("the rows are fine");
    let views: Vec<_> = report.views.iter().map(|view| (view.view.as_str(), view.rows)).collect();
    assert_eq!(views, [("airport_weather", 1), ("station_weather", 0), ("view_0", 1), ("view_1", 1)]);
    let frame = fixture.frame(&report);
    let added = fixture.store.view("view_1");
    assert_eq!(frame.rows.iter().filter(|row| row.view == added.id).count(), 1);
    assert_eq!(fixture.send(sent()).await.expect("the same").frame, report.frame, "taken once");

    fixture.log.views_to_apply.store(1, Ordering::SeqCst);
    let delete = DeleteRequest {
        view: "airport_weather".to_owned(),
        keys: vec![("origin".to_owned(), strings(&[Some("EWR")]))],
        event_times: vec![START],
        producer: None,
        known_time: None,
    };
    fixture.ingest.delete(&permit(Action::Write), delete).await.expect("it deletes");
    fixture.end().await;
}

#[tokio::test]
async fn a_request_under_which_definitions_keep_changing_is_refused_for_now() {
    let fixture = Fixture::start().await;
    fixture.log.views_to_apply.store(u32::MAX, Ordering::SeqCst);
    let refused = fixture.refused(request(rows(&[Some("EWR")], &[None]))).await;
    assert_eq!((refused.code, refused.reason), (Code::Unavailable, "DEFINITIONS_CHANGING"));
    assert!(refused.retry_after.is_some());
    fixture.end().await;
}

#[tokio::test]
async fn a_report_names_the_partitions_that_have_its_rows() {
    let fixture = Fixture::start().await;
    let report = fixture.send(request(rows(&[Some("EWR")], &[None]))).await.expect("the rows are fine");
    let slot = fixture.frame(&report).rows[0].slot;
    assert_eq!(report.partitions, [fixture.store.partitions.of_slot(slot).index()]);
    let airports: Vec<String> = (0..50).map(|number| format!("A{number}")).collect();
    let origins: Vec<Option<&str>> = airports.iter().map(|name| Some(name.as_str())).collect();
    let report = fixture.send(request(rows(&origins, &[None; 50]))).await.expect("the rows are fine");
    assert_eq!(report.partitions, [0, 1, 2], "fifty keys are in all of three partitions");
    fixture.end().await;
}

#[test]
fn many_rows_are_packed_where_they_keep_nobody_waiting_deletions_too() {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().max_blocking_threads(1).build().expect("a runtime");
    runtime.block_on(async {
        let fixture = Fixture::with(IngestSettings { inline_rows: 2, ..IngestSettings::default() }).await;
        let write = permit(Action::Write);
        let delete = |origins: &[Option<&str>]| DeleteRequest {
            view: "airport_weather".to_owned(),
            keys: vec![("origin".to_owned(), strings(origins))],
            event_times: vec![START],
            producer: None,
            known_time: None,
        };
        // The one thread for work that blocks is busy, so that what is packed there waits.
        let (free, busy) = std::sync::mpsc::sync_channel::<()>(1);
        let held = tokio::task::spawn_blocking(move || busy.recv());
        let large = [Some("EWR"), Some("JFK"), Some("LGA")];
        let mut deletion = Box::pin(fixture.ingest.delete(&write, delete(&large)));
        let mut rows = Box::pin(fixture.send(request(rows(&large, &[None; 3]))));
        assert!(poll!(&mut deletion).is_pending() && poll!(&mut rows).is_pending());
        assert_eq!(fixture.log.appends.load(Ordering::SeqCst), 0);
        fixture.ingest.delete(&write, delete(&large[..2])).await.expect("few rows are packed at once");
        drop(free);
        assert!(held.await.expect("no panic").is_err());
        assert_eq!(deletion.await.expect("it deletes").rows, 3);
        assert_eq!(rows.await.expect("the rows are fine").rows, 3);
        fixture.end().await;
    });
}

#[tokio::test]
async fn a_request_is_as_large_as_what_its_views_of_strings_show() {
    let fixture = Fixture::with(IngestSettings { max_bytes: 50_000, ..IngestSettings::default() }).await;
    let origins: Vec<String> = (0..100).map(|row| format!("{row:01000}")).collect();
    let origins: ArrayRef = Arc::new(StringViewArray::from_iter_values(&origins));
    let with = |origins: ArrayRef| {
        let rows = origins.len();
        request(vec![
            ("origin", origins),
            ("station", longs(&vec![None; rows])),
            ("event_timestamp", times(&vec![Some(START); rows])),
        ])
    };
    assert_eq!(fixture.refused(with(origins.clone())).await.reason, "REQUEST_TOO_LARGE");
    let report = fixture.send(with(origins.slice(7, 3))).await.expect("a slice holds no more than it shows");
    assert_eq!(report.rows, 3);
    fixture.end().await;
}

#[tokio::test]
async fn all_that_is_wrong_with_the_columns_is_told_at_once() {
    let fixture = Fixture::start().await;
    let refused = fixture
        .refused(request(vec![
            ("origin", strings(&[Some("EWR")])),
            ("temp", strings(&[Some("warm")])),
            ("humidity", floats(&[Some(0.5)])),
        ]))
        .await;
    assert_eq!((refused.code, refused.reason), (Code::InvalidArgument, "BAD_COLUMNS"));
    let mut paths: Vec<&str> = refused.violations.iter().map(|violation| violation.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["columns.event_timestamp", "columns.humidity", "columns.station", "columns.temp"]);
    assert!(refused.hint.is_some());

    let mut columns = rows(&[Some("EWR")], &[None]);
    columns.push(("humidity", floats(&[Some(0.5)])));
    let ignoring = IngestRequest { ignore_extra: true, ..request(columns) };
    assert!(fixture.send(ignoring).await.is_ok(), "extra columns are left out where that is asked for");
    fixture.end().await;
}

#[tokio::test]
async fn one_bad_row_refuses_the_request_and_is_named_with_its_column_and_reason() {
    let fixture = Fixture::start().await;
    let long_key = "x".repeat(100);
    let vectors = ListArray::from_iter_primitive::<Float32Type, _, _>(
        [2, 2, 2, 3, 2].map(|length| Some(vec![Some(1.0); length])),
    );
    let mut columns = vec![
        ("origin", strings(&[Some("EWR"), None, Some("JFK"), Some("LGA"), Some(&long_key)])),
        ("station", longs(&[Some(1), None, Some(3), Some(4), None])),
        ("event_timestamp", times(&[None, Some(START), Some(START + 3_600 * SECOND), Some(START), Some(START)])),
    ];
    columns.push(("profile", Arc::new(vectors)));
    let refused = fixture.refused(request(columns)).await;
    assert_eq!((refused.code, refused.reason), (Code::InvalidArgument, "BAD_ROWS"));
    let told: Vec<(&str, &str)> =
        refused.violations.iter().map(|violation| (violation.path.as_str(), violation.message.as_str())).collect();
    let expected = [
        ("rows[0].event_timestamp", "the time is null"),
        ("rows[1].key", "its key is null for every view (airport_weather, station_weather)"),
        ("rows[2].event_timestamp", "time 2026-01-01T01:00:00Z lies "),
        ("rows[3].profile", "3 elements in place of 2"),
        ("rows[4].origin", "the key has 103 bytes; 'ingest.max_key' allows 64"),
    ];
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for (told, expected) in told.iter().zip(expected) {
        assert_eq!(told.0, expected.0);
        assert!(told.1.starts_with(expected.1), "{told:?}");
    }
    assert!(told[2].1.ends_with("and the source allows 600s"), "{told:?}");

    let many = vec![None; 50];
    let refused = fixture.refused(request(rows(&many, &[None; 50]))).await;
    assert_eq!(refused.violations.len(), MAX_NAMED);
    assert_eq!(refused.metadata[0], ("bad_rows", "50".to_owned()));
    fixture.end().await;
}

#[tokio::test]
async fn a_sequence_is_taken_once_and_never_with_another_payload() {
    let fixture = Fixture::start().await;
    let producer = |sequence| Some(Producer { id: "loader".to_owned(), sequence });
    let with_temp = |temp: f64| {
        let mut columns = rows(&[Some("EWR")], &[Some(1)]);
        columns.push(("temp", floats(&[Some(temp)])));
        request(columns)
    };
    let first = fixture.send(IngestRequest { producer: producer(7), ..with_temp(1.0) }).await.expect("new");
    // The same rows, columns in another order.
    let mut columns = rows(&[Some("EWR")], &[Some(1)]);
    columns.insert(0, ("temp", floats(&[Some(1.0)])));
    let again = fixture.send(IngestRequest { producer: producer(7), ..request(columns) }).await.expect("the same");
    assert_eq!((again.outcome, again.frame), (Outcome::AlreadyApplied, first.frame));
    assert_eq!(again.ingest_time, first.ingest_time);
    let other = fixture.refused(IngestRequest { producer: producer(7), ..with_temp(2.0) }).await;
    assert_eq!(other.reason, "SEQUENCE_REUSED");
    let older = fixture.refused(IngestRequest { producer: producer(3), ..with_temp(1.0) }).await;
    assert_eq!(older.reason, "SEQUENCE_TOO_OLD");
    assert!(fixture.send(IngestRequest { producer: producer(9), ..with_temp(2.0) }).await.is_ok(), "gaps are allowed");
    fixture.end().await;
}

#[tokio::test]
async fn known_time_follows_the_requests_rule() {
    let fixture = Fixture::start().await;
    let send = |rule, extra: Option<(&'static str, ArrayRef)>| {
        let mut columns = rows(&[Some("EWR")], &[None]);
        columns.extend(extra);
        IngestRequest { known_time: Some(rule), ..request(columns) }
    };
    let delayed = fixture.send(send(KnownTimeRule::Event { delay: 60 * SECOND }, None)).await.expect("a delay");
    assert_eq!(fixture.frame(&delayed).rows[0].known_time, Some(START + 60 * SECOND));

    let millis = TimestampMillisecondArray::from(vec![Some((START - SECOND) / 1_000)]);
    let created = KnownTimeRule::Column("created".parse().expect("a name"));
    let by_column = fixture.send(send(created.clone(), Some(("created", Arc::new(millis))))).await.expect("a column");
    assert_eq!(fixture.frame(&by_column).rows[0].known_time, Some(START - SECOND));

    let refused = fixture.refused(send(created.clone(), None)).await;
    assert_eq!(refused.violations[0].path, "columns.created");
    let refused = fixture.refused(send(created, Some(("created", times(&[None]))))).await;
    assert_eq!(refused.violations[0].path, "rows[0].created");
    let refused = fixture.refused(send(KnownTimeRule::Event { delay: 3_600 * SECOND }, None)).await;
    assert_eq!(refused.reason, "BAD_ROWS", "known further ahead than the source allows");
    fixture.end().await;
}

#[tokio::test]
async fn the_deleted_column_writes_tombstones_in_every_view_whose_key_is_there() {
    let fixture = Fixture::start().await;
    let mut columns = rows(&[Some("EWR"), Some("JFK")], &[Some(1), None]);
    columns.push(("_deleted", Arc::new(BooleanArray::from(vec![true, false]))));
    let report = fixture.send(request(columns)).await.expect("rows and deletions");
    let frame = fixture.frame(&report);
    let deleted: Vec<bool> = frame.rows.iter().map(|row| row.tombstone).collect();
    assert_eq!(deleted.iter().filter(|deleted| **deleted).count(), 2);
    assert!(frame.rows.iter().all(|row| row.tombstone == (row.ordinal == 0)));
    assert!(frame.rows.iter().all(|row| row.tombstone == row.body.is_empty()));

    let mut columns = rows(&[Some("EWR")], &[None]);
    columns.push(("_deleted", Arc::new(BooleanArray::from(vec![None]))));
    assert_eq!(fixture.refused(request(columns)).await.violations[0].path, "rows[0]._deleted");
    fixture.end().await;
}

#[tokio::test]
async fn a_delete_call_deletes_in_one_view_only() {
    let fixture = Fixture::start().await;
    let delete = |keys: Vec<(&str, ArrayRef)>, event_times: Vec<Micros>| DeleteRequest {
        view: "airport_weather".to_owned(),
        keys: keys.into_iter().map(|(name, array)| (name.to_owned(), array)).collect(),
        event_times,
        producer: None,
        known_time: None,
    };
    let write = permit(Action::Write);
    let keys = || vec![("origin", strings(&[Some("EWR"), Some("JFK")]))];
    let report = fixture.ingest.delete(&write, delete(keys(), vec![START])).await.expect("it deletes");
    let frame = fixture.frame(&report);
    let airport = fixture.store.view("airport_weather").id;
    assert_eq!(frame.rows.len(), 2);
    assert!(frame.rows.iter().all(|row| row.tombstone && row.view == airport && row.event_time == START));

    let uneven = fixture.ingest.delete(&write, delete(keys(), vec![START; 3])).await.expect_err("3 times for 2 keys");
    assert_eq!(uneven.reason, "BAD_EVENT_TIMES");
    let null_key = delete(vec![("origin", strings(&[None]))], vec![START]);
    assert_eq!(fixture.ingest.delete(&write, null_key).await.expect_err("no key").reason, "BAD_ROWS");
    let other = delete(vec![("station", longs(&[Some(1)]))], vec![START]);
    assert_eq!(fixture.ingest.delete(&write, other).await.expect_err("another key").reason, "BAD_COLUMNS");
    fixture.end().await;
}

#[tokio::test]
async fn validation_checks_everything_and_writes_nothing() {
    let fixture = Fixture::start().await;
    let before = fixture.durable();
    let valid = IngestRequest { validate_only: true, ..request(rows(&[Some("EWR")], &[None])) };
    let report = fixture.send(valid).await.expect("the rows are fine");
    assert_eq!((report.outcome, report.frame, report.rows), (Outcome::Valid, None, 1));
    let bad = IngestRequest { validate_only: true, ..request(rows(&[None], &[None])) };
    assert_eq!(fixture.refused(bad).await.reason, "BAD_ROWS");
    assert_eq!(fixture.durable(), before);
    fixture.end().await;
}

#[tokio::test]
async fn what_is_too_large_or_names_nothing_is_refused() {
    let fixture = Fixture::start().await;
    let many = vec![Some("EWR"); 101];
    assert_eq!(fixture.refused(request(rows(&many, &[None; 101]))).await.reason, "REQUEST_TOO_LARGE");
    assert_eq!(fixture.refused(request(rows(&[], &[]))).await.reason, "NO_ROWS");
    let elsewhere = IngestRequest { source: "tides".to_owned(), ..request(rows(&[Some("EWR")], &[None])) };
    assert_eq!(fixture.refused(elsewhere).await.code, Code::NotFound);
    let reader = permit(Action::ReadOnline);
    let refused = fixture.ingest.ingest(&reader, request(rows(&[Some("EWR")], &[None]))).await;
    assert_eq!(refused.expect_err("a reader may not write").code, Code::PermissionDenied);
    fixture.end().await;
}

#[test]
fn each_refusal_of_the_log_tells_whether_and_when_to_send_again() {
    use std::sync::Arc;
    use std::time::Duration;

    use super::append_refusal;
    use crate::error::Code;
    use crate::log::AppendError;

    let delay = Duration::from_millis(50);
    let overloaded = append_refusal(AppendError::Overloaded { retry_after: delay });
    assert_eq!((overloaded.code, overloaded.retry_after), (Code::Unavailable, Some(delay)));

    let full = append_refusal(AppendError::Full);
    assert_eq!((full.code, full.reason), (Code::ResourceExhausted, "DISK_FULL"));

    let failed = append_refusal(AppendError::Storage(Arc::new(std::io::Error::other("the disk said no"))));
    assert_eq!(failed.code, Code::Unavailable);
    assert!(
        failed.retry_after.is_some() && failed.hint.expect("a hint").contains("nothing of the request was written")
    );

    let closed = append_refusal(AppendError::Closed);
    assert_eq!((closed.code, closed.reason, closed.retry_after), (Code::Unavailable, "OUTCOME_UNKNOWN", None));
    assert!(closed.hint.expect("a hint").contains("same producer and sequence"));

    let no_room = append_refusal(AppendError::TooManyProducers { limit: 1 << 20 });
    assert_eq!((no_room.code, no_room.reason), (Code::ResourceExhausted, "TOO_MANY_PRODUCERS"));
    assert!(no_room.retry_after.is_some() && no_room.hint.expect("a hint").contains("log.producers"));

    let reused = append_refusal(AppendError::SequenceReused { sequence: 7 });
    assert_eq!((reused.code, reused.retry_after), (Code::AlreadyExists, None));
}
