use std::sync::Arc;
use std::time::Duration;

use crate::clock::ManualTicker;
use crate::clock::Ticker as _;
use crate::error::Code;
use crate::tenancy::metrics::Reason;
use crate::tenancy::{
    Action, AdmissionSettings, CHECK_INTERVAL, Class, DEFAULT_TENANT, Demand, Identity, Limits, Permit, Quota, Roles,
    Tenancy, Usage,
};

fn tenancy(limits: Limits) -> (Tenancy, Arc<ManualTicker>) {
    let ticker = Arc::new(ManualTicker::default());
    (Tenancy::with(limits, &AdmissionSettings::default(), ticker.clone()), ticker)
}

async fn read(tenancy: &Tenancy, keys: u64) -> crate::error::Result<Permit> {
    let demand = Demand { cost: keys, bytes: 100, useful_until: None };
    let permit = tenancy.admit(&Identity::loopback(), Action::ReadOnline, demand).await?;
    permit.charge_keys(|| keys).map(|()| permit)
}

#[test]
fn the_loopback_caller_acts_as_the_default_tenant() {
    let permit = Tenancy::default().authorize(&Identity::loopback(), Action::Write).expect("it is granted");
    assert_eq!(permit.tenant().as_str(), DEFAULT_TENANT);
    assert_eq!(permit.caller(), "loopback");
    assert!(permit.require(Action::Write).is_ok());
}

#[test]
fn a_permit_for_one_action_is_no_permit_for_another() {
    let permit = Tenancy::default().authorize(&Identity::loopback(), Action::ReadOnline).expect("it is granted");
    let refused = permit.require(Action::ChangeDefinitions).expect_err("it was given for reads");
    assert_eq!(refused.code, Code::PermissionDenied);
}

#[test]
fn a_place_within_the_quota_is_held_until_the_last_clone_of_the_permit_is_gone() {
    let tenancy = Tenancy::new(Limits::default().with(Quota::ConcurrentRequests, 1));
    let first = tenancy.authorize(&Identity::loopback(), Action::Write).expect("the quota is free");
    let clone = first.clone();
    drop(first);
    let refused = tenancy.authorize(&Identity::loopback(), Action::Write).expect_err("the quota is used up");
    assert_eq!(refused.code, Code::ResourceExhausted);
    assert!(refused.retry_after.is_some());
    drop(clone);
    assert!(tenancy.authorize(&Identity::loopback(), Action::Write).is_ok());
}

#[tokio::test]
async fn rates_hold_by_requests_and_by_keys_and_flow_back_with_time() {
    let limits = Limits::default().with(Quota::RequestsPerSecond, 10).with(Quota::KeysPerSecond, 1_000);
    let (tenancy, ticker) = tenancy(limits);
    read(&tenancy, 900).await.expect("within both");
    let refused = read(&tenancy, 200).await.expect_err("too many keys");
    assert_eq!(refused.quota.as_ref().expect("of which quota").quota, "keys_per_second");
    assert_eq!(refused.retry_after, Some(Duration::from_millis(100)));
    for _ in 0..9 {
        read(&tenancy, 1).await.expect("a refused request is no request");
    }
    let refused = read(&tenancy, 1).await.expect_err("too many requests");
    assert_eq!(refused.quota.as_ref().expect("of which quota").quota, "requests_per_second");
    ticker.advance(Duration::from_millis(100));
    read(&tenancy, 150).await.expect("a tenth of a second's worth is back");
    let default = DEFAULT_TENANT.parse().expect("a name");
    let used = tenancy.usage(&default);
    let of = |quota, used, limit| Usage { quota, used, limit };
    assert_eq!(used, [of(Quota::RequestsPerSecond, 10, 10), of(Quota::KeysPerSecond, 959, 1_000)]);
    let accounts = tenancy.accounts();
    let counts = accounts[0].counts();
    assert_eq!((counts.admitted(Class::Online), counts.refused(Class::Online, Reason::Quota)), (12, 2));
}

