//! The one sentence of the contract as a property: a historical value is right when the online store
//! would have returned it at that instant. Random definitions, rows, instants and landings; what
//! unpinned online reads answered is written down as it is answered, and training sets made
//! afterwards must say the same, cell by cell. A pinned read alone would compare history with itself.

mod shape;
mod story;
mod values;
mod world;

use crate::support::random::{SEED_VARIABLE, seeds};
use story::Story;

const CASES: u64 = 36;
const STEPS: usize = 220;

/// Where known time is arrival, the records are the truth; everywhere, training sets in both modes
/// and with cut-offs, pinned and unpinned reads must agree with a naive reading of the contract.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn training_gives_what_unpinned_online_reads_answered_at_those_instants() {
    let seeds = seeds(CASES);
    let is_replay = (seeds.len() as u64) < CASES;
    println!("{} cases from seed {}; {SEED_VARIABLE} replays one", seeds.len(), seeds[0]);
    let mut told = story::Tally::default();
    for seed in seeds {
        println!("seed {seed}");
        let mut story = Story::begin(seed).await;
        for _ in 0..STEPS {
            story.step().await;
        }
        told += story.end().await;
    }
    println!("{told:?}");
    assert!(is_replay || told.restores > 0, "no backup was restored");
    assert!(is_replay || told.refills > 0, "no ttl was raised that had to be refilled for");
    assert!(is_replay || told.renamed > 0, "no new version of a view was built");
    assert!(is_replay || told.explained_losers > 0, "nothing was explained");
    assert!(is_replay || told.brought_online > 0, "nothing of a backfill came online");
}
