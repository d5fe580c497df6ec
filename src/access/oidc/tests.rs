use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hydrant_storage::files::LossyFiles;
use serde_json::{Value, json};

use super::{Fetches, MAX_TOKEN, Oidc};
use crate::clock::{ManualClock, StoreTime};
use crate::cluster::LocalMetadata;
use crate::config::Config;
use crate::error::{Code, Error};
use crate::registry::definition::Definition;
use crate::registry::tenants::Expected;
use crate::registry::{Registry, RevisionBarrier, documents};
use crate::tenancy::{Action, grants};
use crate::testing::{START, permit};

const ISSUER: &str = "https://login.example.com/realms/ml";
const KEYS: &str = "https://keys.example.com/ml";
const OTHER: &str = "https://other.example.com";

enum Pair {
    Elliptic(EcdsaKeyPair),
    Rsa(RsaKeyPair),
    Edwards(Ed25519KeyPair),
}

struct Signer {
    name: String,
    pair: Pair,
}

impl Signer {
    fn elliptic(name: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        Self { name: name.to_owned(), pair: Pair::Elliptic(pair) }
    }

    fn rsa(name: &str) -> Self {
        Self { name: name.to_owned(), pair: Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key")) }
    }

    fn edwards(name: &str) -> Self {
        Self { name: name.to_owned(), pair: Pair::Edwards(Ed25519KeyPair::generate().expect("a key")) }
    }

    fn jwk(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match &self.pair {
            Pair::Elliptic(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": text(&point[1..33]), "y": text(&point[33..])})
            }
            // A sequence of two numbers: 2,048 bits after a zero, and 65,537.
            Pair::Rsa(pair) => json!({"kty": "RSA", "e": "AQAB", "n": text(&pair.public_key().as_ref()[9..265])}),
            Pair::Edwards(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key().as_ref())}),
        };
        jwk["kid"] = self.name.as_str().into();
        jwk
    }

    fn sign_as(&self, head: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(head), part(claims));
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Elliptic(pair) => pair.sign(&random, message.as_bytes()).expect("signed").as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let how = if head["alg"] == "PS256" { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(how, &random, message.as_bytes(), &mut signature).expect("signed");
                signature
            }
            Pair::Edwards(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Elliptic(_) => "ES256",
            Pair::Rsa(_) => "RS256",
            Pair::Edwards(_) => "EdDSA",
        }
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({"alg": self.algorithm(), "kid": self.name, "typ": "JWT"}), claims)
    }
}

/// What issuers publish.
#[derive(Debug, Default)]
struct Web {
    documents: Mutex<HashMap<String, Vec<u8>>>,
    asked: AtomicU64,
    hangs: AtomicBool,
}

impl Web {
    fn put(&self, url: &str, document: impl ToString) {
        self.documents.lock().expect("nobody panicked").insert(url.to_owned(), document.to_string().into_bytes());
    }

    fn remove(&self, url: &str) {
        self.documents.lock().expect("nobody panicked").remove(url);
    }

