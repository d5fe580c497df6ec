//! One disaster at a time.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::poll;
use hydrant_storage::files::lossy::Fault;
use hydrant_storage::files::{Files, LocalFiles, LossyFiles};

use crate::clock::{ManualClock, StoreTime, SystemClock};
use crate::error::FatalHook;
use crate::log::conformance::{self, read_all, sample_request, sample_stamp};
use crate::log::{AppendError, AppendRequest, Appended, LocalLog, LogError, LogOptions, WriteLog};

const HOUR: Duration = Duration::from_hours(1);

/// A disk, a clock, and what the log said when it gave up.
pub struct Machine {
    pub files: LossyFiles,
    pub clock: Arc<ManualClock>,
    pub options: LogOptions,
    pub fatal: Arc<Mutex<Vec<String>>>,
}

impl Machine {
    pub fn new(seed: u64) -> Self {
        Self::with_files(LossyFiles::new(seed))
    }

    pub fn with_files(files: LossyFiles) -> Self {
        let fatal = Arc::new(Mutex::new(Vec::new()));
        let said = fatal.clone();
        let on_fatal = FatalHook::new(move |problem| said.lock().expect("no panic").push(problem.to_owned()));
        let options = LogOptions { segment_bytes: 4_000, recent_bytes: 3_000, on_fatal, ..LogOptions::default() };
        Self { files, clock: Arc::new(ManualClock::new(1_000_000_000)), options, fatal }
    }

    pub fn directory() -> &'static Path {
        Path::new("/data/log")
    }

    pub fn open(&self) -> Result<(LocalLog, Arc<StoreTime>), LogError> {
        let files = Arc::new(self.files.clone());
        LocalLog::open(files, Self::directory(), self.options.clone(), self.clock.clone())
    }

    pub fn log(&self) -> LocalLog {
        self.open().expect("the log opens").0
    }

    /// A machine with this one's disk as a power cut would leave it now.
    fn after_power_cut(&self, seed: u64) -> Self {
        Self::with_files(self.files.after_power_cut(seed))
    }

    fn segments(&self) -> Vec<PathBuf> {
        let entries = self.files.list(Self::directory()).expect("listed");
        let segments = entries.into_iter().filter(|entry| entry.name.to_string_lossy().ends_with(".seg"));
        segments.map(|entry| Self::directory().join(entry.name)).collect()
    }

    fn took_fatal(&self) -> bool {
        !std::mem::take(&mut *self.fatal.lock().expect("no panic")).is_empty()
    }
}

async fn append_each(log: &LocalLog, tags: std::ops::Range<u64>) -> Vec<Appended> {
    let mut taken = Vec::new();
    for tag in tags {
        taken.push(log.append(sample_request(tag, 3, None)).await.expect("the log takes it"));
    }
    taken
}

fn numbers(log: &LocalLog) -> Vec<u64> {
    let frames = read_all(log, log.oldest() - 1).expect("readable");
    frames.iter().map(|frame| frame.number).collect()
}

#[tokio::test]
async fn the_local_log_keeps_to_the_contract_of_logs() {
    let seed = Mutex::new(0);
    conformance::check(async || {
        let mut seed = seed.lock().expect("no panic");
        *seed += 1;
        Arc::new(Machine::new(*seed).log()) as Arc<dyn WriteLog>
    })
    .await;
}

#[tokio::test]
async fn the_local_log_keeps_to_the_contract_of_logs_on_a_real_disk() {
    let directories = Mutex::new(Vec::new());
    conformance::check(async || {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let options = LogOptions { segment_bytes: 100_000, ..LogOptions::default() };
        let path = directory.path().join("log");
        let opened = LocalLog::open(Arc::new(LocalFiles), &path, options, Arc::new(SystemClock));
        directories.lock().expect("no panic").push(directory);
        Arc::new(opened.expect("the log opens").0) as Arc<dyn WriteLog>
    })
    .await;
}

