use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, ArrayRef, Int64Array, StringArray};
use async_trait::async_trait;
use hydrant_storage::order::{CellStatus, Micros};
use hydrant_storage::row::OwnedRow;

use super::{OnlineAnswer, OnlineRequest, Pieces, PinnedHistory, Serving, ServingSettings};
use crate::clock::{ManualTicker, Ticker};
use crate::error::{Code, Error, Result};
use crate::partition::{PartitionSettings, PartitionState};
use crate::registry::catalog::View;
use crate::tenancy::{Action, AdmissionSettings, Identity, Limits, Permit, Quota, Tenancy, Usage};
use crate::testing::{HOUR, SECOND, START, TestStore, Written, permit, soon};

/// History as it is defined: of all rows written, the greatest that is visible.
#[derive(Debug)]
struct AllWritten(Arc<Mutex<Vec<Written>>>);

#[async_trait]
impl PinnedHistory for AllWritten {
    async fn rows_at(
        &self,
        _permit: &Permit,
        _view: &Arc<View>,
        keys: Vec<Vec<u8>>,
        t: Micros,
    ) -> Result<Vec<Option<OwnedRow>>> {
        let written = self.0.lock().expect("no test panicked here");
        let greatest = |key: &Vec<u8>| {
            let visible =
                written.iter().filter(|written| written.key == *key && written.row.header().version.is_visible_at(t));
            visible.max_by_key(|written| written.row.header().version).map(|written| written.row.clone())
        };
        Ok(keys.iter().map(greatest).collect())
    }
}

/// The same, which takes its time, and tells how many were answered at a time.
#[derive(Debug)]
struct Slow {
    history: AllWritten,
    under_way: AtomicUsize,
    most: AtomicUsize,
}

#[async_trait]
impl PinnedHistory for Slow {
    async fn rows_at(
        &self,
        permit: &Permit,
        view: &Arc<View>,
        keys: Vec<Vec<u8>>,
        t: Micros,
    ) -> Result<Vec<Option<OwnedRow>>> {
        self.most.fetch_max(self.under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        self.history.rows_at(permit, view, keys, t).await
    }
}

struct Fixture {
    store: TestStore,
    serving: Serving,
}

impl Fixture {
    async fn start() -> Self {
        Self::of(TestStore::start().await)
    }

    fn of(store: TestStore) -> Self {
        let history = Arc::new(AllWritten(store.written.clone()));
        Self::with_history(store, history)
    }

    fn with_history(store: TestStore, history: Arc<dyn PinnedHistory>) -> Self {
        let settings = ServingSettings { max_rows: 100, ..ServingSettings::default() };
        let (snapshots, time) = (store.registry.reader(), store.time.clone());
        let serving = Serving::new(store.partitions.clone(), snapshots, time, history, settings);
        Self { store, serving }
    }

    async fn get(&self, request: OnlineRequest) -> Result<OnlineAnswer> {
        self.serving.get(&permit(Action::ReadOnline), request).await
    }

    /// temp and wind of one airport.
    async fn weather(&self, origin: &str, at: Option<Micros>) -> Vec<Shown> {
        let answer = self.get(OnlineRequest { at, ..weather_of(&[Some(origin)]) }).await.expect("an answer");
        cells(&answer, 0)
    }

