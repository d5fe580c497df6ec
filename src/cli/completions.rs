//! `hydrant completions`: what a shell needs to complete commands.

use clap_complete::Shell;

use super::server::{NoServer, NotInsecure};
use super::{Done, Failure, output};

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  hydrant completions bash > /etc/bash_completion.d/hydrant")]
pub struct Args {
    shell: Shell,

    #[command(flatten)]
    _server: NoServer,

    #[command(flatten)]
    _not_insecure: NotInsecure,
}

pub(super) fn run(args: &Args, command: &mut clap::Command) -> Result<Done, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "hydrant", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(Done::Done)
}
