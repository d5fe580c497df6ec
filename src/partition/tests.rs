use std::time::Duration;

use hydrant_storage::keys::{OnlineKey, slot_of};
use hydrant_storage::partition::{Lookup, ReadMode};

use super::{PartitionError, PartitionSettings, PartitionState, Partitions};
use crate::error::Code;
use crate::log::{WriteLog, conformance};
use crate::testing::{HOUR, SECOND, START, TestStore, airport_key, soon};

fn quick() -> PartitionSettings {
    PartitionSettings {
        count: 3,
        threads: 2,
        reopen_delay: Duration::from_millis(1),
        max_reopen_delay: Duration::from_millis(2),
        max_reopens: 3,
        max_in_flight: 2,
        max_lag_frames: 2,
        trim_interval: Duration::from_millis(5),
        ..PartitionSettings::default()
    }
}

#[tokio::test]
async fn what_was_applied_can_be_read() {
    let store = TestStore::start().await;
    store.write_applied(&[("EWR", START, None, Some(1.0)), ("JFK", START, None, Some(2.0))]).await;
    assert_eq!(store.temp("EWR"), Some(1.0));
    assert_eq!(store.temp("JFK"), Some(2.0));
    assert_eq!(store.temp("LGA"), None);
    store.partitions.shutdown().await;
}

#[tokio::test]
async fn every_partition_passes_over_every_frame() {
    let store = TestStore::start().await;
    for _ in 0..20 {
        store.write(&[("EWR", START, None, Some(1.0))]).await;
    }
    store.partitions.wait_applied(20, soon()).await.expect("all partitions apply all frames");
    assert!(store.partitions.lag().iter().all(|lag| lag.frames == 0));
    store.partitions.shutdown().await;
}

#[tokio::test]
async fn a_row_due_later_is_seen_once_its_time_has_come_and_a_reader_asks() {
    let store = TestStore::start().await;
    store.write_applied(&[("EWR", START, None, Some(1.0)), ("EWR", START + 5 * SECOND, None, Some(2.0))]).await;
    assert_eq!(store.temp("EWR"), Some(1.0));
    store.advance(Duration::from_secs(5)).await;
    let now = store.time.read();
    for handle in store.partitions.handles() {
        handle.promote(now, soon()).await.expect("due rows are promoted");
    }
    assert_eq!(store.temp("EWR"), Some(2.0));
    store.partitions.shutdown().await;
}

#[tokio::test]
async fn a_reopened_partition_replays_the_log_before_it_is_read() {
    let store = TestStore::start().await;
    let written = store.write_applied(&[("EWR", START, None, Some(1.0)), ("JFK", START + HOUR, None, Some(2.0))]).await;
    store.write(&[("LGA", START, None, Some(3.0))]).await;
    let store = store.restart().await;
    assert!(store.partitions.handles().iter().all(|handle| handle.applied_frame() > written.frame));
    assert_eq!(store.temp("EWR"), Some(1.0));
    assert_eq!(store.temp("LGA"), Some(3.0));
    store.partitions.shutdown().await;
}

#[tokio::test]
async fn a_partition_whose_actor_panics_is_reopened_and_misses_nothing() {
    let store = TestStore::start_with(quick()).await;
    store.log.panic_in_reads(1);
    store.write_applied(&[("EWR", START, None, Some(1.0))]).await;
    assert_eq!(store.temp("EWR"), Some(1.0));
    assert_eq!(store.partitions.metrics().panics.get(), 1);
    assert_eq!(store.partitions.metrics().reopened.get(), 1);
    store.partitions.shutdown().await;
}

#[tokio::test]
async fn a_partition_that_keeps_failing_is_parked_and_says_why() {
    let store = TestStore::start_with(PartitionSettings { count: 1, ..quick() }).await;
    store.log.fail_reads(u32::MAX);
    let written = store.write(&[("EWR", START, None, Some(1.0))]).await;
    let parked = store.partitions.wait_applied(written.frame, soon()).await.expect_err("it can't apply");
    let PartitionError::Parked { reason, .. } = &parked else { panic!("{parked:?}") };
    assert!(reason.contains("too many commands wait for the log"), "{reason}");
    assert!(store.partitions.handles()[0].view().is_err(), "its view is taken back");

    store.log.fail_reads(0);
    store.partitions.reopen(0);
    let handle = &store.partitions.handles()[0];
    handle.wait_applied(written.frame, soon()).await.expect("who waits after the order is not told of before");
    assert_eq!(store.temp("EWR"), Some(1.0));
    store.partitions.shutdown().await;
}