#[tokio::test]
async fn a_log_goes_on_where_it_was() {
    let machine = Machine::new(1);
    let log = machine.log();
    let before = append_each(&log, 0..40).await;
    drop(log);
    assert!(machine.segments().len() > 2, "segments are bounded");
    let log = machine.log();
    assert_eq!(*log.durable().borrow(), 40);
    let after = append_each(&log, 40..41).await;
    assert_eq!(after[0].frame, 41);
    assert!(after[0].ingest_time > before[39].ingest_time);
    for (frame, tag) in read_all(&log, 0).expect("readable").iter().zip(0..) {
        assert_eq!(frame.rows, sample_request(tag, 3, None).rows);
    }
}

#[tokio::test]
async fn a_torn_last_frame_is_cut_off_at_whatever_byte_it_was_torn() {
    let machine = Machine::new(1);
    machine.files.create_dir_all(Machine::directory()).expect("created");
    let log = machine.log();
    append_each(&log, 0..3).await;
    let segment = machine.segments().remove(0);
    let start = machine.files.len(&segment).expect("len") as usize;
    append_each(&log, 3..4).await;
    let end = machine.files.len(&segment).expect("len") as usize;
    for len in start..=end {
        let torn = machine.after_power_cut(len as u64);
        torn.files.damage(&segment, |bytes| bytes.truncate(len)).expect("torn");
        let expected = if len == end { 4 } else { 3 };
        for _ in 0..2 {
            let log = torn.log();
            assert_eq!(numbers(&log), (1..=expected).collect::<Vec<_>>(), "torn at {len}");
        }
        let log = torn.log();
        assert_eq!(append_each(&log, 9..10).await[0].frame, expected + 1);
        drop(log);
        let frames = read_all(&torn.log(), expected).expect("readable");
        assert_eq!(frames[0].rows, sample_request(9, 3, None).rows);
    }
    for garbage in [vec![0; 700], vec![0xff; 9], b"garbage".repeat(50)] {
        let torn = machine.after_power_cut(1);
        torn.files.damage(&segment, |bytes| bytes.extend_from_slice(&garbage)).expect("torn");
        assert_eq!(numbers(&torn.log()), [1, 2, 3, 4]);
    }
}

#[tokio::test]
async fn a_frame_known_to_be_durable_is_never_taken_for_a_torn_write() {
    let machine = Machine::new(1);
    let log = machine.log();
    append_each(&log, 0..3).await;
    // A log that is closed leaves word of what it has synced.
    drop(log);
    let segment = machine.segments().remove(0);
    let end = machine.files.len(&segment).expect("len") as usize;
    for len in 0..end {
        let cut = machine.after_power_cut(1);
        cut.files.damage(&segment, |bytes| bytes.truncate(len)).expect("cut");
        let error = cut.open().expect_err("the start is stopped");
        assert!(matches!(error, LogError::Damaged { .. } | LogError::Missing { .. }), "cut at {len}: {error}");
        assert_eq!(cut.files.len(&segment).expect("len") as usize, len, "nothing more is cut off");
    }
    for byte in 0..end {
        let damaged = machine.after_power_cut(1);
        damaged.files.damage(&segment, |bytes| bytes[byte] ^= 1).expect("damaged");
        let error = damaged.open().expect_err("the start is stopped");
        assert!(matches!(error, LogError::Damaged { .. }), "byte {byte}: {error}");
    }
    assert_eq!(numbers(&machine.log()), [1, 2, 3]);
}

#[tokio::test]
async fn what_was_durable_when_the_log_was_closed_is_known_to_be_whoever_still_holds_it() {
    let machine = Machine::new(1);
    let log = machine.log();
    append_each(&log, 0..3).await;
    log.close().await;
    assert!(matches!(log.append(sample_request(9, 1, None)).await, Err(AppendError::Closed)));
    let segment = machine.segments().remove(0);
    let damaged = machine.after_power_cut(1);
    damaged.files.damage(&segment, |bytes| *bytes.last_mut().expect("frames") ^= 1).expect("damaged");
    assert!(damaged.open().is_err(), "the last frame was taken for a torn write");
    assert_eq!(numbers(&log), [1, 2, 3]);
}

