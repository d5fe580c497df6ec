//! Random rows and instants, against a model that keeps every row and looks at all of them.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::order::is_expired;

/// Frames of random rows of two views, few keys and few times, some of them in the future.
pub(super) fn frames() -> impl Strategy<Value = Vec<TestFrame>> {
    let row = (0..KEYS, -300_i64..200, any::<bool>(), proptest::option::of(-300_i64..200), 0_u8..8, any::<i64>());
    let rows = proptest::collection::vec(row, 0..8);
    proptest::collection::vec((rows, 0_i64..60), 1..8).prop_map(|frames| {
        let number_frame = |(index, (rows, delay)): (usize, (Vec<_>, Micros))| {
            let number = index as u64 + 1;
            let ingest_time = number as Micros * 100;
            let record = |(key, event, other_view, known, kind, value): (i64, _, bool, Option<Micros>, u8, i64)| {
                let event_time = ingest_time + event;
                let record = if kind == 0 { tombstone(key, event_time) } else { row_of(key, event_time, value) };
                let view = if other_view { OTHER_VIEW } else { VIEW };
                RowRecord { view, known_time: known.map(|known| ingest_time + known), ..record }
            };
            TestFrame { now: ingest_time + delay, ..frame(number, rows.into_iter().map(record)) }
        };
        frames.into_iter().enumerate().map(number_frame).collect()
    })
}

fn row_of(key: i64, event_time: Micros, value: i64) -> RowRecord {
    super::row(key, event_time, value)
}

/// Every row ever applied, by view and key.
#[derive(Default)]
struct Model(BTreeMap<(ViewId, Vec<u8>), Vec<ModelRow>>);

type ModelRow = (RowVersion, RowRecord);

impl Model {
    fn apply(&mut self, frame: &TestFrame) {
        for row in &frame.rows {
            let rows = self.0.entry((row.view, row.key.to_vec())).or_default();
            rows.push((row.version(frame.number, frame.ingest_time), row.clone()));
        }
    }

    /// The row that counts at `t`, as the contract says it.
    fn at(&self, view: ViewId, key: i64, t: Micros) -> Option<&ModelRow> {
        let rows = self.0.get(&(view, key_bytes(key)))?;
        let visible = rows.iter().filter(|(version, _)| version.event_time <= t && version.known_time <= t);
        visible.max_by_key(|(version, _)| *version)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_lookup_answers_what_every_row_together_says(
        frames in frames(),
        ttl in proptest::option::of(0_i64..400),
        flushes in any::<u8>(),
        sweeps in any::<u8>(),
        later in proptest::collection::vec(0_i64..300, 0..4),
    ) {
        let mut bench = Bench::new();
        bench.policies.0.insert(VIEW, ViewPolicy { longest_ttl: ttl, ..POLICY });
        let mut model = Model::default();
        let mut instants = Vec::new();
        for (index, frame) in frames.iter().enumerate() {
            bench.apply(frame);
            model.apply(frame);
            bench.promote(frame.now);
            if sweeps & (1 << index) != 0 {
                bench.sweep(frame.now);
            }
            if flushes & (1 << index) != 0 {
                bench.store().flush().expect("flushed");
            }
            check(&mut bench, &model, frame.now, ttl)?;
            instants.push(frame.now);
        }
        let mut t = instants.last().copied().unwrap_or_default();
        for step in later {
            t += step;
            bench.promote(t);
            check(&mut bench, &model, t, ttl)?;
        }
        let all: usize = model.0.values().map(Vec::len).sum();
        prop_assert_eq!(bench.tail(VIEW, 0).len() + bench.tail(OTHER_VIEW, 0).len(), all);
    }
}

/// Compares what every key answers at `t`, to which the store has been promoted.
fn check(bench: &mut Bench, model: &Model, t: Micros, ttl: Option<Micros>) -> Result<(), TestCaseError> {
    let contents = bench.contents();
    prop_assert!(contents.next_due.is_none_or(|due| due > t));
    let keys = [VIEW, OTHER_VIEW].into_iter().flat_map(|view| (0..KEYS).map(move |key| (view, key)));
    for ((view, key), online) in keys.zip(&contents.online) {
        let ttl = ttl.filter(|_| view == VIEW);
        let Some((version, record)) = model.at(view, key, t) else {
            prop_assert!(online.is_none(), "{:?} {}: {:?}", view, key, online);
            continue;
        };
        let online = online.as_ref();
        prop_assert!(online.is_some(), "{:?} {}", view, key);
        let online = online.expect("just checked");
        let header = online.header();
        prop_assert_eq!(header.version, *version);
        match header.kind {
            RowKind::Tombstone => prop_assert!(record.tombstone),
            RowKind::ExpiredStub => prop_assert!(!record.tombstone && is_expired(version.event_time, t, ttl)),
            RowKind::Full => {
                prop_assert!(!record.tombstone);
                prop_assert_eq!(online.body(), &record.body);
            }
        }
    }
    for (view, state) in [VIEW, OTHER_VIEW].into_iter().zip(contents.states) {
        let newest = (0..KEYS).filter_map(|key| Some(model.at(view, key, t)?.0.event_time)).max();
        prop_assert_eq!(state.and_then(|state| state.newest_event_time), newest);
    }
    Ok(())
}
