//! The process that `--server-pid` names: it has to be the one that is measured, since the CPU time of
//! another would pass for the server's. It asks the operating system who listens where, and nobody else.

use std::fmt;
use std::io;

use super::super::Failure;
use crate::bench::machine;

/// What a server's process is called.
const SERVER: &str = "hydrant";

/// A process of this machine that was found to be the server.
#[derive(Clone, Copy, Debug)]
pub struct ServerProcess(u32);

impl ServerProcess {
    /// `address` is the one that is measured, `HOST:PORT`.
    pub fn find(process: Option<u32>, address: &str) -> Result<Option<Self>, Failure> {
        process.map(|process| Self::check(process, address)).transpose()
    }

    fn check(process: u32, address: &str) -> Result<Self, Failure> {
        // Whoever can't be told the CPU time of needs no further look.
        machine::cpu_micros(process).map_err(|error| cpu_failure(&error))?;
        let name = machine::process_name(process).map_err(|error| cpu_failure(&error))?;
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        let refused = |why: String| {
            Err(Failure::new(
                "NOT_THE_SERVER",
                format!("process {process} ('{name}') is not the server at {address}: {why}"),
            )
            .hint(
                "`ss -ltnp` tells which process listens where; leave --server-pid out for a server that runs elsewhere",
            )
            .with("process", process))
        };
        match (machine::listening_ports(process), machine::shares_network(process)) {
            (Ok(ports), _) if port.is_some_and(|port| ports.contains(&port)) => Ok(Self(process)),
            (Ok(ports), Ok(true)) => refused(match ports.as_slice() {
                [] => "it listens nowhere".to_owned(),
                ports => format!("it listens on {}", listed(ports)),
            }),
            // In a container, or another user's: its ports say nothing, or can't be read.
            _ if name == SERVER => Ok(Self(process)),
            _ => refused("where it listens can't be told, and it has another name".to_owned()),
        }
    }

    /// CPU time so far, in microseconds.
    pub fn cpu_micros(self) -> Result<u64, Failure> {
        machine::cpu_micros(self.0).map_err(|error| cpu_failure(&error))
    }
}

pub fn cpu_failure(error: &io::Error) -> Failure {
    Failure::new("CPU_UNKNOWN", format!("a process's CPU time can't be told: {error}"))
        .hint("--server-pid is for a server on this machine; leave it out for others")
}

fn listed<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}
