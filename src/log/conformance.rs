//! What every [`WriteLog`] keeps to, as functions that its tests call; a failure panics. Nothing
//! here knows how a log stores its frames.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use hydrant_storage::names::{TenantId, ViewId};
use hydrant_storage::record::{ProducerStamp, RowRecord, SharedFrame};

use super::{AppendError, AppendRequest, Appended, LogError, WriteLog, wait_settled};

/// Checks everything; `fresh` gives an empty log each time.
pub async fn check<F>(fresh: F)
where
    F: AsyncFn() -> Arc<dyn WriteLog>,
{
    frames_are_read_as_they_were_sent(&*fresh().await).await;
    reads_are_bounded_and_give_at_least_one_frame(&*fresh().await).await;
    requests_sent_at_once_are_one_frame_each(&*fresh().await).await;
    a_request_sent_twice_is_taken_once(&*fresh().await).await;
    a_seal_separates_what_was_taken_before_it_from_what_is_taken_after(&*fresh().await).await;
    what_was_prepared_under_less_than_required_is_handed_back(&*fresh().await).await;
    rows_out_of_order_are_refused(&*fresh().await).await;
    trimming_keeps_all_that_comes_after(fresh().await).await;
    a_control_record_is_read_as_it_was_sent_and_taken_once(&*fresh().await).await;
    a_control_record_keeps_the_log_until_it_is_settled(fresh().await).await;
}

/// A request of `rows` rows that differ with `tag`.
pub fn sample_request(tag: u64, rows: u32, stamp: Option<ProducerStamp>) -> AppendRequest {
    let row = |ordinal: u32| RowRecord {
        tenant: TenantId(1),
        view: ViewId(2),
        slot: (ordinal * 7) as u16,
        ordinal,
        key: Bytes::from(format!("key {tag} {ordinal}")),
        event_time: tag.cast_signed(),
        known_time: ordinal.is_multiple_of(2).then_some(i64::from(ordinal)),
        tombstone: ordinal % 3 == 2,
        revision: tag,
        feature_count: 3,
        body: if ordinal % 3 == 2 { Bytes::new() } else { Bytes::from(tag.to_le_bytes().repeat(4)) },
        origin: None,
    };
    AppendRequest::of_rows((0..rows).map(row).collect(), stamp, 0)
}

/// A stamp of a producer, with a payload that differs with `payload`.
pub fn sample_stamp(producer: u128, sequence: u64, payload: u128) -> ProducerStamp {
    ProducerStamp { producer, sequence, payload_hash: payload }
}

/// All frames after `after`.
pub fn read_all(log: &dyn WriteLog, after: u64) -> Result<Vec<SharedFrame>, LogError> {
    let mut frames: Vec<SharedFrame> = Vec::new();
    loop {
        let last = frames.last().map_or(after, |frame| frame.number);
        let more = log.read_from(last, 1 << 20)?;
        if more.is_empty() {
            return Ok(frames);
        }
        frames.extend(more);
    }
}

async fn append(log: &dyn WriteLog, request: AppendRequest) -> Appended {
    log.append(request).await.expect("the log takes the request")
}

async fn frames_are_read_as_they_were_sent(log: &dyn WriteLog) {
    let before = *log.durable().borrow();
    assert!(log.read_from(before, 1 << 20).expect("nothing is there yet").is_empty());
    let stamp = sample_stamp(5, 1, 9);
    let sent = [sample_request(1, 3, None), sample_request(2, 1, Some(stamp)), sample_request(3, 0, None)];
    let mut taken = Vec::new();
    for request in &sent {
        let appended = append(log, request.clone()).await;
        assert!(!appended.already);
        assert!(*log.durable().borrow() >= appended.frame, "an answer comes after the frame is durable");
        taken.push(appended);
    }
    let frames = read_all(log, before).expect("readable");
    assert_eq!(frames.len(), sent.len());
    for ((frame, request), appended) in frames.iter().zip(&sent).zip(&taken) {
        assert_eq!((frame.number, frame.ingest_time), (appended.frame, appended.ingest_time));
        assert_eq!((&frame.rows, frame.stamp), (&request.rows, request.stamp));
    }
    assert!(frames.is_sorted_by(|a, b| a.number < b.number && a.ingest_time < b.ingest_time));
    assert_eq!(read_all(log, taken[0].frame).expect("readable").len(), 2);
    assert!(log.read_from(taken[2].frame, 1 << 20).expect("readable").is_empty());
    assert!(log.read_from(u64::MAX, 1 << 20).expect("beyond the end is nothing").is_empty());
}

