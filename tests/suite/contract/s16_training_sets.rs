//! Contract, section 16: training sets that are pulled in parts, and those that are saved.

use std::ops::Range;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use futures::FutureExt as _;
use futures::future::join_all;
use hydrant::error::{Code, Error};
use hydrant::history::ContentDigest;
use hydrant::history::sets::Progress;
use hydrant::registry::definition::Kind;
use hydrant::tenancy::{Action, Class, DEFAULT_TENANT, Identity, Role};
use serde_json::{Value as Json, json};

use super::SHOP;
use crate::support::node::{AS_KNOWN, DAY, FINAL, HOUR, MINUTE, START, TestNode};
use crate::support::random::{Random, seeds};
use crate::support::sets::{set_name, stored};
use crate::support::table::spine;

/// Everything that a training set may not depend on: rows land, files are merged, late rows come, the
/// views get new features, the server starts again.
async fn live_on(node: &mut TestNode, random: &mut Random) {
    match random.below(5) {
        0 => drop(node.land().await),
        1 => {
            node.land().await;
            node.put("facts", facts(random, 5)).await;
            node.land().await;
            node.compact().await;
        }
        2 => drop(node.put("facts", facts(random, 20)).await),
        3 => {
            // Views get another feature, and the service another version.
            let more =
                "features: [{name: plan}, {name: level, default: -1}, {name: again, type: int64, column: level}]";
            let changed = SHOP.replacen("features: [{name: plan}, {name: level, default: -1}]", more, 1);
            node.apply(&changed.replace("- user_facts:plan\n", "- user_facts\n")).await;
        }
        _ => node.restart().await,
    }
}

fn facts(random: &mut Random, rows: usize) -> Json {
    let plans = ["gold", "free", "blue"];
    let row = |_| {
        json!({
            "user_id": random.between(0, 6), "happened": START - random.between(0, 300) * MINUTE,
            "plan": random.pick(&plans), "level": random.between(-9, 9),
        })
    };
    (0..rows).map(row).collect()
}

fn random_spine(random: &mut Random, rows: usize) -> RecordBatch {
    let key = |random: &mut Random| if random.chance(10) { Json::Null } else { json!(random.between(0, 8)) };
    let row = |number| {
        json!({
            "number": number, "user_id": key(random), "friend_id": key(random),
            "at": START - random.between(0, 360) * MINUTE,
        })
    };
    let mut rows: Vec<Json> = (0..rows as i64).map(row).collect();
    // A column has a type where one row has a value.
    rows.push(json!({"number": -1, "user_id": 1, "friend_id": 1, "at": START}));
    spine(&rows.into())
}

