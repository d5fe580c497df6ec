//! Contract, section 22: what is promised of freshness is measured in the partition that is worst off, to
//! the microsecond and over restarts; each change is told once.

use hydrant::config::{Config, Span};
use hydrant::error::Code;
use hydrant::freshness::{Cause, Standing, State};
use hydrant::partition::PartitionState;
use hydrant::registry::promise::Severity;
use hydrant::tenancy::Action;
use serde_json::{Value as Json, json};

use super::SHOP;
use crate::support::node::{DAY, HOUR, MINUTE, SECOND, START, TestNode, patience};
use crate::support::webhook::{Answer, Receiver};

/// Facts are seen as soon as they are applied.
fn watched(freshness: &str) -> String {
    let view = "apiVersion: hydrant/v1\nkind: FeatureView\nmetadata: {name: watched, owner: ops}\n";
    let spec = "spec: {entities: [user], source: facts, features: [{name: level}], freshness: ";
    format!("{SHOP}\n---\n{view}{spec}{freshness}}}\n")
}

const PROMISE: &str = "{maxAge: 5m, target: 99%, window: 1d, severity: page}";
/// 1 % of a day.
const BUDGET: i64 = 864 * SECOND;

async fn start() -> TestNode {
    TestNode::start(&watched(PROMISE)).await
}

fn rows(users: impl IntoIterator<Item = i64>, happened: i64) -> Json {
    users.into_iter().map(|user| json!({"user_id": user, "happened": happened, "level": 1, "plan": "p"})).collect()
}

async fn put_now(node: &TestNode, users: impl IntoIterator<Item = i64>) {
    node.put("facts", rows(users, node.now())).await;
}

async fn look(node: &TestNode) -> Standing {
    let freshness = &node.use_cases().freshness;
    freshness.look().await.expect("it is kept");
    let permit = node.permit(Action::ReadDefinitions);
    freshness.get(&permit, &"watched".parse().expect("a name")).expect("it was looked at")
}

async fn after(node: &TestNode, span: i64) -> Standing {
    node.advance(span).await;
    look(node).await
}

