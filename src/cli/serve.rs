//! `hydrant serve`: its arguments, and the configuration that they make. Starting the server is the
//! program's affair.

use std::path::PathBuf;

use super::server::NoServer;
use super::{Done, Failure, output};
use crate::config::{Config, Loader, REFERENCE};

/// Run the server; with no file and no flags, on the embedded default
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hydrant serve\n  hydrant serve --print-defaults > hydrant.toml\n  hydrant serve --config hydrant.toml --data-dir data --grpc-addr 127.0.0.1:7600"
)]
pub struct Args {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Where log, definitions and data are kept
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Address of gRPC; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    grpc_addr: Option<String>,

    /// Address of Arrow Flight
    #[arg(long, value_name = "ADDR")]
    flight_addr: Option<String>,

    /// Address of HTTP (metrics and health)
    #[arg(long, value_name = "ADDR")]
    http_addr: Option<String>,

    /// Listen beyond this machine without TLS: keys and data go over the network in the clear
    #[arg(id = "insecure", long = "insecure")]
    insecure: bool,

    /// Print every option with its default, commented, as a configuration file, and serve nothing
    #[arg(long, exclusive = true)]
    pub print_defaults: bool,

    #[command(flatten)]
    _server: NoServer,
}

/// Prints the configuration that holds where nothing else is said.
pub fn print_defaults() -> Result<Done, Failure> {
    output::print(REFERENCE)?;
    Ok(Done::Done)
}

/// The configuration: the embedded default, the file, the environment, these flags; later wins.
pub fn config(args: Args) -> Result<Config, Failure> {
    let mut loader = Loader::new().environment(std::env::vars_os());
    if let Some(file) = args.config {
        loader = loader.file(file);
    }
    let data_dir = args.data_dir.map(|path| path.to_string_lossy().into_owned());
    let loaded = loader
        .flag("--data-dir", "storage.data_dir", data_dir)
        .flag("--grpc-addr", "server.grpc_addr", args.grpc_addr)
        .flag("--flight-addr", "server.flight_addr", args.flight_addr)
        .flag("--http-addr", "server.http_addr", args.http_addr)
        .flag("--insecure", "auth.insecure", args.insecure.then(|| "true".to_owned()))
        .load();
    loaded.map_err(|error| Failure::new("INVALID_CONFIGURATION", error.to_string()))
}
