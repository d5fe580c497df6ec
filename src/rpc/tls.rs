//! TLS of the listeners: the certificate and its key, and the authorities whose certificates clients
//! must show, where they must. They are read from PEM files and taken anew when the files change, so
//! that a certificate is renewed without a restart; what can't be used never takes the place of what
//! can. Nothing here knows a request or a credential.

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hydrant_storage::order::Micros;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::clock::StoreTime;
use crate::config::TlsConfig;
use crate::telemetry::{Instruments, Metric};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// No file of certificates is larger.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// From when on it is warned of a certificate's end, once a day.
const WARN_BEFORE: Micros = 14 * DAY;
const DAY: Micros = 86_400_000_000;

const HANDSHAKE_FAILURES: Metric = Metric {
    name: "hydrant.tls.handshake_failures",
    unit: Metric::COUNT,
    help: "Connections to gRPC and Flight that ended before TLS was agreed on.",
};
const RELOADS: Metric =
    Metric { name: "hydrant.tls.reloads", unit: Metric::COUNT, help: "Times that changed certificates were taken." };
const RELOAD_FAILURES: Metric = Metric {
    name: "hydrant.tls.reload_failures",
    unit: Metric::COUNT,
    help: "Times that changed certificates could not be used; those before them stay.",
};
const CERTIFICATE_LEFT: Metric = Metric {
    name: "hydrant.tls.certificate.left",
    unit: Metric::SECONDS,
    help: "Time until the server's certificate ends; below 0 once it has.",
};

/// Why certificates can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("option '{option}': {} can't be read: {source}", path.display())]
    Unreadable { option: &'static str, path: PathBuf, source: io::Error },
    #[error("option '{option}': {} {problem}", path.display())]
    Unusable { option: &'static str, path: PathBuf, problem: String },
}

/// The TLS of a server. Clones are the same.
#[derive(Clone, Debug)]
pub struct Tls {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: TlsConfig,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<Material>,
    handshake_failures: AtomicU64,
    reloads: AtomicU64,
    reload_failures: AtomicU64,
}

/// What was read from the files at one time.
#[derive(Debug)]
struct Material {
    pem: Pem,
    certified: Arc<CertifiedKey>,
    /// Of clients, where they have to show a certificate.
    clients: Option<Arc<dyn ClientCertVerifier>>,
    /// The first certificate's, in Unix microseconds.
    not_after: Micros,
}

/// The files' bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pem {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Tls {
    /// Reads the files of the configuration; `None` where it names none.
    pub fn open(config: &TlsConfig) -> Result<Option<Self>, TlsError> {
        if !config.is_on() {
            return Ok(None);
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let material = Material::new(config, Pem::read(config)?, &provider)?;
        let shared = Shared {
            config: config.clone(),
            provider,
            current: ArcSwap::from_pointee(material),
            handshake_failures: AtomicU64::new(0),
            reloads: AtomicU64::new(0),
            reload_failures: AtomicU64::new(0),
        };
        Ok(Some(Self { shared: Arc::new(shared) }))
    }

    /// For a port that speaks `protocols` (ALPN); the certificates in it are those of the time of each
    /// handshake.
    pub fn server_config(&self, protocols: &[&[u8]]) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(self.shared.provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.2 and 1.3");
        let builder = match self.shared.config.demands_client_certificates() {
            true => builder.with_client_cert_verifier(Arc::new(CurrentClients(self.shared.clone()))),
            false => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(CurrentCertificate(self.shared.clone())));
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        config
    }

    /// Counts a connection that ended before TLS was agreed on.
    pub(super) fn note_failed_handshake(&self) {
        self.shared.handshake_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub fn observe(&self, instruments: &Instruments, store_time: &Arc<StoreTime>) {
        let count = |of: fn(&Shared) -> &AtomicU64| {
            let shared = self.shared.clone();
            move || of(&shared).load(Ordering::Relaxed)
        };
        instruments.observed_count(&HANDSHAKE_FAILURES, count(|shared| &shared.handshake_failures));
        instruments.observed_count(&RELOADS, count(|shared| &shared.reloads));
        instruments.observed_count(&RELOAD_FAILURES, count(|shared| &shared.reload_failures));
        let (shared, store_time) = (self.shared.clone(), store_time.clone());
        instruments.observed(&CERTIFICATE_LEFT, move |observed| {
            let left = shared.current.load().not_after.saturating_sub(store_time.read());
            // Seconds of a few decades lose nothing to speak of as a float.
            #[allow(clippy::cast_precision_loss)]
            observed.observe(left as f64 / 1e6, &[]);
        });
    }

    /// Looks at the files now and then, for as long as the server runs, and warns of a certificate that
    /// ends soon.
    pub async fn watch(self, store_time: Arc<StoreTime>) {
        let mut warned_at = None;
        let mut refused: Option<String> = None;
        let mut interval = tokio::time::interval(LOOK_EVERY);
        loop {
            interval.tick().await;
            let tls = self.clone();
            let reloaded = tokio::task::spawn_blocking(move || tls.reload()).await;
            match reloaded.unwrap_or_else(|error| Err(broken_task(&error))) {
                Ok(true) => {
                    (refused, warned_at) = (None, None);
                    tracing::info!(not_after = %self.not_after(), "changed certificates were taken");
                }
                Ok(false) => refused = None,
                Err(error) => {
                    let told = error.to_string();
                    // Told once, and not every few seconds for as long as it lasts.
                    if refused.as_ref() != Some(&told) {
                        tracing::error!(%error, "changed certificates can't be used; those before them stay");
                        self.shared.reload_failures.fetch_add(1, Ordering::Relaxed);
                        refused = Some(told);
                    }
                }
            }
            let now = store_time.read();
            let left = self.shared.current.load().not_after.saturating_sub(now);
            if left < WARN_BEFORE && warned_at.is_none_or(|before: Micros| now - before >= DAY) {
                warned_at = Some(now);
                let not_after = self.not_after();
                tracing::warn!(%not_after, "the server's certificate ends soon: option 'tls.certificate'");
            }
        }
    }

    /// Takes the files if they changed, and tells whether they did.
    fn reload(&self) -> Result<bool, TlsError> {
        let pem = Pem::read(&self.shared.config)?;
        if pem == self.shared.current.load().pem {
            return Ok(false);
        }
        let material = Material::new(&self.shared.config, pem, &self.shared.provider)?;
        self.shared.current.store(Arc::new(material));
        self.shared.reloads.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    fn not_after(&self) -> String {
        crate::clock::rfc3339(self.shared.current.load().not_after)
    }
}

impl Pem {
    fn read(config: &TlsConfig) -> Result<Self, TlsError> {
        let client_ca = config.demands_client_certificates().then_some(&config.client_ca);
        Ok(Self {
            certificate: read("tls.certificate", &config.certificate)?,
            key: read("tls.key", &config.key)?,
            client_ca: client_ca.map(|path| read("tls.client_ca", path)).transpose()?,
        })
    }
}

impl Material {
    fn new(config: &TlsConfig, pem: Pem, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let unusable = |option: &'static str, path: &Path, problem: String| TlsError::Unusable {
            option,
            path: path.to_owned(),
            problem,
        };
        let bad_certificate = |problem| unusable("tls.certificate", &config.certificate, problem);
        let chain = certificates(&pem.certificate).map_err(bad_certificate)?;
        let not_after = not_after(&chain[0]).map_err(bad_certificate)?;

        let bad_key = |problem| unusable("tls.key", &config.key, problem);
        let key = PrivateKeyDer::from_pem_slice(&pem.key)
            .map_err(|error| bad_key(format!("holds no private key in PEM: {error}")))?;
        let certified = CertifiedKey::from_der(chain, key, provider)
            .map_err(|error| bad_key(format!("doesn't go with the certificate of tls.certificate: {error}")))?;

        let clients = pem.client_ca.as_deref().map(|pem| {
            let roots = roots(pem)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
            verifier.map_err(|error| format!("has no authority to check clients by: {error}"))
        });
        let clients = clients.transpose().map_err(|problem| unusable("tls.client_ca", &config.client_ca, problem))?;
        Ok(Self { pem, certified: Arc::new(certified), clients, not_after })
    }
}

/// Certificates of a PEM file, at least one; or what it is instead, to be said of the file.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(certificates) if certificates.is_empty() => Err("holds no certificate in PEM".to_owned()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("is no PEM: {error}")),
    }
}

fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|error| format!("holds a certificate that is no authority's: {error}"))?;
    }
    Ok(roots)
}

/// When a certificate ends, in Unix microseconds.
fn not_after(certificate: &CertificateDer<'_>) -> Result<Micros, String> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| format!("holds a certificate that can't be read: {error}"))?;
    Ok(parsed.validity().not_after.timestamp().saturating_mul(1_000_000))
}

fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |source| TlsError::Unreadable { option, path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    if bytes > MAX_FILE_BYTES {
        let problem = format!("has {bytes} bytes, more than any file of certificates");
        return Err(TlsError::Unusable { option, path: path.to_owned(), problem });
    }
    std::fs::read(path).map_err(unreadable)
}

fn broken_task(error: &tokio::task::JoinError) -> TlsError {
    let (option, path, problem) = ("tls.certificate", PathBuf::new(), format!("was not looked at: {error}"));
    TlsError::Unusable { option, path, problem }
}

/// Shows each client the certificate of now.
#[derive(Debug)]
struct CurrentCertificate(Arc<Shared>);

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current.load().certified.clone())
    }
}

/// Checks clients by the authorities of now.
#[derive(Debug)]
struct CurrentClients(Arc<Shared>);

impl CurrentClients {
    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
        let verifier = self.0.current.load().clients.clone();
        verifier.ok_or_else(|| rustls::Error::General("there is no authority to check clients by".to_owned()))
    }
}

impl ClientCertVerifier for CurrentClients {
    /// None: a hint would have to outlive a change of the authorities, and clients do without.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verifier()?.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier()?.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier()?.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.provider.signature_verification_algorithms.supported_schemes()
    }
}
