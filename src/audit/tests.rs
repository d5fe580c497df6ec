use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hydrant_storage::files::lossy::Fault;
use hydrant_storage::files::{Files, LossyFiles};
use hydrant_storage::order::Micros;

use super::chain::{Chain, ChainError, ChainOptions};
use super::reading::Reader;
use super::record::{HASH_BYTES, Outcome, Record};
use super::{Asked, Audit, AuditMetrics, AuditOptions, Conclusion, Filter, Shared};
use crate::clock::{ManualClock, StoreTime};
use crate::error::Code;
use crate::tenancy::Action;
use crate::testing::permit;

const DIRECTORY: &str = "/data/audit";
const DAY: Micros = 86_400_000_000;
const OPTIONS: ChainOptions = ChainOptions { segment_bytes: 600, retention: 365 * DAY };

fn open(files: &LossyFiles) -> Result<Chain, ChainError> {
    Chain::open(Arc::new(files.clone()), Path::new(DIRECTORY), OPTIONS)
}

fn record(number: u64) -> Record {
    Record {
        sequence: 0,
        time: Micros::try_from(number).expect("small"),
        tenant: "acme".to_owned(),
        caller: format!("caller {number}"),
        peer: String::new(),
        action: "RegistryService/Apply".to_owned(),
        resources: vec![format!("view/{number}")],
        trace: String::new(),
        behind: 0,
        outcome: Outcome::Asked,
    }
}

fn reader(files: &LossyFiles, chain: &Chain) -> Reader {
    Reader { files: Arc::new(files.clone()), segments: chain.segments(), head: chain.head() }
}

/// Every record, the oldest first.
fn all(files: &LossyFiles, chain: &Chain) -> Vec<Record> {
    let (reader, mut records, mut before) = (reader(files, chain), Vec::new(), None);
    loop {
        let page = reader.list(&Filter::default(), before, 1_000).expect("it is whole");
        records.extend(page.records);
        before = page.before;
        if before.is_none() {
            records.reverse();
            return records;
        }
    }
}

fn problems(files: &LossyFiles, chain: &Chain) -> Vec<String> {
    reader(files, chain).verify(None).problems.into_iter().map(|problem| problem.message).collect()
}

fn filled(files: &LossyFiles, records: u64) -> Chain {
    let mut chain = open(files).expect("an empty directory opens");
    for number in 1..=records {
        assert_eq!(chain.append(record(number)).expect("there is room"), number);
    }
    chain
}

fn paths(chain: &Chain) -> Vec<PathBuf> {
    chain.segments().into_iter().map(|segment| segment.path).collect()
}

#[test]
fn records_are_chained_over_segments_and_restarts() {
    let files = LossyFiles::new(1);
    let chain = filled(&files, 20);
    assert!(chain.segments().len() > 3, "{:?}", chain.segments());
    let head = chain.head();
    drop(chain);
    files.crash();
    let mut chain = open(&files).expect("it opens again");
    assert_eq!(chain.head(), head);
    chain.append(record(21)).expect("there is room");
    let records = all(&files, &chain);
    let numbers: Vec<u64> = records.iter().map(|record| record.sequence).collect();
    assert_eq!(numbers, (1..=21).collect::<Vec<_>>());
    assert_eq!(problems(&files, &chain), [] as [&str; 0]);
}

/// A device that fails from its n-th operation on, for every n, and then the power goes.
#[test]
fn after_a_power_cut_anywhere_every_record_that_was_acknowledged_is_there_and_the_chain_is_whole() {
    for seed in 0..6 {
        println!("seed {seed}");
        for skipped in 0.. {
            let files = LossyFiles::new(seed);
            let mut chain = filled(&files, 2);
            files.fail_on(skipped, Fault::Device);
            let mut acknowledged = 2;
            for number in 3..=9 {
                if chain.append(record(number)).is_err() {
                    break;
                }
                acknowledged = number;
            }
            let struck = acknowledged < 9;
            files.heal();
            let cut = files.after_power_cut(seed + 100);
            let mut reopened = open(&cut).expect("a torn end is cut off");
            let found = all(&cut, &reopened);
            let kept = found.len() as u64;
            // The one under way may have come to be there.
            assert!(kept == acknowledged || kept == acknowledged + 1, "{skipped}: {kept} of {acknowledged}");
            assert!(found.iter().zip(1..).all(|(found, number)| found.resources == record(number).resources));
            reopened.append(record(99)).expect("it goes on");
            assert_eq!(problems(&cut, &reopened), [] as [&str; 0], "{skipped}");
            if !struck {
                break;
            }
        }
    }
}