#[tokio::test]
async fn every_bit_flip_in_a_frame_before_the_last_stops_the_start_and_says_where() {
    let machine = Machine::new(1);
    let log = machine.log();
    append_each(&log, 0..1).await;
    let segment = machine.segments().remove(0);
    let start = machine.files.len(&segment).expect("len") as usize;
    append_each(&log, 1..2).await;
    let end = machine.files.len(&segment).expect("len") as usize;
    append_each(&log, 2..3).await;
    for bit in start * 8..end * 8 {
        let damaged = machine.after_power_cut(1);
        damaged.files.damage(&segment, |bytes| bytes[bit / 8] ^= 1 << (bit % 8)).expect("damaged");
        let error = damaged.open().expect_err("the start is stopped");
        let LogError::Damaged { path, offset, frame, way_out, .. } = &error else { panic!("bit {bit}: {error}") };
        assert_eq!((path, *offset, *frame), (&segment, start as u64, 2), "bit {bit}");
        assert!(!way_out.is_empty());
        assert!(error.to_string().contains("at offset"), "{error}");
    }
}

#[tokio::test]
async fn a_bad_frame_in_a_closed_segment_stops_the_start_even_if_it_is_the_last_one_there() {
    let machine = Machine::new(1);
    append_each(&machine.log(), 0..40).await;
    let segment = machine.segments().remove(1);
    machine.files.damage(&segment, |bytes| bytes.truncate(bytes.len() - 1)).expect("damaged");
    let error = machine.open().expect_err("the start is stopped");
    assert!(matches!(&error, LogError::Damaged { path, .. } if *path == segment), "{error}");
}

#[tokio::test]
async fn a_missing_segment_stops_the_start_wherever_it_was() {
    let machine = Machine::new(1);
    append_each(&machine.log(), 0..40).await;
    let segments = machine.segments();
    // The oldest is missed because the producers' checkpoint does not tell of it.
    for missing in &segments {
        let cut = machine.after_power_cut(1);
        cut.files.remove(missing).expect("removed");
        let error = cut.open().expect_err("the start is stopped");
        let named = matches!(error, LogError::Missing { .. } | LogError::ProducersLost { .. });
        assert!(named, "{}: {error}", missing.display());
    }
    let cut = machine.after_power_cut(1);
    segments.iter().for_each(|segment| cut.files.remove(segment).expect("removed"));
    assert!(matches!(cut.open(), Err(LogError::Missing { .. })));
}

#[tokio::test]
async fn a_full_disk_refuses_requests_and_the_log_works_on_whatever_operation_it_struck() {
    let mut refused = 0;
    for skipped in 0..60 {
        let machine = Machine::new(skipped);
        let log = machine.log();
        let mut taken = Vec::new();
        let mut unknown = Vec::new();
        machine.files.fail_once(skipped, Fault::NoSpace);
        for tag in 0..30 {
            machine.clock.advance(HOUR);
            match log.append(sample_request(tag, 3, Some(sample_stamp(1, tag, 1)))).await {
                Ok(_) => taken.push(tag),
                Err(AppendError::Full) => refused += 1,
                Err(AppendError::Closed) => unknown.push(tag),
                Err(other) => panic!("skipped {skipped}: {other}"),
            }
        }
        machine.files.heal();
        let fatal = machine.took_fatal();
        assert_eq!(fatal, !unknown.is_empty(), "only a failed sync ends the log");
        assert!(taken.len() + unknown.len() >= 29, "one refusal at most");
        let log = if fatal {
            drop(log);
            machine.files.crash();
            machine.log()
        } else {
            log
        };
        let again = log.append(sample_request(99, 3, Some(sample_stamp(1, 99, 1)))).await.expect("works on");
        let tag_of = |frame: &hydrant_storage::record::Frame| frame.rows[0].revision;
        for log in [log, machine.after_power_cut(skipped).log()] {
            let found: Vec<u64> = read_all(&log, 0).expect("readable").iter().map(|frame| tag_of(frame)).collect();
            assert_eq!(found.last(), Some(&99));
            assert_eq!(found.len() as u64, again.frame);
            assert!(taken.iter().all(|tag| found.contains(tag)), "skipped {skipped}: an acknowledged frame is lost");
            let known = |tag: &u64| taken.contains(tag) || unknown.contains(tag) || *tag == 99;
            assert!(found.iter().all(known), "skipped {skipped}: a refused frame is there");
        }
    }
    assert!(refused > 10, "{refused} requests were refused");
}

