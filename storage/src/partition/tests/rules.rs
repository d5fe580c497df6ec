//! The rules of the contract, one by one.

use super::*;

#[test]
fn a_late_row_never_overwrites_a_newer_one_online() {
    let mut bench = Bench::new();
    bench.apply(&frame(1, [row(1, 50, 500)]));
    let report = bench.apply(&frame(2, [row(1, 40, 400)]));
    assert_eq!((report.current_rows, report.late_rows, report.tailed_rows), (0, 1, 1));
    assert_eq!(bench.value(1), Some(500));
    assert_eq!(bench.tail(VIEW, 0).len(), 2);
}

#[test]
fn rows_of_one_event_time_are_ordered_by_known_time_then_position() {
    let mut bench = Bench::new();
    let known = |value, known_time| RowRecord { known_time: Some(known_time), ..row(1, 50, value) };
    bench.apply(&frame(1, [known(1, 60)]));
    bench.apply(&frame(2, [known(2, 55)]));
    assert_eq!(bench.value(1), Some(1), "known earlier");
    bench.apply(&frame(3, [known(3, 60), known(4, 60)]));
    assert_eq!(bench.value(1), Some(4), "of equal times the later in the log");
    bench.apply(&frame(4, [known(5, 61), known(6, 60)]));
    assert_eq!(bench.value(1), Some(5), "known later");
}

#[test]
fn a_row_of_the_future_is_seen_when_it_is_due_and_not_before() {
    let mut bench = Bench::new();
    bench.apply(&frame(1, [row(1, 50, 1), row(1, 1_000, 2)]));
    assert_eq!(bench.store().next_due(), Some(1_000));
    bench.promote(999);
    assert_eq!(bench.value(1), Some(1));
    assert_eq!(bench.store().view_state(VIEW).expect("it has rows").newest_event_time, Some(50));
    let before = bench.view();
    bench.promote(1_000);
    assert_eq!(bench.value(1), Some(2));
    let after = bench.view();
    assert_eq!((before.next_due(), after.next_due()), (Some(1_000), None));
    assert_eq!((before.newest_event_time(VIEW), after.newest_event_time(VIEW)), (Some(50), Some(1_000)));
    assert_eq!(bench.tail(VIEW, 0).len(), 2);
}

#[test]
fn a_row_known_later_than_it_happened_waits_for_its_known_time() {
    let mut bench = Bench::new();
    bench.apply(&frame(1, [RowRecord { known_time: Some(700), ..row(1, 50, 1) }]));
    assert_eq!(bench.value(1), None);
    bench.promote(700);
    assert_eq!(bench.value(1), Some(1));
}

#[test]
fn a_pending_row_that_is_overtaken_stays_behind() {
    let mut bench = Bench::new();
    bench.apply(&frame(1, [RowRecord { known_time: Some(700), ..row(1, 50, 1) }]));
    bench.apply(&frame(2, [row(1, 60, 2)]));
    bench.promote(10_000);
    assert_eq!(bench.value(1), Some(2));
    assert_eq!(bench.store().next_due(), None);
}

#[test]
fn promotion_goes_on_where_its_limit_stopped_it() {
    let mut bench = Bench::new();
    bench.apply(&frame(1, (0..KEYS).map(|key| row(key, 1_000 + key, key))));
    assert!(bench.store().promote(1_003, 2).expect("promoted"));
    assert_eq!(bench.store().next_due(), Some(1_002));
    assert!(!bench.store().promote(1_003, 2).expect("promoted"));
    assert_eq!(bench.store().next_due(), Some(1_004));
    assert_eq!(
        (0..KEYS).map(|key| bench.value(key)).collect::<Vec<_>>(),
        [Some(0), Some(1), Some(2), Some(3), None, None]
    );
}

#[test]
fn a_tombstone_hides_what_is_older_and_not_what_is_newer() {
    let mut bench = Bench::new();
    bench.apply(&frame(1, [row(1, 50, 1)]));
    bench.apply(&frame(2, [tombstone(1, 60)]));
    assert_eq!(bench.row(1).expect("the tombstone stays").header().kind, RowKind::Tombstone);
    bench.apply(&frame(3, [row(1, 55, 2)]));
    assert_eq!(bench.value(1), None, "what came late is hidden too");
    bench.apply(&frame(4, [row(1, 61, 3)]));
    assert_eq!(bench.value(1), Some(3));
}

