//! The command line: one file per command, each with its `Args` and its `run`. Commands read files,
//! ask a server through [`crate::rpc::client`] and print; they know nothing of how a server works.
//! Data goes to stdout, everything else to stderr.

pub mod apply;
pub mod audit;
pub mod backfill;
pub mod backup;
pub mod bench;
pub mod completions;
pub mod delete;
pub mod describe;
pub mod diff;
pub mod erase;
pub mod get;
pub mod historical;
pub mod history;
pub mod ingest;
pub mod key;
pub mod lineage;
pub mod materialize;
pub mod online;
pub mod plan;
pub mod quota;
pub mod rollback;
pub mod search;
pub mod serve;
pub mod share;
pub mod sla;
pub mod test;
pub mod training_set;
pub mod usage;
pub mod version;
pub mod whoami;
pub mod why;

mod catalog;
mod confirm;
mod definitions;
mod explain;
mod failure;
mod input;
mod key_file;
mod keys;
mod output;
mod progress;
mod server;
mod time;
mod yaml;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use server::{NoSuchServer, Server, ServerArgs};

pub use failure::Failure;
pub use output::Format;

/// Hydrant: an ML feature store, online and offline in one system.
#[derive(Debug, Parser)]
#[command(
    name = "hydrant",
    version,
    propagate_version = true,
    after_help = "Example:\n  hydrant serve &\n  hydrant apply -f examples/nycflights13/definitions\n\
                  \nExit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 changes found by `hydrant plan --exit-code`,\n\
                or differences by `hydrant diff --exit-code`."
)]
pub struct Cli {
    #[command(flatten)]
    pub server: ServerArgs,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Serve(serve::Args),
    Test(test::Args),
    #[command(flatten)]
    Client(ClientCommand),
}

/// What asks a server, or needs none.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    Plan(plan::Args),
    Apply(apply::Args),
    Get(get::Args),
    Describe(describe::Args),
    Delete(delete::Args),
    Lineage(lineage::Args),
    Search(search::Args),
    History(history::Args),
    Rollback(rollback::Args),
    Ingest(ingest::Args),
    Backfill(backfill::Args),
    Materialize(materialize::Args),
    Online(online::Args),
    Diff(diff::Args),
    Historical(historical::Args),
    Why(why::Args),
    TrainingSet(training_set::Args),
    Share(share::Args),
    Usage(usage::Args),
    Sla(sla::Args),
    Backup(backup::Args),
    Key(key::Args),
    Whoami(whoami::Args),
    Quota(quota::Args),
    Erase(erase::Args),
    Audit(audit::Args),
    Bench(bench::Args),
    Version(version::Args),
    Completions(completions::Args),
}

/// What a command that did its work says by its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    Done,
    /// `plan --exit-code` found changes, or `diff --exit-code` differences.
    Changes,
    /// Tests of `hydrant test` failed; it told which.
    Failed,
}

/// Reads the arguments of the process; ends it with 2 and the usage where they are wrong.
pub fn parse() -> Cli {
    Cli::parse()
}

/// Runs any command but `serve`, which is the program's own affair, and tells its exit code.
pub async fn run(command: ClientCommand, server: ServerArgs) -> ExitCode {
    let (format, interrupted) = (command.format(), command.interrupted());
    let server = match command.server(&server) {
        Ok(server) => server,
        Err(NoSuchServer::Address(told)) => {
            let written = &server.server;
            return wrong_usage(&format!("'{written}' is no address of a server (--server, HYDRANT_SERVER): {told}"));
        }
        Err(NoSuchServer::Tls(failure)) => return exit_code(Err(failure), format),
    };
    let outcome = match command {
        // It tells what it has measured until then.
        ClientCommand::Bench(args) => bench::run(args, &server).await,
        command => tokio::select! {
            outcome = execute(command, &server) => outcome,
            _ = tokio::signal::ctrl_c() => Err(interrupted),
        },
    };
    let outcome = match outcome {
        Err(failure) => Err(explain::explained(failure, &server).await),
        done => done,
    };
    exit_code(outcome, format)
}

/// Says what of the arguments is wrong, as the parser says it of others.
fn wrong_usage(told: &str) -> ExitCode {
    let error = Cli::command().error(clap::error::ErrorKind::ValueValidation, told);
    // Nobody to tell is no reason for another exit code.
    let _ = error.print();
    ExitCode::from(2)
}

