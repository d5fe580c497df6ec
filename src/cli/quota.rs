//! `hydrant quota`: how much tenants may use and use; set, and raised for a stated time.

use std::str::FromStr;
use std::time::Duration;

use hydrant_proto::v1;
use serde_json::{Value, json};

use super::output::{self, ResultOutput, Tone};
use super::{Done, Failure, Format, Server, time};
use crate::config::{ByteSize, durations};
use crate::rpc::client::quotas::of_key;

/// Show and set quotas of tenants and of their keys
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hydrant quota get\n  hydrant quota set default requests_per_second=500 storage_bytes=50GiB\n  \
    hydrant quota raise default requests_per_second=5000 --for 2h\n  \
    hydrant quota set default --key abcdefghjk requests_per_second=50"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Get(GetArgs),
    Set(SetArgs),
    Raise(RaiseArgs),
}

/// Show what a tenant may use and uses
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  hydrant quota get default -o json\n\nOf a rate, what a second took lately is in use."
)]
struct GetArgs {
    /// Left out: every tenant that you may see; with --keys your own
    tenant: Option<String>,

    /// Of this key of the tenant, by its id
    #[arg(long, value_name = "KEYID", requires = "tenant")]
    key: Option<String>,

    /// Of every key of the tenant that has quotas of its own
    #[arg(long, conflicts_with = "key")]
    keys: bool,

    #[command(flatten)]
    output: ResultOutput,
}

/// Set limits, which hold from the next request on
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  hydrant quota set default requests_per_second=500 storage_bytes=50GiB\n  \
    hydrant quota set default --unset requests_per_second --weight 3\n\nWithout a limit all of it may be used.")]
struct SetArgs {
    tenant: String,

    /// Of this key of the tenant alone, by its id
    #[arg(long, value_name = "KEYID")]
    key: Option<String>,

    /// Such as requests_per_second=500; bytes also as 50GiB
    #[arg(value_name = "QUOTA=LIMIT", required_unless_present_any = ["unset", "weight"])]
    limits: Vec<Limit>,

    /// Quotas that are to have no limit
    #[arg(long, value_name = "QUOTA")]
    unset: Vec<String>,

    /// The tenant's share beside others of what there is not enough of: 1 to 1000, 1 at first
    #[arg(long, conflicts_with = "key")]
    weight: Option<u32>,

    #[command(flatten)]
    change: ChangeArgs,
}

/// Raise limits for a stated time, such as a live event; then they fall back by themselves
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  hydrant quota raise default requests_per_second=5000 --for 2h\n  \
    hydrant quota raise default --end requests_per_second\n\nFrom one second to 30 days.")]
struct RaiseArgs {
    tenant: String,

    /// Of this key of the tenant alone, by its id
    #[arg(long, value_name = "KEYID")]
    key: Option<String>,

    /// Such as requests_per_second=5000; bytes also as 50GiB
    #[arg(value_name = "QUOTA=LIMIT", required_unless_present = "end", requires = "lasts")]
    limits: Vec<Limit>,

    /// How long, such as 90s, 30m, 2h, 3d
    #[arg(long = "for", id = "lasts", value_name = "DURATION", value_parser = parse_duration)]
    lasts: Option<Duration>,

    /// Quotas whose raise is to end now
    #[arg(long, value_name = "QUOTA")]
    end: Vec<String>,

    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, clap::Args)]
struct ChangeArgs {
    /// Change only what you have seen: the etag that `get -o json` told
    #[arg(long, default_value = "")]
    etag: String,

    /// Check, show what would be, and change nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    output: ResultOutput,
}

/// `QUOTA=LIMIT`.
#[derive(Clone, Debug)]
struct Limit {
    quota: String,
    limit: u64,
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (quota, limit) = text.split_once('=').ok_or("write QUOTA=LIMIT, such as requests_per_second=500")?;
        let size = || match quota.ends_with("_bytes") {
            true => limit.parse::<ByteSize>().map(|size| size.0).map_err(|error| error.to_string()),
            false => Err(format!("'{limit}' is no whole number")),
        };
        let limit = limit.replace('_', "").parse().or_else(|_| size())?;
        Ok(Self { quota: quota.to_owned(), limit })
    }
}

impl Args {
    pub fn format(&self) -> Format {
        match &self.command {
            Command::Get(args) => args.output.format,
            Command::Set(args) => args.change.output.format,
            Command::Raise(args) => args.change.output.format,
        }
    }
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    match args.command {
        Command::Get(args) => get(args, server).await,
        Command::Set(args) => set(args, server).await,
        Command::Raise(args) => raise(args, server).await,
    }
}

async fn get(args: GetArgs, server: &Server) -> Result<Done, Failure> {
    let client = server.connect().await?;
    let tenants = match args.tenant {
        Some(tenant) if args.keys => client.list_key_quotas(&tenant).await?,
        Some(tenant) => vec![client.get_quotas(&named(tenant, args.key)).await?],
        None if args.keys => client.list_key_quotas(&client.who_am_i().await?.tenant).await?,
        None => client.list_quotas().await?,
    };
    let documents = json!({ "tenants": tenants.iter().map(shown).collect::<Vec<_>>() });
    output::print_as(args.output.format, &documents, || match tenants.is_empty() {
        true => "no key has quotas of its own".to_owned(),
        false => tenants.iter().map(table).collect::<Vec<_>>().join("\n\n"),
    })?;
    Ok(Done::Done)
}

