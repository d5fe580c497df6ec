//! Who is let in to what, over sockets: every method that is served, with every role, in the tenant whose
//! names are asked for and in another, and with credentials that are none. The table here is written by
//! hand beside the one of the product, so that either is held to the other.

use std::collections::BTreeSet;

use arrow_flight::{Action as FlightAction, Criteria, FlightDescriptor, Ticket};
use futures::StreamExt as _;
use hydrant::error::Code;
use hydrant::registry::definition::Definition;
use hydrant::registry::documents;
use hydrant::rpc::client::{Client, Connection, Refusal, Remote};
use hydrant::rpc::codec::{BytesOut, DecodeBytes};
use hydrant::rpc::status::from_status;
use hydrant::rpc::v1;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use serde_json::json;
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;

use super::support::{PATIENCE, TestServer, ingest_request, read_request, weather_rows};

/// By the first letter of each role; `*` is whoever is known, `?` is anybody.
type Who = &'static str;

const ROLES: [(char, v1::Role); 6] = [
    ('r', v1::Role::Reader),
    ('t', v1::Role::Trainer),
    ('w', v1::Role::Writer),
    ('o', v1::Role::Owner),
    ('a', v1::Role::Admin),
    ('p', v1::Role::Platform),
];

/// Every method, a request of it that names what the tenant `default` has, and who may send it.
fn table() -> Vec<(&'static str, Vec<u8>, Who)> {
    let named = |kind: v1::Kind, name: &str| v1::GetDefinitionRequest { kind: kind.into(), name: name.to_owned() };
    let set = || "flights".to_owned();
    let command = || v1::HistoricalFeaturesCommand {
        services: vec!["delay_model".to_owned()],
        event_time: "at".to_owned(),
        ..Default::default()
    };
    let backfill =
        || v1::BackfillCommand { source: "weather".to_owned(), id: "1".to_owned(), rows: 1, ..Default::default() };
    let stream = v1::StreamOnlineFeaturesRequest { request: Some(read_request(&["EWR"])), ..Default::default() };
    let invalid =
        v1::Definition { spec: Some(v1::definition::Spec::Entity(v1::EntitySpec::default())), ..Default::default() };
    vec![
        ("hydrant.v1.OnlineService/GetOnlineFeatures", read_request(&["EWR"]).encode_to_vec(), "ra"),
        ("hydrant.v1.OnlineService/StreamOnlineFeatures", stream.encode_to_vec(), "ra"),
        ("hydrant.v1.IngestService/Ingest", ingest_request(&weather_rows()).encode_to_vec(), "wa"),
        ("hydrant.v1.IngestService/IngestStream", ingest_request(&weather_rows()).encode_to_vec(), "wa"),
        (
            "hydrant.v1.IngestService/Delete",
            v1::DeleteRequest { view: "airport_weather".to_owned(), ..Default::default() }.encode_to_vec(),
            "wa",
        ),
        (
            "hydrant.v1.RegistryService/CreateDefinition",
            v1::CreateDefinitionRequest { definition: Some(invalid.clone()) }.encode_to_vec(),
            "oa",
        ),
        (
            "hydrant.v1.RegistryService/GetDefinition",
            named(v1::Kind::FeatureView, "airport_weather").encode_to_vec(),
            "rtwoa",
        ),
        (
            "hydrant.v1.RegistryService/ListDefinitions",
            v1::ListDefinitionsRequest { kind: v1::Kind::FeatureView.into(), ..Default::default() }.encode_to_vec(),
            "rtwoa",
        ),
        (
            "hydrant.v1.RegistryService/UpdateDefinition",
            v1::UpdateDefinitionRequest { definition: Some(invalid), ..Default::default() }.encode_to_vec(),
            "oa",
        ),
        (
            "hydrant.v1.RegistryService/DeleteDefinition",
            v1::DeleteDefinitionRequest {
                kind: v1::Kind::FeatureView.into(),
                name: "airport_weather".to_owned(),
                ..Default::default()
            }
            .encode_to_vec(),
            "oa",
        ),
        ("hydrant.v1.RegistryService/Plan", v1::PlanRequest::default().encode_to_vec(), "rtwoa"),
        ("hydrant.v1.RegistryService/Apply", v1::ApplyRequest::default().encode_to_vec(), "oa"),
        (
            "hydrant.v1.RegistryService/GetLineage",
            v1::GetLineageRequest { kind: v1::Kind::FeatureView.into(), name: "airport_weather".to_owned() }
                .encode_to_vec(),
            "rtwoa",
        ),
        ("hydrant.v1.RegistryService/GetServerInfo", Vec::new(), "*"),
        (
            "hydrant.v1.HistoryService/ExplainTrainingSet",
            v1::ExplainTrainingSetRequest { command: Some(command()), ..Default::default() }.encode_to_vec(),
            "ta",
        ),
        (
            "hydrant.v1.HistoryService/Why",
            v1::WhyRequest { services: vec!["delay_model".to_owned()], ..Default::default() }.encode_to_vec(),
            "ra",
        ),
        (
            "hydrant.v1.TrainingSetService/CreateTrainingSet",
            v1::CreateTrainingSetRequest {
                name: set(),
                services: vec!["delay_model".to_owned()],
                ..Default::default()
            }
            .encode_to_vec(),
            "ta",
        ),
        (
            "hydrant.v1.TrainingSetService/GetTrainingSet",
            v1::GetTrainingSetRequest { name: set() }.encode_to_vec(),
            "ta",
        ),
        ("hydrant.v1.TrainingSetService/ListTrainingSets", Vec::new(), "ta"),
        (
            "hydrant.v1.TrainingSetService/VerifyTrainingSet",
            v1::VerifyTrainingSetRequest { name: set() }.encode_to_vec(),
            "ta",
        ),
        (
            "hydrant.v1.TrainingSetService/DeleteTrainingSet",
            v1::DeleteTrainingSetRequest { name: set() }.encode_to_vec(),
            "ta",
        ),
        (
            "hydrant.v1.BackfillService/GetBackfill",
            v1::GetBackfillRequest { backfill: Some(backfill()) }.encode_to_vec(),
            "wa",
        ),
        (
            "hydrant.v1.BackfillService/Materialize",
            v1::MaterializeRequest { view: "airport_weather".to_owned(), since_frame: None }.encode_to_vec(),
            "wa",
        ),
        (
            "hydrant.v1.BackupService/CreateBackup",
            v1::CreateBackupRequest { name: "no name".to_owned() }.encode_to_vec(),
            "p",
        ),
        ("hydrant.v1.BackupService/ListBackups", Vec::new(), "p"),
        (
            "hydrant.v1.BackupService/DeleteBackup",
            v1::DeleteBackupRequest { name: "none".to_owned() }.encode_to_vec(),
            "p",
        ),
        ("hydrant.v1.BackfillService/AbandonBackfill", v1::AbandonBackfillRequest { frame: 1 }.encode_to_vec(), "wa"),
        (
            "hydrant.v1.FreshnessService/GetFreshness",
            v1::GetFreshnessRequest { view: "airport_weather".to_owned() }.encode_to_vec(),
            "rtwoa",
        ),
        (
            "hydrant.v1.LineageService/GetLineageGraph",
            v1::GetLineageGraphRequest { name: "airport_weather".to_owned(), ..Default::default() }.encode_to_vec(),
            "rtwoa",
        ),
        (
            "hydrant.v1.CatalogService/Search",
            v1::SearchRequest { text: "weather".to_owned(), ..Default::default() }.encode_to_vec(),
            "rtwoa",
        ),
        ("hydrant.v1.CatalogService/ListRevisions", Vec::new(), "rtwoa"),
        (
            "hydrant.v1.CatalogService/Rollback",
            v1::RollbackRequest { to_revision: 1_000, ..Default::default() }.encode_to_vec(),
            "oa",
        ),
        ("hydrant.v1.FreshnessService/ListFreshness", Vec::new(), "rtwoa"),
        (
            "hydrant.v1.SharingService/CreateShare",
            v1::CreateShareRequest {
                of: Some(v1::create_share_request::Of::View("airport_weather".to_owned())),
                to: "nobody".to_owned(),
                rights: v1::share::Rights::Read.into(),
                ..Default::default()
            }
            .encode_to_vec(),
            "oa",
        ),
        (
            "hydrant.v1.SharingService/GetShare",
            v1::GetShareRequest { name: "tenants/default/shares/1".to_owned() }.encode_to_vec(),
            "rtwoa",
        ),
        ("hydrant.v1.SharingService/ListShares", Vec::new(), "rtwoa"),
        (
            "hydrant.v1.SharingService/WithdrawShare",
            v1::WithdrawShareRequest { name: "tenants/default/shares/9".to_owned(), ..Default::default() }
                .encode_to_vec(),
            "oa",
        ),
        (
            "hydrant.v1.FreshnessService/SilenceFreshness",
            v1::SilenceFreshnessRequest { view: "airport_weather".to_owned(), ..Default::default() }.encode_to_vec(),
            "oa",
        ),
        ("hydrant.v1.FreshnessService/ListSilences", Vec::new(), "rtwoa"),
        (
            "hydrant.v1.UsageService/GetUsage",
            v1::GetUsageRequest { name: "tenants/default/usage/airport_weather:temp".to_owned() }.encode_to_vec(),
            "oa",
        ),
        ("hydrant.v1.UsageService/ListUsage", Vec::new(), "oa"),
        ("hydrant.v1.FreshnessService/DeleteSilence", v1::DeleteSilenceRequest { id: 1 }.encode_to_vec(), "oa"),
        ("hydrant.v1.ErasureService/EraseKey", Vec::new(), "a"),
        ("hydrant.v1.ErasureService/GetErasure", Vec::new(), "a"),
        ("hydrant.v1.ErasureService/ListErasures", Vec::new(), "a"),
        ("hydrant.v1.QuotaService/GetQuotas", Vec::new(), "ap"),
        ("hydrant.v1.QuotaService/ListQuotas", Vec::new(), "ap"),
        ("hydrant.v1.QuotaService/UpdateQuotas", Vec::new(), "p"),
        ("hydrant.v1.QuotaService/RaiseQuotas", Vec::new(), "p"),
        ("hydrant.v1.AuditService/ListAuditRecords", Vec::new(), "ap"),
        ("hydrant.v1.AuditService/VerifyAudit", Vec::new(), "p"),
        ("hydrant.v1.AccessService/CreateKey", v1::CreateKeyRequest::default().encode_to_vec(), "ap"),
        ("hydrant.v1.AccessService/GetKey", v1::GetKeyRequest { id: "abcdefghjk".to_owned() }.encode_to_vec(), "ap"),
        ("hydrant.v1.AccessService/ListKeys", Vec::new(), "ap"),
        (
            "hydrant.v1.AccessService/RotateKey",
            v1::RotateKeyRequest { id: "abcdefghjk".to_owned(), overlap_micros: 0 }.encode_to_vec(),
            "ap",
        ),
        (
            "hydrant.v1.AccessService/RevokeKey",
            v1::RevokeKeyRequest { id: "abcdefghjk".to_owned() }.encode_to_vec(),
            "ap",
        ),
        ("hydrant.v1.AccessService/WhoAmI", Vec::new(), "*"),
        ("arrow.flight.protocol.FlightService/Handshake", Vec::new(), "*"),
        ("arrow.flight.protocol.FlightService/ListFlights", Criteria::default().encode_to_vec(), "rtwoa"),
        ("arrow.flight.protocol.FlightService/GetFlightInfo", path("view", "airport_weather"), "rtwoa"),
        ("arrow.flight.protocol.FlightService/PollFlightInfo", path("view", "airport_weather"), "*"),
        ("arrow.flight.protocol.FlightService/GetSchema", path("view", "airport_weather"), "rtwoa"),
        ("arrow.flight.protocol.FlightService/DoGet", Ticket::new("no ticket").encode_to_vec(), "ta"),
        ("arrow.flight.protocol.FlightService/DoPut", Vec::new(), "twa"),
        ("arrow.flight.protocol.FlightService/DoExchange", Vec::new(), "ta"),
        (
            "arrow.flight.protocol.FlightService/DoAction",
            FlightAction { r#type: "training_set.progress".to_owned(), ..Default::default() }.encode_to_vec(),
            "ta",
        ),
        ("arrow.flight.protocol.FlightService/ListActions", Vec::new(), "*"),
        ("grpc.health.v1.Health/Check", Vec::new(), "?"),
        ("grpc.health.v1.Health/Watch", Vec::new(), "?"),
        ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Vec::new(), "*"),
        ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Vec::new(), "*"),
    ]
}

