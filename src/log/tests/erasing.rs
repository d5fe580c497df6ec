//! Rows are blanked in the log, and the power is cut meanwhile.

use hydrant_storage::files::Files as _;
use hydrant_storage::files::lossy::Fault;
use hydrant_storage::keys::OnlineKey;

use super::disk::Machine;
use crate::log::conformance::{read_all, sample_request};
use crate::log::{LocalLog, WriteLog as _};

const FRAMES: u64 = 120;
const ERASED: &[u8] = b"key 17 1";

fn is_erased(name: &OnlineKey<'_>, frame: u64) -> bool {
    frame <= FRAMES && name.key == ERASED
}

async fn fill(log: &LocalLog) {
    for tag in 1..=FRAMES {
        // The same key in several frames.
        log.append(sample_request(if tag % 20 == 3 { 17 } else { tag + 1_000 }, 3, None)).await.expect("taken");
    }
}

/// Every row as it was, but for those that are erased; frames keep their numbers.
fn assert_erased(log: &LocalLog) {
    let frames = read_all(log, log.oldest() - 1).expect("readable");
    let numbers: Vec<u64> = frames.iter().map(|frame| frame.number).collect();
    assert_eq!(numbers, (1..=FRAMES).collect::<Vec<_>>());
    for frame in &frames {
        let tag = if frame.number % 20 == 3 { 17 } else { frame.number + 1_000 };
        let mut expected = sample_request(tag, 3, None).rows;
        expected.retain(|row| row.key != ERASED);
        assert_eq!(frame.rows, expected, "frame {}", frame.number);
    }
}

fn assert_nowhere(machine: &Machine) {
    for entry in machine.files.list(Machine::directory()).expect("listed") {
        let bytes = machine.files.read(&Machine::directory().join(&entry.name)).expect("read");
        let found = bytes.windows(ERASED.len()).any(|window| window == ERASED);
        assert!(!found, "{:?} still has the key", entry.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn erased_rows_are_in_no_file_of_the_log_and_frames_stay_where_they_were() {
    let machine = Machine::new(5);
    let log = machine.log();
    fill(&log).await;
    let counted = log.erase(FRAMES, &is_erased, true).expect("counted");
    assert_eq!((counted.rows, counted.segments > 1), (6, true));
    let done = log.erase(FRAMES, &is_erased, false).expect("erased");
    assert_eq!(done, counted);
    assert_erased(&log);
    assert_nowhere(&machine);
    assert_eq!(log.erase(FRAMES, &is_erased, false).expect("again").rows, 0);
    log.append(sample_request(17, 3, None)).await.expect("later rows of the key are new ones");
    drop(log);
    let frames = read_all(&machine.log(), FRAMES).expect("readable");
    assert_eq!(frames[0].rows.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_at_any_operation_of_an_erasure_leaves_a_log_from_which_it_goes_on() {
    let full = Machine::new(6);
    let log = full.log();
    fill(&log).await;
    drop(log);
    for operation in 0.. {
        let mut machine = Machine::with_files(full.files.after_power_cut(operation));
        let log = machine.log();
        let before = machine.files.operations();
        machine.files.fail_on(operation, Fault::Device);
        let outcome = log.erase(FRAMES, &is_erased, false);
        drop(log);
        let was_hit = machine.files.operations() - before > operation;
        machine.files.heal();
        assert!(was_hit || outcome.is_ok(), "{outcome:?}");
        machine = Machine::with_files(machine.files.after_power_cut(operation));
        let log = machine.log();
        log.erase(FRAMES, &is_erased, false).expect("again");
        assert_erased(&log);
        assert_nowhere(&machine);
        if !was_hit {
            break;
        }
    }
}
