//! A table made from another's rows, as the next version of a view has them.

use super::*;
use crate::files::LossyFiles;
use crate::files::lossy::Fault;
use crate::history::Succession;

const NAME: &str = "version-history";
/// Frames of the older table; rows of the third and of the last go to both.
const FRAMES: u64 = 5;
const OWN: u64 = 3;
const THROUGH: u64 = 4;

/// Three features, of which the next version leaves out the first, has the second wider and under another name,
/// and one more.
struct Life {
    older: HistoryViewSpec,
    next: HistoryViewSpec,
    rows: Vec<Row>,
    /// Of the next version.
    expected: Vec<Row>,
}

impl Life {
    fn new() -> Self {
        let typed = |names: &[(&str, ScalarType)]| {
            names.iter().map(|(feature, scalar)| (name(feature), DataType::Scalar(*scalar))).collect::<Vec<_>>()
        };
        let older =
            narrow_spec(typed(&[("gone", ScalarType::String), ("n", ScalarType::Int32), ("m", ScalarType::Float32)]));
        let next = narrow_spec(typed(&[
            ("number", ScalarType::Int64),
            ("m", ScalarType::Float64),
            ("more", ScalarType::Bool),
        ]));
        let next = HistoryViewSpec { version: 2, ..next };
        let (mut rows, mut expected) = (Vec::new(), Vec::new());
        for (frame, ordinal) in (1..=FRAMES).flat_map(|frame| (0..40).map(move |ordinal| (frame, ordinal))) {
            let seed = frame * 1_000 + u64::from(ordinal);
            let bare = row((ordinal % 7) as u16, i64::from(ordinal), 0, frame, ordinal);
            let deleted = ordinal % 11 == 0;
            // Some were written before the view had its last feature.
            let count = if deleted {
                0
            } else if frame == 1 {
                2
            } else {
                3
            };
            let old = Row { deleted, ..with_values(bare.clone(), &older, count, seed) };
            let mut values: Vec<Value> = old.values.iter().skip(1).map(widened).collect();
            if frame == OWN && !deleted {
                values.push(Value::Bool(true));
            }
            if frame <= THROUGH {
                expected.push(Row { deleted, values, ..bare });
            }
            rows.push(old);
        }
        Self { older, next, rows, expected: sorted(expected) }
    }

    async fn before(&self, files: &LossyFiles) -> Result<(HistoryTable, HistoryTable), HistoryError> {
        let (older, next) = (try_open(files, &self.older).await?, try_open(files, &self.next).await?);
        for frame in older.snapshot().landed_through + 1..=FRAMES {
            older.land(ModelRun::new(&self.older, &of_frames(&self.rows, frame, frame), 9), frame, 0).await?;
        }
        if next.snapshot().landed_through < OWN {
            next.land(ModelRun::new(&self.next, &of_frames(&self.expected, OWN, OWN), 9), OWN, 0).await?;
        }
        Ok((older, next))
    }

    async fn succeed(&self, older: &HistoryTable, next: &HistoryTable) -> Result<u64, HistoryError> {
        let origins = vec![Some(1), Some(2), None];
        let succession =
            Succession { from: older.snapshot(), origins, through: THROUGH, file_bytes: 1, rows: Arc::default() };
        next.succeed(succession, NAME, 7, unpaced()).await
    }
}

fn widened(value: &Value) -> Value {
    match value {
        Value::Int32(number) => Value::Int64((*number).into()),
        Value::Float32(number) => Value::Float64((*number).into()),
        other => other.clone(),
    }
}

#[test]
fn rows_keep_their_times_and_positions_and_those_of_the_tables_own_frames_are_there_once() {
    let life = Life::new();
    block_on(async {
        let files = LossyFiles::new(1);
        let (older, next) = life.before(&files).await.expect("landed");
        // Merged or not, and what the older one has stays as it is.
        compact(&older, EAGER, 0).await.expect("merged");
        assert_eq!(life.succeed(&older, &next).await.expect("made"), 3 * 40);
        assert_table(&next.snapshot(), &life.expected);
        assert_eq!(life.succeed(&older, &next).await.expect("nothing is left to do"), 0);
        assert_eq!(next.noted(NAME).await.expect("the log"), Some(THROUGH));
        assert_eq!(next.note(NAME, 99, 0).await.expect("noted once"), THROUGH);
        assert_table(&older.snapshot(), &sorted(life.rows.clone()));
        while compact(&next, EAGER, 0).await.expect("merged").is_some() {}
        assert_table(&next.snapshot(), &life.expected);
        assert_table(&try_open(&files, &life.next).await.expect("it opens").snapshot(), &life.expected);
    });
}

#[test]
fn a_power_cut_leaves_a_table_made_from_another_whole_or_not_begun() {
    let life = Life::new();
    block_on(async {
        let lived = async |files: &LossyFiles, done: &mut bool| -> Result<(), HistoryError> {
            let (older, next) = life.before(files).await?;
            life.succeed(&older, &next).await?;
            *done = true;
            Ok(())
        };
        let files = LossyFiles::new(0);
        lived(&files, &mut false).await.expect("nothing fails");
        let all = files.operations();
        for operation in 0..=all {
            let files = LossyFiles::new(operation);
            files.fail_on(operation, Fault::Device);
            let mut done = false;
            let _ = lived(&files, &mut done).await;
            files.heal();
            files.crash();
            let context = format!("power cut at operation {operation} of {all}");
            let next = try_open(&files, &life.next).await.unwrap_or_else(|error| panic!("{context}: {error}"));
            let is_made = next.noted(NAME).await.expect("the log").is_some();
            assert!(is_made || !done, "{context}: what was acknowledged is gone");
            let own = of_frames(&life.expected, OWN, OWN);
            let landed = if next.snapshot().landed_through >= OWN { own } else { Vec::new() };
            assert_table(&next.snapshot(), if is_made { &life.expected } else { &landed });
            // No file is left of which the table doesn't know.
            let directory = Path::new(ROOT).join(life.next.directory());
            assert_eq!(names_in(&files, &directory).len() - 1, next.snapshot().files.len(), "{context}");
            drop(next);
            lived(&files, &mut done).await.unwrap_or_else(|error| panic!("{context}: {error}"));
            assert_table(&try_open(&files, &life.next).await.expect("it opens").snapshot(), &life.expected);
        }
    });
}
