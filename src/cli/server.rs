//! The server that commands talk to: the address as people write it, checked before anything is
//! sent there.

use super::Failure;
use crate::rpc::client::Client;

/// Where a server listens that was told nothing else.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:7600";

/// The server that the commands talk to.
#[derive(Debug)]
pub(crate) struct Server {
    pub address: String,
}

/// For commands that talk to no server: keeps `--server` out of their help, and refuses it.
#[derive(Debug, clap::Args)]
pub struct NoServer {
    #[arg(id = "server", long = "server", hide = true, value_parser = refuse_server)]
    _server: Option<String>,
}

impl Server {
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        Ok(Client::connect(&self.address).await?)
    }
}

/// Reads `HOST:PORT`, also behind `http://`, for `--server` and `HYDRANT_SERVER`. Nothing is as if it
/// had not been set.
pub(super) fn parse_address(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(DEFAULT_ADDRESS.to_owned());
    }
    let (scheme, address) = text.split_once("://").unwrap_or(("http", text));
    if scheme != "http" {
        return Err(format!("'{scheme}' is not served, only http: write HOST:PORT, such as {DEFAULT_ADDRESS}"));
    }
    let address = address.trim_end_matches('/');
    let bracketed = address.starts_with('[');
    let split = address.rsplit_once(':').filter(|(host, _)| !bracketed || host.ends_with(']'));
    let Some((host, port)) = split else {
        return Err(format!("it has no port: write HOST:PORT, such as {address}:7600"));
    };
    if host.is_empty() {
        return Err(format!("it has no host: write HOST:PORT, such as 127.0.0.1:{port}"));
    }
    if host.contains(':') && !bracketed {
        return Err(format!("an IPv6 address stands in brackets: [{address}]:7600"));
    }
    match port.parse::<u16>() {
        Ok(0) => Err("nothing listens on port 0: a server that was told 0 prints the port it took".to_owned()),
        Ok(_) => Ok(format!("{host}:{port}")),
        Err(_) => Err(format!("'{port}' is no port: a port is a number from 1 to 65535")),
    }
}

fn refuse_server(_: &str) -> Result<String, String> {
    Err("this command talks to no server; where `hydrant serve` listens is told by --grpc-addr".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (text, address) in [
            (DEFAULT_ADDRESS, DEFAULT_ADDRESS),
            ("", DEFAULT_ADDRESS),
            ("localhost:7600", "localhost:7600"),
            ("http://localhost:7600/", "localhost:7600"),
            ("[::1]:7600", "[::1]:7600"),
        ] {
            assert_eq!(parse_address(text).as_deref(), Ok(address), "{text}");
        }
        for (text, told) in [
            ("localhost", "such as localhost:7600"),
            ("[::1]", "such as [::1]:7600"),
            ("::1", "brackets"),
            ("localhost:0", "port 0"),
            ("localhost:grpc", "no port"),
            ("localhost:70000", "65535"),
            (":7600", "no host"),
            ("https://localhost:7600", "only http"),
        ] {
            let error = parse_address(text).expect_err(text);
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