#[test]
fn expired_rows_become_stubs_that_late_rows_do_not_overwrite() {
    let mut bench = Bench::new();
    bench.policies.0.insert(VIEW, ViewPolicy { longest_ttl: Some(100), ..POLICY });
    bench.apply(&frame(1, [row(1, 50, 1), tombstone(2, 1)]));
    assert_eq!(bench.sweep(150).expired_rows, 0, "both ends of the ttl are included");
    assert_eq!(bench.value(1), Some(1));
    let report = bench.sweep(151);
    assert_eq!((report.examined_rows, report.expired_rows, report.finished), (2, 1, true));
    let stub = bench.row(1).expect("a stub stays");
    let header = *stub.header();
    assert_eq!((header.kind, header.version.event_time, header.feature_count), (RowKind::ExpiredStub, 50, 1));
    assert!(stub.body().is_empty());
    assert_eq!(bench.row(2).expect("a tombstone stays").header().kind, RowKind::Tombstone);

    // Late, and expired on arrival itself.
    let report = bench.apply(&frame(3, [row(1, 49, 2), row(3, 49, 3)]));
    assert_eq!((report.late_rows, report.current_rows, report.expired_rows), (1, 1, 1));
    assert_eq!(bench.row(1), Some(stub));
    assert_eq!(bench.row(3).expect("a stub").header().kind, RowKind::ExpiredStub);
    assert_eq!(bench.tail(VIEW, 0).iter().filter(|tail| tail.row.header().kind == RowKind::Full).count(), 3);
    bench.apply(&frame(4, [row(1, 390, 4)]));
    assert_eq!(bench.value(1), Some(4));
}

#[test]
fn the_sweep_goes_on_where_its_limit_stopped_it_and_begins_again_at_the_end() {
    let mut bench = Bench::new();
    bench.policies.0.insert(VIEW, ViewPolicy { longest_ttl: Some(1), ..POLICY });
    let mut early = frame(1, (0..5).map(|key| row(key, 100, key)));
    early.now = 100;
    bench.apply(&early);
    let Bench { store, policies, .. } = &mut bench;
    let store = store.as_mut().expect("the store is open");
    let mut sweep = || store.sweep_expired(1_000, policies, 2).expect("swept");
    let steps: Vec<_> = (0..4).map(|_| sweep()).map(|step| (step.expired_rows, step.finished)).collect();
    assert_eq!(steps, [(2, false), (2, false), (1, true), (0, false)]);
}

#[test]
fn views_that_are_not_online_or_not_offline_are_kept_where_they_belong() {
    let mut bench = Bench::new();
    bench.policies.0.insert(VIEW, ViewPolicy { offline: false, ..POLICY });
    bench.policies.0.insert(OTHER_VIEW, ViewPolicy { online: false, ..POLICY });
    let other = |row: RowRecord| RowRecord { view: OTHER_VIEW, ..row };
    let unknown = RowRecord { view: ViewId(99), ..row(1, 50, 3) };
    let report = bench.apply(&frame(1, [row(1, 50, 1), other(row(1, 50, 2)), other(row(1, 5_000, 2)), unknown]));
    assert_eq!((report.current_rows, report.tailed_rows, report.unknown_view_rows, report.pending_rows), (1, 2, 1, 0));
    assert_eq!(bench.value(1), Some(1));
    assert_eq!((bench.tail(VIEW, 0).len(), bench.tail(OTHER_VIEW, 0).len()), (0, 2));
    assert_eq!(bench.contents().online.iter().flatten().count(), 1);
}