#[tokio::test]
async fn a_parked_partition_lends_no_view_and_states_the_reason() {
    let store = TestStore::start().await;
    store.partitions.park(1, "an operator looks at it");
    let handle = &store.partitions.handles()[1];
    while handle.is_serving() {
        tokio::task::yield_now().await;
    }
    while !matches!(handle.state(), PartitionState::Parked { .. }) {
        tokio::task::yield_now().await;
    }
    let refused = handle.view().expect_err("nothing is lent");
    assert_eq!(refused, PartitionError::Parked { partition: 1, reason: "an operator looks at it".into() });
    assert_eq!(crate::error::Error::from(refused).code, Code::Unavailable);
    assert!(store.partitions.handles()[0].view().is_ok(), "the others serve on");
    store.partitions.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_never_wait_behind_an_apply() {
    let store = TestStore::start_with(PartitionSettings { max_lag_frames: 1_000, ..quick() }).await;
    store.write_applied(&[("EWR", START, None, Some(1.0))]).await;
    store.log.hold(true);
    store.write(&[("EWR", START + SECOND, None, Some(2.0))]).await;
    assert_eq!(store.temp("EWR"), Some(1.0), "the last view answers while the writer is held up");
    store.log.hold(false);
    store.partitions.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_beyond_the_cap_are_refused_and_not_queued() {
    let store = TestStore::start_with(quick()).await;
    store.log.hold(true);
    store.write(&[("EWR", START, None, Some(1.0))]).await;
    let handle = store.partitions.handles()[0].clone();
    let flush = |handle: super::PartitionHandle| async move { handle.flush(soon()).await };
    let waiting: Vec<_> = (0..2).map(|_| tokio::spawn(flush(handle.clone()))).collect();
    let refused = loop {
        // The two take their places as soon as they are polled.
        let soon_over = std::time::Instant::now() + Duration::from_millis(1);
        match handle.flush(soon_over).await {
            Err(PartitionError::DeadlineExceeded { .. }) | Ok(_) => tokio::task::yield_now().await,
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, PartitionError::Busy { partition: 0, limit: 2 });
    store.log.hold(false);
    for flushed in waiting {
        let flushed = flushed.await.expect("the task ends");
        assert!(matches!(flushed, Ok(_) | Err(PartitionError::Busy { .. })), "{flushed:?}");
    }
    store.partitions.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_writes_are_refused_while_a_partition_lags_too_far() {
    let store = TestStore::start_with(quick()).await;
    assert!(store.partitions.admit_write().is_ok());
    store.log.hold(true);
    let mut last = 0;
    for _ in 0..4 {
        last = store.write(&[("EWR", START, None, Some(1.0))]).await.frame;
    }
    let refused = store.partitions.admit_write().expect_err("the partitions are behind");
    assert_eq!(refused.code, Code::ResourceExhausted);
    assert!(refused.retry_after.is_some());
    store.log.hold(false);
    store.partitions.wait_applied(last, soon()).await.expect("they catch up");
    assert!(store.partitions.admit_write().is_ok());
    store.partitions.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_can_not_be_opened_ends_writes_only_when_much_was_written_since_the_start() {
    let store = TestStore::start_with(quick()).await;
    for _ in 0..10 {
        store.write_applied(&[("EWR", START, None, Some(1.0))]).await;
    }
    let (partitions, log, _directory) = store.restart_with_a_damaged_partition(1).await;
    partitions.admit_write().expect("who has much in the log may write after a restart too");
    let mut frame = 0;
    for _ in 0..3 {
        frame = log.append(conformance::sample_request(0, 0, None)).await.expect("taken").frame;
    }
    for partition in [0, 2] {
        partitions.handles()[partition].wait_applied(frame, soon()).await.expect("the others follow");
    }
    let refused = partitions.admit_write().expect_err("the log can't grow without end for it");
    assert!(refused.message.contains("partition 1 is 3 requests behind"), "{refused}");
    partitions.shutdown().await;
}

#[tokio::test]
async fn the_log_is_trimmed_through_what_every_partition_has_on_disk() {
    let store = TestStore::start_with(quick()).await;
    let written = store.write_applied(&[("EWR", START, None, Some(1.0))]).await;
    let mut trimmed = store.log.trimmed.subscribe();
    assert_eq!(*trimmed.borrow(), 0, "nothing is on disk yet");
    for handle in store.partitions.handles() {
        assert!(handle.flush(soon()).await.expect("a flush") >= written.frame);
    }
    let waited = trimmed.wait_for(|through| *through >= written.frame);
    tokio::time::timeout_at(soon().into(), waited).await.expect("the log is trimmed").expect("the log lives");
    store.partitions.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_request_is_applied_in_steps_and_seen_whole_or_not_at_all() {
    let settings = PartitionSettings { count: 2, threads: 1, apply_rows: 8, ..quick() };
    let store = TestStore::start_with(settings).await;
    let airports: Vec<String> = (0..300).map(|number| format!("A{number}")).collect();
    let rows = |temp: f64| airports.iter().map(|name| (name.as_str(), START, None, Some(temp))).collect::<Vec<_>>();
    store.write_applied(&rows(1.0)).await;
    let view = store.view("airport_weather");
    let keys: Vec<Vec<u8>> = airports.iter().map(|name| airport_key(name)).collect();
    for temp in [2.0, 3.0, 4.0] {
        let written = store.write(&rows(temp)).await;
        for handle in store.partitions.handles() {
            let mine = |key: &&Vec<u8>| handle.range().contains(slot_of(view.slot_seed, key));
            let names: Vec<OnlineKey<'_>> = keys
                .iter()
                .filter(mine)
                .map(|key| OnlineKey {
                    slot: slot_of(view.slot_seed, key),
                    tenant: view.tenant,
                    view: view.id,
                    key: key.as_slice(),
                })
                .collect();
            while handle.applied_frame() < written.frame {
                let lent = handle.view().expect("the partition serves");
                let of_frame = |found: Lookup| match found {
                    Lookup::Row(row) => row.header().version.position.frame,
                    other => panic!("a row, not {other:?}"),
                };
                let frames: Vec<u64> = lent.lookup(&names, ReadMode::MayBlock).into_iter().map(of_frame).collect();
                assert!(frames.iter().all(|frame| *frame == lent.applied().frame), "{frames:?}");
                tokio::task::yield_now().await;
            }
        }
    }
    assert!(store.partitions.metrics().apply_chunks.get() >= 4 * 300 / 8);
    assert_eq!(store.partitions.metrics().rows_applied.get(), 4 * 300);
    store.partitions.shutdown().await;
}

#[tokio::test]
async fn a_partition_ahead_of_its_log_is_parked_with_the_way_out() {
    let store = TestStore::start_with(quick()).await;
    store.write_applied(&[("EWR", START, None, Some(1.0))]).await;
    let refused = store.restart_with_an_empty_log().await.expect_err("its rows are of frames that the log has not");
    let PartitionError::Parked { reason, .. } = &refused else { panic!("{refused:?}") };
    assert!(reason.contains("put back the log"), "{reason}");
}

#[tokio::test]
async fn a_data_directory_keeps_its_number_of_partitions() {
    let store = TestStore::start().await;
    let directory = store.directory().join("partitions");
    store.partitions.shutdown().await;
    let refused = super::check_count(&directory, 4).expect_err("it was made with 3");
    assert_eq!((refused.code, refused.reason), (Code::FailedPrecondition, "PARTITION_COUNT_CHANGED"));
    assert!(super::check_count(&directory, 3).is_ok());
}

#[test]
fn partitions_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + Clone>() {}
    shared::<Partitions>();
}