fn path(kind: &str, name: &str) -> Vec<u8> {
    FlightDescriptor::new_path(vec![kind.to_owned(), name.to_owned()]).encode_to_vec()
}

/// A server that asks for keys, with two tenants; the names of the table are those of `default`.
pub struct Guarded {
    pub server: TestServer,
    /// Platform and admin of `default`.
    pub first: Client,
    /// The admin of `rival`.
    pub rival: Client,
}

impl Guarded {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let server = TestServer::start_in(directory, |config| config.auth.enabled = true).await;
        let token = std::fs::read_to_string(server.directory.path().join("first-key")).expect("it was made");
        let first = client(&server, token.trim()).await;
        first.apply(&super::support::weather(), None).await.expect("an admin may");
        first.ingest(ingest_request(&weather_rows())).await.expect("an admin may");
        first.apply(&[tenant("rival")], None).await.expect("the platform may");
        let made = first.create_key(key("rival", &[v1::Role::Admin])).await.expect("its first admin");
        let rival = client(&server, &made.token).await;
        Self { server, first, rival }
    }

    pub async fn give(&self, by: &Client, request: v1::CreateKeyRequest) -> String {
        let told = format!("{request:?}");
        by.create_key(request).await.unwrap_or_else(|refusal| panic!("{told}: {refusal:?}")).token
    }

    /// Connections to gRPC and to Flight that show a token.
    pub async fn ports(&self, token: Option<&str>) -> Ports {
        let addresses = self.server.addresses;
        let mut connections = Vec::new();
        for port in [addresses.grpc.port(), addresses.flight.port()] {
            connections.push(connect(port, token).await.channel());
        }
        let flight = connections.pop().expect("two");
        Ports { grpc: connections.pop().expect("two"), flight }
    }
}