#[test]
fn rows_of_foreign_slots_are_refused_before_anything_is_written() {
    let bench = Bench::new();
    let key = key_bytes(1);
    let slot = slot_of_key(&key);
    let elsewhere =
        if slot < 30_000 { SlotRange { first: 30_000, last: 40_000 } } else { SlotRange { first: 0, last: 29_999 } };
    let mut store = bench.open_at(&bench.directory.path().join("elsewhere"), elsewhere).expect("a new store");
    let mine = RowRecord { slot: elsewhere.first, ..row(2, 50, 2) };
    let refused = store.apply(1, 100, &[mine.clone(), row(1, 50, 1)], 100, &bench.policies);
    assert!(matches!(refused, Err(StoreError::ForeignSlot { slot: refused, .. }) if refused == slot));
    assert_eq!(store.applied(), Applied::default());
    let view = store.publish().expect("no frame is half applied");
    let names = [
        OnlineKey { slot: elsewhere.first, tenant: TENANT, view: VIEW, key: &mine.key },
        OnlineKey { slot, tenant: TENANT, view: VIEW, key: &key },
    ];
    let answers = view.lookup(&names, ReadMode::MayBlock);
    assert!(matches!(answers[0], Lookup::Absent));
    assert!(matches!(answers[1], Lookup::Unreadable(StoreError::ForeignSlot { .. })), "not ABSENT");
}

#[test]
fn a_store_opens_only_as_what_it_is() {
    let mut bench = Bench::new();
    let path = bench.path();
    assert!(matches!(bench.open_at(&path, SlotRange::ALL), Err(StoreError::InUse { .. })));
    let view = bench.view();
    bench.store = None;
    assert!(matches!(bench.open_at(&path, SlotRange::ALL), Err(StoreError::InUse { .. })), "a reader holds it");
    drop(view);
    let half = SlotRange::split_evenly(2)[0];
    let other = bench.open_at(&path, half).expect_err("a store of all slots");
    assert!(matches!(other, StoreError::OtherSlots { .. }) && other.is_format());
    bench.reopen();
}

#[test]
fn a_view_keeps_showing_what_it_showed() {
    let mut bench = Bench::new();
    bench.apply(&frame(1, [row(1, 50, 1)]));
    let view = bench.view();
    let mut rows = view.tail(TENANT, VIEW, 0);
    bench.apply(&frame(2, [row(1, 60, 2), row(2, 60, 3)]));
    bench.store().flush().expect("flushed");
    while bench.store().drop_tail((TENANT, VIEW), 2, 1).expect("dropped") {}
    bench.store = None;
    let keys = [key_bytes(1), key_bytes(2)];
    let names = keys.each_ref().map(|key| OnlineKey { slot: slot_of_key(key), tenant: TENANT, view: VIEW, key });
    let answers = view.lookup(&names, ReadMode::MayBlock);
    assert!(matches!(&answers[..], [Lookup::Row(row), Lookup::Absent] if value_of(row) == 1));
    assert_eq!(view.applied(), Applied { frame: 1, ingest_time: 100 });
    // The rows hold the view, and so the database, by themselves.
    drop(view);
    assert_eq!(rows.next().expect("a row").expect("undamaged").row.header().version.position.frame, 1);
    assert!(rows.next().is_none());
    assert!(rows.next().is_none());
}

#[test]
fn lookups_answer_in_the_order_of_their_keys_and_tell_what_is_not_cached() {
    let mut bench = Bench::new();
    bench.apply(&frame(1, (0..KEYS).map(|key| row(key, 50, key))));
    bench.store().flush().expect("flushed");
    bench.store = None;
    bench.shared = SharedResources::new(&bench.options).expect("background threads");
    bench.reopen();
    let keys: Vec<Vec<u8>> = [3, 77, 0, 3, 5].map(key_bytes).into();
    let names: Vec<_> =
        keys.iter().map(|key| OnlineKey { slot: slot_of_key(key), tenant: TENANT, view: VIEW, key }).collect();
    let view = bench.view();
    let cold = view.lookup(&names, ReadMode::CachedOnly);
    assert!(matches!(cold[0], Lookup::NotCached), "{:?}", cold[0]);
    let value = |found: &Lookup| match found {
        Lookup::Row(row) => Some(value_of(row)),
        Lookup::Absent => None,
        other => panic!("a row or none, not {other:?}"),
    };
    let expected = [Some(3), None, Some(0), Some(3), Some(5)];
    let in_passing = view.lookup_in_passing(&names, ReadMode::MayBlock);
    assert_eq!(in_passing.iter().map(value).collect::<Vec<_>>(), expected);
    let still_cold = view.lookup(&names, ReadMode::CachedOnly);
    assert!(matches!(still_cold[0], Lookup::NotCached), "a read in passing left {:?}", still_cold[0]);
    assert_eq!(view.lookup(&names, ReadMode::MayBlock).iter().map(value).collect::<Vec<_>>(), expected);
    assert_eq!(view.lookup_in_passing(&names, ReadMode::CachedOnly).iter().map(value).collect::<Vec<_>>(), expected);
    assert_eq!(view.lookup(&names, ReadMode::CachedOnly).iter().map(value).collect::<Vec<_>>(), expected);
    assert!(view.lookup(&[], ReadMode::MayBlock).is_empty());
}

