//! The one binary: server and command line. It turns arguments into a configuration, a server or a
//! command, and the outcome into an exit code; nothing else happens here.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use hydrant::app::rehearsal::rehearse;
use hydrant::app::{App, AppError};
use hydrant::cli::{self, Command, Done, Failure, Format};
use hydrant::config::Config;
use hydrant::telemetry::Telemetry;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// A read makes and drops some dozens of small things, on whichever thread it runs. By the crate's feature `override`
/// the C libraries' memory is its too: RocksDB's blocks then lie in huge pages where the kernel lets programs ask.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cli::parse();
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("hydrant: the runtime can't be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    match cli.command {
        Command::Serve(args) if args.print_defaults => cli::exit_code(cli::serve::print_defaults(), Format::Table),
        Command::Serve(args) => {
            let served = cli::serve::config(args).and_then(|config| runtime.block_on(serve(config)));
            cli::exit_code(served.map(|()| Done::Done), Format::Table)
        }
        Command::Test(args) => {
            let format = args.format();
            cli::exit_code(runtime.block_on(test(args)), format)
        }
        Command::Client(command) => runtime.block_on(cli::run(command, cli.server)),
    }
}

/// Serves until the process is told to stop.
async fn serve(config: Config) -> Result<(), Failure> {
    let telemetry = Telemetry::start(&config.telemetry).map_err(|error| failure(&error))?;
    let mut terminated = signal(SignalKind::terminate()).map_err(|error| failure(&error))?;
    let app = App::build(&config, Arc::new(telemetry)).await.map_err(|error| app_failure(&error))?;

    // For whoever started the server on port 0, and for people.
    let addresses = app.addresses();
    let told =
        writeln!(std::io::stdout(), "grpc={} flight={} http={}", addresses.grpc, addresses.flight, addresses.http);
    if let Err(error) = told {
        // Nobody reads it; that is no reason not to serve.
        tracing::warn!(%error, "the addresses could not be printed");
    }
    let stopped = async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    app.run(stopped).await.map_err(|error| app_failure(&error))
}

/// Holds definitions to their owners' tests, one after the other.
async fn test(args: cli::test::Args) -> Result<Done, Failure> {
    let cli::test::Rehearsal { definitions, scenarios } = args.read()?;
    let mut outcomes = Vec::with_capacity(scenarios.len());
    for scenario in &scenarios {
        let outcome = rehearse(&definitions, scenario).await;
        args.tell(&outcome)?;
        outcomes.push(outcome);
    }
    args.tell_all(&outcomes)
}

fn app_failure(error: &AppError) -> Failure {
    let failure = failure(error);
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn failure(error: &dyn std::error::Error) -> Failure {
    Failure::new("SERVER_FAILED", error.to_string())
}
