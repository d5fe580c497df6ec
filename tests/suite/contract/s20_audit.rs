//! Contract, section 20: who changed what is written down before it is changed. How calls are audited is
//! tried through a server's sockets (`tests/server/audit.rs`), and the log's files beside them.

use hydrant::audit::{Asked, Conclusion, Filter, Record};
use hydrant::tenancy::Action;

use super::SHOP;
use crate::support::node::{SECOND, START, TestNode};

async fn change(node: &TestNode, caller: &str) {
    let asked = Asked { caller: caller.to_owned(), action: "QuotaService/UpdateQuotas".to_owned(), ..Asked::default() };
    let entry = node.use_cases().audit.ask(asked).await.expect("there is room");
    entry.conclude(Conclusion::Done { before: None, after: None });
}

async fn records(node: &TestNode) -> Vec<Record> {
    let permit = node.permit(Action::ReadAudit);
    let page = node.use_cases().audit.list(&permit, Filter::default(), None, 100).await.expect("it is whole");
    assert_eq!(page.before, None);
    page.records.into_iter().rev().collect()
}

async fn assert_whole(node: &TestNode) {
    let verified = node.use_cases().audit.verify(&node.permit(Action::ReadAudit), None).await.expect("it is read");
    assert_eq!(verified.problems, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_has_the_audit_log_and_a_restored_server_goes_on_with_it() {
    let mut node =
        TestNode::start_with(SHOP, |config| config.audit.segment = hydrant::config::ByteSize(64 << 10)).await;
    // More than one segment.
    for number in 0..300 {
        change(&node, &format!("ann {number} {}", "x".repeat(200))).await;
    }
    node.back_up("with_audit").await.expect("made");
    let before = records_of_all(&node).await;
    change(&node, "after the backup").await;
    let restored = node.restored("with_audit").await;
    assert_eq!(records_of_all(&restored).await, before);
    change(&restored, "bob").await;
    assert_whole(&restored).await;
    node.restart().await;
    assert_whole(&node).await;
    assert_eq!(records_of_all(&node).await, before + 2);
}

/// How many there are, page by page.
async fn records_of_all(node: &TestNode) -> usize {
    let permit = node.permit(Action::ReadAudit);
    let (mut found, mut before) = (0, None);
    loop {
        let page = node.use_cases().audit.list(&permit, Filter::default(), before, 100).await.expect("it is whole");
        found += page.records.len();
        before = page.before;
        if before.is_none() {
            return found;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_there_after_a_restart_with_store_time_and_number() {
    let mut node = TestNode::start("").await;
    change(&node, "ann").await;
    node.advance(SECOND).await;
    node.restart().await;
    change(&node, "bob").await;
    let records = records(&node).await;
    let told: Vec<(u64, &str, &str)> =
        records.iter().map(|record| (record.sequence, record.caller.as_str(), record.outcome.as_str())).collect();
    assert_eq!(told, [(1, "ann", "asked"), (2, "ann", "done"), (3, "bob", "asked"), (4, "bob", "done")]);
    let times: Vec<i64> = records.iter().map(|record| record.time).collect();
    assert!(
        times.is_sorted() && times[0] >= START && times[1] < START + SECOND && times[2] >= START + SECOND,
        "{times:?}"
    );
}
