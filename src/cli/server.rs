//! The server that commands talk to: the address as people write it and what TLS needs beside it,
//! checked before anything is sent there.

use std::path::{Path, PathBuf};

use super::Failure;
use crate::rpc::client::{Client, Remote, TlsFiles};

/// Where a server listens that was told nothing else.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:7600";

/// No file of certificates is larger.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Which server is talked to, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct ServerArgs {
    /// The server's gRPC address; it tells where its other ports are. https:// before it: by TLS
    #[arg(long, global = true, env = "HYDRANT_SERVER", default_value = DEFAULT_ADDRESS, value_name = "[https://]HOST:PORT")]
    pub server: String,

    /// Authorities (PEM) to check the server's certificate by, in place of the system's
    #[arg(long, global = true, env = "HYDRANT_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// The client's certificate (PEM), where the server demands one
    #[arg(long, global = true, env = "HYDRANT_CLIENT_CERT", requires = "client_key", value_name = "FILE")]
    pub client_cert: Option<PathBuf>,

    /// The private key (PEM) of the client's certificate
    #[arg(long, global = true, env = "HYDRANT_CLIENT_KEY", requires = "client_cert", value_name = "FILE")]
    pub client_key: Option<PathBuf>,

    /// The API key or token, where the server asks for one; better by --token-file or HYDRANT_TOKEN: others
    /// on the machine see arguments
    #[arg(long, global = true, conflicts_with = "token_file", value_name = "KEY")]
    pub token: Option<String>,

    /// A file with the API key or token
    #[arg(long, global = true, env = "HYDRANT_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Send the API key or token to another machine without TLS, for everybody on the way to read
    #[arg(long, global = true)]
    pub insecure: bool,
}

/// The server that the commands talk to.
#[derive(Debug)]
pub(crate) struct Server {
    pub remote: Remote,
}

/// Why there is no server to talk to.
#[derive(Debug)]
pub(super) enum NoSuchServer {
    /// What was written is no address.
    Address(String),
    Tls(Failure),
}

/// For commands that talk to no server: keeps `--server` and what belongs to it out of their help, and
/// refuses it.
#[derive(Debug, clap::Args)]
pub struct NoServer {
    #[arg(id = "server", long = "server", hide = true, value_parser = refuse_server)]
    _server: Option<String>,
    #[arg(id = "ca", long = "ca", hide = true, value_parser = refuse_file)]
    _ca: Option<PathBuf>,
    #[arg(id = "client_cert", long = "client-cert", hide = true, value_parser = refuse_file)]
    _client_cert: Option<PathBuf>,
    #[arg(id = "client_key", long = "client-key", hide = true, value_parser = refuse_file)]
    _client_key: Option<PathBuf>,
    /// Not refused: a refusal would show it.
    #[arg(id = "token", long = "token", hide = true)]
    _token: Option<String>,
    #[arg(id = "token_file", long = "token-file", hide = true)]
    _token_file: Option<PathBuf>,
}

/// Beside [`NoServer`], for commands that have no `--insecure` of their own.
#[derive(Debug, clap::Args)]
pub struct NotInsecure {
    #[arg(id = "insecure", long = "insecure", hide = true)]
    _insecure: bool,
}