/// Shows a failure on stderr, in the format of the command, and tells the exit code.
pub fn exit_code(outcome: Result<Done, Failure>, format: Format) -> ExitCode {
    match outcome {
        Ok(Done::Done) => ExitCode::SUCCESS,
        Ok(Done::Changes) => ExitCode::from(3),
        Ok(Done::Failed) => ExitCode::FAILURE,
        Err(failure) => {
            output::failure(&failure, format);
            ExitCode::FAILURE
        }
    }
}

async fn execute(command: ClientCommand, server: &Server) -> Result<Done, Failure> {
    match command {
        ClientCommand::Plan(args) => plan::run(args, server).await,
        ClientCommand::Apply(args) => apply::run(args, server).await,
        ClientCommand::Get(args) => get::run(args, server).await,
        ClientCommand::Describe(args) => describe::run(args, server).await,
        ClientCommand::Delete(args) => delete::run(args, server).await,
        ClientCommand::Lineage(args) => lineage::run(args, server).await,
        ClientCommand::Search(args) => search::run(args, server).await,
        ClientCommand::History(args) => history::run(args, server).await,
        ClientCommand::Rollback(args) => rollback::run(args, server).await,
        ClientCommand::Ingest(args) => ingest::run(args, server).await,
        ClientCommand::Backfill(args) => backfill::run(args, server).await,
        ClientCommand::Materialize(args) => materialize::run(args, server).await,
        ClientCommand::Online(args) => online::run(args, server).await,
        ClientCommand::Diff(args) => diff::run(args, server).await,
        ClientCommand::Historical(args) => historical::run(args, server).await,
        ClientCommand::Why(args) => why::run(args, server).await,
        ClientCommand::TrainingSet(args) => training_set::run(args, server).await,
        ClientCommand::Share(args) => share::run(args, server).await,
        ClientCommand::Usage(args) => usage::run(args, server).await,
        ClientCommand::Sla(args) => sla::run(args, server).await,
        ClientCommand::Backup(args) => backup::run(args, server).await,
        ClientCommand::Key(args) => key::run(args, server).await,
        ClientCommand::Whoami(args) => whoami::run(args, server).await,
        ClientCommand::Quota(args) => quota::run(args, server).await,
        ClientCommand::Erase(args) => erase::run(args, server).await,
        ClientCommand::Audit(args) => audit::run(args, server).await,
        ClientCommand::Bench(args) => bench::run(args, server).await,
        ClientCommand::Version(args) => version::run(args, server).await,
        ClientCommand::Completions(args) => completions::run(&args, &mut Cli::command()),
    }
}

impl ClientCommand {
    /// How the command prints, failures included.
    fn format(&self) -> Format {
        match self {
            Self::Plan(args) => args.output.format,
            Self::Apply(args) => args.output.format,
            Self::Get(args) => args.output.format,
            Self::Describe(args) => args.output.format,
            Self::Ingest(args) => args.output.format,
            Self::Backfill(args) => args.output.format,
            Self::Materialize(args) => args.output.format,
            Self::Online(args) => args.format(),
            Self::Share(args) => args.format(),
            Self::Diff(args) => args.output.format,
            Self::Usage(args) => args.output.format,
            Self::Sla(args) => args.format(),
            Self::Backup(args) => args.format(),
            Self::Key(args) => args.format(),
            Self::Whoami(args) => args.output.format,
            Self::Quota(args) => args.format(),
            Self::Erase(args) => args.format(),
            Self::Audit(args) => args.format(),
            Self::Bench(args) => args.format(),
            Self::Version(args) => args.output.format,
            Self::Delete(args) => args.output.format,
            Self::Lineage(args) => args.format(),
            Self::Search(args) => args.output.format,
            Self::History(args) => args.output.format,
            Self::Rollback(args) => args.output.format,
            Self::Historical(args) => args.format(),
            Self::Why(args) => args.output.format,
            Self::TrainingSet(args) => args.format(),
            Self::Completions(_) => Format::Table,
        }
    }

    /// The server that the arguments name, which has to be one where the command asks a server at all.
    fn server(&self, args: &ServerArgs) -> Result<Server, NoSuchServer> {
        match self {
            Self::Completions(_) => Ok(ServerArgs::nowhere()),
            Self::Backup(backup) if backup.is_offline() => Ok(ServerArgs::nowhere()),
            _ => args.server(),
        }
    }