fn judged(standing: &Standing) -> (State, Option<Cause>) {
    (standing.state, standing.cause)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_age_is_of_the_newest_row_in_the_partition_that_is_worst_off() {
    let node = start().await;
    put_now(&node, 0..40).await;
    let standing = after(&node, MINUTE).await;
    assert_eq!((standing.age, standing.seen.partitions), (Some(MINUTE), 3));
    put_now(&node, [1]).await;
    let standing = after(&node, MINUTE).await;
    assert_eq!(standing.age, Some(2 * MINUTE), "two partitions have had no newer row");
    assert_eq!(standing.seen.newest, Some(START + MINUTE));
    put_now(&node, 0..40).await;
    // An ingest takes a microsecond of store time.
    assert_eq!(look(&node).await.age, Some(1));
    assert_eq!(look(&node).await.seen.lag, 0, "what was accepted is seen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_of_exactly_the_promised_age_is_fresh_and_one_of_a_microsecond_more_is_not() {
    let node = start().await;
    put_now(&node, [1]).await;
    let begun = look(&node).await.looked_at;
    assert_eq!(judged(&after(&node, 4 * MINUTE).await), (State::Ok, None));
    assert_eq!(judged(&after(&node, 1).await), (State::AtRisk, Some(Cause::NearLimit)));
    let standing = after(&node, MINUTE - 1).await;
    assert_eq!((standing.age, standing.spent.bad), (Some(5 * MINUTE), 0));
    assert_eq!(judged(&standing), (State::AtRisk, Some(Cause::NearLimit)));
    let standing = after(&node, 1).await;
    assert_eq!(judged(&standing), (State::Breached, Some(Cause::Stale)));
    assert_eq!((standing.spent.bad, standing.since), (1, node.now()));
    let breached_since = standing.since;
    assert_eq!(after(&node, SECOND).await.since, breached_since, "since when is of the state, not of the look");
    put_now(&node, [1]).await;
    let standing = look(&node).await;
    assert_eq!(judged(&standing), (State::Ok, None));
    assert_eq!(standing.spent.bad, standing.looked_at - (START + 5 * MINUTE));
    assert_eq!(standing.spent.good, START + 5 * MINUTE - begun);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_without_rows_has_no_data_and_spends_nothing() {
    let node = start().await;
    look(&node).await;
    let standing = after(&node, HOUR).await;
    assert_eq!(judged(&standing), (State::NoData, None));
    assert_eq!((standing.age, standing.attained(), standing.budget_left()), (None, None, 1.0));
    let permit = node.permit(Action::ReadDefinitions);
    let freshness = &node.use_cases().freshness;
    let refused = freshness.get(&permit, &"user_facts".parse().expect("a name")).expect_err("nothing is promised");
    assert_eq!((refused.code, refused.reason), (Code::FailedPrecondition, "NO_FRESHNESS_PROMISE"));
    let refused = freshness.get(&permit, &"nothing".parse().expect("a name")).expect_err("there is none");
    assert_eq!(refused.reason, "VIEW_NOT_FOUND");
    assert_eq!(freshness.list(&permit).expect("listed").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_is_kept_to_its_last_microsecond_and_spent_with_the_next() {
    let node = start().await;
    put_now(&node, [1]).await;
    look(&node).await;
    let standing = after(&node, 5 * MINUTE + BUDGET).await;
    assert_eq!((standing.spent.bad, standing.budget_left()), (BUDGET, 0.0));
    // The next microsecond is that of the ingest.
    put_now(&node, [1]).await;
    let standing = look(&node).await;
    assert_eq!(standing.spent.bad, BUDGET + 1);
    assert_eq!(judged(&standing), (State::Breached, Some(Cause::BudgetSpent)), "rows are fresh again");
    // Time leaves the window by the hour.
    node.advance(DAY + HOUR).await;
    put_now(&node, [1]).await;
    assert_eq!(judged(&look(&node).await), (State::Ok, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_that_burns_fast_puts_a_promise_at_risk_before_it_is_spent() {
    let node = start().await;
    put_now(&node, [1]).await;
    look(&node).await;
    after(&node, 7 * MINUTE).await;
    put_now(&node, [1]).await;
    let standing = look(&node).await;
    assert!(standing.burn.hour > 3.0 && standing.budget_left() > 0.8, "{standing:?}");
    assert_eq!(judged(&standing), (State::AtRisk, Some(Cause::BurningFast)));
    node.advance(10 * MINUTE).await;
    put_now(&node, [1]).await;
    node.use_cases().freshness.look().await.expect("kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_budget_and_state_and_its_own_time_is_in_neither() {
    let mut node = start().await;
    put_now(&node, [1]).await;
    let begun = look(&node).await.looked_at;
    after(&node, 5 * MINUTE).await;
    let before = after(&node, 100 * SECOND).await;
    assert_eq!((before.spent.good, before.spent.bad), (START + 5 * MINUTE - begun, 100 * SECOND));
    node.close().await;
    node.clock.advance(std::time::Duration::from_secs(3_600));
    node.open().await.expect("it opens again");
    let again = after(&node, 0).await;
    assert_eq!(again.spent, before.spent, "nothing is known of the time between");
    assert_eq!((again.state, again.since), (State::Breached, before.since));
    let standing = after(&node, SECOND).await;
    assert_eq!(standing.spent.bad, 100 * SECOND + (standing.looked_at - again.looked_at));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_cannot_be_read_breaks_the_promise_from_then_on() {
    let node = start().await;
    put_now(&node, 0..40).await;
    assert_eq!(judged(&look(&node).await), (State::Ok, None));
    let partitions = &node.use_cases().partitions;
    partitions.park(1, "by the test");
    // Its views go before it is parked, and one that is about to be parked isn't reopened.
    while !matches!(partitions.handles()[1].state(), PartitionState::Parked { .. }) {
        tokio::task::yield_now().await;
    }
    let standing = look(&node).await;
    assert_eq!(judged(&standing), (State::Breached, Some(Cause::Unreadable)));
    assert_eq!(standing.seen.unreadable, Some(1));
    let later = after(&node, MINUTE).await;
    assert_eq!(later.spent.bad, later.looked_at - standing.looked_at);
    partitions.reopen(1);
    partitions.handles()[1].wait_serving(patience()).await.expect("it opens");
    put_now(&node, 0..40).await;
    assert_ne!(look(&node).await.state, State::Breached);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_whose_rows_have_all_expired_does_not_count_beside_others() {
    let lasting = "{maxAge: 5m, target: 99%, window: 1d}, ttl: 1h";
    let node = TestNode::start(&watched(lasting)).await;
    put_now(&node, 0..40).await;
    node.advance(HOUR - MINUTE).await;
    put_now(&node, [1]).await;
    let standing = after(&node, MINUTE).await;
    assert_eq!((standing.age, standing.seen.partitions), (Some(HOUR), 3), "a row of exactly the ttl counts");
    let standing = after(&node, 1).await;
    assert_eq!((standing.age, standing.seen.partitions), (Some(MINUTE + 1), 1));
    let standing = after(&node, 2 * HOUR).await;
    assert_eq!((standing.state, standing.seen.partitions), (State::Breached, 3), "where all have, all count");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promise_changes_in_place_and_what_was_spent_stays() {
    let node = start().await;
    put_now(&node, [1]).await;
    look(&node).await;
    after(&node, 6 * MINUTE).await;
    node.apply(&watched("{maxAge: 10m, target: 99.9%, window: 2d, severity: info}")).await;
    let standing = look(&node).await;
    assert_eq!(judged(&standing), (State::AtRisk, Some(Cause::BurningFast)));
    assert_eq!((standing.promise.severity, standing.spent.bad), (Severity::Info, MINUTE));
    node.apply(&watched("").replace(", freshness: ", "")).await;
    node.use_cases().freshness.look().await.expect("it is kept");
    assert!(node.use_cases().freshness.list(&node.permit(Action::ReadDefinitions)).expect("listed").is_empty());
}

fn alerting(url: &str) -> impl FnOnce(&mut Config) + use<> {
    let url = url.to_owned();
    move |config| {
        config.alerts.webhooks = url;
        config.alerts.timeout = Span(std::time::Duration::from_millis(300));
        config.alerts.repeat_interval = Span(std::time::Duration::from_secs(3_600));
    }
}

fn statuses(body: &Json) -> Vec<(String, String)> {
    let text = |json: &Json| json.as_str().expect("a text").to_owned();
    let alerts = body["alerts"].as_array().expect("alerts").iter();
    alerts.map(|alert| (text(&alert["labels"]["alertname"]), text(&alert["status"]))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_is_told_once_in_alertmanagers_format_and_what_lasts_again() {
    let mut receiver = Receiver::start().await;
    let node = TestNode::start_with(&watched(PROMISE), alerting(&receiver.url)).await;
    put_now(&node, [1]).await;
    look(&node).await;
    after(&node, 5 * MINUTE + 1).await;
    let told = receiver.next().await.body;
    assert_eq!(told["version"], "4");
    assert_eq!(told["groupKey"], "{}:{tenant=\"default\", view=\"watched\"}");
    assert_eq!(
        (&told["status"], &told["receiver"], &told["truncatedAlerts"]),
        (&json!("firing"), &json!("hydrant"), &json!(0))
    );
    assert_eq!(statuses(&told), [("FreshnessBreached".to_owned(), "firing".to_owned())]);
    let alert = &told["alerts"][0];
    assert_eq!(
        alert["labels"],
        json!({"alertname": "FreshnessBreached", "tenant": "default", "view": "watched", "severity": "page"})
    );
    assert_eq!(
        (&alert["startsAt"], &alert["endsAt"]),
        (&json!("2024-01-01T00:05:00.000001Z"), &json!("0001-01-01T00:00:00Z"))
    );
    assert_eq!(alert["fingerprint"].as_str().map(str::len), Some(16));
    assert_eq!(alert["annotations"]["owner"], "ops");
    for _ in 0..5 {
        look(&node).await;
    }
    put_now(&node, [1]).await;
    look(&node).await;
    let resolved = receiver.next().await.body;
    assert_eq!(resolved["status"], "resolved", "what lasted was told once");
    assert_eq!(resolved["alerts"][0]["startsAt"], alert["startsAt"]);
    assert_eq!(resolved["alerts"][0]["fingerprint"], alert["fingerprint"]);
    assert_eq!(resolved["alerts"][0]["endsAt"], "2024-01-01T00:05:00.000002Z");

    after(&node, 6 * MINUTE).await;
    assert_eq!(receiver.next().await.body["status"], "firing");
    after(&node, HOUR).await;
    let again = receiver.next().await.body;
    assert!(statuses(&again).contains(&("FreshnessBreached".to_owned(), "firing".to_owned())), "{again}");
    assert!(receiver.nothing_more());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_fails_or_hangs_is_tried_again_and_one_that_refuses_is_not() {
    let mut receiver = Receiver::start().await;
    receiver.answer([Answer::Status(503), Answer::Hang, Answer::Status(429)]);
    let node = TestNode::start_with(&watched(PROMISE), alerting(&receiver.url)).await;
    let metrics = || node.use_cases().freshness.metrics();
    put_now(&node, [1]).await;
    look(&node).await;
    after(&node, 6 * MINUTE).await;
    let first = receiver.next().await;
    for attempt in 1..=3 {
        // The failure is noted before the next attempt can be due.
        while metrics().send_failed.get() < attempt {
            tokio::task::yield_now().await;
        }
        node.advance(8 * SECOND).await;
        let again = receiver.next().await;
        assert_eq!(again.text, first.text, "it is the same notification");
        assert!(again.head.contains("content-type: application/json"), "{}", again.head);
    }
    while metrics().sent.get() < 1 {
        tokio::task::yield_now().await;
    }
    let elsewhere = Receiver::start().await;
    receiver.answer([Answer::Redirect(elsewhere.url.clone())]);
    put_now(&node, [1]).await;
    look(&node).await;
    receiver.next().await;
    while metrics().dropped.get() < 1 {
        tokio::task::yield_now().await;
    }
    node.advance(HOUR).await;
    let mut elsewhere = elsewhere;
    assert!(elsewhere.nothing_more(), "no redirect is followed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silences_and_what_waits_to_be_told_survive_a_restart() {
    let mut receiver = Receiver::start().await;
    receiver.answer([Answer::Status(500)]);
    let mut node = TestNode::start_with(&watched(PROMISE), alerting(&receiver.url)).await;
    put_now(&node, [1]).await;
    look(&node).await;
    after(&node, 6 * MINUTE).await;
    let first = receiver.next().await;
    while node.use_cases().freshness.metrics().send_failed.get() < 1 {
        tokio::task::yield_now().await;
    }
    let view = "watched".parse().expect("a name");
    let permit = node.permit(Action::ChangeDefinitions);
    let freshness = node.use_cases().freshness.clone();
    let silence = freshness.silence(&permit, &view, 2 * HOUR, "the feed is moved").await.expect("it may");
    for (duration, reason) in [(0, "r"), (31 * DAY, "r"), (HOUR, " ")] {
        let refused = freshness.silence(&permit, &view, duration, reason).await.expect_err("it is wrong");
        assert_eq!(refused.reason, "BAD_SILENCE");
    }
    drop((freshness, permit));
    node.restart().await;
    node.advance(10 * SECOND).await;
    assert_eq!(receiver.next().await.text, first.text, "what waited is sent after the restart");
    let read = node.permit(Action::ReadDefinitions);
    assert_eq!(node.use_cases().freshness.silences(&read).expect("listed"), std::slice::from_ref(&silence));

    put_now(&node, [1]).await;
    assert!(look(&node).await.silence.is_some());
    after(&node, 6 * MINUTE).await;
    assert!(receiver.nothing_more(), "it is silenced");
    let write = node.permit(Action::ChangeDefinitions);
    node.use_cases().freshness.unsilence(&write, silence.id).await.expect("it lasts");
    let refused = node.use_cases().freshness.unsilence(&write, silence.id).await.expect_err("it has ended");
    assert_eq!((refused.code, refused.reason), (Code::NotFound, "SILENCE_NOT_FOUND"));
    put_now(&node, [1]).await;
    look(&node).await;
    let resolved = receiver.next().await.body;
    assert!(statuses(&resolved).contains(&("FreshnessBreached".to_owned(), "resolved".to_owned())), "{resolved}");
}