impl ServerArgs {
    /// The server that is meant.
    pub(super) fn server(&self) -> Result<Server, NoSuchServer> {
        let (is_secure, address) = parse_address(&self.server).map_err(NoSuchServer::Address)?;
        if !is_secure {
            if self.ca.is_some() || self.client_cert.is_some() {
                let told = format!("certificates are for TLS: write https://{address}");
                return Err(NoSuchServer::Address(told));
            }
            return self.with_token(Remote::plain(&address)).map_err(NoSuchServer::Tls);
        }
        let read = || -> Result<Remote, Failure> {
            let ca = self.ca.as_deref().map(read).transpose()?;
            let identity = match (&self.client_cert, &self.client_key) {
                (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
                _ => None,
            };
            Ok(Remote::secure(&address, TlsFiles { ca, identity })?)
        };
        read().and_then(|remote| self.with_token(remote)).map_err(NoSuchServer::Tls)
    }

    /// With the key that is given: by the argument, the file, or HYDRANT_TOKEN, which is read here, since
    /// the parser shows the values of variables that it knows.
    fn with_token(&self, remote: Remote) -> Result<Server, Failure> {
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) => Some(token.clone()),
            (None, Some(file)) => {
                let text = String::from_utf8(read(file)?);
                Some(text.map_err(|_| Failure::file(file, "read it", &"it is no text"))?)
            }
            (None, None) => std::env::var("HYDRANT_TOKEN").ok(),
        };
        let token = token.as_deref().map(str::trim).filter(|token| !token.is_empty());
        let Some(token) = token else { return Ok(Server { remote }) };
        if !remote.is_private() && !self.insecure {
            let message = format!("the credential is not sent to {} without TLS", remote.address());
            let hint = format!(
                "name the server by https://{}; or, where the network itself is safe, --insecure",
                remote.address()
            );
            return Err(Failure::new("INSECURE_TOKEN", message).hint(hint));
        }
        Ok(Server { remote: remote.with_token(token)? })
    }

    /// A server that is never talked to.
    pub(super) fn nowhere() -> Server {
        Server { remote: Remote::plain(DEFAULT_ADDRESS) }
    }
}

impl Server {
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        Ok(Client::connect_to(self.remote.clone()).await?)
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        self.remote.address()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::file(path, "read it", error);
    let bytes = std::fs::metadata(path).map_err(|error| failed(&error))?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(failed(&format!("it has {bytes} bytes, more than any file of certificates")));
    }
    std::fs::read(path).map_err(|error| failed(&error))
}

/// Reads `HOST:PORT`, also behind `http://` or `https://`, for `--server` and `HYDRANT_SERVER`: whether it
/// is spoken to over TLS, and `HOST:PORT`. Nothing is as if it had not been set.
fn parse_address(text: &str) -> Result<(bool, String), String> {
    let text = if text.is_empty() { DEFAULT_ADDRESS } else { text };
    let (scheme, address) = text.split_once("://").unwrap_or(("http", text));
    let is_secure = match scheme {
        "http" => false,
        "https" => true,
        other => {
            return Err(format!(
                "'{other}' is not served, only http and https: write HOST:PORT, such as {DEFAULT_ADDRESS}"
            ));
        }
    };
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
        Ok(_) => Ok((is_secure, format!("{host}:{port}"))),
        Err(_) => Err(format!("'{port}' is no port: a port is a number from 1 to 65535")),
    }
}

/// Of the type of the option that it stands for, which the environment may give.
fn refuse_file(text: &str) -> Result<PathBuf, String> {
    refuse_server(text).map(PathBuf::from)
}

fn refuse_server(_: &str) -> Result<String, String> {
    Err("this command talks to no server; where `hydrant serve` listens is told by --grpc-addr".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (text, is_secure, address) in [
            (DEFAULT_ADDRESS, false, DEFAULT_ADDRESS),
            ("", false, DEFAULT_ADDRESS),
            ("localhost:7600", false, "localhost:7600"),
            ("http://localhost:7600/", false, "localhost:7600"),
            ("https://localhost:7600", true, "localhost:7600"),
            ("[::1]:7600", false, "[::1]:7600"),
        ] {
            assert_eq!(parse_address(text), Ok((is_secure, address.to_owned())), "{text}");
        }
        for (text, told) in [
            ("localhost", "such as localhost:7600"),
            ("[::1]", "such as [::1]:7600"),
            ("::1", "brackets"),
            ("localhost:0", "port 0"),
            ("localhost:grpc", "no port"),
            ("localhost:70000", "65535"),
            (":7600", "no host"),
            ("ftp://localhost:7600", "only http"),
        ] {
            let error = parse_address(text).expect_err(text);
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