fn hash_of(table: &RecordBatch, spine_columns: usize) -> String {
    let mut digest = ContentDigest::new(&table.schema(), spine_columns);
    digest.update(table).expect("hashed");
    digest.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_put_together_are_what_one_exchange_gives_bit_for_bit_whatever_happens_meanwhile() {
    for seed in seeds(12) {
        println!("HYDRANT_TEST_SEED={seed}");
        let mut random = Random::new(seed);
        let mut node = TestNode::start_with(SHOP, |config| {
            // Small pieces and ranges, so that endpoints lie across them.
            config.history.memory = hydrant::config::ByteSize::mib(16);
        })
        .await;
        node.put("facts", facts(&mut random, 60)).await;
        let wanted = random_spine(&mut random, random_rows(seed));
        let ask = if random.chance(50) { AS_KNOWN } else { FINAL };
        let whole = node.train(&["model@1"], &wanted, ask).await;
        let id = node.store(&wanted).await;
        let ask = ask.up_to(whole.report.cutoff);
        let prepared = node.prepare(stored(id, &["model@1"], ask)).await;
        let saved = node.save("set", stored(id, &["model@1"], ask)).await;
        assert_eq!(saved.content_hash, whole.report.content_hash, "seed {seed}: the hash of the same request");
        assert_eq!(saved.spine_hash, whole.report.spine_hash);
        for _ in 0..6 {
            let each = random.between(1, wanted.num_rows() as i64 + 1) as u64;
            let each = each.max(wanted.num_rows() as u64 / 900 + 1);
            let again =
                node.sets().reopen(&node.permit(Action::ReadHistory), prepared.request.clone()).expect("as ever");
            assert_eq!(node.pull_all(&again, each).await, whole.table, "seed {seed}, endpoints of {each} rows");
            assert_eq!(node.pull_saved("set", 1, each).await, whole.table, "seed {seed}, endpoints of {each} rows");
            drop((again, live_on(&mut node, &mut random).await));
        }
        let verified = node.verify("set", 1).await;
        assert!(verified.is_same && verified.rows == wanted.num_rows() as u64, "seed {seed}: {verified:?}");
        assert_eq!(hash_of(&whole.table, wanted.num_columns()), verified.content_hash, "clients get the hash too");
    }
}

/// Most spines are small, and some have several pieces and ranges.
fn random_rows(seed: u64) -> usize {
    if seed.is_multiple_of(4) { 40_000 } else { 1 + (seed % 97) as usize }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spine_is_stored_once_and_is_there_after_a_restart() {
    let mut node = TestNode::start(SHOP).await;
    let wanted = spine(&json!([{"user_id": 1, "friend_id": 2, "at": START}]));
    let first = node.try_store(&wanted).await.expect("stored");
    assert!(first.is_new);
    let again = node.try_store(&wanted).await.expect("stored");
    assert!(!again.is_new && again.spine.id == first.spine.id);
    // Other rows, or the same under another type, are another spine.
    let other = spine(&json!([{"user_id": 1, "friend_id": 3, "at": START}]));
    assert_ne!(node.store(&other).await, first.spine.id);
    let id = first.spine.id;
    drop((first, again));
    node.restart().await;
    let prepared = node.prepare(stored(id, &["model"], AS_KNOWN)).await;
    assert_eq!(prepared.rows(), 1);
    assert_eq!(node.pull(&prepared, 0..1).await.num_rows(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spine_goes_after_its_time_unless_it_is_put_again_or_a_saved_training_set_has_it() {
    let node = TestNode::start(SHOP).await;
    let one = |user: i64| spine(&json!([{"user_id": user, "friend_id": 2, "at": START}]));
    let (left, renewed, saved) = (node.store(&one(1)).await, node.store(&one(2)).await, node.store(&one(3)).await);
    node.save("set", stored(saved, &["model"], AS_KNOWN)).await;
    node.sets().forget_found();
    node.advance(6 * DAY).await;
    node.store(&one(2)).await;
    node.advance(2 * DAY).await;
    node.sets().sweep();
    let tenant = node.permit(Action::ReadHistory).tenant().clone();
    let is_there = |id| node.sets().spines().get(&tenant, id).is_ok();
    assert_eq!((is_there(left), is_there(renewed), is_there(saved)), (false, true, true));
    let gone = node.sets().prepare(&node.permit(Action::ReadHistory), stored(left, &["model"], AS_KNOWN)).await;
    let refusal = gone.expect_err("it has gone");
    assert!(refusal.reason == "SPINE_NOT_FOUND" && refusal.hint.is_some(), "{refusal:?}");
    node.sets().delete(&node.permit(Action::ReadHistory), set_name("set"), None).await.expect("deleted");
    node.sets().sweep();
    assert!(!is_there(saved), "nothing needs it any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_spines_have_a_bound_of_bytes_and_of_number() {
    let node = TestNode::start_with(SHOP, |config| {
        config.training_sets.max_spines = 1;
        config.training_sets.spine_bytes = hydrant::config::ByteSize::mib(1);
    })
    .await;
    let one = |user: i64| spine(&json!([{"user_id": user, "friend_id": 2, "at": START}]));
    node.store(&one(1)).await;
    let refusal = node.try_store(&one(2)).await.expect_err("one too many");
    assert_eq!((refusal.code, refusal.reason), (Code::ResourceExhausted, "TOO_MANY_SPINES"));
    node.store(&one(1)).await;
    let noise = |row: i64| format!("{:032x}", u128::from(Random::new(row as u64).next()) << 64 | row as u128);
    let rows: Vec<Json> = (0..60_000)
        .map(|row: i64| json!({"user_id": row, "friend_id": row, "at": START, "text": noise(row)}))
        .collect();
    let refusal = node.try_store(&spine(&rows.into())).await.expect_err("too large");
    assert_eq!(refusal.reason, "TOO_MANY_SPINES");
    assert_eq!(std::fs::read_dir(node.data_directory().join("spines/default")).expect("listed").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_are_pulled_at_once_share_one_walk() {
    let node = TestNode::start(SHOP).await;
    let mut random = Random::new(7);
    node.put("facts", facts(&mut random, 50)).await;
    let wanted = random_spine(&mut random, 500);
    let id = node.store(&wanted).await;
    let prepared = node.prepare(stored(id, &["model"], AS_KNOWN)).await;
    assert_eq!(node.sets().progress(&prepared), Progress::NotBegun);
    let endpoints: Vec<Range<u64>> = prepared.endpoints(70, u64::MAX).expect("not too many");
    assert_eq!(endpoints.len(), 8);
    let pulls = endpoints.iter().map(|rows| node.pull(&prepared, rows.clone()));
    let first = join_all(pulls).await;
    assert_eq!((node.walks(), node.sets().progress(&prepared)), (1, Progress::Found));
    // One of them again, as after a failure.
    assert_eq!(node.pull(&prepared, endpoints[3].clone()).await, first[3]);
    assert_eq!(node.walks(), 1);
    // What was found has gone, as after a restart: it is found again, and is the same.
    node.sets().forget_found();
    assert_eq!(node.pull(&prepared, endpoints[5].clone()).await, first[5]);
    assert_eq!(node.walks(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_not_let_in_keeps_no_other_from_walking() {
    let node = TestNode::start(SHOP).await;
    let id = node.store(&spine(&json!([{"user_id": 1, "friend_id": 2, "at": START}]))).await;
    let prepared = node.prepare(stored(id, &["model"], AS_KNOWN)).await;
    let permit = || node.permit(Action::ReadHistory);
    for _ in 0..20 {
        let not_let_in = || async { Err(Error::new(Code::ResourceExhausted, "TOO_MANY_JOINS", "not now")) }.boxed();
        let first = node.sets().pull(permit(), &prepared, 0..1, Box::new(not_let_in));
        let second = node.sets().pull(permit(), &prepared, 0..1, node.admission());
        let (first, second) = tokio::join!(first, second);
        assert_eq!(first.map(drop).expect_err("not let in").reason, "TOO_MANY_JOINS");
        assert!(second.is_ok());
        node.sets().forget_found();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_found_is_let_go_after_its_time() {
    let node = TestNode::start(SHOP).await;
    let id = node.store(&spine(&json!([{"user_id": 1, "friend_id": 2, "at": START}]))).await;
    let prepared = node.prepare(stored(id, &["model"], AS_KNOWN)).await;
    node.pull(&prepared, 0..1).await;
    assert!(node.use_cases().history.spilled_bytes() > 0, "it lies on disk");
    node.advance(HOUR - MINUTE).await;
    node.sets().sweep();
    assert_eq!(node.sets().progress(&prepared), Progress::Found);
    node.advance(2 * MINUTE).await;
    node.sets().sweep();
    assert_eq!(node.sets().progress(&prepared), Progress::NotBegun);
    assert_eq!(node.use_cases().history.spilled_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_that_nobody_waits_for_stops_and_one_that_somebody_waits_for_goes_on() {
    let node = TestNode::start_with(SHOP, |config| config.history.threads = 1).await;
    let mut random = Random::new(8);
    node.put("facts", facts(&mut random, 50)).await;
    let id = node.store(&random_spine(&mut random, 400_000)).await;
    let prepared = node.prepare(stored(id, &["model"], AS_KNOWN)).await;
    let is_walking = || matches!(node.sets().progress(&prepared), Progress::Walking { rows_walked: 1.., .. });
    let working = || node.use_cases().tenancy.working(Class::Training);
    {
        let mut alone = Box::pin(node.pull(&prepared, 0..10));
        while !is_walking() {
            assert!(alone.as_mut().now_or_never().is_none(), "it is under way");
            tokio::task::yield_now().await;
        }
    }
    let hung_up = Instant::now();
    while working() > 0 || node.use_cases().history.spilled_bytes() > 0 {
        assert!(hung_up.elapsed() < Duration::from_secs(20), "the work goes on");
        tokio::task::yield_now().await;
    }
    println!("the work ended {:?} after its client had gone", hung_up.elapsed());
    assert_eq!(node.walks(), 0);
    // Two wait, and one of them goes.
    let other = {
        let mut one = Box::pin(node.pull(&prepared, 0..10));
        let mut other = Box::pin(node.pull(&prepared, 10..20));
        while !is_walking() {
            assert!(one.as_mut().now_or_never().is_none() && other.as_mut().now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        other
    };
    assert_eq!(other.await.num_rows(), 10);
    assert_eq!(node.walks(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_pulls_no_more_endpoints_at_a_time_than_it_may() {
    let node = TestNode::start_with(SHOP, |config| config.training_sets.max_pulls = 1).await;
    let id = node.store(&random_spine(&mut Random::new(9), 100_000)).await;
    let prepared = node.prepare(stored(id, &["model"], AS_KNOWN)).await;
    let permit = || node.permit(Action::ReadHistory);
    // Its client takes nothing of it, and it holds the place.
    let first = node.sets().pull(permit(), &prepared, 0..100_000, node.admission()).await.expect("there is a place");
    let waiting: Vec<_> =
        (0..8).map(|_| Box::pin(node.sets().pull(permit(), &prepared, 0..1, node.admission()))).collect();
    let mut waiting = waiting;
    for pull in &mut waiting {
        assert!(pull.as_mut().now_or_never().is_none(), "it waits");
    }
    let refused = node.sets().pull(permit(), &prepared, 0..1, node.admission()).await;
    let refusal = refused.map(drop).expect_err("too many wait");
    assert_eq!((refusal.code, refusal.reason), (Code::ResourceExhausted, "TOO_MANY_PULLS"));
    assert!(refusal.retry_after.is_some());
    drop(first);
    assert!(waiting.remove(0).await.is_ok(), "the place is given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_would_give_other_rows_is_refused() {
    let node = TestNode::start(SHOP).await;
    let id = node.store(&spine(&json!([{"user_id": 1, "friend_id": 2, "at": START}]))).await;
    let request = hydrant::history::sets::StoredRequest {
        services: Vec::new(),
        features: vec!["user_facts:level".to_owned()],
        ..stored(id, &[], AS_KNOWN)
    };
    let prepared = node.prepare(request).await;
    let permit = node.permit(Action::ReadHistory);
    assert!(node.sets().reopen(&permit, prepared.request.clone()).is_ok());
    node.apply(&SHOP.replacen("default: -1", "default: -2", 1)).await;
    let refusal = node.sets().reopen(&permit, prepared.request.clone()).expect_err("the default is another");
    assert!(refusal.reason == "TICKET_OUTDATED" && refusal.hint.is_some(), "{refusal:?}");
    let refusal = node.sets().pull(permit, &prepared, 1..2, node.admission()).await.map(drop);
    assert_eq!(refusal.expect_err("there is one row").reason, "BAD_TICKET");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_training_set_records_all_that_makes_it_again_and_what_is_in_it() {
    let mut node = TestNode::start(SHOP).await;
    node.put("facts", json!([{"user_id": 1, "happened": START - MINUTE, "plan": "gold", "level": 4}])).await;
    node.land().await;
    node.put("facts", json!([{"user_id": 2, "happened": START - MINUTE, "plan": null, "level": 8}])).await;
    let wanted = spine(&json!([
        {"user_id": 1, "friend_id": 2, "at": START},
        {"user_id": 2, "friend_id": 1, "at": START},
        {"user_id": 3, "friend_id": 3, "at": START},
    ]));
    let id = node.store(&wanted).await;
    let set = node.save("set", stored(id, &["model"], FINAL)).await;
    let report = node.train(&["model"], &wanted, FINAL.up_to(set.cutoff)).await.report;
    assert_eq!((set.name.as_str(), set.version, set.rows), ("set", 1, 3));
    assert_eq!((&set.services, set.spine, set.is_final), (&vec!["model@1".to_owned()], id, true));
    assert_eq!((&set.spine_hash, &set.content_hash), (&report.spine_hash, &report.content_hash));
    assert_eq!(set.registry_revision, report.registry_revision);
    let facts = set.tables.iter().find(|table| table.view == "user_facts").expect("it was read");
    assert_eq!((facts.view_version, facts.tail_rows > 0, facts.delta_version.is_some()), (1, true, true));
    assert_eq!(set.columns.len(), wanted.num_columns() + 3 * 4);
    let of = |name: &str| set.statistics.iter().find(|column| column.name == name).expect("a feature").clone();
    let level = of("friend__level");
    let numbers = level.numbers.expect("there are numbers");
    // The default of the one that isn't there is a number too.
    assert_eq!((numbers.min, numbers.max, numbers.mean), (-1.0, 8.0, 11.0 / 3.0));
    assert_eq!((level.nulls, level.statuses.present, level.statuses.not_found), (0, 2, 1));
    let plan = of("user_facts__plan");
    assert_eq!((plan.nulls, plan.statuses.null, plan.statuses.not_found, plan.numbers), (2, 1, 1, None));
    node.restart().await;
    assert_eq!(node.sets().get(&node.permit(Action::ReadHistory), &set_name("set"), None).expect("it is there"), set);
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_of_a_training_set_count_up_and_are_never_given_again() {
    let mut node = TestNode::start(SHOP).await;
    let id = node.store(&spine(&json!([{"user_id": 1, "friend_id": 2, "at": START}]))).await;
    let save = async |node: &TestNode| node.try_save("set", stored(id, &["model"], AS_KNOWN)).await.expect("saved");
    assert!(save(&node).await.is_new);
    let same = save(&node).await;
    assert!(!same.is_new && same.set.version == 1, "the same rows, asked for in the same way");
    node.put("facts", json!([{"user_id": 1, "happened": START - MINUTE, "plan": "gold"}])).await;
    assert_eq!(save(&node).await.set.version, 2, "other rows");
    let permit = node.permit(Action::ReadHistory);
    assert_eq!(node.sets().delete(&permit, set_name("set"), Some(2)).await.expect("deleted"), ["set@2"]);
    let gone = node.sets().get(&permit, &set_name("set"), Some(2)).expect_err("deleted");
    assert_eq!(gone.reason, "TRAINING_SET_NOT_FOUND");
    drop(permit);
    node.restart().await;
    assert_eq!(save(&node).await.set.version, 3);
    let permit = node.permit(Action::ReadHistory);
    assert_eq!(node.sets().delete(&permit, set_name("set"), None).await.expect("deleted"), ["set@1", "set@3"]);
    assert!(node.sets().list(&permit).expect("listed").is_empty());
    assert_eq!(save(&node).await.set.version, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_saved_of_a_training_set_whose_caller_s_credential_ends_meanwhile() {
    let node = TestNode::start(SHOP).await;
    let id = node.store(&random_spine(&mut Random::new(4), 200_000)).await;
    let ann =
        Identity::new("ann", DEFAULT_TENANT.parse().expect("a name"), [Role::Trainer].into_iter().collect(), None);
    let permit = node.use_cases().tenancy.authorize(&ann, Action::ReadHistory).expect("she may");
    let new = hydrant::history::sets::NewSet { name: set_name("set"), request: stored(id, &["model"], AS_KNOWN) };
    let creation = node.sets().create(&permit, new).await.expect("it is right");
    let mut made = Box::pin(creation.finish(node.admission()));
    while creation.progress().0 == Progress::NotBegun {
        assert!(made.as_mut().now_or_never().is_none(), "it is under way");
        tokio::task::yield_now().await;
    }
    ann.revoke();
    let refused = made.await.expect_err("it is hers no more");
    assert_eq!((refused.code, refused.reason), (Code::Unauthenticated, "KEY_REVOKED"));
    assert!(node.sets().list(&node.permit(Action::ReadHistory)).expect("listed").is_empty());
    let set = node.save("set", stored(id, &["model"], AS_KNOWN)).await;
    let verification = node.sets().verify(&permit, &set_name("set"), None).await.expect("it was let in before");
    let refused = verification.finish(node.admission()).await.expect_err("it is hers no more");
    assert_eq!((set.version, refused.reason), (1, "KEY_REVOKED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_saved_of_a_training_set_that_fails_or_is_given_up() {
    let node = TestNode::start_with(SHOP, |config| config.training_sets.max_saved = 1).await;
    let id = node.store(&random_spine(&mut Random::new(3), 200_000)).await;
    let request = || stored(id, &["model"], AS_KNOWN);
    let new = hydrant::history::sets::NewSet { name: set_name("set"), request: request() };
    let creation = node.sets().create(&node.permit(Action::ReadHistory), new).await.expect("it is right");
    let mut given_up = Box::pin(creation.finish(node.admission()));
    while creation.progress().0 == Progress::NotBegun {
        assert!(given_up.as_mut().now_or_never().is_none(), "it is under way");
        tokio::task::yield_now().await;
    }
    drop(given_up);
    let permit = node.permit(Action::ReadHistory);
    assert!(node.sets().list(&permit).expect("listed").is_empty());
    for (wrong, reason) in [
        (stored(id, &[], AS_KNOWN), "TRAINING_SET_WITHOUT_SERVICE"),
        (stored(id, &["model@9"], AS_KNOWN), "SERVICE_VERSION_NOT_FOUND"),
        (stored(id, &["model"], AS_KNOWN.up_to(node.now() + HOUR)), "CUTOFF_IN_FUTURE"),
    ] {
        assert_eq!(node.try_save("set", wrong).await.expect_err("refused").reason, reason);
    }
    node.save("set", request()).await;
    let other = node.try_save("other", request()).await.expect_err("one too many");
    assert_eq!(other.reason, "TOO_MANY_TRAINING_SETS");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_saved_training_set_was_made_of_is_not_deleted_and_lineage_shows_it() {
    let mut node = TestNode::start(SHOP).await;
    let id = node.store(&spine(&json!([{"user_id": 1, "friend_id": 2, "at": START}]))).await;
    node.save("set", stored(id, &["model"], AS_KNOWN)).await;
    node.apply(&SHOP.replace("- user_facts:plan\n", "- user_facts\n")).await;
    node.restart().await;
    let (model, registry) = (set_name("model"), node.use_cases().registry.clone());
    let permit = node.permit(Action::ChangeDefinitions);
    let version = registry.delete_version(&permit, &model, 1, String::new()).await.expect_err("it is in use");
    let whole = registry.delete(&permit, Kind::FeatureService, &model, String::new()).await.expect_err("it is in use");
    for refusal in [version, whole] {
        assert_eq!(refusal.reason, "DEFINITION_IN_USE");
        assert!(refusal.message.contains("TrainingSet/set@1"), "{refusal}");
    }
    let read = node.permit(Action::ReadDefinitions);
    let shown = vec![(model.clone(), "set@1".to_owned())];
    for (kind, name) in [(Kind::FeatureService, "model"), (Kind::FeatureView, "user_facts"), (Kind::Source, "facts")] {
        assert_eq!(registry.lineage(&read, kind, &set_name(name)).expect("it is there").training_sets, shown, "{name}");
    }
    assert_eq!(registry.lineage_of_version(&read, &model, 1).expect("it is there").training_sets, shown);
    assert_eq!(registry.lineage_of_version(&read, &model, 2).expect("it is there").training_sets, []);
    let history = node.permit(Action::ReadHistory);
    node.sets().delete(&history, set_name("set"), None).await.expect("deleted");
    registry.delete_version(&permit, &model, 1, String::new()).await.expect("nothing needs it any more");
    drop((permit, read, history, registry));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_has_the_saved_training_sets_and_their_spines() {
    let node = TestNode::start(SHOP).await;
    node.put("facts", json!([{"user_id": 1, "happened": START - MINUTE, "plan": "gold", "level": 4}])).await;
    let wanted = spine(&json!([{"user_id": 1, "friend_id": 2, "at": START}]));
    let set = node.save("set", stored(node.store(&wanted).await, &["model"], AS_KNOWN)).await;
    let rows = node.pull_saved("set", 1, 0).await;
    node.back_up("whole").await.expect("backed up");
    let restored = node.restored("whole").await;
    assert_eq!(restored.sets().get(&restored.permit(Action::ReadHistory), &set_name("set"), None).expect("there"), set);
    assert_eq!(restored.pull_saved("set", 1, 0).await, rows);
    assert!(restored.verify("set", 1).await.is_same);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_spine_is_data_loss_naming_it_and_putting_it_again_mends_it() {
    let mut node = TestNode::start(SHOP).await;
    let wanted = spine(&json!([{"user_id": 1, "friend_id": 2, "at": START}]));
    let id = node.store(&wanted).await;
    let set = node.save("set", stored(id, &["model"], AS_KNOWN)).await;
    node.close().await;
    let path = node.data_directory().join(format!("spines/default/{id}.spine"));
    let whole = std::fs::read(&path).expect("it is there");
    let mut damaged = whole.clone();
    damaged[40] ^= 1;
    std::fs::write(&path, &damaged).expect("written");
    node.open().await.expect("the others are served");
    let permit = node.permit(Action::ReadHistory);
    let pulled = match node.sets().prepare_saved(&permit, &set_name("set"), None).await {
        Ok((_, prepared)) => node.try_pull(&prepared, 0..1).await.map(drop),
        Err(error) => Err(error),
    };
    let refusal = pulled.expect_err("a byte is wrong");
    assert!(refusal.code == Code::DataLoss && refusal.message.contains(&id.to_string()), "{refusal:?}");
    drop(permit);
    node.store(&wanted).await;
    assert_eq!(node.pull_saved("set", set.version, 0).await.num_rows(), 1);
    node.restart().await;
    assert_eq!(node.pull_saved("set", set.version, 0).await.num_rows(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spine_that_was_lost_and_is_put_again_stays_with_its_training_set() {
    let mut node = TestNode::start(SHOP).await;
    let wanted = spine(&json!([{"user_id": 1, "friend_id": 2, "at": START}]));
    let id = node.store(&wanted).await;
    node.save("set", stored(id, &["model"], AS_KNOWN)).await;
    node.close().await;
    std::fs::remove_file(node.data_directory().join(format!("spines/default/{id}.spine"))).expect("it was there");
    node.open().await.expect("the others are served");
    let permit = node.permit(Action::ReadHistory);
    let refusal = node.sets().prepare_saved(&permit, &set_name("set"), None).await.expect_err("it was lost");
    assert_eq!(refusal.reason, "SPINE_NOT_FOUND");
    node.store(&wanted).await;
    node.sets().sweep();
    node.advance(30 * DAY).await;
    node.sets().sweep();
    assert_eq!(node.pull_saved("set", 1, 0).await.num_rows(), 1);
}
