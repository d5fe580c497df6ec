//! Rows out of the row cache are those of the store: two stores take the same frames, one with a
//! cache and one without, and every view that was ever published, however old, answers the same from
//! both, in whatever order the views are asked.

use proptest::prelude::*;

use super::model::frames;
use super::*;

fn bench(row_cache_bytes: usize) -> Bench {
    Bench::with(|options| options.row_cache_bytes = row_cache_bytes)
}

/// What a view answers for one key, as something to compare.
fn answer(view: &ReadView, key: i64, id: ViewId, mode: ReadMode) -> Option<Option<OwnedRow>> {
    let bytes = key_bytes(key);
    let name = OnlineKey { slot: slot_of_key(&bytes), tenant: TENANT, view: id, key: &bytes };
    match view.lookup(&[name], mode).remove(0) {
        Lookup::Row(row) => Some(Some(OwnedRow::clone(&row))),
        Lookup::Absent => Some(None),
        Lookup::NotCached => None,
        other => panic!("a row or none, not {other:?}"),
    }
}

/// A question to one of the views published so far, newest first, put after a frame.
#[derive(Clone, Debug)]
struct Question {
    after_frame: usize,
    views_back: usize,
    key: i64,
    other_view: bool,
    may_block: bool,
}

fn questions() -> impl Strategy<Value = Vec<Question>> {
    let question = (0..8_usize, 0..6_usize, 0..KEYS, any::<bool>(), any::<bool>()).prop_map(
        |(after_frame, views_back, key, other_view, may_block)| Question {
            after_frame,
            views_back,
            key,
            other_view,
            may_block,
        },
    );
    proptest::collection::vec(question, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_view_answers_with_the_row_cache_what_it_answers_without(
        frames in frames(),
        questions in questions(),
        sweeps in any::<u8>(),
        flushes in any::<u8>(),
        ttl in proptest::option::of(0_i64..400),
    ) {
        let (mut cached, mut plain) = (bench(1 << 20), bench(0));
        let mut views = Vec::new();
        for (index, frame) in frames.iter().enumerate() {
            for bench in [&mut cached, &mut plain] {
                bench.policies.0.insert(VIEW, ViewPolicy { longest_ttl: ttl, ..POLICY });
                bench.apply(frame);
                bench.promote(frame.now);
                if sweeps & (1 << index) != 0 {
                    bench.sweep(frame.now);
                }
                if flushes & (1 << index) != 0 {
                    bench.store().flush().expect("flushed");
                }
            }
            views.push((cached.view(), plain.view()));
            for question in questions.iter().filter(|question| question.after_frame == index) {
                let (with, without) = &views[index.saturating_sub(question.views_back)];
                let id = if question.other_view { OTHER_VIEW } else { VIEW };
                let mode = if question.may_block { ReadMode::MayBlock } else { ReadMode::CachedOnly };
                let expected = answer(without, question.key, id, ReadMode::MayBlock);
                let found = answer(with, question.key, id, mode);
                // What only the disk can tell is no answer, and no wrong one either.
                prop_assert!(found.is_none() || found == expected, "{:?}: {:?}, not {:?}", question, found, expected);
            }
        }
    }
}

#[test]
fn rows_that_are_read_again_come_out_of_the_row_cache() {
    let mut bench = bench(1 << 20);
    bench.apply(&frame(1, [row(1, 10, 7)]));
    for (hits, key, value) in [(0, 1, Some(7)), (1, 1, Some(7)), (1, 2, None), (2, 2, None)] {
        let found = answer(&bench.view(), key, VIEW, ReadMode::CachedOnly).expect("it is in memory");
        assert_eq!(found.as_ref().map(value_of), value);
        assert_eq!(bench.shared.row_cache_hits_and_misses().0, hits, "key {key}");
    }
    bench.apply(&frame(2, [row(1, 20, 8)]));
    let found = answer(&bench.view(), 1, VIEW, ReadMode::CachedOnly).expect("it is in memory");
    assert_eq!(found.as_ref().map(value_of), Some(8));
}

#[test]
fn a_row_that_is_kept_and_written_again_is_found_in_memory_as_it_is_now() {
    let mut bench = bench(1 << 20);
    bench.apply(&frame(1, [row(1, 10, 7), row(2, 10, 7)]));
    answer(&bench.view(), 1, VIEW, ReadMode::CachedOnly).expect("it is in memory");
    let before = bench.view();
    bench.apply(&frame(2, [row(1, 20, 8), row(2, 20, 8)]));
    for (key, hits) in [(1, 1), (2, 1)] {
        let found = answer(&bench.view(), key, VIEW, ReadMode::CachedOnly).expect("it is in memory");
        assert_eq!(found.as_ref().map(value_of), Some(8));
        assert_eq!(bench.shared.row_cache_hits_and_misses().0, hits, "key {key}");
    }
    let found = answer(&before, 1, VIEW, ReadMode::MayBlock).expect("a row");
    assert_eq!(found.as_ref().map(value_of), Some(7), "an older view has what it had");
}

#[test]
fn rows_that_are_read_in_passing_are_not_kept_and_those_that_are_kept_are_found() {
    let mut bench = bench(1 << 20);
    bench.apply(&frame(1, (0..KEYS).map(|key| row(key, 10, key))));
    let view = bench.view();
    for key in 0..KEYS {
        let bytes = key_bytes(key);
        let name = OnlineKey { slot: slot_of_key(&bytes), tenant: TENANT, view: VIEW, key: &bytes };
        for mode in [ReadMode::CachedOnly, ReadMode::MayBlock] {
            assert!(matches!(view.lookup_in_passing(&[name], mode)[0], Lookup::Row(_)));
        }
        assert_eq!(bench.shared.row_cache_hits_and_misses(), (0, key as u64), "nothing was kept, nor counted");
        answer(&view, key, VIEW, ReadMode::CachedOnly).expect("it is in memory");
    }
}

#[test]
fn a_store_that_is_opened_again_answers_nothing_from_before() {
    let mut bench = bench(1 << 20);
    bench.apply(&frame(1, [row(1, 10, 7)]));
    bench.store().flush().expect("flushed");
    bench.apply(&frame(2, [row(1, 20, 8)]));
    assert_eq!(bench.value(1), Some(8));
    // The second frame was never flushed: it is gone until it is applied again.
    bench.reopen();
    assert_eq!(bench.value(1), Some(7));
}

#[test]
fn a_view_keeps_its_cached_rows_when_another_store_is_opened() {
    let mut bench = bench(1 << 20);
    bench.apply(&frame(1, [row(1, 10, 7)]));
    let view = bench.view();
    let other = bench.open_at(&bench.directory.path().join("other"), SlotRange::ALL).expect("another store opens");
    for hits in [0, 1] {
        let found = answer(&view, 1, VIEW, ReadMode::CachedOnly).expect("it is in memory");
        assert_eq!(found.as_ref().map(value_of), Some(7));
        assert_eq!(bench.shared.row_cache_hits_and_misses().0, hits);
    }
    drop(other);
}

#[test]
fn rows_that_are_flushed_and_compacted_stay_in_memory() {
    let mut bench = bench(0);
    let in_memory = |bench: &mut Bench| {
        let found = (0..KEYS).map(|key| answer(&bench.view(), key, VIEW, ReadMode::CachedOnly));
        found.map(|found| found.flatten().as_ref().map(value_of)).collect::<Vec<_>>()
    };
    for number in 1..=3 {
        let value = number as i64;
        bench.apply(&frame(number, (0..KEYS).map(|key| row(key, 10 * value, value))));
        bench.store().flush().expect("flushed");
        assert_eq!(in_memory(&mut bench), [Some(value); KEYS as usize], "flushed");
    }
    let database = bench.store().database.clone();
    database.rocksdb().compact_range_cf(database.latest(), None::<&[u8]>, None::<&[u8]>);
    assert_eq!(in_memory(&mut bench), [Some(3); KEYS as usize], "compacted");
}
