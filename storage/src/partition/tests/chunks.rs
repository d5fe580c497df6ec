//! Frames applied a few rows at a time, with all that may come between two chunks.

use proptest::prelude::*;

use super::model::frames;
use super::*;

/// Six rows of as many keys; of each, the value is the frame's number.
fn large(number: u64) -> TestFrame {
    frame(number, (0..KEYS).map(|key| row(key, number as Micros * 10, number as i64)))
}

fn values(view: &Arc<ReadView>) -> Vec<Option<i64>> {
    let keys: Vec<Vec<u8>> = (0..KEYS).map(key_bytes).collect();
    let names: Vec<_> =
        keys.iter().map(|key| OnlineKey { slot: slot_of_key(key), tenant: TENANT, view: VIEW, key }).collect();
    let value = |found| match found {
        Lookup::Row(row) => Some(value_of(&row)),
        Lookup::Absent => None,
        other => panic!("a row or none, not {other:?}"),
    };
    view.lookup(&names, ReadMode::MayBlock).into_iter().map(value).collect()
}

#[test]
fn a_request_is_seen_whole_or_not_at_all() {
    let mut bench = Bench::new();
    bench.apply(&large(1));
    let before = bench.view();
    let second = large(2);
    assert_eq!(bench.apply_two(&second), Progress::Begun { rows: 2 });
    assert!(bench.store().publish().is_none());
    assert_eq!((bench.store().applied().frame, bench.store().unfinished_frame()), (1, Some(2)));
    assert_eq!(bench.apply_two(&second), Progress::Begun { rows: 4 });
    assert_eq!(values(&before), [Some(1); 6], "an earlier view shows nothing of it");
    assert_eq!(before.tail(TENANT, VIEW, 0).count(), 6);
    let Progress::Done(report) = bench.apply_two(&second) else { panic!("six rows are done") };
    assert_eq!((report.current_rows, report.tailed_rows), (6, 6));
    let after = bench.view();
    assert_eq!((values(&after), after.applied().frame), (vec![Some(2); 6], 2));
    assert_eq!(after.view_state(VIEW).expect("it has rows").tail_rows, 12);
    assert_eq!(values(&before), [Some(1); 6]);
}

#[test]
fn after_a_crash_in_the_middle_of_a_request_nothing_is_lent_before_it_is_whole() {
    let mut bench = Bench::new();
    bench.apply(&large(1));
    bench.apply(&frame(2, []));
    let third = large(3);
    bench.apply_two(&third);
    bench.store().flush().expect("flushed");
    bench.reopen();
    assert_eq!((bench.store().applied().frame, bench.store().unfinished_frame()), (2, Some(3)));
    assert!(bench.store().publish().is_none(), "two of its rows are on disk");
    let Bench { store, policies, .. } = &mut bench;
    let store = store.as_mut().expect("the store is open");
    let skipped = store.apply(4, 400, &[row(1, 50, 9)], 400, policies);
    assert!(matches!(skipped, Err(StoreError::OutOfTurn { frame: 4, unfinished: 3 })));
    bench.apply(&third);
    let view = bench.view();
    assert_eq!((values(&view), view.tail(TENANT, VIEW, 0).count()), (vec![Some(3); 6], 12));
    assert_eq!(view.view_state(VIEW).expect("it has rows").tail_rows, 12, "no row counts twice");
    drop(view);
    bench.store().flush().expect("flushed");
    bench.reopen();
    assert_eq!(bench.store().unfinished_frame(), None);
}

#[test]
fn another_request_has_to_wait_for_the_one_that_was_begun() {
    let mut bench = Bench::new();
    let first = large(1);
    bench.apply_two(&first);
    let Bench { store, policies, .. } = &mut bench;
    let store = store.as_mut().expect("the store is open");
    let next = store.apply(2, 200, &[row(1, 50, 9)], 200, policies);
    assert!(matches!(next, Err(StoreError::OutOfTurn { frame: 2, unfinished: 1 })));
    let fewer = store.apply_some(1, 100, &first.rows[..1], 2, 100, policies);
    assert!(matches!(fewer, Err(StoreError::OutOfTurn { .. })), "not the rows it was begun with");
    bench.apply(&first);
    assert_eq!(bench.value(5), Some(1));
}

#[test]
fn rows_that_land_between_two_chunks_are_counted_right() {
    let mut bench = Bench::new();
    bench.apply(&large(1));
    let second = large(2);
    bench.apply_two(&second);
    while bench.store().drop_tail((TENANT, VIEW), 2, 3).expect("dropped") {}
    bench.apply(&second);
    assert_eq!(bench.tail(VIEW, 0).len(), 6, "of the request that was half applied nothing was dropped");
    assert_eq!(bench.store().view_state(VIEW).expect("it has rows").tail_rows, 6);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn chunks_with_a_crash_between_any_two_give_the_state_that_whole_requests_give(
        frames in frames(),
        ttl in 1_i64..500,
        crash_after in 0_usize..20,
        flushed in any::<bool>(),
        busy in any::<bool>(),
    ) {
        let policy = ViewPolicy { longest_ttl: Some(ttl), ..POLICY };
        let (mut whole, mut chunked) = (Bench::new(), Bench::new());
        for bench in [&mut whole, &mut chunked] {
            bench.policies.0.insert(VIEW, policy);
        }
        for frame in &frames {
            whole.apply(frame);
            whole.promote(frame.now);
        }
        let mut chunks = 0;
        while let Some(frame) = frames.get(chunked.store().applied().frame as usize) {
            let progress = chunked.apply_two(frame);
            if busy {
                chunked.promote(frame.now);
                chunked.sweep(frame.now);
            }
            chunks += 1;
            if matches!(progress, Progress::Done(_)) {
                chunked.promote(frame.now);
            }
            if chunks == crash_after {
                if flushed {
                    chunked.store().flush().expect("flushed");
                }
                chunked.reopen();
            }
        }
        let last = frames.last().expect("some frames").now;
        for bench in [&mut whole, &mut chunked] {
            bench.promote(last + 50);
            bench.sweep(last + 50);
        }
        prop_assert_eq!(whole.contents(), chunked.contents());
    }
}