#[tokio::test]
async fn a_full_disk_that_stays_full_refuses_until_there_is_room_again() {
    let machine = Machine::new(1);
    let log = machine.log();
    append_each(&log, 0..3).await;
    machine.files.fail_on(0, Fault::NoSpace);
    // Taking back what was written needs a sync, which a disk this full may fail; then it ends.
    let refused = log.append(sample_request(3, 3, None)).await;
    assert!(matches!(refused, Err(AppendError::Closed | AppendError::Full)), "{refused:?}");
    machine.files.heal();
    drop(log);
    let log = machine.log();
    assert_eq!(append_each(&log, 4..5).await[0].frame, *log.durable().borrow());
}

#[tokio::test]
async fn a_failed_sync_ends_the_process_and_answers_nobody() {
    for seed in 0..20 {
        let machine = Machine::new(seed);
        let log = machine.log();
        append_each(&log, 0..3).await;
        machine.files.fail_on(0, Fault::Device);
        let answer = log.append(sample_request(3, 3, None)).await;
        assert!(matches!(answer, Err(AppendError::Closed)), "{answer:?}");
        machine.files.heal();
        let closed = log.append(sample_request(4, 3, None)).await;
        assert!(matches!(closed, Err(AppendError::Closed)), "{closed:?}");
        assert!(matches!(log.seal().await, Err(LogError::Closed)));
        assert_eq!(*log.durable().borrow(), 3);
        drop(log);
        assert!(machine.took_fatal());
        // The process starts again; what it then shows as durable survives a power cut after that.
        let shown = numbers(&machine.log());
        machine.files.crash();
        assert_eq!(numbers(&machine.log()), shown, "seed {seed}");
    }
}

