//! The one binary: server and command line. It turns arguments into a configuration, a server or a
//! command, and the outcome into an exit code; nothing else happens here.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use hydrant::app::App;
use hydrant::cli::{self, Command, Done, Failure, Format};
use hydrant::config::Config;
use hydrant::telemetry::Telemetry;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

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
        Command::Serve(args) => {
            let served = cli::serve::config(args).and_then(|config| {
                runtime.block_on(serve(config)).map_err(|error| Failure::new("SERVER_FAILED", format!("{error:#}")))
            });
            cli::exit_code(served.map(|()| Done::Done), Format::Table)
        }
        Command::Client(command) => runtime.block_on(cli::run(command, cli.server)),
    }
}

/// Serves until the process is told to stop.
async fn serve(config: Config) -> anyhow::Result<()> {
    let telemetry = Arc::new(Telemetry::start(&config.telemetry)?);
    let mut terminated = signal(SignalKind::terminate()).context("signals can't be awaited")?;
    let app = App::build(&config, telemetry).await?;

    // For whoever started the server on port 0, and for people.
    let addresses = app.addresses();
    let mut stdout = std::io::stdout();
    writeln!(stdout, "grpc={} flight={} http={}", addresses.grpc, addresses.flight, addresses.http)?;
    stdout.flush()?;

    app.run(async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    })
    .await?;
    Ok(())
}
