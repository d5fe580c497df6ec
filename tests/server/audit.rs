//! How calls are audited: every change with who, what, from where and what came of it; and none that
//! can't be.

use hydrant::error::Code;
use hydrant::registry::definition::Kind;
use hydrant::rpc::client::Client;
use hydrant::rpc::v1;

use crate::support::TestServer;

async fn records(client: &Client, filter: v1::ListAuditRecordsRequest) -> Vec<v1::AuditRecord> {
    let mut records = client.list_audit_records(filter).await.expect("it is whole").records;
    records.reverse();
    records
}

async fn all(server: &TestServer) -> Vec<v1::AuditRecord> {
    records(&server.client, v1::ListAuditRecordsRequest { page_size: 1_000, ..Default::default() }).await
}

/// Of each action, in their order: what came of it, and the resources.
fn told(records: &[v1::AuditRecord]) -> Vec<(String, String, String)> {
    let told = |record: &v1::AuditRecord| {
        let outcome = match record.reason.as_str() {
            "" => record.outcome.clone(),
            reason => format!("{}: {reason}", record.outcome),
        };
        (record.action.clone(), outcome, record.resources.join(" "))
    };
    records.iter().map(told).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_told_with_who_what_from_where_and_what_came_of_it() {
    let server = TestServer::start().await;
    server.apply_weather().await;
    let client = &server.client;
    // Reads, and what only checks, leave nothing.
    client.list_definitions(Kind::FeatureView).await.expect("listed");
    client.get_quotas("").await.expect("told");
    let set = v1::QuotaLimit { quota: "features".to_owned(), limit: 1_000 };
    let update = v1::UpdateQuotasRequest { set: vec![set.clone()], validate_only: true, ..Default::default() };
    client.update_quotas(update.clone()).await.expect("valid");
    server.ingest_weather().await;

    client.update_quotas(v1::UpdateQuotasRequest { validate_only: false, ..update.clone() }).await.expect("set");
    let unseen = v1::UpdateQuotasRequest { validate_only: false, etag: "77".to_owned(), ..update };
    client.update_quotas(unseen).await.expect_err("it was not seen");
    client.create_backup("monday", |_| ()).await.expect("made");
    client.delete_backup("monday").await.expect("deleted");
    client.delete_backup("monday").await.expect_err("it is not there");
    client.delete_definition(Kind::FeatureView, "nowhere", "").await.expect_err("there is none");

    let records = all(&server).await;
    let expected = [
        ("QuotaService/UpdateQuotas", "asked", "quotas/features"),
        ("QuotaService/UpdateQuotas", "done", "quotas/features"),
        ("QuotaService/UpdateQuotas", "asked", "quotas/features"),
        ("QuotaService/UpdateQuotas", "failed: ETAG_MISMATCH", "quotas/features"),
        ("BackupService/CreateBackup", "asked", "Backup/monday"),
        ("BackupService/CreateBackup", "done", "Backup/monday"),
        ("BackupService/DeleteBackup", "asked", "Backup/monday"),
        ("BackupService/DeleteBackup", "done", "Backup/monday"),
        ("BackupService/DeleteBackup", "asked", "Backup/monday"),
        ("BackupService/DeleteBackup", "failed: BACKUP_NOT_FOUND", "Backup/monday"),
        ("RegistryService/DeleteDefinition", "asked", "FeatureView/nowhere"),
        ("RegistryService/DeleteDefinition", "failed: DEFINITION_NOT_FOUND", "FeatureView/nowhere"),
    ];
    let expected = expected.map(|(action, outcome, of)| (action.to_owned(), outcome.to_owned(), of.to_owned()));
    let found = told(&records);
    let (first, rest) = found.split_at(2);
    assert_eq!(rest, expected);
    assert!(
        first.iter().all(|(action, _, of)| action == "RegistryService/Apply" && of.contains("FeatureView/")),
        "{first:?}"
    );
    let applied = &records[1];
    assert_eq!(applied.of, 1);
    assert!(
        applied.revision_before.is_some() && applied.revision_after == applied.revision_before.map(|before| before + 1)
    );
    for record in &records {
        assert_eq!((record.tenant.as_str(), record.caller.as_str()), ("default", "loopback"));
        assert!(record.peer.starts_with("127.0.0.1:"), "{record:?}");
    }
    let verified = client.verify_audit("").await.expect("it is read");
    assert_eq!((verified.records, verified.problems.len()), (records.len() as u64, 0));
    client.verify_audit("7:00").await.expect_err("no head");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_is_told_with_what_it_changes_and_nothing_else() {
    let server = TestServer::start().await;
    server.apply_weather().await;
    let registry = server.client.clone();
    let get = async |kind| registry.list_definitions(kind).await.expect("listed");
    let mut definitions = Vec::new();
    for kind in [Kind::Entity, Kind::Source, Kind::FeatureView, Kind::FeatureService] {
        for definition in get(kind).await {
            definitions.push(definition);
        }
    }
    let mut definitions =
        hydrant::rpc::wire::definitions::decode_definitions(definitions).expect("as they were applied");
    assert!(definitions.len() > 2);
    let newest = async || {
        let filter = v1::ListAuditRecordsRequest { action: "Apply".to_owned(), page_size: 2, ..Default::default() };
        told(&records(&server.client, filter).await).pop().expect("a record")
    };
    server.client.apply(&definitions, None).await.expect("nothing changes");
    assert_eq!((newest().await.1, newest().await.2), ("done".to_owned(), String::new()));
    let view = definitions.iter_mut().find(|definition| definition.kind() == Kind::FeatureView).expect("a view");
    view.metadata.description = "another".to_owned();
    let named = format!("FeatureView/{}", view.metadata.name);
    server.client.apply(&definitions, None).await.expect("words change");
    assert_eq!((newest().await.1, newest().await.2), ("done".to_owned(), named.clone()));
    // What can't be planned is told by what differs from what is there.
    let view = definitions.iter_mut().find(|definition| definition.kind() == Kind::FeatureView).expect("a view");
    view.metadata.tags.insert("pii".to_owned(), "perhaps".to_owned());
    server.client.apply(&definitions, None).await.expect_err("it is neither");
    assert_eq!((newest().await.1, newest().await.2), ("failed: INVALID_DEFINITION".to_owned(), named));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_can_not_be_audited_is_not_made() {
    let server = TestServer::start().await;
    let audit = server.directory.path().join("audit");
    // No segment can be begun where its directory is not.
    std::fs::remove_dir(&audit).expect("nothing lies in it yet");
    let set = v1::QuotaLimit { quota: "features".to_owned(), limit: 1_000 };
    let update = v1::UpdateQuotasRequest { set: vec![set], ..Default::default() };
    let refused = server.client.update_quotas(update.clone()).await.expect_err("it can't be written down");
    assert_eq!((refused.code, refused.reason.as_str()), (Code::Unavailable, "AUDIT_UNAVAILABLE"));
    let quotas = server.client.get_quotas("").await.expect("told");
    assert!(quotas.quotas.iter().all(|status| status.limit.is_none()), "nothing was changed");
    let (_, metrics) = server.http("/metrics").await;
    assert!(
        metrics.lines().any(|line| line.starts_with("hydrant_audit_failures_total") && line.ends_with(" 1")),
        "{metrics}"
    );
    std::fs::create_dir(&audit).expect("it is not there");
    server.client.update_quotas(update).await.expect("it can be again");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_filters_of_the_audit_log_hold_over_the_wire() {
    let server = TestServer::start().await;
    for number in 1..=7_u64 {
        let set = v1::QuotaLimit { quota: "features".to_owned(), limit: number * 1_000 };
        server
            .client
            .update_quotas(v1::UpdateQuotasRequest { set: vec![set], ..Default::default() })
            .await
            .expect("set");
    }
    let mut request = v1::ListAuditRecordsRequest { outcome: "done".to_owned(), page_size: 3, ..Default::default() };
    let mut found = Vec::new();
    loop {
        let page = server.client.list_audit_records(request.clone()).await.expect("a page");
        assert!(page.records.len() <= 3);
        found.extend(page.records.iter().map(|record| record.of));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(found, [13, 11, 9, 7, 5, 3, 1]);
    for (wrong, reason) in [
        (v1::ListAuditRecordsRequest { page_token: "x".to_owned(), ..Default::default() }, "BAD_PAGE_TOKEN"),
        (v1::ListAuditRecordsRequest { outcome: "perhaps".to_owned(), ..Default::default() }, "BAD_FILTER"),
        (v1::ListAuditRecordsRequest { caller: "x".repeat(300), ..Default::default() }, "BAD_FILTER"),
    ] {
        assert_eq!(server.client.list_audit_records(wrong).await.expect_err("refused").reason, reason);
    }
    server.stop().await;
}