#[tokio::test]
async fn a_duplicate_in_the_same_write_is_answered_only_with_the_first() {
    let stamped = || sample_request(1, 3, Some(sample_stamp(1, 1, 1)));
    for fault in [None, Some(Fault::NoSpace), Some(Fault::Device)] {
        let machine = Machine::new(1);
        let log = machine.log();
        match fault {
            // The bound of store time takes two operations, then the group is written.
            Some(Fault::NoSpace) => machine.files.fail_once(2, Fault::NoSpace),
            Some(Fault::Device) => machine.files.fail_on(2, Fault::Device),
            None => {}
        }
        let (mut seal, mut first, mut second) = (log.seal(), log.append(stamped()), log.append(stamped()));
        let held = machine.files.hold();
        machine.clock.advance(HOUR);
        assert!(poll!(&mut seal).is_pending() && poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        drop(held);
        seal.await.expect("sealed");
        let (first, second) = (first.await, second.await);
        match fault {
            None => {
                let first = first.expect("taken");
                assert_eq!(second.expect("taken"), Appended { already: true, ..first });
            }
            Some(Fault::NoSpace) => {
                assert!(
                    matches!((&first, &second), (Err(AppendError::Full), Err(AppendError::Full))),
                    "{first:?} {second:?}"
                );
                assert!(!log.append(stamped()).await.expect("taken").already, "it had not been taken");
            }
            Some(Fault::Device) => {
                assert!(matches!((&first, &second), (Err(AppendError::Closed), Err(AppendError::Closed))));
            }
        }
    }
}

#[tokio::test]
async fn duplicates_are_known_after_a_restart_a_crash_and_trimming() {
    let machine = Machine::new(3);
    let stamped = |sequence| sample_request(sequence, 3, Some(sample_stamp(1, sequence, 1)));
    let mut taken = Vec::new();
    let log = machine.log();
    for sequence in 0..40 {
        taken.push(log.append(stamped(sequence)).await.expect("taken"));
    }
    log.trim(30).expect("trimmed");
    assert!(log.oldest() > 20 && log.oldest() <= 31);
    assert!(matches!(log.read_from(0, 100), Err(LogError::Trimmed { oldest }) if oldest == log.oldest()));
    for sequence in 40..45 {
        taken.push(log.append(stamped(sequence)).await.expect("taken"));
    }
    drop(log);
    for seed in 0..10 {
        for machine in [machine.after_power_cut(seed), Machine::with_files(machine.files.clone())] {
            let log = machine.log();
            for (sequence, original) in taken.iter().enumerate() {
                let again = log.append(stamped(sequence as u64)).await.expect("known");
                assert_eq!(again, Appended { already: true, ..*original });
            }
            assert_eq!(*log.durable().borrow(), 45);
        }
    }
    machine.files.remove(&Machine::directory().join("producers")).expect("removed");
    let error = machine.open().expect_err("the start is stopped");
    assert!(matches!(error, LogError::ProducersLost { .. }), "{error}");
    drop(machine.files.create_new(&Machine::directory().join("producers")).expect("the way out"));
    assert!(machine.open().is_ok());
}

#[tokio::test]
async fn where_there_is_no_room_for_another_producer_its_requests_are_refused_and_no_others() {
    let mut machine = Machine::new(3);
    machine.options.producers_bytes = 10_000;
    let log = machine.log();
    let stamped = |producer| sample_request(1, 1, Some(sample_stamp(producer, 1, 1)));
    let mut known = Vec::new();
    let mut refused = None;
    while refused.is_none() && known.len() < 1_000 {
        match log.append(stamped(known.len() as u128)).await {
            Ok(appended) => known.push(appended),
            Err(refusal) => refused = Some(refusal),
        }
    }
    assert!(matches!(refused, Some(AppendError::TooManyProducers { limit: 10_000 })), "{refused:?}");
    assert!((20..100).contains(&known.len()), "{} producers", known.len());
    assert_eq!(*log.durable().borrow(), known.len() as u64, "what is refused is not written");
    log.append(sample_request(1, 1, None)).await.expect("who needs no memory is taken");
    drop(log);
    // Those that are remembered stay so, also where there is less room than they take.
    machine.options.producers_bytes = 5_000;
    let log = machine.log();
    for (producer, original) in known.iter().enumerate() {
        let again = log.append(stamped(producer as u128)).await.expect("known");
        assert_eq!(again, Appended { already: true, ..*original });
    }
    // Room is made when the horizon has passed: with the next look after it.
    machine.clock.advance(machine.options.producer_horizon + HOUR);
    log.seal().await.expect("sealed");
    assert!(!log.append(stamped(1_000)).await.expect("there is room").already);
}

#[tokio::test]
async fn the_segment_that_is_written_to_is_never_trimmed() {
    let machine = Machine::new(1);
    let log = machine.log();
    append_each(&log, 0..30).await;
    log.trim(u64::MAX).expect("trimmed");
    assert_eq!(machine.segments().len(), 1);
    assert!(log.oldest() <= 30);
    append_each(&log, 30..31).await;
    assert_eq!(numbers(&log).last(), Some(&31));
}

#[tokio::test]
async fn frames_that_left_memory_are_read_and_verified_from_disk() {
    let machine = Machine::new(1);
    let log = machine.log();
    append_each(&log, 0..40).await;
    assert_eq!(numbers(&log), (1..=40).collect::<Vec<_>>());
    assert_eq!(log.read_from(0, 0).expect("readable").len(), 1);
    let segment = machine.segments().remove(0);
    machine.files.damage(&segment, |bytes| bytes[100] ^= 1).expect("damaged");
    let error = log.read_from(0, 1 << 20).expect_err("damaged");
    assert!(matches!(&error, LogError::Damaged { path, offset: 0, frame: 1, .. } if *path == segment), "{error}");
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_queued() {
    let mut machine = Machine::new(1);
    machine.options.max_request_bytes = 1_000;
    let log = machine.log();
    let before = machine.files.operations();
    let refused = log.append(sample_request(1, 20, None)).await;
    assert!(matches!(refused, Err(AppendError::TooLarge { limit: 1_000, .. })), "{refused:?}");
    assert_eq!(machine.files.operations(), before);
    append_each(&log, 0..1).await;
}

#[test]
fn a_large_request_is_encoded_where_nobody_waits_for_it() {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.max_blocking_threads(1).build().expect("a runtime");
    runtime.block_on(async {
        let log = Machine::new(1).log();
        // The one thread for work that blocks is busy.
        let (free, busy) = std::sync::mpsc::sync_channel::<()>(1);
        let held = tokio::task::spawn_blocking(move || busy.recv());
        let mut large = Box::pin(log.append(sample_request(1, 9_000, None)));
        assert!(poll!(&mut large).is_pending());
        let small = log.append(sample_request(2, 1, None)).await.expect("taken");
        assert_eq!(small.frame, 1, "it does not wait behind the large one");
        drop(free);
        assert!(held.await.expect("no panic").is_err());
        assert_eq!(large.await.expect("taken").frame, 2);
    });
}

#[tokio::test]
async fn what_finds_no_place_in_the_queue_is_refused_and_told_when_to_come_again() {
    let mut machine = Machine::new(1);
    machine.options.queue_requests = 2;
    let log = machine.log();
    let request = || -> AppendRequest { sample_request(1, 3, None) };
    let (mut first, mut second) = (log.append(request()), log.append(request()));
    let held = machine.files.hold();
    assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
    let refused = log.append(request()).await;
    assert!(matches!(refused, Err(AppendError::Overloaded { .. })), "{refused:?}");
    drop(held);
    assert!(first.await.is_ok() && second.await.is_ok());
    append_each(&log, 0..1).await;
}

#[tokio::test]
async fn store_time_never_goes_backwards_over_a_crash_and_a_clock_set_back() {
    let machine = Machine::new(1);
    let mut latest = 0;
    for round in 0..20 {
        let (log, time) = machine.open().expect("the log opens");
        machine.clock.advance(HOUR);
        log.seal().await.expect("sealed");
        let read = time.read();
        assert!(read > latest, "round {round}");
        let appended = append_each(&log, 0..1).await.remove(0);
        assert!(appended.ingest_time > read);
        latest = time.read().max(appended.ingest_time);
        drop(log);
        machine.files.crash();
        machine.clock.set(1_000);
        let (_log, time) = machine.open().expect("the log opens");
        assert!(time.read() >= latest, "round {round}");
        latest = time.read();
    }
}

#[tokio::test]
async fn store_time_follows_a_jump_of_the_clock_once_sealed() {
    let machine = Machine::new(1);
    let (log, time) = machine.open().expect("the log opens");
    machine.clock.advance(24 * HOUR);
    let sealed = log.seal().await.expect("sealed");
    assert_eq!(sealed.time, time.wall());
    machine.clock.advance(HOUR);
    assert_eq!(append_each(&log, 0..1).await[0].ingest_time, time.wall());
}

#[tokio::test]
async fn a_lost_clock_file_stops_the_start_until_it_is_given_up() {
    let machine = Machine::new(1);
    append_each(&machine.log(), 0..3).await;
    let clock = Machine::directory().join("clock");
    machine.files.damage(&clock, |bytes| bytes.fill(7)).expect("damaged");
    assert!(matches!(machine.open(), Err(LogError::ClockLost { .. })));
    machine.files.remove(&clock).expect("removed");
    assert!(matches!(machine.open(), Err(LogError::ClockLost { .. })));
    drop(machine.files.create_new(&clock).expect("the way out"));
    assert_eq!(append_each(&machine.log(), 3..4).await[0].frame, 4);
}