pub struct Ports {
    pub grpc: Connection,
    pub flight: Connection,
}

impl Ports {
    async fn call(&self, method: &str, request: &[u8]) -> Result<(), Refusal> {
        let connection = if method.starts_with("arrow.flight.") { &self.flight } else { &self.grpc };
        let called = call(connection.clone(), method, request.to_vec());
        tokio::time::timeout(PATIENCE, called).await.unwrap_or_else(|_| panic!("{method} doesn't answer"))
    }
}

pub async fn client(server: &TestServer, token: &str) -> Client {
    connect(server.addresses.grpc.port(), Some(token)).await
}

async fn connect(port: u16, token: Option<&str>) -> Client {
    let remote = Remote::plain(&format!("127.0.0.1:{port}"));
    let remote = match token {
        Some(token) => remote.with_token(token).expect("it looks like a key"),
        None => remote,
    };
    Client::connect_to(remote).await.expect("it listens")
}

fn tenant(name: &str) -> Definition {
    let document = json!({"apiVersion": "hydrant/v1", "kind": "Tenant", "metadata": {"name": name}, "spec": {}});
    documents::from_json(&document).expect("a definition")
}

pub fn key(tenant: &str, roles: &[v1::Role]) -> v1::CreateKeyRequest {
    let roles = roles.iter().map(|role| i32::from(*role)).collect();
    v1::CreateKeyRequest { tenant: tenant.to_owned(), roles, ..Default::default() }
}