    fn publish(&self, signers: &[&Signer]) {
        self.put(KEYS, json!({"keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>()}));
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Fetches for Web {
    async fn get(&self, url: &str, limit: usize) -> Result<Vec<u8>, String> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let found = self.documents.lock().expect("nobody panicked").get(url).cloned();
        found.filter(|document| document.len() <= limit).ok_or_else(|| format!("{url} is not there"))
    }
}

#[derive(Debug)]
struct NobodyWrites;

#[async_trait]
impl RevisionBarrier for NobodyWrites {
    async fn raise(&self, _: u64) {}
}

struct Setup {
    clock: Arc<ManualClock>,
    time: Arc<StoreTime>,
    web: Arc<Web>,
    registry: Registry,
    oidc: Oidc,
}

const GRANTS: &str = r#"
    audiences = ["hydrant", "hydrant-too"]
    algorithms = ["ES256", "RS256", "EdDSA"]
    tenant_claim = "tenant"
    tenants = ["acme", "default", "ghost"]
    groups_claim = "/realm_access/groups"
    [[auth.oidc.grants]]
    group = "scoring"
    roles = ["reader"]
    services = ["delay_model"]
    [[auth.oidc.grants]]
    group = "writing"
    roles = ["writer"]
    [[auth.oidc.grants]]
    group = "operators"
    roles = ["platform"]
"#;

impl Setup {
    /// Two issuers with the same grants, the first by discovery.
    async fn start() -> Self {
        let issuer = |name: &str, keys: &str| format!("[[auth.oidc]]\nissuer = \"{name}\"\n{keys}\n{GRANTS}");
        let other = issuer(OTHER, "jwks_uri = \"https://other.example.com/keys\"");
        let setup = Self::start_with(&format!("{}{other}", issuer(ISSUER, ""))).await;
        setup.web.put("https://other.example.com/keys", json!({"keys": [Signer::elliptic("other").jwk()]}));
        setup
    }

    async fn start_with(config: &str) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), config).expect("written");
        let config: Config = crate::config::Loader::new().file(file.path()).load().expect("well formed");
        let clock = Arc::new(ManualClock::new(START));
        let time = Arc::new(StoreTime::new(clock.clone(), START));
        time.promise(i64::MAX);
        let files = Arc::new(LossyFiles::new(1));
        let metadata = LocalMetadata::open(files, Path::new("/registry")).expect("metadata");
        let barrier = Arc::new(NobodyWrites);
        let registry = Registry::open(Arc::new(metadata), time.clone(), barrier).await.expect("a registry");
        let acme = json!({"apiVersion": "hydrant/v1", "kind": "Tenant", "metadata": {"name": "acme"}, "spec": {}});
        let acme: Definition = documents::from_json(&acme).expect("a definition");
        let made = registry.apply_tenants(&permit(Action::ManageTenants), vec![acme], Expected::Any, None).await;
        made.expect("the platform may");
        let web = Arc::new(Web::default());
        web.put(&format!("{ISSUER}/.well-known/openid-configuration"), json!({"issuer": ISSUER, "jwks_uri": KEYS}));
        let fetches = |_: &_| Ok::<_, String>(web.clone() as Arc<dyn Fetches>);
        let oidc = Oidc::new(&config.auth, registry.reader(), time.clone(), fetches).expect("well configured");
        Self { clock, time, web, registry, oidc }
    }

    async fn fetch(&self) {
        for trusted in &self.oidc.shared.trusted {
            trusted.issuer.fetch_if_due().await;
        }
    }

    fn claims(&self) -> Value {
        let now = self.time.read() / 1_000_000;
        json!({
            "iss": ISSUER, "aud": "hydrant", "sub": "ann", "iat": now, "exp": now + 300, "tenant": "acme",
            "realm_access": {"groups": ["scoring", "strangers"]},
        })
    }

    fn with(&self, claim: &str, value: impl Into<Value>) -> Value {
        let mut claims = self.claims();
        claims[claim] = value.into();
        claims
    }

    fn refused(&self, token: &str) -> Error {
        let refused = self.oidc.authenticate(token).expect_err("it is no good");
        assert!(!format!("{refused:?}").contains(&token[..token.len().min(40)]), "no refusal repeats a token");
        refused
    }

    fn reason(&self, token: &str) -> &'static str {
        self.refused(token).reason
    }

    /// Whether anything is waited for before the token is known.
    fn awaits(&self, token: &str) -> bool {
        self.oidc.awaits(token).is_some()
    }
}