#[test]
fn the_tail_comes_in_history_order_and_is_dropped_as_it_lands() {
    let mut bench = Bench::new();
    let other = RowRecord { view: OTHER_VIEW, ..row(3, 50, 9) };
    bench.apply(&frame(1, [row(2, 50, 1), row(1, 70, 2), other]));
    bench.apply(&frame(2, [row(1, 60, 3), row(2, 50, 4)]));
    let tail = bench.tail(VIEW, 0);
    assert!(tail.is_sorted_by_key(|tail| (tail.slot, tail.key.clone(), tail.row.header().version)));
    assert_eq!(tail.len(), 4);
    assert_eq!(bench.tail(VIEW, 1).len(), 2);

    let view = bench.view();
    let mut rows = view.tail(TENANT, VIEW, 0);
    for (number, times) in [(1, vec![60, 70]), (9, vec![]), (2, vec![50, 50]), (1, vec![60, 70])] {
        let key = key_bytes(number);
        rows.seek_key(slot_of_key(&key), &key);
        for time in times {
            let row = rows.advance().expect("undamaged").expect("a row");
            assert_eq!((row.key, row.row.header().version.event_time), (&key[..], time));
        }
        assert!(rows.advance().expect("undamaged").is_none(), "a row of another key than {number}");
    }

    let bytes = bench.store().tail_bytes();
    assert!(bench.store().drop_tail((TENANT, VIEW), 1, 1).expect("dropped"), "more to look at");
    while bench.store().drop_tail((TENANT, VIEW), 1, 1).expect("dropped") {}
    assert_eq!(bench.tail(VIEW, 0), bench.tail(VIEW, 1));
    assert_eq!((bench.tail(VIEW, 0).len(), bench.tail(OTHER_VIEW, 0).len()), (2, 1));
    assert_eq!(bench.store().view_state(VIEW).expect("it has rows").tail_rows, 2);
    assert!(bench.store().tail_bytes() < bytes);
    assert!(!bench.store().drop_tail((TENANT, VIEW), 9, 100).expect("dropped"));
    assert!(!bench.store().drop_tail((TENANT, OTHER_VIEW), 9, 100).expect("dropped"));
    assert_eq!(bench.store().tail_bytes(), 0);
    assert_eq!(bench.value(1), Some(2), "landing doesn't touch the online rows");
}

#[test]
fn rows_that_have_landed_are_not_tailed_again() {
    let mut bench = Bench::new();
    bench.policies.0.insert(VIEW, ViewPolicy { landed: 1, ..POLICY });
    assert_eq!(bench.apply(&frame(1, [row(1, 50, 1)])).tailed_rows, 0);
    assert_eq!(bench.apply(&frame(2, [row(1, 60, 2)])).tailed_rows, 1);
    assert_eq!(bench.value(1), Some(2));
}

#[test]
fn every_flipped_bit_of_a_stored_row_reads_as_damaged_and_never_as_a_value() {
    let mut bench = Bench::new();
    bench.apply(&frame(1, [row(1, 50, 1)]));
    let key = key_bytes(1);
    let name = OnlineKey { slot: slot_of_key(&key), tenant: TENANT, view: VIEW, key: &key };
    let (mut online, mut tailed) = (Vec::new(), Vec::new());
    name.encode(&mut online);
    let version = RowVersion { event_time: 50, known_time: 100, position: Position { frame: 1, ordinal: 0 } };
    TailKey { name, version }.encode(&mut tailed);
    let stored = bench.store().stored_row(&online);
    for bit in 0..stored.len() * 8 {
        let mut flipped = stored.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        bench.store().overwrite_row(&online, &tailed, &flipped);
        assert!(matches!(bench.look_up(1), Lookup::Damaged), "bit {bit}");
        let mut rows = bench.view().tail(TENANT, VIEW, 0);
        assert!(rows.next().expect("an answer").expect_err("damaged").is_damage(), "bit {bit}");
        assert!(rows.next().is_none());
    }
    // Whether the damaged row was greater than these can't be told.
    let report = bench.apply(&frame(2, [row(1, 60, 2), row(2, 60, 3)]));
    assert_eq!((report.shadowed_rows, report.current_rows), (1, 1));
    assert!(matches!(bench.look_up(1), Lookup::Damaged));
    assert_eq!(bench.value(2), Some(3), "one damaged row harms no other");
    assert_eq!(bench.sweep(1_000).damaged_rows, 1);
}