/// One message out, and the first that comes back, whatever kind of call it is: they look alike on the wire.
async fn call(connection: Connection, method: &str, request: Vec<u8>) -> Result<(), Refusal> {
    let mut grpc = Grpc::new(connection);
    grpc.ready().await.expect("it is connected");
    let path: PathAndQuery = format!("/{method}").parse().expect("a path");
    let called = grpc.server_streaming(Request::new(request.into()), path, BytesOut::<DecodeBytes>::default()).await;
    let mut answers = called.map_err(|status| from_status(&status))?.into_inner();
    answers.message().await.map(|_| ()).map_err(|status| from_status(&status))
}

fn is_denied(outcome: &Result<(), Refusal>) -> bool {
    matches!(outcome, Err(refusal) if refusal.code == Code::PermissionDenied)
}

fn is_unknown(outcome: &Result<(), Refusal>) -> bool {
    matches!(outcome, Err(refusal) if refusal.code == Code::Unauthenticated)
}

#[test]
fn the_table_has_every_method_of_the_descriptors() {
    let known: BTreeSet<String> = table().into_iter().map(|(method, _, _)| method.to_owned()).collect();
    for set in [v1::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET] {
        let set = FileDescriptorSet::decode(set).expect("descriptors");
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let name = format!("{}.{}/{}", file.package(), service.name(), method.name());
                    assert!(known.contains(&name), "{name} is in no row: who may call it?");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_is_let_in_to_by_the_roles_of_the_table_and_no_other() {
    let guarded = Guarded::start().await;
    let mut wrong = Vec::new();
    for (letter, role) in ROLES {
        let (by, tenants) = (&guarded.first, if letter == 'p' { &["default"][..] } else { &["default", "rival"][..] });
        for tenant in tenants {
            let by = if *tenant == "rival" { &guarded.rival } else { by };
            let ports = guarded.ports(Some(&guarded.give(by, key("", &[role])).await)).await;
            for (method, request, who) in table() {
                let outcome = ports.call(method, &request).await;
                let allowed = who.contains(letter) || who == "*" || who == "?";
                if is_unknown(&outcome) || is_denied(&outcome) == allowed {
                    wrong.push(format!("{method} as {role:?} of {tenant}: {outcome:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_let_in_without_a_credential_that_is_good() {
    let guarded = Guarded::start().await;
    let all = [v1::Role::Reader, v1::Role::Trainer, v1::Role::Writer, v1::Role::Owner, v1::Role::Admin];
    let good = guarded.give(&guarded.first, key("", &all)).await;
    let revoked = guarded.first.create_key(key("", &all)).await.expect("an admin may");
    let streaming = guarded.ports(Some(&revoked.token)).await;
    streaming.call("hydrant.v1.AccessService/WhoAmI", &[]).await.expect("it is good as yet");
    guarded.first.revoke_key(&revoked.key.expect("a key").id).await.expect("an admin may");
    let expired = v1::CreateKeyRequest { expires_after_micros: Some(1), ..key("", &all) };
    let expired = guarded.give(&guarded.first, expired).await;
    let unknown = hydrant::access::Token::random().expect("random").reveal();
    let stolen = hydrant::access::Token::another(good[4..14].parse().expect("an id")).expect("random").reveal();

    let bad = [
        (None, "NO_CREDENTIAL"),
        (Some(revoked.token.as_str()), "KEY_REVOKED"),
        (Some(expired.as_str()), "KEY_EXPIRED"),
        (Some(unknown.as_str()), "KEY_UNKNOWN"),
        (Some(stolen.as_str()), "KEY_UNKNOWN"),
        (Some("password"), "BAD_CREDENTIAL"),
    ];
    for (token, reason) in bad {
        let ports = guarded.ports(token).await;
        for (method, request, who) in table() {
            let outcome = ports.call(method, &request).await;
            if who == "?" {
                assert!(!is_unknown(&outcome), "{method}: {outcome:?}");
                continue;
            }
            let refusal = outcome.expect_err(method);
            assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unauthenticated, reason), "{method}");
            assert!(token.is_none_or(|token| !format!("{refusal:?}").contains(token)), "a refusal repeats no key");
        }
        let unknown_method = ports.call("hydrant.v1.OnlineService/Nothing", &[]).await.expect_err("it is none");
        assert_eq!(unknown_method.code, Code::Unauthenticated, "and what there is is told to nobody");
    }
    let ports = guarded.ports(Some(&good)).await;
    ports.call("hydrant.v1.AccessService/WhoAmI", &[]).await.expect("it is good");
}

/// What another tenant has and what nobody has are refused word for word in the same way.
#[tokio::test(flavor = "multi_thread")]
async fn another_tenant_s_names_answer_as_names_that_do_not_exist() {
    let guarded = Guarded::start().await;
    let ports = guarded.ports(Some(&guarded.give(&guarded.rival, key("", &[v1::Role::Admin])).await)).await;
    let own = guarded.ports(Some(&guarded.give(&guarded.first, key("", &[v1::Role::Admin])).await)).await;
    let renamed = |bytes: &[u8]| {
        // Of the same length, so that the message stays well formed.
        let swap = [
            ("airport_weather", "airport_weathex"),
            ("delay_model", "delay_modex"),
            ("weather", "weathex"),
            ("flights", "flighxs"),
        ];
        let mut text = bytes.to_vec();
        for (from, to) in swap {
            while let Some(at) = text.windows(from.len()).position(|window| window == from.as_bytes()) {
                text[at..at + from.len()].copy_from_slice(to.as_bytes());
            }
        }
        text
    };
    let told = |refusal: &Refusal| {
        let text = format!("{refusal:?}");
        let swap = [("weathex", "weather"), ("delay_modex", "delay_model"), ("flighxs", "flights")];
        swap.into_iter().fold(text, |text, (from, to)| text.replace(from, to))
    };
    let (mut compared, mut wrong) = (0, Vec::new());
    for (method, request, _) in table() {
        let strange = renamed(&request);
        if strange == request || method.ends_with("/PollFlightInfo") {
            continue;
        }
        compared += 1;
        let (other_s, nobody_s) = (ports.call(method, &request).await, ports.call(method, &strange).await);
        match (&other_s, &nobody_s) {
            (Err(one), Err(other)) if told(one) == told(other) => {}
            // To find nothing is an answer.
            (Ok(()), Ok(())) if method.ends_with("/Search") => {}
            _ => wrong.push(format!("{method}: {other_s:?}, {nobody_s:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared >= 14, "only {compared} requests name something");
    let read = own.call("hydrant.v1.OnlineService/GetOnlineFeatures", &read_request(&["EWR"]).encode_to_vec()).await;
    read.expect("its own tenant sees it");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_for_the_platform_and_probes_for_anybody() {
    let guarded = Guarded::start().await;
    assert_eq!(guarded.server.http("/healthz").await.0, 200);
    assert_eq!(guarded.server.http("/readyz").await.0, 200);
    assert_eq!(guarded.server.http("/metrics").await.0, 401);
    let url = format!("http://{}/metrics", guarded.server.addresses.http);
    for (role, expected) in [(v1::Role::Admin, 403), (v1::Role::Platform, 200)] {
        let token = guarded.give(&guarded.first, key("", &[role])).await;
        let answer = reqwest::Client::new().get(&url).bearer_auth(token).send().await.expect("it answers");
        assert_eq!(answer.status().as_u16(), expected, "{role:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_let_in_ends_when_its_key_is_revoked() {
    let guarded = Guarded::start().await;
    let made = guarded.first.create_key(key("", &[v1::Role::Writer])).await.expect("an admin may");
    let writer = client(&guarded.server, &made.token).await;
    let (mut sender, requests) = futures::channel::mpsc::channel(2);
    sender.try_send(ingest_request(&weather_rows())).expect("it is open");
    let mut answers = writer.ingest_stream(requests).await.expect("it is let in");
    tokio::time::timeout(PATIENCE, answers.next()).await.expect("in time").expect("an answer").expect("it is good");
    guarded.first.revoke_key(&made.key.expect("a key").id).await.expect("an admin may");
    sender.try_send(ingest_request(&weather_rows())).expect("it is open");
    let refused = tokio::time::timeout(PATIENCE, answers.next()).await.expect("in time").expect("an answer");
    assert_eq!(refused.expect_err("it was revoked").reason, "KEY_REVOKED");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_attempts_are_in_the_audit_log_and_each_tenant_sees_its_own() {
    let guarded = Guarded::start().await;
    let reader = client(&guarded.server, &guarded.give(&guarded.rival, key("", &[v1::Role::Reader])).await).await;
    for _ in 0..20 {
        assert_eq!(reader.apply(&[], None).await.expect_err("a reader may not").code, Code::PermissionDenied);
    }
    let nobody = guarded.ports(None).await;
    nobody.call("hydrant.v1.RegistryService/Apply", &[]).await.expect_err("nobody may");
    let refused = async |by: &Client, role: v1::Role| {
        let client = client(&guarded.server, &guarded.give(by, key("", &[role])).await).await;
        let filter = v1::ListAuditRecordsRequest {
            outcome: "refused".to_owned(),
            action: "RegistryService/Apply".to_owned(),
            page_size: 1_000,
            ..Default::default()
        };
        let mut found = client.list_audit_records(filter).await.expect("it may").records;
        found.sort_by(|one, other| one.tenant.cmp(&other.tenant).then(one.sequence.cmp(&other.sequence)));
        found
    };
    let of_rival = refused(&guarded.rival, v1::Role::Admin).await;
    assert!(!of_rival.is_empty() && of_rival.len() <= 2, "many of the same are one record: {of_rival:?}");
    for record in &of_rival {
        assert_eq!((record.tenant.as_str(), record.reason.as_str()), ("rival", "PERMISSION_DENIED"));
        assert!(record.caller.starts_with("key/") && record.peer.starts_with("127.0.0.1:"), "{record:?}");
    }
    assert_eq!(refused(&guarded.first, v1::Role::Admin).await, [], "of another tenant nothing is told");
    let all = refused(&guarded.first, v1::Role::Platform).await;
    let unknown: Vec<_> = all.iter().filter(|record| record.tenant.is_empty()).collect();
    assert_eq!(unknown.len(), 1, "{all:?}");
    assert_eq!((unknown[0].caller.as_str(), unknown[0].reason.as_str()), ("", "NO_CREDENTIAL"));
    assert!(all.iter().any(|record| record.tenant == "rival"), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_is_made_and_withdrawn_over_the_wire_and_both_tenants_find_it_in_their_audit_logs() {
    let guarded = Guarded::start().await;
    let new = v1::CreateShareRequest {
        of: Some(v1::create_share_request::Of::Service("delay_model".to_owned())),
        to: "rival".to_owned(),
        rights: v1::share::Rights::Read.into(),
        ..Default::default()
    };
    let read =
        v1::GetOnlineFeaturesRequest { services: vec!["default/delay_model".to_owned()], ..read_request(&["EWR"]) };
    guarded.rival.get_online_features(read.clone()).await.expect_err("it is not shared");
    let nothing = v1::CreateShareRequest { of: None, ..new.clone() };
    assert_eq!(guarded.first.create_share(nothing).await.expect_err("of nothing").reason, "BAD_SHARE");
    let share = guarded.first.create_share(new).await.expect("an admin may");
    assert_eq!((share.name.as_str(), share.to.as_str()), ("tenants/default/shares/1", "rival"));
    assert!(!share.created_by.is_empty());
    let answer = guarded.rival.get_online_features(read.clone()).await.expect("it is shared");
    assert_eq!(answer.services[0].service, "default/delay_model@1");
    let names = answer.columns.iter().filter_map(|column| column.column.as_ref()).map(|column| &column.name);
    assert!(names.clone().all(|name| name.starts_with("default__")), "{:?}", names.collect::<Vec<_>>());
    let received = guarded.rival.list_shares(true).await.expect("listed");
    assert_eq!((received.len(), received[0].created_by.as_str()), (1, ""), "who made it is its owner's to know");
    let told = guarded.rival.get_share(&share.name).await.expect("it is to it");
    assert!(!told.columns.is_empty() && !told.keys.is_empty());
    let withdraw = v1::WithdrawShareRequest { name: share.name.clone(), ..Default::default() };
    assert_eq!(
        guarded.rival.withdraw_share(withdraw.clone()).await.expect_err("not its own").reason,
        "SHARE_NOT_FOUND"
    );
    assert!(guarded.first.withdraw_share(withdraw).await.expect("an admin may").ended);
    guarded.rival.get_online_features(read).await.expect_err("it has ended");

    let of = async |client: &Client| {
        let filter = v1::ListAuditRecordsRequest { page_size: 1_000, ..Default::default() };
        let records = client.list_audit_records(filter).await.expect("whole").records;
        records.into_iter().rev().filter(|record| record.action.starts_with("SharingService/")).collect::<Vec<_>>()
    };
    let told = |records: &[v1::AuditRecord], tenant: &str| {
        let of_tenant = records.iter().filter(|record| record.tenant == tenant);
        of_tenant.map(|record| (record.action.clone(), record.outcome.clone())).collect::<Vec<_>>()
    };
    let record = |action: &str, outcome: &str| (format!("SharingService/{action}"), outcome.to_owned());
    let done = |action: &str| [record(action, "asked"), record(action, "done")];
    let attempt = [record("WithdrawShare", "asked"), record("WithdrawShare", "failed")];
    let (owners, receivers) = (of(&guarded.first).await, of(&guarded.rival).await);
    let bad = [record("CreateShare", "asked"), record("CreateShare", "failed")];
    assert_eq!(told(&owners, "default"), [bad, done("CreateShare"), done("WithdrawShare")].concat());
    assert_eq!(told(&receivers, "rival"), [done("CreateShare"), attempt, done("WithdrawShare")].concat());
    let by_owner = receivers.iter().filter(|record| record.caller == "tenants/default").collect::<Vec<_>>();
    assert_eq!(by_owner.len(), 4, "{receivers:?}");
    let named: Vec<&str> = by_owner.iter().map(|record| record.resources[0].as_str()).collect();
    assert!(named[0].contains("delay_model") && named.iter().all(|name| *name == named[0]), "one name: {named:?}");
    assert!(by_owner.iter().all(|record| record.peer.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_of_a_key_are_set_over_the_wire_by_its_admin_and_by_nobody_else() {
    let guarded = Guarded::start().await;
    let made = guarded.rival.create_key(key("", &[v1::Role::Reader])).await.expect("an admin may");
    let id = made.key.expect("a key").id;
    let named = |tenant: &str| format!("tenants/{tenant}/keys/{id}/quotas");
    let limit = v1::QuotaLimit { quota: "requests_per_second".to_owned(), limit: 0 };
    let update =
        |tenant: &str| v1::UpdateQuotasRequest { name: named(tenant), set: vec![limit.clone()], ..Default::default() };
    let reader = client(&guarded.server, &made.token).await;
    reader.list_definitions(hydrant::registry::definition::Kind::FeatureView).await.expect("nothing is limited");
    let other = client(&guarded.server, &guarded.give(&guarded.first, key("", &[v1::Role::Admin])).await).await;
    assert_eq!(reader.update_quotas(update("rival")).await.expect_err("a reader").code, Code::PermissionDenied);
    for tenant in ["rival", "default"] {
        let refused = other.update_quotas(update(tenant)).await.expect_err("not its key");
        assert_eq!((refused.code, refused.reason.as_str()), (Code::NotFound, "KEY_NOT_FOUND"), "{tenant}");
    }
    let own = v1::UpdateQuotasRequest { name: "tenants/rival/quotas".to_owned(), ..update("rival") };
    assert_eq!(guarded.rival.update_quotas(own).await.expect_err("the platform's").code, Code::PermissionDenied);
    let told = guarded.rival.update_quotas(update("rival")).await.expect("an admin may");
    assert_eq!(told.name, named("rival"));
    let refused = reader.list_definitions(hydrant::registry::definition::Kind::FeatureView).await;
    assert_eq!(refused.expect_err("its key is limited").reason, "QUOTA_EXCEEDED");
    assert_eq!(guarded.rival.list_key_quotas("rival").await.expect("listed").len(), 1);
    assert_eq!(other.list_key_quotas("rival").await.expect_err("another tenant's").code, Code::NotFound);
    let records =
        guarded.rival.list_audit_records(v1::ListAuditRecordsRequest::default()).await.expect("whole").records;
    assert!(records.iter().any(|record| record.resources == [format!("{}/requests_per_second", named("rival"))]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_limited_key_is_refused_is_in_the_audit_log_many_of_the_same_in_one_record() {
    let guarded = Guarded::start().await;
    let limited = v1::CreateKeyRequest { views: vec!["elsewhere".to_owned()], ..key("", &[v1::Role::Reader]) };
    let limited = client(&guarded.server, &guarded.give(&guarded.first, limited).await).await;
    for _ in 0..20 {
        let refused = limited.get_online_features(read_request(&["EWR"])).await.expect_err("it is not given");
        assert_eq!(refused.reason, "OUT_OF_REACH");
    }
    let filter = v1::ListAuditRecordsRequest { outcome: "refused".to_owned(), page_size: 1_000, ..Default::default() };
    let found = guarded.first.list_audit_records(filter).await.expect("it may").records;
    let found: Vec<_> = found.iter().filter(|record| record.reason == "OUT_OF_REACH").collect();
    assert!(!found.is_empty() && found.len() <= 2, "{found:?}");
    assert_eq!(found[0].action, "OnlineService/GetOnlineFeatures");
    assert!(found[0].caller.starts_with("key/") && found[0].tenant == "default", "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_plan_and_not_see_usage_is_told_no_reads() {
    let guarded = Guarded::start().await;
    guarded.first.get_online_features(read_request(&["EWR"])).await.expect("an admin may");
    let mut changed = super::support::weather();
    changed.retain(|definition| definition.name().as_str() == "airport_weather");
    let mut document = documents::to_json(&changed[0]);
    document["spec"]["features"][0]["default"] = json!(1.5);
    let changed = [documents::from_json(&document).expect("a definition")];
    for (role, sees) in [(v1::Role::Reader, false), (v1::Role::Owner, true)] {
        let planner = client(&guarded.server, &guarded.give(&guarded.first, key("", &[role])).await).await;
        let plan = planner.plan(&changed, &Default::default()).await.expect("it may plan");
        let reads = plan.changes[0].differences[0].reads.as_ref();
        assert_eq!(reads.map(|reads| (reads.a_day, reads.readers)), sees.then_some((1.0, 1)), "{role:?}");
    }
}