#[tokio::test]
async fn a_token_says_who_calls_and_the_configuration_what_they_may_do() {
    let setup = Setup::start().await;
    let signers = [Signer::elliptic("a"), Signer::rsa("b"), Signer::edwards("c")];
    setup.web.publish(&signers.each_ref());
    setup.fetch().await;
    for signer in &signers {
        let identity = setup.oidc.authenticate(&signer.sign(&setup.claims())).expect("it is good");
        assert_eq!(identity.name(), format!("oidc/{ISSUER}#ann"));
        assert_eq!((identity.tenant().as_str(), identity.roles().names().as_str()), ("acme", "reader"));
        let reach = identity.reach().expect("the grant limits it");
        assert!(reach.services.contains("delay_model") && reach.services.len() == 1 && reach.views.is_empty());
        let subject = identity.subject().expect("it is a token");
        assert_eq!((subject.issuer.as_str(), subject.subject.as_str()), (ISSUER, "ann"));
        assert!(!identity.is_loopback());
    }
    let given = |claims: &Value| setup.oidc.authenticate(&signers[0].sign(claims)).map(|known| known.roles().names());
    assert_eq!(given(&setup.with("aud", json!(["others", "hydrant-too"]))).expect("one is ours"), "reader");
    assert_eq!(given(&setup.with("realm_access", json!({"groups": "writing"}))).expect("one group"), "writer");
    // Nothing is granted where no grant says so, and whoever is known may then do nothing.
    for groups in [json!({}), json!({"groups": []}), json!({"groups": [7, null, "strangers"]}), json!(7)] {
        let token = signers[0].sign(&setup.with("realm_access", groups));
        let identity = setup.oidc.authenticate(&token).expect("it is known");
        assert!(identity.roles().is_empty());
        for action in Action::ALL {
            let refused = grants::check(&identity, action).expect_err("nothing is granted");
            assert_eq!(refused.code, Code::PermissionDenied);
            assert!(refused.hint.expect("a way out").contains("auth.oidc"));
        }
    }
    let both = setup.with("realm_access", json!({"groups": ["scoring", "writing"]}));
    assert_eq!(setup.reason(&signers[0].sign(&both)), "TOKEN_GRANTS_DIFFER");
}