    /// What Ctrl-C leaves behind, and how to go on.
    fn interrupted(&self) -> Failure {
        let failure = Failure::new("INTERRUPTED", "interrupted");
        match self {
            Self::Ingest(_) => failure.hint(ingest::GO_ON),
            Self::Backfill(_) => failure.hint(backfill::GO_ON),
            Self::Materialize(_) => failure.hint(materialize::GO_ON),
            Self::Apply(_) => failure.hint("it may have been applied all the same; `hydrant plan` tells"),
            Self::Rollback(_) => failure.hint("it may have been done all the same; `hydrant history` tells"),
            Self::Delete(_) => failure.hint("it may have been deleted all the same; `hydrant get` tells"),
            Self::Backup(args) => match args.interrupted() {
                Some(hint) => failure.hint(hint),
                None => failure,
            },
            Self::Share(args) => match args.interrupted() {
                Some(hint) => failure.hint(hint),
                None => failure,
            },
            Self::Key(args) => match args.interrupted() {
                Some(hint) => failure.hint(hint),
                None => failure,
            },
            Self::Sla(args) => match args.interrupted() {
                Some(hint) => failure.hint(hint),
                None => failure,
            },
            Self::TrainingSet(args) => match args.interrupted() {
                Some(hint) => failure.hint(hint),
                None => failure,
            },
            Self::Online(args) if args.writes_file() => {
                failure.hint("no file was written; the same command begins again")
            }
            Self::Historical(args) if args.writes_file() => {
                failure.hint("no file was written; the same command begins again")
            }
            _ => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_commands_of_the_manual_are_understood() {
        Cli::command().debug_assert();
        for line in [
            "hydrant serve --config c.toml --data-dir d --grpc-addr 127.0.0.1:1 --flight-addr 127.0.0.1:2 --http-addr 127.0.0.1:3",
            "hydrant test -f definitions -f more weather -o junit --junit tests.xml",
            "hydrant plan -f definitions --exit-code",
            "hydrant apply -f definitions",
            "hydrant get views -o yaml",
            "hydrant get FeatureView airport_weather -o json",
            "hydrant describe service delay_model",
            "hydrant delete entity airport",
            "hydrant lineage weather.temp --down -o mermaid",
            "hydrant lineage airport --kind entity --up -o json",
            "hydrant plan -f definitions --prune -o json",
            "hydrant search delay model --kind feature --tag tier=1 --tag pii --owner ops --type float64 --entity airport --limit 5 -o json",
            "hydrant search --kind column",
            "hydrant history",
            "hydrant history view airport_weather --limit 5 -o json",
            "hydrant rollback --to-revision 7 --dry-run --revision 9 -o json",
            "hydrant apply -f definitions --prune --revision 7",
            "hydrant apply -f definitions --expected-revision 7",
            "hydrant delete service delay_model@1 -o json",
            "hydrant ingest weather a.parquet b.parquet --known event+10m --ignore-extra",
            "hydrant backfill weather a.parquet b.parquet --known event+10m --from 2025-01-01T00:00:00Z --to 2026-01-01T00:00:00Z --ignore-extra --again b --no-materialize --dry-run -o json",
            "hydrant materialize airport_weather station_weather -o json",
            "hydrant online get --service s --key origin=EWR,carrier=UA --key origin=JFK,carrier=B6 --at 2013-12-30T22:30:00Z -o json",
            "hydrant online get --service s --keys keys.parquet",
            "hydrant diff s@3 s@4 --keys k.parquet --at 2026-01-01T00:00:00Z --tolerance 0.5 --exit-code -o json",
            "hydrant diff s@3 s --key a=1 --key a=2 --unpinned --batch-size 10 --repeat 20",
            "hydrant online score --service s --keys k.parquet -o o.parquet --at 2026-01-01T00:00:00Z --strict --with-status --with-event-time --batch-size 500",
            "hydrant online score --service s --keys k.parquet -o o.parquet --unpinned --format json",
            "hydrant historical get --service s --spine s.parquet --event-time t -o o.parquet --final --cutoff 2026-01-01T00:00:00Z --with-status --with-event-time",
            "hydrant historical explain --service s --spine s.parquet --event-time t --final --cutoff 2026-01-01T00:00:00Z",
            "hydrant historical explain --service s --rows 1000 --format json",
            "hydrant why --service s --key a=1,b=x --at 2013-12-30T22:30:00Z",
            "hydrant why --service s --key a=1 --at 2013-12-30T22:30:00Z --feature v__f --feature v:g --final --cutoff 2026-01-01T00:00:00Z --losers 3 -o json",
            "hydrant bench online --service s --keys k.parquet --rate 1000 --duration 10s --warm-up 5s --connections 4 --deadline 10ms -o json --report r.html",
            "hydrant bench online --service s --key a=0..1000 --key b=x,y --shared b --candidates 100 --choice zipf --zipf 1.2 --rates 10,20,30 --burst 10x",
            "hydrant bench online --service s --keys k.parquet --find-rate --p99-limit 5ms --threads 2",
            "hydrant bench ingest weather w.parquet --batch 100 --rate 20000 --write",
            "hydrant bench historical --service s --spine s.parquet --event-time t --repeat 5 --parallel 2 --report r.html",
            "hydrant training-set create flights --service s --service t@2 --spine s.parquet --event-time t --final --cutoff 2026-01-01T00:00:00Z --with-status --with-event-time -o json",
            "hydrant training-set get flights@1 -o json",
            "hydrant training-set list",
            "hydrant training-set pull flights@1 -o t.parquet --parallel 2 --format json",
            "hydrant training-set verify flights",
            "hydrant training-set delete flights@1",
            "hydrant backup create monday -o json",
            "hydrant backup list",
            "hydrant backup delete monday",
            "hydrant backup verify d/backups/monday -o json",
            "hydrant backup restore d/backups/monday restored",
            "hydrant key create --role reader --role trainer --view v --service s --description d --expires 90d -o json",
            "hydrant key create --tenant acme --role admin",
            "hydrant key list -o json",
            "hydrant key get abcdefghjk",
            "hydrant key rotate abcdefghjk --overlap 1h",
            "hydrant key revoke abcdefghjk",
            "hydrant whoami --token-file key",
            "hydrant whoami --token x --insecure -o json",
            "hydrant serve --insecure",
            "hydrant apply -f tenants.yaml",
            "hydrant get tenants",
            "hydrant delete tenant acme",
            "hydrant share create --view profile --to research --rights read-and-train --with-pii --dry-run -o json",
            "hydrant share create --service delay_model --to research",
            "hydrant share list --with-me -o json",
            "hydrant share get acme/3",
            "hydrant share withdraw 3 --notice 14d --etag 4 --dry-run",
            "hydrant quota get",
            "hydrant quota get acme -o json",
            "hydrant quota set acme requests_per_second=500 storage_bytes=50GiB --unset features --weight 3 --etag 4 --dry-run",
            "hydrant quota set acme --weight 3",
            "hydrant quota get acme --keys",
            "hydrant quota get acme --key abcdefghjk -o json",
            "hydrant quota set acme --key abcdefghjk requests_per_second=50 --unset keys_per_second --dry-run",
            "hydrant quota raise acme --key abcdefghjk requests_per_second=5000 --for 2h",
            "hydrant quota raise acme requests_per_second=5000 --for 2h -o json",
            "hydrant quota raise acme --end requests_per_second",
            "hydrant erase --entity user --key user_id=42 --dry-run -o json",
            "hydrant erase --entity user --key user_id=42 --yes",
            "hydrant erase list --limit 5 -o json",
            "hydrant erase get 7",
            "hydrant audit list --since 2026-01-01T00:00:00Z --until 2026-01-02T00:00:00Z --caller ann --action Apply --resource v --outcome refused --tenant acme --limit 10 -o json",
            "hydrant audit verify --noted 7:00",
            "hydrant sla",
            "hydrant sla airport_weather station_weather -o json --watch",
            "hydrant sla silence airport_weather --for 2h --reason moving -o json",
            "hydrant sla silences",
            "hydrant sla unsilence 3",
            "hydrant usage",
            "hydrant usage airport_weather:temp --unused 30d --by-caller -o json",
            "hydrant search --unused 30d",
            "hydrant version",
            "hydrant completions bash",
            "hydrant --server 127.0.0.1:9 get entities",
            "hydrant get entities --server 127.0.0.1:9",
        ] {
            assert!(parsed(line).is_ok(), "{line}: {}", parsed(line).expect_err("not understood"));
        }
    }

    #[test]
    fn wrong_usage_is_told_apart_from_failure() {
        for line in [
            "hydrant",
            "hydrant frobnicate",
            "hydrant online get --service s",
            "hydrant online get --service s --key origin=EWR --keys keys.parquet",
            "hydrant online get --service s --key origin=EWR --at yesterday",
            "hydrant online score --service s --keys k.parquet",
            "hydrant diff s@1 s@2",
            "hydrant diff s@1 --key a=1",
            "hydrant diff s@1 s@2 --key a=1 --tolerance -1",
            "hydrant diff s@1 s@2 --key a=1 --tolerance NaN",
            "hydrant diff s@1 s@2 --key a=1 --at 2026-01-01T00:00:00Z --unpinned",
            "hydrant online score --service s --keys k.parquet -o o.parquet --at 2026-01-01T00:00:00Z --unpinned",
            "hydrant ingest weather",
            "hydrant ingest weather f.parquet --known never",
            "hydrant backfill weather",
            "hydrant backfill weather f.parquet --from yesterday",
            "hydrant materialize",
            "hydrant historical get --service s --spine s.parquet --event-time t",
            "hydrant historical explain --service s",
            "hydrant why --service s --at 2013-12-30T22:30:00Z",
            "hydrant why --service s --key a=1 --key a=2 --at 2013-12-30T22:30:00Z",
            "hydrant historical explain --service s --spine s.parquet",
            "hydrant historical explain --service s --spine s.parquet --event-time t --rows 5",
            "hydrant get tables",
            "hydrant lineage airport --up --down",
            "hydrant search",
            "hydrant test",
            "hydrant test -f d --server 127.0.0.1:7600",
            "hydrant search --tag =1",
            "hydrant history --limit 0",
            "hydrant rollback",
            "hydrant lineage airport --kind table",
            "hydrant bench online --service s --keys k.parquet",
            "hydrant bench online --service s --rate 10",
            "hydrant bench online --service s --key a=1 --keys k.parquet --rate 10",
            "hydrant bench online --service s --keys k.parquet --rate 10 --find-rate",
            "hydrant bench online --service s --keys k.parquet --rate 0",
            "hydrant bench online --service s --key a --rate 10",
            "hydrant serve --server 127.0.0.1:7600",
            "hydrant training-set create flights --spine s.parquet --event-time t",
            "hydrant training-set pull flights@1",
            "hydrant training-set pull flights@1 -o t.parquet --parallel 0",
            "hydrant key create",
            "hydrant key create --role king",
            "hydrant key rotate",
            "hydrant whoami --token x --token-file y",
            "hydrant share create --to research",
            "hydrant share create --view a --service b --to research",
            "hydrant share create --view a",
            "hydrant share create --view a --to research --rights write",
            "hydrant share withdraw",
            "hydrant quota get --key abcdefghjk",
            "hydrant quota set acme --key abcdefghjk --weight 3",
            "hydrant quota set acme",
            "hydrant erase",
            "hydrant erase --entity user",
            "hydrant erase get",
            "hydrant quota set acme requests_per_second",
            "hydrant quota raise acme requests_per_second=5000",
            "hydrant quota raise acme",
            "hydrant sla silence airport_weather --for 2h",
            "hydrant sla silence airport_weather --for soon --reason x",
            "hydrant sla unsilence all",
            "hydrant usage --unused 0d",
            "hydrant search --unused soon",
            "hydrant backup",
            "hydrant backup verify --server 127.0.0.1:7600 d",
            "hydrant backup restore d/backups/monday",
        ] {
            let error = parsed(line).expect_err(line);
            assert!(error.exit_code() == 2, "{line}: {}", error.exit_code());
        }
    }

    #[test]
    fn every_command_shows_an_example_in_its_help() {
        fn check(command: &clap::Command) {
            command.get_subcommands().for_each(check);
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "`{}` has no example", command.get_name());
        }
        check(&Cli::command());
    }

    #[test]
    fn a_read_without_keys_names_both_ways_to_give_them() {
        let told = parsed("hydrant online get --service s").expect_err("no keys").to_string();
        assert!(told.contains("--key <") && told.contains("--keys <"), "{told}");
    }

    #[test]
    fn only_commands_that_talk_to_a_server_show_its_address() {
        let mut command = Cli::command();
        command.build();
        let help = |name: &str| {
            let found = command.get_subcommands().find(|command| command.get_name() == name);
            found.expect(name).clone().render_long_help().to_string()
        };
        assert!(help("get").contains("--server <[https://]HOST:PORT>") && help("get").contains("--ca <FILE>"));
        for name in ["serve", "test", "completions"] {
            assert!(!help(name).contains("--server") && !help(name).contains("--ca"), "{name}");
        }
    }

    #[test]
    fn shells_complete_kinds_and_formats() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "hydrant", &mut script);
            let script = String::from_utf8(script).expect("UTF-8");
            for words in [["entity", "source"], ["view", "service"], ["table", "json"]] {
                assert!(words.iter().all(|word| script.contains(word)), "{shell}: {words:?}");
            }
        }
    }
}