async fn reads_are_bounded_and_give_at_least_one_frame(log: &dyn WriteLog) {
    let before = *log.durable().borrow();
    for tag in 0..20 {
        append(log, sample_request(tag, 4, None)).await;
    }
    assert_eq!(log.read_from(before, 0).expect("readable").len(), 1);
    let some = log.read_from(before, 2_000).expect("readable").len();
    assert!((2..20).contains(&some), "{some} frames of about 400 bytes");
    assert_eq!(log.read_from(before, 1 << 20).expect("readable").len(), 20);
}

async fn requests_sent_at_once_are_one_frame_each(log: &dyn WriteLog) {
    let before = *log.durable().borrow();
    let answers = join_all((0..50).map(|tag| log.append(sample_request(tag, 2, None)))).await;
    let taken: Vec<Appended> = answers.into_iter().map(|answer| answer.expect("the log takes it")).collect();
    let frames = read_all(log, before).expect("readable");
    assert_eq!(frames.len(), taken.len());
    for (tag, appended) in taken.iter().enumerate() {
        let frame = frames.iter().find(|frame| frame.number == appended.frame).expect("in the log");
        assert_eq!(frame.rows, sample_request(tag as u64, 2, None).rows);
    }
    assert!(frames.is_sorted_by(|a, b| a.number < b.number && a.ingest_time < b.ingest_time));
}

async fn a_request_sent_twice_is_taken_once(log: &dyn WriteLog) {
    let before = *log.durable().borrow();
    let stamped = |sequence, payload| sample_request(sequence, 2, Some(sample_stamp(1, sequence, payload)));
    let first = append(log, stamped(10, 1)).await;
    let second = append(log, stamped(20, 1)).await;
    for (sequence, original) in [(10, first), (20, second)] {
        let again = append(log, stamped(sequence, 1)).await;
        assert_eq!(again, Appended { already: true, ..original });
    }
    let reused = log.append(stamped(10, 2)).await;
    assert!(matches!(reused, Err(AppendError::SequenceReused { sequence: 10 })), "{reused:?}");
    let too_old = log.append(stamped(15, 1)).await;
    assert!(matches!(too_old, Err(AppendError::SequenceTooOld { sequence: 15, last: 20 })), "{too_old:?}");
    let other = append(log, sample_request(1, 2, Some(sample_stamp(2, 10, 2)))).await;
    assert!(!other.already, "another producer's sequences are its own");
    let at_once = join_all((0..10).map(|_| log.append(stamped(30, 1)))).await;
    let at_once: Vec<Appended> = at_once.into_iter().map(|answer| answer.expect("taken")).collect();
    assert_eq!(at_once.iter().filter(|appended| !appended.already).count(), 1);
    assert!(at_once.iter().all(|appended| appended.frame == at_once[0].frame));
    assert_eq!(read_all(log, before).expect("readable").len(), 4);
}

async fn a_seal_separates_what_was_taken_before_it_from_what_is_taken_after(log: &dyn WriteLog) {
    for tag in 0..5 {
        let before = append(log, sample_request(tag, 1, None)).await;
        let sealed = log.seal().await.expect("sealed");
        let after = append(log, sample_request(tag, 1, None)).await;
        assert!(before.ingest_time <= sealed.time && sealed.time < after.ingest_time);
        assert!(before.frame <= sealed.frame && sealed.frame < after.frame);
        assert!(*log.durable().borrow() >= sealed.frame);
    }
}

async fn what_was_prepared_under_less_than_required_is_handed_back(log: &dyn WriteLog) {
    let stamp = sample_stamp(1, 1, 1);
    let prepared = |prepared| AppendRequest { prepared, ..sample_request(1, 2, Some(stamp)) };
    log.require(7).await;
    // It never goes back.
    log.require(5).await;
    let before = *log.durable().borrow();
    let outdated = log.append(prepared(6)).await;
    assert!(matches!(outdated, Err(AppendError::Outdated { prepared: 6, required: 7 })), "{outdated:?}");
    assert_eq!(*log.durable().borrow(), before, "nothing of it is in the log");
    let taken = append(log, prepared(7)).await;
    assert!(!taken.already, "that it was handed back is no use of its sequence");
    assert!(append(log, prepared(8)).await.already);
    let outdated = log.append(prepared(6)).await;
    assert!(matches!(outdated, Err(AppendError::Outdated { .. })), "of whom nothing is new too: {outdated:?}");
}