#[tokio::test]
async fn nobody_gets_in_by_a_token_that_is_no_good() {
    let setup = Setup::start().await;
    let (signer, rsa, stranger) = (Signer::elliptic("a"), Signer::rsa("b"), Signer::elliptic("a"));
    setup.web.publish(&[&signer, &rsa]);
    let others = Signer::elliptic("o");
    setup.web.put("https://other.example.com/keys", json!({"keys": [others.jwk()]}));
    setup.fetch().await;
    let (good, now) = (setup.claims(), setup.time.read() / 1_000_000);
    setup.oidc.authenticate(&signer.sign(&good)).expect("it is good");
    let head = |algorithm: &str, key: &str| json!({"alg": algorithm, "kid": key});

    // Signatures.
    assert_eq!(setup.reason(&stranger.sign(&good)), "TOKEN_SIGNATURE");
    let unsigned = |algorithm: &str| {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.", part(&head(algorithm, "a")), part(&good))
    };
    for none in ["none", "None", "NONE", "", "HS256"] {
        assert_eq!(setup.reason(&unsigned(none)), "TOKEN_ALGORITHM", "{none}");
    }
    assert_eq!(setup.reason(&unsigned("ES256")), "TOKEN_SIGNATURE");
    // A public key as the secret of a MAC.
    for public in [rsa.jwk()["n"].as_str().expect("text").to_owned(), rsa.jwk().to_string()] {
        let message = unsigned("HS256");
        let tag =
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, public.as_bytes()), &message.as_bytes()[..message.len() - 1]);
        let token = format!("{message}{}", URL_SAFE_NO_PAD.encode(tag.as_ref()));
        assert_eq!(setup.reason(&token), "TOKEN_ALGORITHM");
    }
    // An algorithm that its issuer isn't pinned to, with a key that could; and one that the key isn't for.
    assert_eq!(setup.reason(&rsa.sign_as(&head("PS256", "b"), &good)), "TOKEN_ALGORITHM");
    assert_eq!(setup.reason(&rsa.sign_as(&head("RS256", "a"), &good)), "TOKEN_SIGNATURE");
    assert_eq!(setup.reason(&signer.sign_as(&head("ES256", "b"), &good)), "TOKEN_SIGNATURE");
    // A key of its own, brought along.
    let brought = json!({"alg": "ES256", "kid": "a", "jwk": stranger.jwk(), "jku": "https://eve.example/keys"});
    assert_eq!(setup.reason(&stranger.sign_as(&brought, &good)), "TOKEN_SIGNATURE");
    // One issuer in the name of another.
    assert_eq!(setup.reason(&others.sign(&good)), "TOKEN_KEY_UNKNOWN");
    assert_eq!(setup.reason(&others.sign_as(&head("ES256", "a"), &good)), "TOKEN_SIGNATURE");
    assert_eq!(setup.reason(&signer.sign(&setup.with("iss", OTHER))), "TOKEN_KEY_UNKNOWN");
    setup.oidc.authenticate(&others.sign(&setup.with("iss", OTHER))).expect("as itself it may");
    let tampered = signer.sign(&good).replacen('.', ".e30.", 1).replacen(".e30.", ".", 1);
    let (message, _) = tampered.rsplit_once('.').expect("a token");
    let swapped = format!("{message}.{}", signer.sign(&setup.with("sub", "eve")).rsplit_once('.').expect("a token").1);
    assert_eq!(setup.reason(&swapped), "TOKEN_SIGNATURE");

    // Claims.
    for (claim, value, reason) in [
        ("iss", json!("https://eve.example"), "TOKEN_ISSUER_UNKNOWN"),
        ("iss", json!(format!("{ISSUER}/")), "TOKEN_ISSUER_UNKNOWN"),
        ("iss", json!([ISSUER]), "TOKEN_ISSUER_UNKNOWN"),
        ("aud", json!("others"), "TOKEN_AUDIENCE"),
        ("aud", json!([]), "TOKEN_AUDIENCE"),
        ("aud", json!({"hydrant": 1}), "TOKEN_AUDIENCE"),
        ("exp", json!(now), "TOKEN_EXPIRED"),
        ("exp", json!(-1), "TOKEN_EXPIRED"),
        ("exp", json!(now as f64 + 0.9), "TOKEN_EXPIRED"),
        ("exp", json!("2100"), "TOKEN_MALFORMED"),
        ("exp", json!(1e300), "TOKEN_MALFORMED"),
        ("exp", json!(null), "TOKEN_MALFORMED"),
        ("nbf", json!(now + 61), "TOKEN_NOT_YET_VALID"),
        ("iat", json!(now + 61), "TOKEN_NOT_YET_VALID"),
        ("nbf", json!("soon"), "TOKEN_MALFORMED"),
        ("sub", json!(""), "TOKEN_MALFORMED"),
        ("sub", json!(7), "TOKEN_MALFORMED"),
        ("sub", json!("a\nb"), "TOKEN_MALFORMED"),
        ("sub", json!("a".repeat(256)), "TOKEN_MALFORMED"),
        ("tenant", json!("rival"), "TOKEN_TENANT"),
        ("tenant", json!("ghost"), "TOKEN_TENANT"),
        ("tenant", json!("No Name"), "TOKEN_TENANT"),
        ("tenant", json!(["acme"]), "TOKEN_TENANT"),
        ("tenant", json!(null), "TOKEN_TENANT"),
        ("realm_access", json!({"groups": ["operators"]}), "TOKEN_TENANT"),
    ] {
        let refused = setup.refused(&signer.sign(&setup.with(claim, value.clone())));
        assert_eq!((refused.code, refused.reason), (Code::Unauthenticated, reason), "{claim}: {value}");
    }
    let mut without = good.clone();
    without.as_object_mut().expect("claims").remove("exp");
    assert_eq!(setup.reason(&signer.sign(&without)), "TOKEN_MALFORMED");
    // Clocks may differ by as much as is configured.
    setup.oidc.authenticate(&signer.sign(&setup.with("nbf", now + 60))).expect("within the skew");
    // Of a token that isn't genuine nothing else is told.
    let mut expired = setup.with("exp", 1);
    expired["aud"] = "others".into();
    assert_eq!(setup.reason(&stranger.sign(&expired)), "TOKEN_SIGNATURE");

    // Form.
    for bad in [
        json!({"alg": "ES256"}),
        json!({"alg": "ES256", "kid": "a".repeat(300)}),
        json!({"alg": "ES256", "kid": "a", "crit": ["b64"], "b64": false}),
        json!({"alg": "ES256", "kid": "a", "typ": "dpop+jwt"}),
    ] {
        assert_eq!(setup.reason(&signer.sign_as(&bad, &good)), "TOKEN_MALFORMED", "{bad}");
    }
    assert_eq!(setup.reason(&signer.sign(&setup.with("padding", "a".repeat(MAX_TOKEN)))), "TOKEN_MALFORMED");
    // Twice the same claim, which `json!` can't make.
    let doubled = format!(r#"{{"sub":"eve",{}"#, &good.to_string()[1..]);
    let head = URL_SAFE_NO_PAD.encode(head("ES256", "a").to_string());
    let message = format!("{head}.{}", URL_SAFE_NO_PAD.encode(doubled));
    let Pair::Elliptic(pair) = &signer.pair else { panic!("it is") };
    let signature = pair.sign(&SystemRandom::new(), message.as_bytes()).expect("signed");
    assert_eq!(setup.reason(&format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))), "TOKEN_MALFORMED");
}