#[tokio::test]
async fn a_deadline_that_has_passed_is_told_before_any_quota_and_charged_to_none() {
    let (tenancy, ticker) = tenancy(Limits::default().with(Quota::RequestsPerSecond, 1));
    let useful_until = Some(ticker.now() + Duration::from_millis(5));
    let demand = Demand { cost: 1, bytes: 1, useful_until };
    ticker.advance(Duration::from_millis(5));
    for _ in 0..3 {
        let refused = tenancy.admit(&Identity::loopback(), Action::ReadOnline, demand).await.expect_err("too late");
        assert_eq!((refused.code, refused.reason), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    }
    read(&tenancy, 1).await.expect("nothing was charged");
}

#[tokio::test]
async fn rows_are_charged_by_number_and_by_bytes() {
    let limits = Limits::default().with(Quota::IngestRowsPerSecond, 100).with(Quota::IngestBytesPerSecond, 1_000);
    let (tenancy, _) = tenancy(limits);
    let write = tenancy.admit(&Identity::loopback(), Action::Write, Demand::default()).await.expect("within");
    write.charge_rows(60, 900).expect("within both");
    let refused = write.charge_rows(40, 200).expect_err("too many bytes");
    assert_eq!(refused.quota.expect("of which quota").quota, "ingest_bytes_per_second");
    write.charge_rows(40, 100).expect("the refused rows were put back");
}

#[tokio::test]
async fn a_write_that_a_quota_refuses_was_no_request_and_took_no_rows() {
    let limits = Limits::default()
        .with(Quota::RequestsPerSecond, 2)
        .with(Quota::IngestRowsPerSecond, 100)
        .with(Quota::IngestBytesPerSecond, 1_000)
        .with(Quota::StorageBytes, 500);
    let (tenancy, _) = tenancy(limits);
    let write = async |rows, bytes, is_kept| {
        let permit = tenancy.admit(&Identity::loopback(), Action::Write, Demand::default()).await?;
        permit.charge_write(rows, bytes, is_kept)
    };
    for _ in 0..5 {
        let refused = write(90, 900, true).await.expect_err("more bytes than may be kept");
        assert_eq!(
            (refused.quota.expect("of which quota").quota.as_str(), refused.retry_after),
            ("storage_bytes", None)
        );
    }
    write(90, 900, false).await.expect("nothing of it is kept");
    let refused = write(20, 1, true).await.expect_err("too many rows");
    assert_eq!(refused.quota.expect("of which quota").quota, "ingest_rows_per_second");
    write(10, 100, true).await.expect("what was refused took nothing");
    let accounts = tenancy.accounts();
    let counts = accounts[0].counts();
    assert_eq!((counts.admitted(Class::Ingest), counts.refused(Class::Ingest, Reason::Quota)), (8, 6));
}

#[tokio::test]
async fn training_sets_have_a_quota_of_their_own() {
    let (tenancy, _) = tenancy(Limits::default().with(Quota::ConcurrentTrainingSets, 1));
    let identity = Identity::loopback();
    let admit = |action| tenancy.admit(&identity, action, Demand::default());
    let _first = admit(Action::ReadHistory).await.expect("one");
    let refused = admit(Action::ReadHistory).await.expect_err("only one");
    assert_eq!(refused.quota.expect("of which quota").quota, "concurrent_training_sets");
    admit(Action::ReadOnline).await.expect("of another class");
    admit(Action::ReadInBulk).await.expect("of the same class, and no training set");
}

#[tokio::test]
async fn work_under_way_is_dropped_soon_after_its_caller_s_credential_ends() {
    let ann = Identity::new("ann", DEFAULT_TENANT.parse().expect("a name"), Roles::default(), None);
    assert_eq!(ann.while_known(async { 7 }).await.expect("it holds"), 7);
    let at_work = Arc::new(());
    let of_work = at_work.clone();
    let (clone, begun) = (ann.clone(), std::time::Instant::now());
    let (refused, ()) = tokio::join!(
        ann.while_known(async move {
            let _at_work = of_work;
            std::future::pending::<()>().await;
        }),
        async move { clone.revoke() }
    );
    assert_eq!(refused.expect_err("it was revoked").reason, "KEY_REVOKED");
    assert!(begun.elapsed() < 10 * CHECK_INTERVAL);
    assert_eq!(Arc::strong_count(&at_work), 1, "it was dropped");
    assert_eq!(ann.while_known(async { 7 }).await.expect_err("nor does any begin").reason, "KEY_REVOKED");
}
