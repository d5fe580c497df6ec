//! What callers are told who are not let in, and what stands back behind those who are.

use std::time::{Duration, Instant};

use hydrant::error::Code;
use hydrant::tenancy::{Action, Class, Demand, Identity, Limits, Quota};

use crate::support::{TestServer, read_request};

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_used_up_is_named_with_its_usage_and_when_to_try_again() {
    let server = TestServer::start().await;
    server.apply_weather().await;
    let default = "default".parse().expect("a name");
    server.tenancy.set_limits(&default, Limits::default().with(Quota::KeysPerSecond, 3));
    server.client.get_online_features(read_request(&["EWR", "JFK", "LGA"])).await.expect("three keys");
    let refused = server.client.get_online_features(read_request(&["EWR", "JFK"])).await.expect_err("two more");
    assert_eq!((refused.code, refused.reason.as_str()), (Code::ResourceExhausted, "QUOTA_EXCEEDED"));
    assert!(refused.retry_after.is_some_and(|delay| delay <= Duration::from_secs(1)), "{refused:?}");
    let quota = refused.quota.expect("which it is");
    assert_eq!((quota.subject.as_str(), quota.quota.as_str(), quota.limit), ("tenants/default", "keys_per_second", 3));
    assert!(quota.usage > 0);
    let (_, metrics) = server.http("/metrics").await;
    let counted = "hydrant_admission_refused_total{class=\"online\",reason=\"quota\",tenant=\"default\"";
    assert!(metrics.lines().any(|line| line.starts_with(counted) && line.ends_with("} 1")), "{metrics}");
    server.tenancy.set_limits(&default, Limits::default());
    server.client.get_online_features(read_request(&["EWR", "JFK"])).await.expect("no limit any more");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_waits_in_vain_for_its_turn_is_refused_with_when_to_try_again() {
    let server = TestServer::start_with(|config| {
        config.admission.online_places = 1;
        config.admission.target_wait = "1ms".parse().expect("a duration");
    })
    .await;
    server.apply_weather().await;
    let taken = server.tenancy.admit(&Identity::loopback(), Action::ReadOnline, Demand::default()).await;
    let refused = server.client.get_online_features(read_request(&["EWR"])).await.expect_err("no place is free");
    assert_eq!((refused.code, refused.reason.as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    assert!(refused.retry_after.is_some());
    drop(taken.expect("the only place"));
    server.client.get_online_features(read_request(&["EWR"])).await.expect("it is free again");
    assert_eq!((server.tenancy.in_flight(Class::Online), server.tenancy.waiting(Class::Online)), (0, 0));
    server.stop().await;
}

/// The niceness of this process, and of each of its threads by name.
#[cfg(target_os = "linux")]
fn niceness() -> (i64, Vec<(String, i64)>) {
    use std::fs;
    let nice = |path: &std::path::Path| -> Option<(String, i64)> {
        let stat = fs::read_to_string(path.join("stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        Some((name.to_owned(), rest.split_ascii_whitespace().nth(16)?.parse().ok()?))
    };
    let (_, process) = nice("/proc/self".as_ref()).expect("it is told");
    // A thread that has ended meanwhile is left out.
    let listed = fs::read_dir("/proc/self/task").expect("it is listed").filter_map(|task| nice(&task.ok()?.path()));
    (process, listed.collect())
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_as_for_a_read_stands_back_behind_reads() {
    let server = TestServer::start().await;
    let patience = Instant::now() + Duration::from_secs(10);
    let expected = [
        ("tokio-rt-worker", 0),
        ("hydrant-supervi", 10),
        ("rocksdb:high", 10),
        ("rocksdb:low", 15),
        ("hydrant-landing", 15),
    ];
    for (name, behind) in expected {
        loop {
            let (process, threads) = niceness();
            let of_name: Vec<i64> =
                threads.into_iter().filter(|(known, _)| known == name).map(|(_, nice)| nice).collect();
            if !of_name.is_empty() && of_name.iter().all(|nice| *nice == (process + behind).min(19)) {
                break;
            }
            // The servers of other tests may just be starting.
            assert!(Instant::now() < patience, "{name}: {of_name:?}");
            tokio::task::yield_now().await;
        }
    }
    server.stop().await;
}