#[tokio::test]
async fn a_token_that_was_known_is_looked_up_and_ends_to_the_second() {
    let setup = Setup::start().await;
    let signer = Signer::elliptic("a");
    setup.web.publish(&[&signer]);
    setup.fetch().await;
    let token = signer.sign(&setup.claims());
    let first = setup.oidc.authenticate(&token).expect("it is good");
    let again = setup.oidc.authenticate(&token).expect("it is good");
    assert!(std::ptr::eq(first.name(), again.name()), "it was not read anew");
    assert!(!setup.awaits(&token));
    setup.clock.advance(Duration::from_secs(300) - Duration::from_micros(1));
    setup.oidc.authenticate(&token).expect("not yet");
    first.check_still().expect("and so is what it let in");
    setup.clock.advance(Duration::from_micros(1));
    assert_eq!(setup.reason(&token), "TOKEN_EXPIRED");
    assert_eq!(setup.reason(&token), "TOKEN_EXPIRED", "also where it isn't remembered any more");
    assert_eq!(first.check_still().expect_err("it is over").reason, "TOKEN_EXPIRED");
    assert_eq!(grants::check(&first, Action::ReadOnline).expect_err("it is over").reason, "TOKEN_EXPIRED");
}

#[tokio::test]
async fn a_token_of_a_tenant_that_was_deleted_lets_nobody_in() {
    let setup = Setup::start().await;
    let signer = Signer::elliptic("a");
    setup.web.publish(&[&signer]);
    setup.fetch().await;
    let token = signer.sign(&setup.claims());
    setup.oidc.authenticate(&token).expect("it is good");
    let acme = "acme".parse().expect("a name");
    setup.registry.delete_tenant(&permit(Action::ManageTenants), &acme, String::new()).await.expect("it is empty");
    assert_eq!(setup.reason(&token), "TOKEN_TENANT");
}

