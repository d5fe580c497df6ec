//! `hydrant share`: views and services that tenants let one another read. Shares are named by their number,
//! those of other tenants by `OWNER/NUMBER`, or by the names that requests have for what they share.

use hydrant_proto::v1;
use serde_json::{Value, json};

use super::output::{self, ResultOutput};
use super::{Done, Failure, Format, Server, time};
use crate::config::Span;
use crate::rpc::client::Client;

/// Let other tenants read views and services
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  hydrant share create --view profile --to research --rights read-and-train\n  \
    hydrant share list --with-me\n  hydrant share withdraw 3 --notice 14d")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Create(CreateArgs),
    List(ListArgs),
    Get(GetArgs),
    Withdraw(WithdrawArgs),
}

/// Share a view or a service with a tenant
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  hydrant share create --service delay_model --to research\n  \
    hydrant share create --view profile --to research --rights read-and-train --with-pii\n\n\
    The other tenant reads it as OWNER/delay_model or OWNER/profile:FEATURE. What is tagged pii is masked for it.")]
struct CreateArgs {
    #[command(flatten)]
    of: OfArgs,

    /// The tenant that may read it
    #[arg(long, value_name = "TENANT")]
    to: String,

    /// To read online as of now; or training sets and reads of the past too
    #[arg(long, value_enum, default_value_t = Rights::Read)]
    rights: Rights,

    /// Show what is personal to those of its callers who have the role pii; needs it of you too
    #[arg(long)]
    with_pii: bool,

    /// Check, show what would be, and change nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    output: ResultOutput,
}

/// What is shared, in one of two ways.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct OfArgs {
    /// All features of a view
    #[arg(long, value_name = "VIEW")]
    view: Option<String>,

    /// All versions of a service; not the views that it is made of
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Rights {
    Read,
    ReadAndTrain,
}

/// List the shares that your tenant has given, or was given
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  hydrant share list\n  hydrant share list --with-me -o json")]
struct ListArgs {
    /// Those that other tenants gave to yours
    #[arg(long)]
    with_me: bool,

    #[command(flatten)]
    output: ResultOutput,
}

/// Show a share, its keys and its columns
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  hydrant share get 3\n  hydrant share get acme/delay_model")]
struct GetArgs {
    /// Its number; of another tenant OWNER/NUMBER, or the name that requests have for it, OWNER/NAME
    share: String,

    #[command(flatten)]
    output: ResultOutput,
}

/// End a share: at once, or with notice
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  hydrant share withdraw 3 --notice 14d\n  hydrant share withdraw 3\n\n\
    With notice it can be read until then, and both tenants see when that is. Withdrawn again, the new end holds.")]
struct WithdrawArgs {
    /// Its number
    share: String,

    /// For how long it can still be read, such as 14d; without it, no longer
    #[arg(long, value_name = "DURATION")]
    notice: Option<Span>,

    /// Withdraw only what you have seen: the etag that `get -o json` told
    #[arg(long, default_value = "")]
    etag: String,

    /// Check, show what would be, and change nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    output: ResultOutput,
}

impl Args {
    pub fn format(&self) -> Format {
        match &self.command {
            Command::Create(args) => args.output.format,
            Command::List(args) => args.output.format,
            Command::Get(args) => args.output.format,
            Command::Withdraw(args) => args.output.format,
        }
    }

    /// What Ctrl-C leaves behind.
    pub fn interrupted(&self) -> Option<&'static str> {
        match self.command {
            Command::Create(_) => Some("it may be shared all the same; `hydrant share list` tells"),
            Command::Withdraw(_) => Some("it may be withdrawn all the same; `hydrant share get` tells"),
            Command::List(_) | Command::Get(_) => None,
        }
    }
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let client = server.connect().await?;
    match args.command {
        Command::Create(args) => {
            use v1::create_share_request::Of;
            let rights = match args.rights {
                Rights::Read => v1::share::Rights::Read,
                Rights::ReadAndTrain => v1::share::Rights::ReadAndTrain,
            };
            let request = v1::CreateShareRequest {
                of: args.of.view.map(Of::View).or(args.of.service.map(Of::Service)),
                to: args.to,
                rights: rights.into(),
                with_pii: args.with_pii,
                validate_only: args.dry_run,
            };
            changed(&client.create_share(request).await?, args.dry_run, args.output.format)
        }
        Command::List(args) => {
            let shares = client.list_shares(args.with_me).await?;
            let documents = json!({ "shares": shares.iter().map(document).collect::<Vec<_>>() });
            output::print_as(args.output.format, &documents, || match shares.is_empty() {
                true => "there are no shares".to_owned(),
                false => table(&shares),
            })?;
            Ok(Done::Done)
        }
        Command::Get(args) => {
            let share = client.get_share(&resource(&client, &args.share).await?).await?;
            output::print_as(args.output.format, &document(&share), || {
                format!("{}\n\n{}", table(std::slice::from_ref(&share)), columns(&share))
            })?;
            Ok(Done::Done)
        }
        Command::Withdraw(args) => {
            let request = v1::WithdrawShareRequest {
                name: resource(&client, &args.share).await?,
                notice_micros: args.notice.map(micros).unwrap_or_default(),
                etag: args.etag,
                validate_only: args.dry_run,
            };
            changed(&client.withdraw_share(request).await?, args.dry_run, args.output.format)
        }
    }
}

