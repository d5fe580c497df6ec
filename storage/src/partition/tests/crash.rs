//! What a crash leaves: everything up to some flush, and the log to apply again.

use proptest::prelude::*;

use super::model::frames;
use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn replay_from_any_flush_gives_the_same_state(
        frames in frames(), flush_at in any::<prop::sample::Index>(), crash_at in any::<prop::sample::Index>(), ttl in 1_i64..500
    ) {
        let policy = ViewPolicy { longest_ttl: Some(ttl), ..POLICY };
        let (mut steady, mut crashing) = (Bench::new(), Bench::new());
        for bench in [&mut steady, &mut crashing] {
            bench.policies.0.insert(VIEW, policy);
        }
        let crash_at = crash_at.index(frames.len() + 1);
        let flush_at = flush_at.index(crash_at + 1);
        for (index, frame) in frames.iter().enumerate() {
            steady.apply(frame);
            steady.promote(frame.now);
            if index < crash_at {
                crashing.apply(frame);
                crashing.promote(frame.now);
            }
            if index + 1 == flush_at {
                crashing.store().flush().expect("flushed");
                // Written after the flush and lost with the crash, such as a promotion.
                crashing.promote(frame.now + 50);
            }
        }
        let flushed = crashing.store().flushed_frame();
        crashing.reopen();
        prop_assert_eq!(crashing.store().applied().frame, flushed);
        prop_assert_eq!(flushed, flush_at as u64);
        for frame in frames.iter().filter(|frame| frame.number > flushed) {
            crashing.apply(frame);
            crashing.promote(frame.now);
        }
        let last = frames.last().expect("some frames").now;
        // A view's newest event time counts what was visible by the last promotion.
        steady.promote(last + 50);
        crashing.promote(last + 50);
        steady.sweep(last + 50);
        crashing.sweep(last + 50);
        prop_assert_eq!(steady.contents(), crashing.contents());
    }

    #[test]
    fn applying_frames_again_changes_nothing(frames in frames()) {
        let mut bench = Bench::new();
        for frame in &frames {
            bench.apply(frame);
        }
        let before = bench.contents();
        for frame in &frames {
            prop_assert!(bench.apply(frame).already_applied);
        }
        prop_assert_eq!(&bench.contents(), &before);
        // Even where the position had not advanced, as after a crash in the middle of a frame.
        let tails = before.tails.clone();
        for frame in &frames {
            bench.store().forget_applied(frame.number - 1);
            bench.apply(frame);
        }
        let after = bench.contents();
        prop_assert_eq!((&after.online, &after.tails, after.applied), (&before.online, &tails, before.applied));
    }
}

#[test]
fn what_was_not_flushed_is_not_claimed_to_be() {
    let mut bench = Bench::new();
    assert_eq!(bench.store().flushed_frame(), 0);
    bench.apply(&frame(1, [row(1, 50, 1)]));
    assert_eq!((bench.store().applied().frame, bench.store().flushed_frame()), (1, 0));
    bench.store().flush().expect("flushed");
    assert_eq!(bench.store().flushed_frame(), 1);
    bench.apply(&frame(2, [row(1, 60, 2)]));
    assert_eq!(bench.store().flushed_frame(), 1);
    bench.reopen();
    assert_eq!(bench.store().applied(), Applied { frame: 1, ingest_time: 100 });
    assert_eq!(bench.value(1), Some(1));
    bench.apply(&frame(2, [row(1, 60, 2)]));
    assert_eq!(bench.value(1), Some(2));
}

#[test]
fn the_position_advances_over_frames_without_rows_here() {
    let mut bench = Bench::new();
    bench.apply(&frame(7, []));
    assert_eq!(bench.view().applied(), Applied { frame: 7, ingest_time: 700 });
    assert_eq!(bench.store().flushed_frame(), 0);
    bench.store().flush().expect("flushed");
    assert_eq!(bench.store().flushed_frame(), 7);
    bench.reopen();
    assert_eq!(bench.store().applied().frame, 7);
}

#[test]
fn a_flush_takes_all_families_or_none() {
    let mut bench = Bench::new();
    // Enough in one family alone for RocksDB to flush by itself.
    let long = |number: u64| {
        let mut frame = frame(number, (0..KEYS).map(|key| row(key, number as Micros, 1)));
        frame.rows.iter_mut().for_each(|row| row.body = vec![7; 64 << 10].into());
        frame
    };
    for number in 1..=40 {
        bench.apply(&long(number));
    }
    bench.reopen();
    let applied = bench.store().applied().frame;
    let tail = bench.tail(VIEW, 0);
    assert_eq!(tail.len() as u64, applied * KEYS as u64);
    assert_eq!(bench.store().view_state(VIEW).map_or(0, |state| state.tail_rows), tail.len() as u64);
    if applied > 0 {
        assert_eq!(bench.row(1).expect("a row").header().version.position.frame, applied);
    }
}

#[test]
fn a_frame_larger_than_a_batch_is_applied_whole() {
    let mut bench = Bench::new();
    let rows = (0..2_500).map(|index| row(index % KEYS, index, index));
    let mut large = frame(1, rows);
    large.now = 2_000;
    let report = bench.apply(&large);
    assert_eq!(report.tailed_rows, 2_500);
    assert_eq!(report.pending_rows, 499);
    assert_eq!(bench.store().view_state(VIEW).expect("it has rows").tail_rows, 2_500);
    bench.promote(10_000);
    assert_eq!((0..KEYS).map(|key| bench.value(key)).max(), Some(Some(2_499)));
    assert_eq!(bench.store().view_state(VIEW).expect("it has rows").newest_event_time, Some(2_499));
}