#[tokio::test]
async fn keys_are_rotated_with_an_overlap_and_what_a_withdrawn_key_let_in_ends() {
    let setup = Setup::start().await;
    let (old, new) = (Signer::elliptic("old"), Signer::elliptic("new"));
    setup.web.publish(&[&old]);
    setup.fetch().await;
    let mut claims = setup.claims();
    claims["exp"] = (setup.time.read() / 1_000_000 + 7_200).into();
    let (by_old, by_new) = (old.sign(&claims), new.sign(&claims));
    let under_way = setup.oidc.authenticate(&by_old).expect("it is good");
    assert_eq!(setup.reason(&by_new), "TOKEN_KEY_UNKNOWN");
    setup.web.publish(&[&old, &new]);
    assert!(!setup.awaits(&by_new), "it was asked a moment ago");
    setup.clock.advance(Duration::from_secs(10));
    assert!(setup.awaits(&by_new), "an unknown key is looked for");
    setup.fetch().await;
    let identity = setup.oidc.authenticate(&by_new).expect("the new one is there");
    setup.oidc.authenticate(&by_old).expect("and the old one still");
    under_way.check_still().expect("and what it let in");
    setup.web.publish(&[&new]);
    setup.clock.advance(Duration::from_mins(15));
    setup.fetch().await;
    assert_eq!(setup.reason(&by_old), "TOKEN_KEY_UNKNOWN");
    assert_eq!(under_way.check_still().expect_err("its key is gone").reason, "TOKEN_KEY_UNKNOWN");
    identity.check_still().expect("the new one's stays");
    // The same name for another key.
    let another = Signer::elliptic("new");
    setup.web.publish(&[&another]);
    setup.clock.advance(Duration::from_mins(15));
    setup.fetch().await;
    assert_eq!(identity.check_still().expect_err("its key is gone").reason, "TOKEN_KEY_UNKNOWN");
    assert_eq!(setup.reason(&by_new), "TOKEN_SIGNATURE");
}

#[tokio::test]
async fn made_up_keys_make_nobody_ask_the_issuer_more_than_once_in_ten_seconds() {
    let setup = Setup::start().await;
    let signer = Signer::elliptic("a");
    setup.web.publish(&[&signer]);
    setup.fetch().await;
    let made_up =
        |number: u64| Signer { name: format!("made up {number}"), ..Signer::elliptic("x") }.sign(&setup.claims());
    let before = setup.web.asked();
    for number in 0..100 {
        assert!(!setup.awaits(&made_up(number)));
        setup.fetch().await;
    }
    assert_eq!(setup.web.asked(), before, "nobody was asked");
    setup.clock.advance(Duration::from_secs(10));
    for number in 0..100 {
        setup.awaits(&made_up(number));
        setup.fetch().await;
    }
    assert_eq!(setup.web.asked(), before + 2, "one discovery and one key set");
    setup.oidc.authenticate(&signer.sign(&setup.claims())).expect("and whoever is good is let in meanwhile");
    // What could never be known is not waited for at all.
    setup.clock.advance(Duration::from_secs(10));
    assert!(!setup.awaits(&signer.sign(&setup.with("iss", "https://eve.example"))));
    assert!(!setup.awaits(&Signer::rsa("x").sign_as(&json!({"alg": "PS256", "kid": "x"}), &setup.claims())));
    assert!(!setup.awaits("a.b.c") && !setup.awaits(&"a.b.".repeat(MAX_TOKEN)));
}

#[tokio::test]
async fn keys_are_used_while_the_issuer_is_down_for_as_long_as_is_said() {
    let setup = Setup::start().await;
    let signer = Signer::elliptic("a");
    let far = setup.time.read() / 1_000_000 + 1_000_000;
    let token = signer.sign(&setup.with("exp", far));
    setup.fetch().await;
    let refused = setup.refused(&token);
    assert_eq!((refused.code, refused.reason), (Code::Unavailable, "ISSUER_UNAVAILABLE"));
    assert!(refused.retry_after.is_some());
    setup.web.publish(&[&signer]);
    setup.clock.advance(Duration::from_secs(10));
    setup.fetch().await;
    setup.oidc.authenticate(&token).expect("it is there now");
    let good = json!({"keys": [signer.jwk()]}).to_string();
    for garbage in ["", "{}", "<html>", r#"{"keys":[]}"#, &good[..good.len() - 1], &" ".repeat(1 << 20)] {
        setup.web.put(KEYS, garbage);
        setup.clock.advance(Duration::from_mins(15));
        setup.fetch().await;
        setup.oidc.authenticate(&token).expect("what can't be used changes nothing");
    }
    setup.web.remove(KEYS);
    setup.clock.advance(Duration::from_hours(24) - Duration::from_mins(90) - Duration::from_micros(1));
    setup.fetch().await;
    setup.oidc.authenticate(&token).expect("for a day");
    setup.clock.advance(Duration::from_micros(1));
    assert_eq!(setup.reason(&token), "ISSUER_UNAVAILABLE");
    setup.web.publish(&[&signer]);
    setup.clock.advance(Duration::from_secs(10));
    setup.fetch().await;
    setup.oidc.authenticate(&token).expect("it is back");
}