async fn rows_out_of_order_are_refused(log: &dyn WriteLog) {
    let mut request = sample_request(1, 3, None);
    request.rows.swap(0, 2);
    let refused = log.append(request).await;
    assert!(matches!(refused, Err(AppendError::Unordered)), "{refused:?}");
}

async fn trimming_keeps_all_that_comes_after(log: Arc<dyn WriteLog>) {
    let stamped = |sequence| sample_request(sequence, 30, Some(sample_stamp(1, sequence, 1)));
    let mut taken = Vec::new();
    for sequence in 0..200 {
        taken.push(append(&*log, stamped(sequence)).await);
    }
    let through = taken[120].frame;
    let trimmed = log.clone();
    tokio::task::spawn_blocking(move || trimmed.trim(through)).await.expect("no panic").expect("trimmed");
    assert_eq!(read_all(&*log, through).expect("readable").len(), 79);
    let again = append(&*log, stamped(0)).await;
    assert_eq!(again, Appended { already: true, ..taken[0] }, "what was trimmed is still taken once");
}

/// A control record that differs with `tag`.
pub fn sample_control(tag: u64, stamp: Option<ProducerStamp>) -> AppendRequest {
    AppendRequest::of_control(Bytes::from(format!("control {tag}")), stamp, 0)
}

async fn a_control_record_is_read_as_it_was_sent_and_taken_once(log: &dyn WriteLog) {
    let before = append(log, sample_request(1, 3, None)).await;
    let stamp = Some(sample_stamp(3, 1, 1));
    let taken = append(log, sample_control(1, stamp)).await;
    let after = append(log, sample_request(2, 3, None)).await;
    assert!(before.frame < taken.frame && taken.frame < after.frame);
    assert!(before.ingest_time < taken.ingest_time && taken.ingest_time < after.ingest_time);
    assert_eq!(append(log, sample_control(1, stamp)).await, Appended { already: true, ..taken });
    let frames = read_all(log, before.frame).expect("readable");
    assert_eq!(frames.len(), 2);
    assert_eq!((frames[0].number, frames[0].ingest_time), (taken.frame, taken.ingest_time));
    assert!(frames[0].rows.is_empty(), "partitions pass over it");
    assert_eq!(frames[0].control, sample_control(1, None).control);
    let both = AppendRequest { rows: sample_request(1, 1, None).rows, ..sample_control(1, None) };
    let refused = log.append(both).await;
    assert!(matches!(refused, Err(AppendError::Unordered)), "{refused:?}");
}

async fn a_control_record_keeps_the_log_until_it_is_settled(log: Arc<dyn WriteLog>) {
    let soon = || std::time::Instant::now() + std::time::Duration::from_secs(20);
    let trim = async |through| {
        let trimmed = log.clone();
        tokio::task::spawn_blocking(move || trimmed.trim(through)).await.expect("no panic").expect("trimmed");
    };
    let first = append(&*log, sample_request(0, 30, None)).await;
    assert!(wait_settled(&*log, first.frame, soon()).await, "there is no control record");
    let controls = [append(&*log, sample_control(1, None)).await, append(&*log, sample_control(2, None)).await];
    let mut last = controls[1];
    for tag in 0..200 {
        last = append(&*log, sample_request(tag, 30, None)).await;
    }
    for (number, control) in controls.iter().enumerate() {
        let unsettled: Vec<u64> = log.unsettled().iter().map(|frame| frame.number).collect();
        assert_eq!(unsettled, controls[number..].iter().map(|control| control.frame).collect::<Vec<_>>());
        assert!(wait_settled(&*log, control.frame - 1, soon()).await);
        assert!(!wait_settled(&*log, control.frame, std::time::Instant::now()).await);
        trim(last.frame).await;
        assert_eq!(read_all(&*log, control.frame - 1).expect("kept")[0].number, control.frame);
        log.settle(control.frame);
    }
    assert!(log.unsettled().is_empty());
    assert!(wait_settled(&*log, last.frame, soon()).await);
    trim(last.frame).await;
}