#[test]
fn a_full_disk_refuses_a_record_and_leaves_nothing_of_it() {
    for skipped in 0..6 {
        let files = LossyFiles::new(3);
        let mut chain = filled(&files, 3);
        files.fail_once(skipped, Fault::NoSpace);
        let appended: Vec<_> = (4..=9).map(|number| chain.append(record(number))).collect();
        let kept = 3 + appended.iter().filter(|appended| appended.is_ok()).count();
        match appended.iter().any(|appended| matches!(appended, Err(ChainError::Uncertain))) {
            // It struck a sync.
            true => assert!(kept < 8, "{skipped}"),
            false => assert_eq!(kept, 8, "{skipped}: one is refused, and the next ones go through"),
        }
        assert_eq!(all(&files, &chain).len(), kept);
        assert_eq!(problems(&files, &chain), [] as [&str; 0]);
        drop(chain);
        files.crash();
        let found = all(&files, &open(&files).expect("it opens")).len();
        assert!(found == kept || (kept < 8 && found == kept + 1), "{skipped}: {found} of {kept}");
    }
}

#[test]
fn after_a_failed_sync_nothing_more_is_written() {
    let files = LossyFiles::new(4);
    let mut chain = filled(&files, 1);
    // The write goes through, its sync does not.
    files.fail_once(1, Fault::Device);
    assert!(matches!(chain.append(record(2)), Err(ChainError::Io { .. })));
    assert!(matches!(chain.append(record(3)), Err(ChainError::Uncertain)));
    drop(chain);
    let mut chain = open(&files).expect("a restart finds out");
    chain.append(record(4)).expect("it goes on");
    assert_eq!(problems(&files, &chain), [] as [&str; 0]);
}

#[test]
fn every_changed_byte_is_found_by_verifying_and_the_file_named() {
    let files = LossyFiles::new(5);
    let chain = filled(&files, 9);
    for path in paths(&chain) {
        let length = files.read(&path).expect("it is there").len();
        for at in 0..length {
            files.damage(&path, |bytes| bytes[at] ^= 0x10).expect("it is there");
            let verified = reader(&files, &chain).verify(None);
            assert!(
                verified.problems.iter().any(|problem| problem.file == path.display().to_string()),
                "byte {at} of {}",
                path.display()
            );
            files.damage(&path, |bytes| bytes[at] ^= 0x10).expect("it is there");
        }
    }
    assert_eq!(problems(&files, &chain), [] as [&str; 0]);
}

#[test]
fn a_record_that_was_taken_out_changed_with_its_checksum_or_moved_is_found() {
    let files = LossyFiles::new(6);
    let chain = filled(&files, 9);
    let path = paths(&chain)[1].clone();
    let whole = files.read(&path).expect("it is there");
    let header = super::chain::HEADER_BYTES;
    let (first, hash, length) = Record::decode(&whole[header..]).expect("whole");
    let forge = |change: &dyn Fn(&mut Vec<u8>)| {
        files.damage(&path, |bytes| change(bytes)).expect("it is there");
        let found = problems(&files, &chain);
        files.damage(&path, |bytes| bytes.clone_from(&whole)).expect("it is there");
        found
    };
    let taken_out = forge(&|bytes| drop(bytes.drain(header..header + length)));
    assert!(!taken_out.is_empty());
    let forged = forge(&|bytes| {
        let mut other = Vec::new();
        // Well written, with the hash that the one before demands.
        let before = super::chain::Header::decode(bytes).expect("a header").before;
        Record { caller: "somebody".to_owned(), ..first.clone() }.encode(&before, &mut other);
        bytes.splice(header..header + length, other);
    });
    assert!(forged.iter().any(|message| message.contains("hash")), "{forged:?}");
    let _ = hash;
    let doubled = forge(&|bytes| {
        let copy = bytes[header..header + length].to_vec();
        bytes.splice(header..header, copy);
    });
    assert!(!doubled.is_empty());
    assert_eq!(problems(&files, &chain), [] as [&str; 0]);
}

#[test]
fn segments_that_are_missing_are_found() {
    for missing in 0..3 {
        let files = LossyFiles::new(7);
        let chain = filled(&files, 20);
        files.remove(&paths(&chain)[missing]).expect("it is there");
        drop(chain);
        let chain = open(&files).expect("only the newest is read");
        assert!(!problems(&files, &chain).is_empty(), "segment {missing}");
    }
}

