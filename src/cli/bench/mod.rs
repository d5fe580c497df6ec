//! `hydrant bench`: puts a load on a server and tells what came of it, as a table, as JSON and as a
//! page with plots. How load is made and counted is `crate::bench`'s affair; here are its options,
//! what is sent, and how it is told. It measures any server from outside, and changes none but by
//! `bench ingest`, which says so.

mod chart;
mod drive;
mod figures;
mod historical;
mod ingest;
mod keys;
mod online;
mod options;
mod page;
mod process;
mod results;
mod steps;

use clap::Subcommand;
use tokio::sync::watch;

use super::{Done, Failure, Format, Server, output};
use page::PageFile;
use results::Results;

/// Measure a server: latencies at given rates, highest rate, bursts
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  hydrant bench online --service delay_model --keys keys.parquet --rate 1000")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Online(Box<online::Args>),
    Ingest(Box<ingest::Args>),
    Historical(Box<historical::Args>),
}

impl Args {
    pub(super) fn format(&self) -> Format {
        match &self.command {
            Command::Online(args) => args.output.format,
            Command::Ingest(args) => args.output.format,
            Command::Historical(args) => args.output.format,
        }
    }
}

/// Ends at the second Ctrl-C; the first ends the measuring, and what was measured is told.
pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let interrupt = Interrupt::listen();
    let mut again = interrupt.clone();
    let measured = async {
        match args.command {
            Command::Online(args) => online::run(*args, server, &interrupt).await,
            Command::Ingest(args) => ingest::run(*args, server, &interrupt).await,
            Command::Historical(args) => historical::run(*args, server, &interrupt).await,
        }
    };
    tokio::select! {
        outcome = measured => outcome,
        () = again.came(2) => Err(Interrupt::failure()),
    }
}

/// How often Ctrl-C was pressed.
#[derive(Clone, Debug)]
struct Interrupt(watch::Receiver<u32>);

impl Interrupt {
    /// Listens until the process ends.
    fn listen() -> Self {
        let (sender, receiver) = watch::channel(0);
        tokio::spawn(async move {
            while tokio::signal::ctrl_c().await.is_ok() {
                sender.send_modify(|times| *times += 1);
            }
        });
        Self(receiver)
    }

    fn has_come(&self) -> bool {
        *self.0.borrow() > 0
    }

    /// Waits until it has come so often.
    async fn came(&mut self, times: u32) {
        if self.0.wait_for(|came| *came >= times).await.is_err() {
            // Nobody listens any more, so it never comes.
            std::future::pending::<()>().await;
        }
    }

    fn failure() -> Failure {
        Failure::new("INTERRUPTED", "interrupted")
    }
}

/// Prints results, writes their page, and fails where they were cut short.
fn finish(results: &Results, page: Option<PageFile>, format: Format) -> Result<Done, Failure> {
    output::print_as(format, &results.json(), || results.text())?;
    if format == Format::Table {
        results.warnings().iter().for_each(|warning| output::warn(warning, format));
    }
    if let Some(file) = page {
        file.write(&results.page())?;
    }
    if results.measured.interrupted { Err(Interrupt::failure()) } else { Ok(Done::Done) }
}