    async fn park_all(&self) {
        for handle in self.store.partitions.handles() {
            self.store.partitions.park(handle.index(), "a test");
            while !matches!(handle.state(), PartitionState::Parked { .. }) {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn end(self) {
        self.store.partitions.shutdown().await;
    }
}

/// The bits of a value, and its status.
type Shown = (Option<u64>, CellStatus);

fn present(value: f64) -> Shown {
    (Some(value.to_bits()), CellStatus::Present)
}

fn default_wind(status: CellStatus) -> Shown {
    (Some((-1.0_f64).to_bits()), status)
}

fn cells(answer: &OnlineAnswer, row: usize) -> Vec<Shown> {
    let cell = |column: &super::AnswerColumn| {
        let row = if column.values.len() == 1 { 0 } else { row };
        let values = column.values.as_primitive::<Float64Type>();
        let value = values.is_valid(row).then(|| values.value(row).to_bits());
        (value, *column.statuses.get(row).unwrap_or(&column.statuses[0]))
    };
    answer.to_columns().expect("its columns").iter().map(cell).collect()
}

fn strings(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn weather_of(origins: &[Option<&str>]) -> OnlineRequest {
    OnlineRequest {
        features: vec!["airport_weather:temp".to_owned(), "airport_weather:wind".to_owned()],
        entities: vec![("origin".to_owned(), strings(origins))],
        ..OnlineRequest::default()
    }
}

#[tokio::test]
async fn a_row_is_visible_once_its_acknowledgement_is_waited_for() {
    let fixture = Fixture::start().await;
    for temp in 0..20 {
        let event_time = START + i64::from(temp);
        let appended = fixture.store.write(&[("EWR", event_time, None, Some(f64::from(temp)))]).await;
        let request = OnlineRequest { at_least: Some(appended.frame), ..weather_of(&[Some("EWR")]) };
        let answer = fixture.get(request).await.expect("an answer");
        assert_eq!(cells(&answer, 0), [present(f64::from(temp)), (None, CellStatus::Null)]);
        assert!(answer.provenance.views[0].complete_through >= appended.ingest_time);
    }
    fixture.end().await;
}

#[tokio::test]
async fn a_key_counts_once_for_the_quota_however_often_and_for_how_many_views_it_is_asked_for() {
    let fixture = Fixture::start().await;
    let ticker: Arc<dyn Ticker> = Arc::new(ManualTicker::default());
    let limits = Limits::default().with(Quota::KeysPerSecond, 4);
    let tenancy = Tenancy::with(limits, &AdmissionSettings::default(), ticker);
    let permit = || tenancy.authorize(&Identity::loopback(), Action::ReadOnline).expect("it is granted");
    // Three airports, as origins and destinations and for two columns each, and one station.
    let request = OnlineRequest {
        services: vec!["delay_model".to_owned()],
        features: vec!["station_weather:temp".to_owned()],
        entities: vec![
            ("origin".to_owned(), strings(&[Some("EWR"), Some("EWR"), Some("JFK")])),
            ("dest".to_owned(), strings(&[Some("JFK"), Some("LGA"), None])),
            ("station".to_owned(), Arc::new(arrow_array::Int64Array::from(vec![7]))),
        ],
        ..OnlineRequest::default()
    };
    fixture.serving.get(&permit(), request).await.expect("four keys");
    let used = tenancy.usage(permit().tenant());
    assert_eq!(used, [Usage { quota: Quota::KeysPerSecond, used: 4, limit: 4 }]);
    let refused = fixture.serving.get(&permit(), weather_of(&[Some("EWR")])).await.expect_err("a fifth");
    assert_eq!((refused.code, refused.reason), (Code::ResourceExhausted, "QUOTA_EXCEEDED"));
    fixture.end().await;
}

#[tokio::test]
async fn every_missing_value_has_a_status_and_its_default() {
    let fixture = Fixture::start().await;
    let old = START - 4 * HOUR;
    let rows = [("OLD", old, None, Some(1.0)), ("DEL", START, None, Some(1.0)), ("DEL", START, None, None)];
    fixture.store.write_applied(&rows).await;
    let answer = fixture.get(weather_of(&[Some("OLD"), Some("DEL"), Some("NEW"), None])).await.expect("an answer");
    let expired = [(None, CellStatus::Expired), default_wind(CellStatus::Expired)];
    let not_found = [(None, CellStatus::NotFound), default_wind(CellStatus::NotFound)];
    assert_eq!(cells(&answer, 0), expired);
    for row in 1..4 {
        assert_eq!(cells(&answer, row), not_found, "row {row}");
    }
    fixture.end().await;
}

#[tokio::test]
async fn services_share_columns_and_a_column_of_one_value_is_answered_with_one() {
    let fixture = Fixture::start().await;
    fixture.store.write_applied(&[("EWR", START, None, Some(1.0)), ("JFK", START, None, Some(2.0))]).await;
    let request = OnlineRequest {
        services: vec!["delay_model".to_owned()],
        features: vec!["airport_weather:temp".to_owned()],
        entities: vec![
            ("origin".to_owned(), strings(&[Some("EWR"), Some("JFK"), Some("EWR")])),
            ("dest".to_owned(), strings(&[Some("JFK")])),
        ],
        include_event_times: true,
        ..OnlineRequest::default()
    };
    let read_before = fixture.serving.metrics().keys_read.get();
    let answer = fixture.get(request).await.expect("an answer");
    let columns = answer.to_columns().expect("its columns");
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["airport_weather__temp", "airport_weather__wind", "dest_weather__temp"]);
    assert_eq!(answer.rows(), 3);
    let lengths: Vec<usize> = columns.iter().map(|column| column.values.len()).collect();
    assert_eq!(lengths, [3, 3, 1]);
    assert_eq!(columns[0].statuses, [CellStatus::Present], "alike statuses are sent once");
    assert_eq!(cells(&answer, 1)[0], present(2.0));
    assert_eq!(cells(&answer, 2)[0], present(1.0));
    assert_eq!(cells(&answer, 0)[2], present(2.0));
    assert_eq!(answer.selection().services[0].columns, [0, 1, 2]);
    assert_eq!(answer.selection().features, [0], "the single feature is the service's column");
    let event_times = answer.event_times();
    assert_eq!(event_times.len(), 2);
    assert_eq!(event_times[1].times, [Some(START)]);
    let read = fixture.serving.metrics().keys_read.get() - read_before;
    assert_eq!(read, 2, "each distinct key is read once, whoever needs it");
    assert_eq!(answer.provenance.views.len(), 1);
    assert_eq!(answer.provenance.views[0].newest_event_time, Some(START));
    fixture.end().await;
}

#[tokio::test]
async fn a_row_that_falls_due_is_seen_by_the_first_read_after_it() {
    let fixture = Fixture::start().await;
    let due = START + 5 * SECOND;
    fixture.store.write_applied(&[("EWR", START, None, Some(1.0)), ("EWR", due, None, Some(2.0))]).await;
    assert_eq!(fixture.weather("EWR", None).await[0], present(1.0));
    fixture.store.advance(Duration::from_secs(5)).await;
    assert_eq!(fixture.weather("EWR", None).await[0], present(2.0));
    fixture.end().await;
}

#[tokio::test]
async fn a_pinned_read_answers_what_the_unpinned_one_did() {
    let seed = std::env::var("HYDRANT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(42_u64);
    println!("seed {seed}: set HYDRANT_SEED to replay");
    let mut random = Random(seed);
    let airports = ["EWR", "JFK", "LGA", "SFO", "NRT"];
    let mut fixture = Fixture::start().await;
    let mut answered: Vec<(Micros, Vec<Vec<Shown>>)> = Vec::new();
    for step in 0..120 {
        let now = fixture.store.time.read();
        let rows: Vec<_> = (0..=random.below(3))
            .map(|_| {
                let event_time = now - random.micros(4 * HOUR) + random.micros(300 * SECOND);
                // A known time before the row's arrival is the producer's word against what was answered then.
                let known_time = (random.below(3) == 0).then(|| now + SECOND + random.micros(60 * SECOND));
                let temp = (random.below(6) != 0).then(|| random.below(1_000) as f64);
                (airports[random.below(airports.len() as u64) as usize], event_time, known_time, temp)
            })
            .collect();
        fixture.store.write_applied(&rows).await;
        fixture.store.advance(Duration::from_secs(random.below(600))).await;
        let keys: Vec<_> = airports.iter().map(|airport| Some(*airport)).collect();
        let answer = fixture.get(weather_of(&keys)).await.expect("an answer");
        let shown = (0..keys.len()).map(|row| cells(&answer, row)).collect();
        answered.push((answer.provenance.t, shown));
        if step == 60 {
            fixture = Fixture::of(fixture.store.restart().await);
        }
    }
    let mut from_history = 0;
    for (t, expected) in &answered {
        let keys: Vec<_> = airports.iter().map(|airport| Some(*airport)).collect();
        let answer = fixture.get(OnlineRequest { at: Some(*t), ..weather_of(&keys) }).await.expect("an answer");
        let shown: Vec<_> = (0..keys.len()).map(|row| cells(&answer, row)).collect();
        assert_eq!(shown, *expected, "seed {seed}, at {t}");
        from_history += answer.provenance.rows_from_history;
    }
    assert!(from_history > 0, "the past was asked for");
    fixture.end().await;
}

#[tokio::test]
async fn the_past_is_answered_and_the_future_refused() {
    let fixture = Fixture::start().await;
    fixture.store.write_applied(&[("EWR", START, Some(START), Some(1.0))]).await;
    fixture.store.advance(Duration::from_secs(60)).await;
    fixture.store.write_applied(&[("EWR", START + 30 * SECOND, Some(START + 30 * SECOND), Some(2.0))]).await;
    assert_eq!(fixture.weather("EWR", Some(START + 10 * SECOND)).await[0], present(1.0));
    assert_eq!(fixture.weather("EWR", Some(START - SECOND)).await[0], (None, CellStatus::NotFound));
    let ahead = OnlineRequest { at: Some(START + HOUR), ..weather_of(&[Some("EWR")]) };
    let refused = fixture.get(ahead).await.expect_err("that instant has not come");
    assert_eq!((refused.code, refused.reason), (Code::InvalidArgument, "AT_IN_FUTURE"));
    fixture.end().await;
}

#[tokio::test]
async fn a_parked_partition_is_not_ready_and_fails_only_strict_reads() {
    let fixture = Fixture::start().await;
    fixture.store.write_applied(&[("EWR", START, None, Some(1.0))]).await;
    fixture.park_all().await;
    let not_ready = [(None, CellStatus::NotReady), default_wind(CellStatus::NotReady)];
    assert_eq!(fixture.weather("EWR", None).await, not_ready);
    let strict = OnlineRequest { strict: true, ..weather_of(&[Some("EWR")]) };
    let refused = fixture.get(strict).await.expect_err("a strict read takes all or nothing");
    assert_eq!((refused.code, refused.reason), (Code::Unavailable, "NOT_READY"));
    assert!(refused.message.contains("a test"), "{}", refused.message);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_is_not_applied_in_time_ends_in_deadline_exceeded() {
    let store = TestStore::start_with(PartitionSettings { count: 1, ..PartitionSettings::default() }).await;
    let fixture = Fixture::of(store);
    fixture.store.log.hold(true);
    let appended = fixture.store.write(&[("EWR", START, None, Some(1.0))]).await;
    let request = |deadline: Instant| OnlineRequest {
        at_least: Some(appended.frame),
        deadline: Some(deadline),
        ..weather_of(&[Some("EWR")])
    };
    let late = fixture.get(request(Instant::now() + Duration::from_millis(5))).await.expect_err("it is held up");
    assert_eq!(late.code, Code::DeadlineExceeded);
    fixture.store.log.hold(false);
    let answer = fixture.get(request(soon())).await.expect("it is applied");
    assert_eq!(cells(&answer, 0)[0], present(1.0));
    let unknown = OnlineRequest { at_least: Some(appended.frame + 1), ..weather_of(&[Some("EWR")]) };
    assert_eq!(fixture.get(unknown).await.expect_err("never acknowledged").reason, "POSITION_UNKNOWN");
    fixture.end().await;
}

/// A request of the service with a latency budget, for a position.
fn of_quick_model(frame: u64, deadline: Instant) -> OnlineRequest {
    OnlineRequest {
        services: vec!["quick_model".to_owned()],
        features: Vec::new(),
        at_least: Some(frame),
        deadline: Some(deadline),
        ..weather_of(&[Some("EWR")])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_arrive_within_a_services_budget_is_not_ready() {
    let fixture = Fixture::start().await;
    fixture.store.log.hold(true);
    let appended = fixture.store.write(&[("EWR", START, None, Some(1.0))]).await;
    let request = of_quick_model(appended.frame, soon());
    let answer = fixture.get(request).await.expect("the budget is no error");
    assert_eq!(cells(&answer, 0), [(None, CellStatus::NotReady), default_wind(CellStatus::NotReady)]);
    fixture.store.log.hold(false);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requests_own_budget_stands_in_the_place_of_its_services() {
    let fixture = Fixture::start().await;
    fixture.store.log.hold(true);
    let appended = fixture.store.write(&[("EWR", START, None, Some(1.0))]).await;
    let waiting = OnlineRequest { at_least: Some(appended.frame), ..weather_of(&[Some("EWR")]) };
    let short = OnlineRequest { latency_budget: Some(Duration::from_millis(1)), ..waiting.clone() };
    let answer = fixture.get(OnlineRequest { deadline: Some(soon()), ..short }).await.expect("no error");
    assert_eq!(cells(&answer, 0), [(None, CellStatus::NotReady), default_wind(CellStatus::NotReady)]);
    // A longer one than the service's is waited for: here until the deadline, which is an error.
    let service = OnlineRequest { services: vec!["quick_model".to_owned()], features: Vec::new(), ..waiting };
    let long = OnlineRequest {
        latency_budget: Some(Duration::from_secs(3_600)),
        deadline: Some(Instant::now() + Duration::from_millis(20)),
        ..service
    };
    assert_eq!(fixture.get(long).await.expect_err("the deadline").code, Code::DeadlineExceeded);
    fixture.store.log.hold(false);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_s_budget_is_for_inference_and_not_for_reads_in_bulk() {
    let fixture = Fixture::start().await;
    fixture.store.log.hold(true);
    let appended = fixture.store.write(&[("EWR", START, None, Some(1.0))]).await;
    let request = of_quick_model(appended.frame, Instant::now() + Duration::from_millis(50));
    let waited = fixture.serving.get(&permit(Action::ReadInBulk), request).await.expect_err("it waits to its deadline");
    assert_eq!(waited.code, Code::DeadlineExceeded);
    fixture.store.log.hold(false);
    fixture.end().await;
}

#[tokio::test]
async fn all_pieces_of_a_read_in_bulk_are_as_of_one_instant_unless_they_are_unpinned() {
    let fixture = Fixture::start().await;
    let permit = permit(Action::ReadInBulk);
    fixture.store.write_applied(&[("EWR", START, None, Some(1.0)), ("LGA", START, None, Some(2.0))]).await;
    fixture.store.advance(Duration::from_secs(60)).await;
    let request = || OnlineRequest { strict: true, ..weather_of(&[Some("EWR"), Some("JFK"), Some("LGA")]) };
    let begin = |unpinned| fixture.serving.begin_bulk(&permit, request(), Pieces { rows: Some(2), unpinned });
    for (unpinned, later) in [(false, 2.0), (true, 3.0)] {
        let read = begin(unpinned).expect("it can be read");
        assert_eq!((read.rows(), read.piece(0), read.piece(2)), (3, 0..2, 2..3));
        let piece = |rows| fixture.serving.get(&permit, read.request(rows, None));
        let first = piece(0..2).await.expect("the first piece");
        assert_eq!(cells(&first, 0)[0], present(1.0));
        fixture.store.advance(Duration::from_secs(60)).await;
        fixture.store.write_applied(&[("LGA", first.provenance.t + SECOND, None, Some(3.0))]).await;
        let last = piece(2..3).await.expect("the last piece");
        assert_eq!((cells(&last, 0)[0], last.rows()), (present(later), 1));
        assert_eq!(last.provenance.t == first.provenance.t, !unpinned);
    }
    fixture.end().await;
}

#[tokio::test]
async fn reads_in_bulk_ask_history_one_at_a_time_and_leave_places_to_others() {
    let store = TestStore::start().await;
    let history = AllWritten(store.written.clone());
    let history = Arc::new(Slow { history, under_way: AtomicUsize::new(0), most: AtomicUsize::new(0) });
    let fixture = Fixture::with_history(store, history.clone());
    fixture.store.write_applied(&[("EWR", START, Some(START), Some(1.0))]).await;
    fixture.store.advance(Duration::from_secs(60)).await;
    fixture.store.write_applied(&[("EWR", START + 30 * SECOND, Some(START + 30 * SECOND), Some(2.0))]).await;
    for (action, most) in [(Action::ReadInBulk, 1), (Action::ReadOnline, 3)] {
        let permit = permit(action);
        let read = || {
            let request = OnlineRequest { at: Some(START + SECOND), ..weather_of(&[Some("EWR")]) };
            fixture.serving.get(&permit, request)
        };
        for answer in futures::future::join_all([read(), read(), read()]).await {
            assert_eq!(cells(&answer.expect("an answer"), 0)[0], present(1.0));
        }
        assert_eq!(history.most.swap(0, Ordering::SeqCst), most);
    }
    fixture.end().await;
}

#[tokio::test]
async fn a_read_in_bulk_is_checked_as_a_whole_before_any_row_is_read() {
    let fixture = Fixture::start().await;
    let permit = permit(Action::ReadInBulk);
    let begin = |request, pieces| fixture.serving.begin_bulk(&permit, request, pieces).map(|read| read.piece(0));
    let many = || weather_of(&[Some("EWR"); 1_000]);
    let pieces = |rows| Pieces { rows, unpinned: false };
    // 100 rows are the bound of one read here.
    assert_eq!(begin(many(), pieces(None)).expect("as many as may be"), 0..100);
    assert_eq!(begin(many(), pieces(Some(7))).expect("fewer"), 0..7);
    assert_eq!(begin(weather_of(&[]), pieces(None)).expect("one piece without rows"), 0..0);
    assert_eq!(begin(many(), pieces(Some(101))).expect_err("too many").reason, "REQUEST_TOO_LARGE");
    let refused = begin(many(), pieces(Some(10_001))).expect_err("more than any piece may have");
    assert_eq!((refused.reason, refused.hint.is_some()), ("BAD_STREAM", true));
    let contradiction = OnlineRequest { at: Some(START), ..many() };
    let refused = begin(contradiction, Pieces { rows: None, unpinned: true }).expect_err("a contradiction");
    assert_eq!(refused.reason, "BAD_STREAM");
    let numbers = Arc::new(Int64Array::from(vec![1; 1_000]));
    let wrong = OnlineRequest { entities: vec![("origin".to_owned(), numbers)], ..many() };
    assert_eq!(begin(wrong, pieces(None)).expect_err("no strings").reason, "BAD_ENTITY_COLUMNS");
    let inference = fixture.serving.begin_bulk(&crate::testing::permit(Action::ReadOnline), many(), pieces(None));
    assert_eq!(inference.expect_err("another permit").code, Code::PermissionDenied);
    fixture.end().await;
}

#[tokio::test]
async fn rows_that_are_not_in_memory_are_read_away_from_the_calling_thread_and_counted() {
    let fixture = Fixture::start().await;
    fixture.store.write_applied(&[("EWR", START, None, Some(1.0)), ("JFK", START, None, Some(2.0))]).await;
    // A stop in order flushes, and the block cache does not outlive it.
    let fixture = Fixture::of(fixture.store.restart().await);
    assert_eq!(fixture.weather("EWR", None).await[0], present(1.0));
    assert_eq!(fixture.serving.metrics().keys_not_cached.get(), 1);
    assert_eq!(fixture.weather("EWR", None).await[0], present(1.0));
    assert_eq!(fixture.serving.metrics().keys_not_cached.get(), 1, "now it is in memory");
    fixture.end().await;
}

#[tokio::test]
async fn a_read_in_bulk_finds_what_is_not_in_memory_and_leaves_it_there() {
    let fixture = Fixture::start().await;
    let origins: Vec<String> = (0..100).map(|number| format!("A{number}")).collect();
    let rows: Vec<_> = (0..100).map(|row| (origins[row].as_str(), START, None, Some(row as f64))).collect();
    fixture.store.write_applied(&rows).await;
    let fixture = Fixture::of(fixture.store.restart().await);
    let keys: Vec<_> = origins.iter().map(|origin| Some(origin.as_str())).collect();
    for round in 1..=2 {
        let answer = fixture.serving.get(&permit(Action::ReadInBulk), weather_of(&keys)).await.expect("an answer");
        for row in 0..100 {
            assert_eq!(cells(&answer, row)[0], present(row as f64));
        }
        assert_eq!(fixture.serving.metrics().keys_not_cached.get(), 100 * round, "nothing was kept");
    }
    fixture.end().await;
}

#[tokio::test]
async fn reads_in_bulk_of_a_tenant_wait_for_a_disk_one_at_a_time_and_leave_threads_to_others() {
    let fixture = Fixture::start().await;
    fixture.store.write_applied(&[("EWR", START, None, Some(1.0))]).await;
    let fixture = Fixture::of(fixture.store.restart().await);
    let in_bulk = permit(Action::ReadInBulk);
    let another = fixture.serving.bulk_turns(in_bulk.tenant()).acquire_owned().await.expect("no other read");
    let other_tenant = "other".parse().expect("a name");
    let _of_other = fixture.serving.bulk_turns(&other_tenant).acquire_owned().await.expect("no other read");
    let request = OnlineRequest { latency_budget: Some(Duration::from_millis(20)), ..weather_of(&[Some("EWR")]) };
    let late = fixture.serving.get(&in_bulk, request).await.expect("an answer");
    assert_eq!(cells(&late, 0)[0].1, CellStatus::NotReady);
    assert_eq!(fixture.weather("EWR", None).await[0], present(1.0), "inference has the other threads");
    drop(another);
    let late = fixture.serving.get(&in_bulk, weather_of(&[Some("EWR")])).await.expect("an answer");
    assert_eq!(cells(&late, 0)[0], present(1.0), "another tenant's read is nothing to it");
    fixture.end().await;
}

#[tokio::test]
async fn wrong_entity_columns_are_refused_all_at_once() {
    let fixture = Fixture::start().await;
    let entities = |columns: Vec<(&str, ArrayRef)>| OnlineRequest {
        entities: columns.into_iter().map(|(name, array)| (name.to_owned(), array)).collect(),
        ..weather_of(&[])
    };
    let numbers: ArrayRef = Arc::new(arrow_array::Int64Array::from(vec![1]));
    let refused = fixture.get(entities(vec![("orign", strings(&[Some("EWR")]))])).await.expect_err("a typo");
    let paths: Vec<&str> = refused.violations.iter().map(|violation| violation.path.as_str()).collect();
    assert_eq!(paths, ["entities.orign", "entities.origin"]);
    let refused = fixture.get(entities(vec![("origin", numbers)])).await.expect_err("another type");
    assert_eq!(refused.reason, "BAD_ENTITY_COLUMNS");
    let many = fixture.get(weather_of(&[Some("EWR"); 101])).await.expect_err("more than may be");
    assert_eq!(many.reason, "REQUEST_TOO_LARGE");
    let none = fixture.get(weather_of(&[])).await.expect("no rows, no values");
    assert_eq!((none.rows(), none.to_columns().expect("its columns")[0].values.len()), (0, 0));
    let unknown = OnlineRequest { features: vec!["airport_weather:rain".to_owned()], ..weather_of(&[Some("EWR")]) };
    let refused: Error = fixture.get(unknown).await.expect_err("there is no such feature");
    assert_eq!(refused.code, Code::NotFound);
    fixture.end().await;
}

/// A small generator that a seed replays (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn micros(&mut self, bound: Micros) -> Micros {
        self.below(bound.unsigned_abs()).cast_signed()
    }
}
