//! `hydrant key`: API keys, as an admin or the platform manages them. A key is printed once, when it is
//! made or rotated: alone on stdout, so that it can go straight into a file or a secret store.

use hydrant_proto::v1;
use serde_json::{Value, json};

use super::output::{self, ResultOutput};
use super::{Done, Failure, Format, Server, time};
use crate::config::Span;
use crate::rpc::wire::roles::{parse_role, role_name};

/// Make, list, rotate and revoke API keys
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hydrant key create --role reader --description scoring > key\n  hydrant key list\n  \
    hydrant key rotate abcdefghjk --overlap 1h > key\n  hydrant key revoke abcdefghjk"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Create(CreateArgs),
    List(ListArgs),
    Get(IdArgs),
    Rotate(RotateArgs),
    Revoke(IdArgs),
}

/// Make a key, and print it: nothing ever shows it again
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  hydrant key create --role reader --service delay_model --expires 90d > key\n  \
    hydrant key create --tenant acme --role admin > acme-admin")]
struct CreateArgs {
    /// What the key is for: reader, trainer, writer, owner, admin; pii beside them, to see what is personal;
    /// or platform, by itself
    #[arg(long = "role", required = true, value_name = "ROLE", value_parser = parse_role)]
    roles: Vec<v1::Role>,

    /// The tenant, if not the caller's: its first admin, given by the platform
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,

    /// A view that the key is limited to, together with others that are named
    #[arg(long = "view", value_name = "VIEW")]
    views: Vec<String>,

    /// A service that the key is limited to, together with others that are named
    #[arg(long = "service", value_name = "SERVICE")]
    services: Vec<String>,

    /// What it is for, for whoever lists keys
    #[arg(long, default_value = "", value_name = "TEXT")]
    description: String,

    /// For how long it is good; without it, until it is revoked
    #[arg(long, value_name = "DURATION")]
    expires: Option<Span>,

    #[command(flatten)]
    output: ResultOutput,
}

/// List the keys that the caller manages
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  hydrant key list -o json")]
struct ListArgs {
    #[command(flatten)]
    output: ResultOutput,
}

/// Show or revoke a key
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  hydrant key get abcdefghjk\n  hydrant key revoke abcdefghjk")]
struct IdArgs {
    /// The key's id, as `hydrant key list` shows it
    id: String,

    #[command(flatten)]
    output: ResultOutput,
}

/// Give a key another secret, and print it: nothing ever shows it again
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  hydrant key rotate abcdefghjk --overlap 1h > key")]
struct RotateArgs {
    /// The key's id, as `hydrant key list` shows it
    id: String,

    /// For how long the secret before holds on
    #[arg(long, default_value = "1h", value_name = "DURATION")]
    overlap: Span,

    #[command(flatten)]
    output: ResultOutput,
}

impl Args {
    pub fn format(&self) -> Format {
        match &self.command {
            Command::Create(args) => args.output.format,
            Command::List(args) => args.output.format,
            Command::Get(args) | Command::Revoke(args) => args.output.format,
            Command::Rotate(args) => args.output.format,
        }
    }

    /// What Ctrl-C leaves behind.
    pub fn interrupted(&self) -> Option<&'static str> {
        match self.command {
            Command::Create(_) => Some("a key may have been made all the same: `hydrant key list` tells; revoke it"),
            Command::Rotate(_) => Some("it may have been rotated all the same; rotate it again"),
            Command::Revoke(_) => Some("it may have been revoked all the same; `hydrant key get` tells"),
            Command::List(_) | Command::Get(_) => None,
        }
    }
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let client = server.connect().await?;
    match args.command {
        Command::Create(args) => {
            let request = v1::CreateKeyRequest {
                tenant: args.tenant.unwrap_or_default(),
                roles: args.roles.iter().map(|role| i32::from(*role)).collect(),
                views: args.views,
                services: args.services,
                description: args.description,
                expires_after_micros: args.expires.map(micros),
            };
            show_once(&client.create_key(request).await?, args.output.format)
        }
        Command::Rotate(args) => {
            show_once(&client.rotate_key(&args.id, micros(args.overlap)).await?, args.output.format)
        }
        Command::Get(args) => show(&client.get_key(&args.id).await?, args.output.format),
        Command::Revoke(args) => {
            let revoked = client.revoke_key(&args.id).await?;
            output::print_as(args.output.format, &document(&revoked), || format!("revoked key {}", revoked.id))?;
            Ok(Done::Done)
        }
        Command::List(args) => {
            let keys = client.list_keys().await?;
            let documents = json!({ "keys": keys.iter().map(document).collect::<Vec<_>>() });
            output::print_as(args.output.format, &documents, || match keys.is_empty() {
                true => "there are no keys".to_owned(),
                false => table(&keys),
            })?;
            Ok(Done::Done)
        }
    }
}

/// The key alone goes to stdout, what is known about it to people.
fn show_once(created: &v1::CreateKeyResponse, format: Format) -> Result<Done, Failure> {
    let key = created.key.clone().unwrap_or_default();
    if format == Format::Table {
        output::note(&format!(
            "key {} of tenant {} ({}); it is not shown again",
            key.id,
            key.tenant,
            roles(&key.roles)
        ));
    }
    output::print_as(format, &json!({ "token": created.token, "key": document(&key) }), || created.token.clone())?;
    Ok(Done::Done)
}

fn show(key: &v1::ApiKey, format: Format) -> Result<Done, Failure> {
    output::print_as(format, &document(key), || table(std::slice::from_ref(key)))?;
    Ok(Done::Done)
}

fn table(keys: &[v1::ApiKey]) -> String {
    let row = |key: &v1::ApiKey| {
        vec![
            key.id.clone(),
            key.tenant.clone(),
            roles(&key.roles),
            key.views.iter().chain(&key.services).cloned().collect::<Vec<_>>().join(", "),
            state(key),
            key.last_used_micros.map(time::show).unwrap_or_else(|| "never".to_owned()),
            key.description.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = keys.iter().map(row).collect();
    output::table(&["id", "tenant", "roles", "limited to", "state", "last used", "description"], &rows, &[])
}

fn state(key: &v1::ApiKey) -> String {
    match (key.revoked_micros, key.expires_micros) {
        (Some(revoked), _) => format!("revoked {}", time::show(revoked)),
        (None, Some(expires)) => format!("until {}", time::show(expires)),
        (None, None) => "good".to_owned(),
    }
}

/// As the server knows them by now, or by number.
pub(super) fn role_names(roles: &[i32]) -> Vec<String> {
    roles.iter().map(|role| role_name(*role)).collect()
}

fn roles(roles: &[i32]) -> String {
    role_names(roles).join(", ")
}

fn document(key: &v1::ApiKey) -> Value {
    json!({
        "id": key.id, "tenant": key.tenant, "roles": role_names(&key.roles), "views": key.views,
        "services": key.services, "description": key.description, "created": time::show(key.created_micros),
        "created_by": key.created_by, "expires": key.expires_micros.map(time::show),
        "revoked": key.revoked_micros.map(time::show), "last_used": key.last_used_micros.map(time::show),
        "previous_until": key.previous_until_micros.map(time::show),
    })
}

fn micros(span: Span) -> u64 {
    u64::try_from(span.duration().as_micros()).unwrap_or(u64::MAX)
}
