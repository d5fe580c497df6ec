//! kill -9 of a serving process in a loop of writes: whatever was acknowledged is there after every
//! restart, what was only sent is there whole or not at all, and nothing else is. Landing, flushes,
//! trims and changes of definitions run meanwhile, and are cut off wherever they are.

mod answers;
mod ledger;
#[path = "../support/process.rs"]
mod process;
#[expect(dead_code, reason = "shared with other test programs")]
#[path = "../support/random.rs"]
mod random;
mod refill;
mod rows;
mod scene;
mod training;
mod writers;

use scene::{KillAt, Scene};

/// How often the server is killed.
const ROUNDS: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_nothing_acknowledged_is_lost_and_nothing_is_invented() {
    let [seed] = random::seeds(1)[..] else { panic!("one seed was asked for") };
    println!("{}={seed} replays what is sent and when the server is killed", random::SEED_VARIABLE);
    let mut scene = Scene::new(seed).await;
    for round in 0..ROUNDS {
        let kill_at = scene.choose(round);
        scene.round(round, kill_at).await;
    }
    scene.assert_that_rows_landed_meanwhile();
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_while_it_replays_its_log_replays_it_again() {
    let mut scene = Scene::new(1).await;
    scene.round(0, KillAt::Acknowledged(40)).await;
    for round in 1..6 {
        scene.round(round, KillAt::Listening).await;
    }
    scene.round(6, KillAt::Acknowledged(1)).await;
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refill_goes_on_after_every_kill_9_and_takes_effect_for_all_keys_at_once() {
    let [seed] = random::seeds(1)[..] else { panic!("one seed was asked for") };
    println!("{}={seed} replays when the server is killed", random::SEED_VARIABLE);
    refill::is_refilled_however_often_it_is_killed(seed).await;
}
