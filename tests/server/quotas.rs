//! What is told over the wire to whoever has used up a quota: of a tenant, or of one key in it. Both are
//! told the same.

use std::time::Duration;

use futures::StreamExt as _;
use hydrant::error::Code;
use hydrant::rpc::client::quotas::of_key;
use hydrant::rpc::client::{Client, Refusal};
use hydrant::rpc::v1;

use super::access::{Guarded, client, key};
use super::support::{ingest_request, read_request, weather_rows};

/// More calls than any of these quotas lets through, on however slow a machine.
const ENOUGH: usize = 10_000;

/// What a caller does to use a quota up.
#[derive(Clone, Copy, Debug)]
enum Call {
    Read,
    Ingest,
    Put,
}

impl Call {
    async fn make(self, client: &Client) -> Result<(), Refusal> {
        match self {
            Self::Read => client.get_online_features(read_request(&["EWR", "JFK"])).await.map(|_| ()),
            Self::Ingest => client.ingest(ingest_request(&weather_rows())).await.map(|_| ()),
            Self::Put => {
                let command = v1::IngestCommand { source: "weather".to_owned(), ..Default::default() };
                let batches = tokio_stream::iter([Ok(weather_rows())]);
                let mut answers = client.put(command, weather_rows().schema(), batches).await?;
                answers.next().await.expect("an answer for each batch").map(|_| ())
            }
        }
    }

    async fn until_refused(self, client: &Client) -> Refusal {
        for _ in 0..ENOUGH {
            if let Err(refusal) = self.make(client).await {
                return refusal;
            }
        }
        panic!("{self:?} was never refused");
    }
}

async fn set(by: &Client, name: &str, quota: &str, limit: Option<u64>) {
    let set = limit.map(|limit| v1::QuotaLimit { quota: quota.to_owned(), limit }).into_iter().collect();
    let unset = if limit.is_none() { vec![quota.to_owned()] } else { Vec::new() };
    let request = v1::UpdateQuotasRequest { name: name.to_owned(), set, unset, ..Default::default() };
    by.update_quotas(request).await.expect("the platform's admin may");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_s_own_rate_is_refused_as_its_tenant_s_is_with_usage_limit_and_when_to_try_again() {
    let guarded = Guarded::start().await;
    let made = guarded.first.create_key(key("", &[v1::Role::Reader, v1::Role::Writer])).await.expect("an admin may");
    let limited = client(&guarded.server, &made.token).await;
    let id = made.key.expect("a key").id;
    let tenant = ("tenants/default".to_owned(), "tenant 'default'".to_owned(), "default".to_owned());
    let of_key = of_key("default", &id);
    let key = (format!("tenants/default/keys/{id}"), format!("key '{id}' of tenant 'default'"), of_key);
    for (subject, called, name) in [tenant, key] {
        for (quota, limit, call) in [
            ("requests_per_second", 1, Call::Read),
            ("keys_per_second", 3, Call::Read),
            ("ingest_rows_per_second", 2, Call::Ingest),
            ("ingest_rows_per_second", 2, Call::Put),
            ("ingest_bytes_per_second", 1_000, Call::Ingest),
        ] {
            set(&guarded.first, &name, quota, Some(limit)).await;
            let refusal = call.until_refused(&limited).await;
            let told = format!("{quota} of {subject}: {refusal:?}");
            assert_eq!((refusal.code, refusal.reason.as_str()), (Code::ResourceExhausted, "QUOTA_EXCEEDED"), "{told}");
            let delay = refusal.retry_after.expect("a rate flows back");
            assert!(!delay.is_zero() && delay <= Duration::from_secs(3), "{told}");
            let used = refusal.quota.as_ref().expect("which it is");
            let which = (used.subject.as_str(), used.quota.as_str(), used.limit);
            assert_eq!(which, (subject.as_str(), quota, limit), "{told}");
            assert!(used.usage > 0, "{told}");
            let unit = if quota.contains("bytes") { " bytes" } else { "" };
            let said = format!("{called} has used up its quota '{quota}': {} of {limit}{unit} are in use", used.usage);
            assert!(refusal.message.contains(&said), "{told}");
            for (key, value) in [("tenant", "default"), ("subject", &subject), ("quota", quota)] {
                assert!(refusal.metadata.contains(&(key.to_owned(), value.to_owned())), "{told}");
            }

            // Under none at all waiting is in vain, and the way out is told instead.
            set(&guarded.first, &name, quota, Some(0)).await;
            let refusal = call.until_refused(&limited).await;
            assert!(refusal.retry_after.is_none() && refusal.hint.is_some(), "{quota} of {subject}: {refusal:?}");
            assert_eq!(refusal.quota.expect("which it is").limit, 0);
            set(&guarded.first, &name, quota, None).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_was_just_raised_is_told_with_what_was_used_and_lets_in_at_once() {
    const RAISED: u64 = 1_000_000;
    let guarded = Guarded::start().await;
    let made = guarded.first.create_key(key("", &[v1::Role::Reader])).await.expect("an admin may");
    let limited = client(&guarded.server, &made.token).await;
    let of_key = of_key("default", &made.key.expect("a key").id);
    for name in ["default", of_key.as_str()] {
        set(&guarded.first, name, "keys_per_second", Some(1)).await;
        Call::Read.until_refused(&limited).await;
        let limits = vec![v1::QuotaLimit { quota: "keys_per_second".to_owned(), limit: RAISED }];
        let lasts = Duration::from_mins(1).as_micros() as u64;
        let raise =
            v1::RaiseQuotasRequest { name: name.to_owned(), limits, duration_micros: lasts, ..Default::default() };
        let told = guarded.first.raise_quotas(raise).await.expect("the platform's admin may");
        Call::Read.make(&limited).await.expect("it holds from the next request on");
        let after = guarded.first.get_quotas(name).await.expect("told");
        for told in [told, after] {
            let status = told.quotas.iter().find(|status| status.quota == "keys_per_second").expect("every quota");
            assert_eq!(status.limit, Some(RAISED));
            assert!(status.used.is_some_and(|used| used < 1_000) && !status.near, "{status:?}");
        }
        set(&guarded.first, name, "keys_per_second", None).await;
    }
}
