use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{MAX_FILE_BYTES, Tls, TlsError};
use crate::config::TlsConfig;

/// Signs certificates for `localhost`, and is trusted by whoever is given it.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed"))
    }

    /// A certificate and its key, as PEM.
    fn sign(&self) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        (params.signed_by(&key, &self.0).expect("signed").pem(), key.serialize_pem())
    }
}

/// The files of one server.
struct Files {
    folder: TempDir,
    config: TlsConfig,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let config = TlsConfig { certificate: path("server.pem"), key: path("server.key"), client_ca: PathBuf::new() };
        Self { folder, config }
    }

    fn of(authority: &Authority) -> Self {
        let files = Self::new();
        let (certificate, key) = authority.sign();
        files.write(&files.config.certificate, &certificate);
        files.write(&files.config.key, &key);
        files
    }

    fn demanding(mut self, clients: &Authority) -> Self {
        self.config.client_ca = self.folder.path().join("clients.pem");
        self.write(&self.config.client_ca, clients.0.pem());
        self
    }

    fn write(&self, path: &Path, content: impl AsRef<[u8]>) {
        std::fs::write(path, content).expect("written");
    }

    fn open(&self) -> Result<Tls, TlsError> {
        Tls::open(&self.config).map(|tls| tls.expect("files are named"))
    }
}

/// The certificate that a server shows to a client who trusts `authority`.
async fn greet(tls: &Tls, authority: &Authority, shown: Option<&(String, String)>) -> Result<Vec<u8>, String> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.0.der().clone()).expect("an authority");
    let builder = ClientConfig::builder_with_provider(tls.shared.provider.clone());
    let builder = builder.with_safe_default_protocol_versions().expect("known").with_root_certificates(roots);
    let client = match shown {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
            builder.with_client_auth_cert(chain, key).expect("they go together")
        }
    };
    let (near, far) = tokio::io::duplex(1 << 16);
    let acceptor = TlsAcceptor::from(Arc::new(tls.server_config(&[b"h2"])));
    let name = ServerName::try_from("localhost").expect("a name");
    let connector = TlsConnector::from(Arc::new(client));
    let (served, connected) = tokio::join!(acceptor.accept(far), connector.connect(name, near));
    served.map_err(|error| error.to_string())?;
    let connected = connected.map_err(|error| error.to_string())?;
    let chain = connected.get_ref().1.peer_certificates().expect("a server shows one");
    Ok(chain[0].to_vec())
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_from_the_next_handshake_on() {
    let authority = Authority::new();
    let files = Files::of(&authority);
    let tls = files.open().expect("they can be used");
    let first = greet(&tls, &authority, None).await.expect("agreed");
    assert!(!tls.reload().expect("unchanged"));

    let (certificate, key) = authority.sign();
    files.write(&files.config.certificate, certificate);
    // In the middle of a renewal, certificate and key don't go together.
    let error = tls.reload().expect_err("half of it").to_string();
    assert!(error.contains("'tls.key'") && error.contains("doesn't go with the certificate"), "{error}");
    assert_eq!(greet(&tls, &authority, None).await.expect("agreed"), first, "what was there before stays");

    files.write(&files.config.key, key);
    assert!(tls.reload().expect("they go together"));
    assert_ne!(greet(&tls, &authority, None).await.expect("agreed"), first);
}

#[tokio::test]
async fn nobody_is_served_by_who_trusts_another_authority() {
    let tls = Files::of(&Authority::new()).open().expect("they can be used");
    assert!(greet(&tls, &Authority::new(), None).await.is_err());
}

#[tokio::test]
async fn clients_show_a_certificate_of_the_authority_of_now_where_one_is_demanded() {
    let (authority, clients, others) = (Authority::new(), Authority::new(), Authority::new());
    let files = Files::of(&authority).demanding(&clients);
    let tls = files.open().expect("they can be used");
    let (known, stranger) = (clients.sign(), others.sign());
    assert!(greet(&tls, &authority, None).await.is_err(), "none was shown");
    assert!(greet(&tls, &authority, Some(&stranger)).await.is_err(), "of another authority");
    greet(&tls, &authority, Some(&known)).await.expect("of the authority");

    files.write(&files.config.client_ca, others.0.pem());
    assert!(tls.reload().expect("an authority"));
    assert!(greet(&tls, &authority, Some(&known)).await.is_err(), "no longer of the authority");
    greet(&tls, &authority, Some(&stranger)).await.expect("of the new one");
}

#[test]
fn what_can_not_be_used_is_refused_naming_option_and_file() {
    let authority = Authority::new();
    let cut_off = |text: String| text[..text.len() / 2].to_owned();
    let too_large = "x".repeat(usize::try_from(MAX_FILE_BYTES).expect("a megabyte") + 1);
    let (certificate, key) = authority.sign();
    for content in [String::new(), "no PEM".to_owned(), cut_off(certificate.clone()), key.clone(), too_large.clone()] {
        let files = Files::of(&authority);
        files.write(&files.config.certificate, &content);
        let error = files.open().expect_err("no certificate").to_string();
        assert!(error.contains("'tls.certificate'") && error.contains("server.pem"), "{error}");
    }
    for content in [String::new(), "no PEM".to_owned(), cut_off(key.clone()), certificate, key, too_large] {
        let files = Files::of(&authority);
        files.write(&files.config.key, &content);
        let error = files.open().expect_err("not its key").to_string();
        assert!(error.contains("'tls.key'") && error.contains("server.key"), "{error}");
        assert!(!error.contains("BEGIN"), "a key is nobody's to read: {error}");
    }
    for content in ["", "no PEM"] {
        let files = Files::of(&authority).demanding(&authority);
        files.write(&files.config.client_ca, content);
        let error = files.open().expect_err("no authority").to_string();
        assert!(error.contains("'tls.client_ca'") && error.contains("clients.pem"), "{error}");
    }
    let error = Files::new().open().expect_err("there are none").to_string();
    assert!(error.contains("'tls.certificate'") && error.contains("can't be read"), "{error}");
}