#[test]
fn a_log_that_was_cut_off_is_found_by_a_head_that_was_noted_elsewhere() {
    let files = LossyFiles::new(8);
    let mut chain = filled(&files, 9);
    let noted = (chain.head().sequence, chain.head().hash);
    chain.append(record(10)).expect("there is room");
    assert_eq!(reader(&files, &chain).verify(Some(noted)).problems, []);
    assert_ne!(reader(&files, &chain).verify(Some((9, [7; HASH_BYTES]))).problems, []);
    assert_ne!(reader(&files, &chain).verify(Some((11, noted.1))).problems, []);
}

#[test]
fn a_bad_record_before_the_last_stops_the_start_and_says_where() {
    let files = LossyFiles::new(9);
    let chain = filled(&files, 12);
    let newest = chain.segments().pop().expect("there are some");
    let whole = files.read(&newest.path).expect("it is there");
    let (.., first) = Record::decode(&whole[super::chain::HEADER_BYTES..]).expect("whole");
    assert!(whole.len() > super::chain::HEADER_BYTES + first, "it has several records");
    drop(chain);
    for at in 0..super::chain::HEADER_BYTES + first {
        files.damage(&newest.path, |bytes| bytes[at] ^= 1).expect("it is there");
        let refused = open(&files).expect_err("damaged");
        assert!(matches!(&refused, ChainError::Damaged { path, .. } if *path == newest.path), "{at}: {refused}");
        files.damage(&newest.path, |bytes| bytes[at] ^= 1).expect("it is there");
    }
    open(&files).expect("mended");
}

#[test]
fn old_segments_go_and_a_record_says_so_before() {
    let files = LossyFiles::new(10);
    let mut chain = open(&files).expect("it opens");
    for day in 0..800 {
        let now = day * DAY;
        chain.append(Record { time: now, ..record(1) }).expect("there is room");
        if chain.has_old(now) {
            chain.remove_old(now).expect("removed");
        }
    }
    let records = all(&files, &chain);
    let oldest = records.first().expect("some are kept").time;
    // Whole segments go, which are begun anew after an eighth of the time at the latest.
    assert!((799 - 365 - 46..=799 - 365).contains(&(oldest / DAY)), "{}", oldest / DAY);
    assert!(records.iter().any(|record| matches!(record.outcome, Outcome::Removed { .. })));
    assert_eq!(problems(&files, &chain), [] as [&str; 0]);
    files.remove(&paths(&chain)[0]).expect("it is there");
    drop(chain);
    let chain = open(&files).expect("only the newest is read");
    assert!(!problems(&files, &chain).is_empty(), "one that went by itself");
}

#[test]
fn pages_tell_every_record_once_newest_first_and_filters_hold() {
    let files = LossyFiles::new(11);
    let chain = filled(&files, 100);
    let reader = reader(&files, &chain);
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let page = reader.list(&Filter::default(), before, 7).expect("whole");
        found.extend(page.records.iter().map(|record| record.sequence));
        before = page.before;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(found, (1..=100).rev().collect::<Vec<_>>());
    let numbers = |filter: Filter| {
        let (mut found, mut before) = (Vec::new(), None);
        loop {
            let page = reader.list(&filter, before, 1_000).expect("whole");
            found.extend(page.records.iter().map(|record| record.sequence));
            before = page.before;
            if before.is_none() {
                return found;
            }
        }
    };
    let some = Filter { since: Some(10), until: Some(13), ..Filter::default() };
    assert_eq!(numbers(some), [12, 11, 10]);
    assert_eq!(numbers(Filter { caller: "caller 7".to_owned(), ..Filter::default() }), [7]);
    assert_eq!(numbers(Filter { resource: "view/10".to_owned(), ..Filter::default() }), [100, 10]);
    assert_eq!(numbers(Filter { action: "Apply".to_owned(), ..Filter::default() }).len(), 100);
    assert_eq!(numbers(Filter { outcome: "done".to_owned(), ..Filter::default() }), [] as [u64; 0]);
    assert_eq!(numbers(Filter { tenant: "other".to_owned(), ..Filter::default() }), [] as [u64; 0]);
}

fn audit(files: &LossyFiles, clock: &Arc<ManualClock>) -> Audit {
    let store_time = StoreTime::new(clock.clone(), 0);
    store_time.promise(Micros::MAX);
    let options =
        AuditOptions { directory: DIRECTORY.into(), segment_bytes: 1 << 20, retention: Duration::from_hours(24) };
    Audit::open(Arc::new(files.clone()), Arc::new(store_time), options).expect("it opens")
}

fn asked(caller: &str) -> Asked {
    Asked { caller: caller.to_owned(), action: "RegistryService/Apply".to_owned(), ..Asked::default() }
}