#[tokio::test]
async fn an_issuer_that_never_answers_is_given_up_and_so_is_waiting_for_it() {
    let setup = Setup::start().await;
    setup.web.hangs.store(true, Ordering::SeqCst);
    let token = Signer::elliptic("a").sign(&setup.claims());
    let began = tokio::time::Instant::now();
    let waits = setup.oidc.awaits(&token).expect("its keys are not there");
    tokio::join!(waits, setup.oidc.shared.trusted[0].issuer.fetch_if_due());
    assert!(began.elapsed() <= Duration::from_secs(6), "{:?}", began.elapsed());
    assert_eq!(setup.reason(&token), "ISSUER_UNAVAILABLE");
}

#[tokio::test]
async fn a_discovery_document_of_another_issuer_or_that_leads_out_of_tls_is_no_good() {
    let signer = Signer::elliptic("a");
    for (document, is_good) in [
        (json!({"issuer": ISSUER, "jwks_uri": KEYS}), true),
        (json!({"issuer": OTHER, "jwks_uri": KEYS}), false),
        (json!({"jwks_uri": KEYS}), false),
        (json!({"issuer": ISSUER}), false),
        (json!({"issuer": ISSUER, "jwks_uri": "http://127.0.0.1/keys"}), false),
        (json!({"issuer": ISSUER, "jwks_uri": "file:///etc/keys"}), false),
        (json!([ISSUER, KEYS]), false),
    ] {
        let setup = Setup::start().await;
        setup.web.publish(&[&signer]);
        for url in ["http://127.0.0.1/keys", "file:///etc/keys"] {
            setup.web.put(url, json!({"keys": [signer.jwk()]}));
        }
        setup.web.put(&format!("{ISSUER}/.well-known/openid-configuration"), &document);
        setup.fetch().await;
        let known = setup.oidc.authenticate(&signer.sign(&setup.claims()));
        assert_eq!(known.is_ok(), is_good, "{document}");
    }
}

#[tokio::test]
async fn keys_come_from_a_file_and_are_read_anew_within_ten_seconds() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("keys.json");
    let (one, two) = (Signer::elliptic("a"), Signer::elliptic("b"));
    std::fs::write(&path, json!({"keys": [one.jwk()]}).to_string()).expect("written");
    let config = format!("[[auth.oidc]]\nissuer = \"{ISSUER}\"\njwks_file = \"{}\"\n{GRANTS}", path.display());
    let setup = Setup::start_with(&config).await;
    setup.fetch().await;
    setup.oidc.authenticate(&one.sign(&setup.claims())).expect("it is in the file");
    std::fs::write(&path, json!({"keys": [two.jwk()]}).to_string()).expect("written");
    setup.clock.advance(Duration::from_secs(10));
    setup.fetch().await;
    setup.oidc.authenticate(&two.sign(&setup.claims())).expect("it is in the file now");
    assert_eq!(setup.reason(&one.sign(&setup.claims())), "TOKEN_KEY_UNKNOWN");
    assert_eq!(setup.web.asked(), 0);
}
