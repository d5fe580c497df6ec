//! Rows in RocksDB's blocks, as many as take several files and hundreds of blocks: each is found, in
//! either mode and by views of before, and what was never written is not.

use std::fs;

use super::*;

const MANY: i64 = 20_000;
const FRAMES: i64 = 10;
const REWRITTEN_EVERY: i64 = 7;

/// Where the rows of a test lie.
#[derive(Clone, Copy, Debug)]
enum Spread {
    /// By their hash: a block or less for a slot.
    Hashed,
    /// In a few slots, so that slots say nothing of where in them a key is.
    Crowded,
}

impl Spread {
    fn slot(self, key: &[u8]) -> u16 {
        let hashed = slot_of_key(key);
        match self {
            Self::Hashed => hashed,
            Self::Crowded => hashed % 3 * 20_000,
        }
    }
}

fn bench() -> Bench {
    Bench::with(|options| options.block_cache_bytes = 64 << 20)
}

fn value_in(view: &ReadView, key: i64, spread: Spread, mode: ReadMode) -> Option<i64> {
    let bytes = key_bytes(key);
    let name = OnlineKey { slot: spread.slot(&bytes), tenant: TENANT, view: VIEW, key: &bytes };
    match view.lookup(&[name], mode).remove(0) {
        Lookup::Row(row) => Some(value_of(&row)),
        Lookup::Absent => None,
        other => panic!("key {key} ({mode:?}): a row or none, not {other:?}"),
    }
}

fn placed(key: i64, event_time: Micros, value: i64, spread: Spread) -> RowRecord {
    let row = row(key, event_time, value);
    RowRecord { slot: spread.slot(&row.key), ..row }
}

#[test]
fn every_row_is_found_among_many_blocks_and_nothing_else() {
    for spread in [Spread::Hashed, Spread::Crowded] {
        let mut bench = bench();
        for number in 0..FRAMES {
            // Every other key, so that there are keys between those that exist.
            let keys = (0..MANY).filter(|key| key % FRAMES == number).map(|key| key * 2);
            bench.apply(&frame(number as u64 + 1, keys.map(|key| placed(key, 1, key, spread))));
            bench.store().flush().expect("flushed");
        }
        let before = bench.view();
        let rewritten = (0..MANY).step_by(REWRITTEN_EVERY as usize).map(|key| key * 2);
        bench.apply(&frame(FRAMES as u64 + 1, rewritten.map(|key| placed(key, 2, -key, spread))));
        bench.store().flush().expect("flushed");
        let after = bench.view();
        let look = |of: &str| {
            // What has blocked once is in memory.
            for mode in [ReadMode::MayBlock, ReadMode::CachedOnly] {
                for key in 0..MANY {
                    let (exists, is_rewritten) = (key * 2, key % REWRITTEN_EVERY == 0);
                    let newest = if is_rewritten { -exists } else { exists };
                    assert_eq!(value_in(&before, exists, spread, mode), Some(exists), "{spread:?}, {of}, before");
                    assert_eq!(value_in(&after, exists, spread, mode), Some(newest), "{spread:?}, {of}, after");
                    assert_eq!(
                        value_in(&after, exists + 1, spread, mode),
                        None,
                        "{spread:?}, {of}, key {}",
                        exists + 1
                    );
                }
            }
        };
        look("as flushed");
        let database = after.database();
        database.rocksdb().compact_range_cf(database.latest(), None::<&[u8]>, None::<&[u8]>);
        look("compacted");
    }
}

#[test]
fn online_rows_are_kept_in_blocks_made_for_lookups() {
    let mut bench = bench();
    bench.apply(&frame(1, [row(1, 1, 1)]));
    let is_options = |name: &str| name.starts_with("OPTIONS-") && !name.ends_with(".dbtmp");
    let files = fs::read_dir(bench.path()).expect("the store's directory");
    let names = files.map(|file| file.expect("an entry").file_name().into_string().expect("ASCII"));
    let newest = names.filter(|name| is_options(name)).max().expect("RocksDB writes its options down");
    let options = fs::read_to_string(bench.path().join(newest)).expect("a readable file");
    let of_latest = options.split("[TableOptions/").find(|part| part.starts_with("BlockBasedTable \"latest\"]"));
    let of_latest = of_latest.expect("the family's blocks");
    // Those that are set by a string leave what was set before it as it was.
    for option in [
        "filter_policy=bloomfilter",
        "block_size=8192",
        "block_restart_interval=8",
        "data_block_index_type=kDataBlockBinaryAndHash",
        "separate_key_value_in_data_block=true",
        "prepopulate_block_cache=kFlushAndCompaction",
        "index_block_search_type=kAuto",
        "uniform_cv_threshold=3",
        "cache_index_and_filter_blocks=false",
    ] {
        assert!(of_latest.contains(option), "{option} is not among\n{of_latest}");
    }
}