async fn set(args: SetArgs, server: &Server) -> Result<Done, Failure> {
    let SetArgs { tenant, key, limits, unset, weight, change } = args;
    let ChangeArgs { etag, dry_run, output } = change;
    let set = limits.into_iter().map(Limit::into_message).collect();
    let request =
        v1::UpdateQuotasRequest { name: named(tenant, key), set, unset, weight, etag, validate_only: dry_run };
    let quotas = server.connect().await?.update_quotas(request).await?;
    changed(&quotas, dry_run, output.format)
}

async fn raise(args: RaiseArgs, server: &Server) -> Result<Done, Failure> {
    let RaiseArgs { tenant, key, limits, lasts, end, change } = args;
    let ChangeArgs { etag, dry_run, output } = change;
    let duration_micros = u64::try_from(lasts.unwrap_or_default().as_micros()).unwrap_or(u64::MAX);
    let limits = limits.into_iter().map(Limit::into_message).collect();
    let name = named(tenant, key);
    let request = v1::RaiseQuotasRequest { name, limits, duration_micros, end, etag, validate_only: dry_run };
    let quotas = server.connect().await?.raise_quotas(request).await?;
    changed(&quotas, dry_run, output.format)
}

impl Limit {
    fn into_message(self) -> v1::QuotaLimit {
        v1::QuotaLimit { quota: self.quota, limit: self.limit }
    }
}

fn changed(quotas: &v1::TenantQuotas, dry_run: bool, format: Format) -> Result<Done, Failure> {
    let mut document = shown(quotas);
    document["dry_run"] = json!(dry_run);
    output::print_as(format, &document, || {
        let told = if dry_run { "nothing was changed; it would be:\n" } else { "" };
        format!("{told}{}", table(quotas))
    })?;
    Ok(Done::Done)
}

/// For people.
fn table(quotas: &v1::TenantQuotas) -> String {
    let absent = || "-".to_owned();
    let number = |quota: &str, number: Option<u64>| match number {
        Some(bytes) if quota.ends_with("_bytes") => indicatif::HumanBytes(bytes).to_string(),
        Some(bytes) if quota.ends_with("_bytes_per_second") => indicatif::HumanBytes(bytes).to_string(),
        Some(number) => output::count(number),
        None => absent(),
    };
    let rows: Vec<Vec<String>> = quotas
        .quotas
        .iter()
        .map(|status| {
            let share = match (status.used, status.limit) {
                (Some(used), Some(limit)) => {
                    let share = output::share(used, limit);
                    if status.near { output::on_stdout(&format!("{share} !"), Tone::Changed) } else { share }
                }
                _ => absent(),
            };
            vec![
                status.quota.clone(),
                number(&status.quota, status.used),
                number(&status.quota, status.limit),
                share,
                status.raised_until_micros.map_or_else(absent, time::show),
            ]
        })
        .collect();
    let table = output::table(&["quota", "used now", "limit", "share", "raised until"], &rows, &[1, 2, 3]);
    match key(quotas) {
        None => format!("tenant {}, weight {}\n{table}", tenant(quotas), quotas.weight),
        Some(key) => format!("key {key} of tenant {}\n{table}", tenant(quotas)),
    }
}

/// For programs.
fn shown(quotas: &v1::TenantQuotas) -> Value {
    let status = |status: &v1::QuotaStatus| {
        json!({
            "quota": status.quota, "used": status.used, "limit": status.limit, "set": status.set,
            "raised_until": status.raised_until_micros.map(time::show), "near": status.near,
        })
    };
    json!({
        "tenant": tenant(quotas), "key": key(quotas), "etag": quotas.etag, "weight": quotas.weight,
        "updated": quotas.updated_micros.map(time::show), "updated_by": quotas.updated_by,
        "quotas": quotas.quotas.iter().map(status).collect::<Vec<_>>(),
    })
}

fn tenant(quotas: &v1::TenantQuotas) -> &str {
    quotas.name.split('/').nth(1).unwrap_or_default()
}

fn key(quotas: &v1::TenantQuotas) -> Option<&str> {
    quotas.name.split_once("/keys/").map(|(_, key)| key.trim_end_matches("/quotas"))
}

/// A tenant, or a key of it.
fn named(tenant: String, key: Option<String>) -> String {
    match key {
        None => tenant,
        Some(key) => of_key(&tenant, &key),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let micros = durations::parse(text).map_err(|error| error.to_string())?;
    u64::try_from(micros).map(Duration::from_micros).map_err(|_| "a duration lies ahead".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_or_of_bytes_a_size() {
        let parsed = |text: &str| text.parse::<Limit>().map(|limit| (limit.quota, limit.limit));
        assert_eq!(parsed("requests_per_second=5_000"), Ok(("requests_per_second".to_owned(), 5_000)));
        assert_eq!(parsed("storage_bytes=50GiB"), Ok(("storage_bytes".to_owned(), 50 << 30)));
        assert_eq!(parsed("storage_bytes=7"), Ok(("storage_bytes".to_owned(), 7)));
        for text in ["requests_per_second", "requests_per_second=many", "features=5GiB", "features=-1"] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }
}