async fn outcomes(audit: &Audit) -> Vec<Outcome> {
    let page = audit.list(&permit(Action::ReadAudit), Filter::default(), None, 100).await.expect("whole");
    page.records.into_iter().rev().map(|record| record.outcome).collect()
}

#[tokio::test]
async fn what_is_asked_for_is_durable_before_it_is_done_and_its_end_is_told() {
    let (files, clock) = (LossyFiles::new(12), Arc::new(ManualClock::new(5)));
    let audit = audit(&files, &clock);
    let first = audit.ask(asked("ann")).await.expect("there is room");
    assert_eq!(all(&files, &open(&files.after_power_cut(1)).expect("it opens")).len(), 1);
    first.conclude(Conclusion::Done { before: Some(1), after: Some(2) });
    let second = audit.ask(asked("bob")).await.expect("there is room");
    second.conclude(Conclusion::Failed { reason: "ETAG_MISMATCH".to_owned() });
    drop(audit.ask(asked("eve")).await.expect("there is room"));
    let expected = [
        Outcome::Asked,
        Outcome::Done { of: 1, before: Some(1), after: Some(2) },
        Outcome::Asked,
        Outcome::Failed { of: 3, reason: "ETAG_MISMATCH".to_owned() },
        Outcome::Asked,
        Outcome::GivenUp { of: 5 },
    ];
    assert_eq!(outcomes(&audit).await, expected);
    audit.close().await;
    assert_eq!(audit.ask(asked("ann")).await.expect_err("closed").reason, "SHUTTING_DOWN");
}

#[tokio::test]
async fn what_can_not_be_written_down_is_refused_with_the_way_out() {
    let (files, clock) = (LossyFiles::new(13), Arc::new(ManualClock::new(5)));
    let audit = audit(&files, &clock);
    audit.ask(asked("ann")).await.expect("there is room").conclude(Conclusion::Done { before: None, after: None });
    assert_eq!(outcomes(&audit).await.len(), 2);
    files.fail_on(0, Fault::NoSpace);
    let refused = audit.ask(asked("ann")).await.expect_err("no room");
    assert_eq!((refused.code, refused.reason), (Code::ResourceExhausted, "AUDIT_DISK_FULL"));
    assert!(refused.hint.is_some());
    files.heal();
    audit
        .ask(asked("ann"))
        .await
        .expect("there is room again")
        .conclude(Conclusion::Done { before: None, after: None });
    // What came of the last one is written by then.
    assert_eq!(outcomes(&audit).await.len(), 4);
    files.fail_on(0, Fault::Device);
    assert_eq!(audit.ask(asked("ann")).await.expect_err("no disk").reason, "AUDIT_UNAVAILABLE");
    files.heal();
    assert_eq!(audit.ask(asked("ann")).await.expect_err("not known").reason, "AUDIT_UNCERTAIN");
    assert_eq!(audit.metrics().failures.get(), 3);
}

#[tokio::test]
async fn refused_attempts_are_told_and_many_of_the_same_in_one_record() {
    let (files, clock) = (LossyFiles::new(14), Arc::new(ManualClock::new(0)));
    let audit = audit(&files, &clock);
    for _ in 0..1_000 {
        audit.note_refused(asked("eve"), "PERMISSION_DENIED");
    }
    audit.sweep().await.expect("it runs");
    let refused = |count, since| Outcome::Refused { reason: "PERMISSION_DENIED".to_owned(), count, since };
    let told = outcomes(&audit).await;
    let counted: u64 =
        told.iter().map(|outcome| if let Outcome::Refused { count, .. } = outcome { *count } else { 0 }).sum();
    assert!(told.len() <= 2 && counted <= 1_000, "{told:?}");
    for _ in 0..50 {
        audit.note_refused(asked("eve"), "PERMISSION_DENIED");
    }
    audit.sweep().await.expect("it runs");
    assert_eq!(outcomes(&audit).await.len(), told.len(), "not within a minute");
    clock.set(60_000_000);
    audit.sweep().await.expect("it runs");
    assert_eq!(outcomes(&audit).await.last(), Some(&refused(1_050 - counted, 0)));
    audit.note_refused(asked("eve"), "PERMISSION_DENIED");
    audit.close().await;
    let chain = open(&files).expect("it opens");
    assert_eq!(all(&files, &chain).last().map(|record| record.outcome.clone()), Some(refused(1, 60_000_000)));
}