/// The resource name of a share as people name it: the owner is the caller's tenant unless it is given. What
/// another tenant shares is also known by the name that requests have for it.
async fn resource(client: &Client, written: &str) -> Result<String, Failure> {
    if written.starts_with("tenants/") {
        return Ok(written.to_owned());
    }
    match written.split_once('/') {
        Some((_, name)) if !name.bytes().all(|byte| byte.is_ascii_digit()) => {
            let shares = client.list_shares(true).await?;
            let is_meant = |share: &&v1::Share| !share.ended && named(share).trim_end_matches(":*") == written;
            let found = shares.iter().find(is_meant).map(|share| share.name.clone());
            found.ok_or_else(|| {
                Failure::new("SHARE_NOT_FOUND", format!("no tenant shares '{written}' with yours"))
                    .hint("`hydrant share list --with-me` shows what other tenants share with yours")
            })
        }
        Some((owner, number)) => Ok(format!("tenants/{owner}/shares/{number}")),
        None => Ok(format!("tenants/{}/shares/{written}", client.who_am_i().await?.tenant)),
    }
}

fn changed(share: &v1::Share, dry_run: bool, format: Format) -> Result<Done, Failure> {
    let mut told = document(share);
    told["dry_run"] = json!(dry_run);
    output::print_as(format, &told, || {
        let not = if dry_run { "nothing was changed; it would be:\n" } else { "" };
        format!("{not}{}", table(std::slice::from_ref(share)))
    })?;
    Ok(Done::Done)
}

fn table(shares: &[v1::Share]) -> String {
    let row = |share: &v1::Share| {
        vec![
            short_name(share),
            named(share),
            share.to.clone(),
            rights(share).to_owned(),
            state(share),
            share.description.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = shares.iter().map(row).collect();
    output::table(&["share", "of", "to", "rights", "state", "description"], &rows, &[])
}

fn columns(share: &v1::Share) -> String {
    let row = |kind: &'static str| {
        move |column: &v1::SharedColumn| {
            let masked = if column.masked { "masked" } else { "" };
            vec![kind.to_owned(), column.name.clone(), column.r#type.clone(), masked.to_owned()]
        }
    };
    let keys = share.keys.iter().map(row("key"));
    let rows: Vec<Vec<String>> = keys.chain(share.columns.iter().map(row("feature"))).collect();
    output::table(&["", "column", "type", ""], &rows, &[])
}

/// `OWNER/NUMBER`.
fn short_name(share: &v1::Share) -> String {
    format!("{}/{}", owner(share), share.name.rsplit('/').next().unwrap_or_default())
}

fn owner(share: &v1::Share) -> &str {
    share.name.split('/').nth(1).unwrap_or_default()
}

/// As the other tenant names it in requests.
pub(super) fn named(share: &v1::Share) -> String {
    match &share.of {
        Some(v1::share::Of::View(view)) => format!("{}/{view}:*", owner(share)),
        Some(v1::share::Of::Service(service)) => format!("{}/{service}", owner(share)),
        None => String::new(),
    }
}

fn rights(share: &v1::Share) -> &'static str {
    match (share.rights(), share.with_pii) {
        (v1::share::Rights::ReadAndTrain, false) => "read and train",
        (v1::share::Rights::ReadAndTrain, true) => "read and train, pii",
        (_, false) => "read",
        (_, true) => "read, pii",
    }
}

fn state(share: &v1::Share) -> String {
    match share.ends_micros {
        None => "shared".to_owned(),
        Some(ends) if share.ended => format!("ended {}", time::show(ends)),
        Some(ends) => format!("until {}", time::show(ends)),
    }
}

fn document(share: &v1::Share) -> Value {
    let column = |column: &v1::SharedColumn| {
        json!({
            "name": column.name, "type": column.r#type, "masked": column.masked, "view": column.view, "keys": column.keys,
        })
    };
    let (view, service) = match &share.of {
        Some(v1::share::Of::View(view)) => (Some(view), None),
        Some(v1::share::Of::Service(service)) => (None, Some(service)),
        None => (None, None),
    };
    json!({
        "name": share.name, "etag": share.etag, "view": view, "service": service, "read_as": named(share),
        "to": share.to, "rights": share.rights().as_str_name(), "with_pii": share.with_pii,
        "created": time::show(share.created_micros), "created_by": share.created_by,
        "ends": share.ends_micros.map(time::show), "ended": share.ended,
        "withdrawn": share.withdrawn_micros.map(time::show), "withdrawn_by": share.withdrawn_by,
        "description": share.description, "versions": share.versions,
        "keys": share.keys.iter().map(|key| json!({"name": key.name, "type": key.r#type})).collect::<Vec<_>>(),
        "columns": share.columns.iter().map(column).collect::<Vec<_>>(),
    })
}

fn micros(span: Span) -> u64 {
    u64::try_from(span.duration().as_micros()).unwrap_or(u64::MAX)
}
