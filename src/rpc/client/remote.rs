//! Where a server is and how it is spoken to: plainly, or over TLS, by which authorities and with which
//! certificate of the client. It opens connections and knows none of the services.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use super::super::tls::certificates;
use super::status::Refusal;
use crate::access::{PREFIX, Token};
use crate::error::Code;

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Refusals may list many problems, and travel in headers.
const MAX_HEADERS: u32 = 64 * 1024;

/// One server. Clones are the same.
#[derive(Clone)]
pub struct Remote {
    /// `HOST:PORT`.
    address: String,
    tls: Option<ClientTlsConfig>,
    /// Whether the client shows a certificate.
    shows_certificate: bool,
    shows_token: ShowsToken,
}

/// A connection that shows the caller's token, if there is one, with every call.
pub type Connection = InterceptedService<Channel, ShowsToken>;

/// Puts the token among the headers of a call.
#[derive(Clone, Debug, Default)]
pub struct ShowsToken(Option<AsciiMetadataValue>);

impl Interceptor for ShowsToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// What a client needs beside an address to speak TLS.
#[derive(Clone, Default)]
pub struct TlsFiles {
    /// Authorities to check the server by, as PEM; those of the system without.
    pub ca: Option<Vec<u8>>,
    /// The client's own certificate and those that lead from it to an authority, and its key, as PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// What listens at an address where gRPC was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// HTTP/1, as a server's HTTP port speaks and no other of its ports.
    Http,
    /// TLS only.
    Tls,
    /// Nothing that is known here.
    Other,
}

impl Remote {
    /// At `HOST:PORT`, without TLS; `http://` before it is as if it weren't there.
    pub fn plain(address: &str) -> Self {
        let address = address.strip_prefix("http://").unwrap_or(address);
        Self { address: address.to_owned(), tls: None, shows_certificate: false, shows_token: ShowsToken::default() }
    }

    /// At `HOST:PORT`, over TLS. The server's certificate must be for HOST. INVALID_ARGUMENT where a file
    /// holds no certificate or key.
    pub fn secure(address: &str, files: TlsFiles) -> Result<Self, Refusal> {
        let shows_certificate = files.identity.is_some();
        let mut config = ClientTlsConfig::new();
        config = match files.ca {
            Some(pem) => {
                check_certificates(&pem, "the file of --ca")?;
                config.ca_certificate(Certificate::from_pem(pem))
            }
            None => config.with_native_roots(),
        };
        if let Some((certificate, key)) = files.identity {
            check_certificates(&certificate, "the file of the client's certificate")?;
            PrivateKeyDer::from_pem_slice(&key)
                .map_err(|error| bad_tls(format!("the client's key holds no private key in PEM: {error}")))?;
            config = config.identity(Identity::from_pem(certificate, key));
        }
        let shows_token = ShowsToken::default();
        Ok(Self { address: address.to_owned(), tls: Some(config), shows_certificate, shows_token })
    }

    /// With an API key, which is shown with every call; INVALID_ARGUMENT, without the key, where it is none.
    pub fn with_token(self, token: &str) -> Result<Self, Refusal> {
        let bad = |told: String| Refusal::new(Code::InvalidArgument, "BAD_CREDENTIAL", told);
        if token.starts_with(PREFIX) {
            // What is mistyped goes nowhere.
            Token::parse(token).map_err(|error| bad(error.message))?;
        }
        let mut value = AsciiMetadataValue::try_from(format!("Bearer {token}"))
            .map_err(|_| bad("the credential has characters that no key has".to_owned()))?;
        value.set_sensitive(true);
        Ok(Self { shows_token: ShowsToken(Some(value)), ..self })
    }

    /// Whether a token that is shown can be read by whoever is on the way.
    pub fn is_private(&self) -> bool {
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        self.is_secure() || is_loopback
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Another port of the same host, spoken to in the same way.
    #[must_use]
    pub fn at_port(&self, port: u32) -> Self {
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
        Self { address: format!("{host}:{port}"), ..self.clone() }
    }

    pub(super) async fn connect(&self) -> Result<Connection, Refusal> {
        let unreachable = |error: tonic::transport::Error| unreachable(self, &error);
        let scheme = if self.is_secure() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{}", self.address)).map_err(unreachable)?;
        if let Some(tls) = &self.tls {
            endpoint = endpoint.tls_config(tls.clone()).map_err(unreachable)?;
        }
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        let channel = endpoint.http2_max_header_list_size(MAX_HEADERS).connect().await.map_err(unreachable)?;
        Ok(Connection::new(channel, self.shows_token.clone()))
    }

    /// What answers there, for who has to be told why gRPC doesn't.
    pub async fn listen(&self) -> Heard {
        let asked = async {
            let mut connection = tokio::net::TcpStream::connect(&self.address).await.ok()?;
            connection.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await.ok()?;
            let mut start = [0; 7];
            let read = connection.read(&mut start).await.ok()?;
            Some(match &start[..read] {
                b"HTTP/1." => Heard::Http,
                // An alert, which is what TLS says to what is none.
                [0x15, 0x03, ..] => Heard::Tls,
                _ => Heard::Other,
            })
        };
        tokio::time::timeout(CONNECT_TIMEOUT, asked).await.ok().flatten().unwrap_or(Heard::Other)
    }
}

fn check_certificates(pem: &[u8], what: &str) -> Result<(), Refusal> {
    certificates(pem).map(drop).map_err(|problem| bad_tls(format!("{what} {problem}")))
}

fn bad_tls(message: String) -> Refusal {
    Refusal::new(Code::InvalidArgument, "BAD_TLS_FILE", message)
}

/// What lies under the layers of an error tells why.
pub(super) fn unreachable(remote: &Remote, error: &dyn std::error::Error) -> Refusal {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let told = inner.to_string();
    let message = format!("no server answers at {}: {told}", remote.address);
    let refusal = Refusal::new(Code::Unavailable, "SERVER_UNREACHABLE", message);
    refusal.hint(hint(remote, &told))
}

fn hint(remote: &Remote, told: &str) -> String {
    if remote.is_secure() {
        // Of another authority with the same name it is the signature that is wrong.
        if told.contains("UnknownIssuer") || told.contains("BadSignature") {
            return "the server's certificate is signed by none of the authorities: name its own by --ca FILE or \
                    HYDRANT_CA"
                .to_owned();
        }
        if told.contains("NotValidForName") || told.contains("not valid for name") {
            return "name the server by a host that its certificate is for".to_owned();
        }
        if told.contains("InvalidContentType") || told.contains("corrupt message") {
            let address = &remote.address;
            return format!("what listens there seems to speak no TLS: try http://{address}");
        }
        // By TLS 1.3 a client believes it is connected before the server has seen what it shows; whether it
        // still hears why it is cut off is a race.
        let cut_off = ["CertificateRequired", "closed", "reset", "broken pipe"];
        if !remote.shows_certificate && cut_off.iter().any(|sign| told.contains(sign)) {
            return "the server seems to demand a certificate of its clients: --client-cert FILE --client-key FILE"
                .to_owned();
        }
    }
    "start one with `hydrant serve`, or name another with --server or HYDRANT_SERVER".to_owned()
}

impl fmt::Debug for Remote {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Remote")
            .field("address", &self.address)
            .field("is_secure", &self.is_secure())
            .finish_non_exhaustive()
    }
}

/// Keys are nobody's to read.
impl fmt::Debug for TlsFiles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TlsFiles").finish_non_exhaustive()
    }
}