/// As the one for single records, for groups of several.
#[test]
fn after_a_power_cut_a_group_that_was_acknowledged_is_there_whole() {
    for seed in 0..40 {
        println!("seed {seed}");
        for skipped in 0.. {
            let files = LossyFiles::new(seed);
            let options = ChainOptions { segment_bytes: 6_000, ..OPTIONS };
            let open = |files: &LossyFiles| Chain::open(Arc::new(files.clone()), Path::new(DIRECTORY), options);
            let mut chain = open(&files).expect("an empty directory opens");
            let mut acknowledged = 0;
            files.fail_on(skipped + 8, Fault::Device);
            for group in 0..8 {
                let records = (1..=5).map(|number| record(group * 5 + number)).collect();
                if chain.append_all(records).is_err() {
                    break;
                }
                acknowledged += 5;
            }
            files.heal();
            let cut = files.after_power_cut(seed + 100);
            let mut reopened = open(&cut).expect("a torn end is cut off");
            let found = all(&cut, &reopened);
            let kept = found.len() as u64;
            // Of the group under way some may have come to be there.
            assert!((acknowledged..=acknowledged + 5).contains(&kept), "{skipped}: {kept} of {acknowledged}");
            assert!(found.iter().zip(1..).all(|(found, number)| found.resources == record(number).resources));
            reopened.append(record(99)).expect("it goes on");
            assert_eq!(problems(&cut, &reopened), [] as [&str; 0], "{skipped}");
            if acknowledged == 40 {
                break;
            }
        }
    }
}

/// While a sync is under way, one tenant asks for as much as it can, and then another for one thing.
#[tokio::test]
async fn a_tenant_s_change_waits_for_one_sync_beside_another_s_flood() {
    let (files, clock) = (LossyFiles::new(15), Arc::new(ManualClock::new(5)));
    let audit = audit(&files, &clock);
    let _first = audit.ask(asked("first")).await.expect("there is room");
    let before = files.operations();
    let _second = audit.ask(asked("second")).await.expect("there is room");
    let of_one = files.operations() - before;
    let of = |tenant: &str| Asked { tenant: tenant.to_owned(), ..asked("ann") };
    let held = files.hold();
    let mut under_way = Box::pin(audit.ask(of("flood")));
    assert!(futures::poll!(&mut under_way).is_pending());
    while audit.shared.queue.waiting() > 0 {
        std::thread::yield_now();
    }
    let mut flood = Vec::new();
    let refused = loop {
        let mut asking = Box::pin(audit.ask(of("flood")));
        match futures::poll!(&mut asking) {
            std::task::Poll::Ready(answer) => break answer.expect_err("it has no more room"),
            std::task::Poll::Pending => flood.push(asking),
        }
    };
    assert_eq!((refused.code, refused.reason), (Code::ResourceExhausted, "AUDIT_BUSY"));
    assert!(refused.retry_after.is_some() && refused.message.contains("of the tenant"));
    // What acme does that the other is told of is in acme's turn too.
    let mut told = Box::pin(audit.ask_by("acme".to_owned(), of("flood")));
    assert!(futures::poll!(&mut told).is_pending(), "it has room of its own");
    drop(held);
    let (under_way, told) = (under_way.await.expect("it is written"), told.await.expect("it is written"));
    assert_eq!(told.sequence(), under_way.sequence() + 2, "the second of the group after the one under way");
    let flood = futures::future::join_all(flood).await;
    assert_eq!(flood.len(), super::queue::MAX_EACH);
    let last = flood.iter().map(|entry| entry.as_ref().expect("it is written").sequence()).max();
    assert_eq!(last, Some(told.sequence() + super::queue::MAX_EACH as u64 - 1));
    // A write may be short, and is gone on with by another.
    assert!(files.operations() - before <= 4 * of_one, "all that waited was written and synced together");
}

/// However many different attempts are refused at a time, changes are written between.
#[test]
fn refused_attempts_are_written_in_groups_between_which_changes_have_their_turn() {
    // Without its thread.
    let files = LossyFiles::new(16);
    let store_time = Arc::new(StoreTime::new(Arc::new(ManualClock::new(5)), 5));
    let (queue, refusals, metrics) = (Default::default(), Default::default(), AuditMetrics::default());
    let shared = Shared { queue, files: Arc::new(files.clone()), store_time, refusals, metrics };
    for caller in 0..1_000 {
        let tenant = format!("tenant {}", caller % 20);
        shared.refusals().note(Asked { tenant, ..asked(&caller.to_string()) }, "PERMISSION_DENIED", 5);
    }
    let mut chain = open(&files).expect("it opens");
    assert!(shared.sweep(&mut chain, false), "there are more");
    assert_eq!(chain.head().sequence, super::queue::MAX_GROUP as u64);
    while shared.sweep(&mut chain, false) {}
    assert_eq!(chain.head().sequence, 1_000);
}