#[test]
fn a_row_under_another_key_or_another_tenant_reads_as_damaged() {
    let mut bench = Bench::new();
    bench.apply(&frame(1, [row(1, 50, 1), row(2, 50, 2)]));
    let online = |key: i64, tenant: u32| {
        let key = key_bytes(key);
        let mut online = Vec::new();
        OnlineKey { slot: slot_of_key(&key), tenant: TenantId(tenant), view: VIEW, key: &key }.encode(&mut online);
        online
    };
    let first = bench.store().stored_row(&online(1, 1));
    bench.store().overwrite_row(&online(2, 1), b"", &first);
    bench.store().overwrite_row(&online(1, 2), b"", &first);
    assert!(matches!(bench.look_up(2), Lookup::Damaged));
    let key = key_bytes(1);
    let foreign = OnlineKey { slot: slot_of_key(&key), tenant: TenantId(2), view: VIEW, key: &key };
    let view = bench.view();
    assert!(matches!(view.lookup(&[foreign], ReadMode::MayBlock)[0], Lookup::Damaged));
    assert_eq!(bench.value(1), Some(1));
}

#[test]
fn a_pending_row_that_is_damaged_makes_its_key_damaged_when_it_is_due() {
    let mut bench = Bench::new();
    bench.apply(&frame(1, [row(1, 50, 1), row(1, 900, 2), row(2, 900, 3)]));
    bench.store().damage_first_pending();
    assert!(!bench.store().promote(900, 10).expect("promoted"));
    let answers = [bench.look_up(1), bench.look_up(2)];
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Lookup::Damaged)).count(), 1, "{answers:?}");
}

#[test]
fn direct_reads_open_the_files_of_rows_past_the_page_cache() {
    // Of Linux, on the processors that this is built for.
    const O_DIRECT: u32 = if cfg!(target_arch = "aarch64") { 0o200_000 } else { 0o40_000 };
    for direct in [false, true] {
        let mut bench = Bench::new();
        bench.options.direct_reads = direct;
        bench.reopen();
        bench.apply(&frame(1, [row(1, 50, 500)]));
        bench.store().flush().expect("flushed");
        bench.reopen();
        assert_eq!(bench.value(1), Some(500));
        // A table that is being written is no matter here.
        let is_read = |(path, flags): &(std::path::PathBuf, u32)| is_table(path, &bench.path()) && flags & 0b11 == 0;
        let tables: Vec<u32> = open_files().filter(is_read).map(|of| of.1).collect();
        assert!(!tables.is_empty(), "the row is in a file");
        assert!(tables.iter().all(|flags| (flags & O_DIRECT != 0) == direct), "direct: {direct}, flags {tables:?}");
    }
}

fn is_table(file: &Path, directory: &Path) -> bool {
    file.starts_with(directory) && file.extension().is_some_and(|extension| extension == "sst")
}

/// This process' open files and the flags that they were opened with.
fn open_files() -> impl Iterator<Item = (std::path::PathBuf, u32)> {
    let descriptors = std::fs::read_dir("/proc/self/fd").expect("the process' files").flatten();
    descriptors.filter_map(|descriptor| {
        let path = std::fs::read_link(descriptor.path()).ok()?;
        let number = descriptor.file_name().into_string().ok()?;
        let told = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
        let flags = told.lines().find_map(|line| line.strip_prefix("flags:"))?;
        Some((path, u32::from_str_radix(flags.trim(), 8).ok()?))
    })
}
