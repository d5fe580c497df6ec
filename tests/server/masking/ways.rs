//! Every way out that a caller has who may read: what came by it, byte by byte. What is refused gives out its
//! refusal, so that is looked through too.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow_flight::{FlightDescriptor, Ticket};
use bytes::Bytes;
use hydrant::clock::rfc3339;
use hydrant::rpc::client::{Client, Connection};
use hydrant::rpc::codec::{BytesOut, DecodeBytes};
use hydrant::rpc::v1;
use hydrant::rpc::wire::columns::encode_column;
use hydrant::rpc::wire::messages::{FlightEncoder, MESSAGE_BYTES};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use prost::Message as _;
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;

use super::super::access::{Guarded, Ports, client};
use super::secrets::{ALL, MEASURED, NUMBERS, memory_of};

/// What came out by one way, and the features of which somebody with the grant finds a value in it.
pub struct Out {
    pub way: String,
    pub came: Came,
    pub shows: &'static [&'static str],
}

#[derive(Default)]
pub struct Came {
    pub bytes: Vec<u8>,
    /// A refusal is among it.
    pub is_refused: bool,
}

/// A caller with everything that it asks by.
pub struct Caller {
    /// What its training sets and files are called by.
    name: String,
    token: PathBuf,
    server: String,
    folder: PathBuf,
    client: Client,
    ports: Ports,
    users: Vec<i64>,
    /// When the first values counted, and the last ones.
    times: [i64; 2],
}

const GET: &str = "hydrant.v1.OnlineService/GetOnlineFeatures";
const STREAM: &str = "hydrant.v1.OnlineService/StreamOnlineFeatures";
const SETS: &str = "hydrant.v1.TrainingSetService";
const FLIGHT: &str = "arrow.flight.protocol.FlightService";

const NOTHING: &[&str] = &[];
const EVERYTHING: &[&str] = &ALL;
const IN_MATRICES: &[&str] = &NUMBERS;
const IN_STATISTICS: &[&str] = &MEASURED;
/// What is printed as it is.
const IN_TEXT: &[&str] = &["name", "number", "income"];
/// Of statistics: numbers are rounded for people, and times are not.
const IN_TABLE: &[&str] = &["born"];
const IN_JSON: &[&str] = &["income"];
const NAME: &[&str] = &["name"];

impl Caller {
    /// `folder` is for its files.
    pub async fn new(
        guarded: &Guarded,
        folder: &Path,
        (name, token): (&str, &str),
        users: &[i64],
        times: [i64; 2],
    ) -> Self {
        let file = folder.join(format!("{name}.key"));
        fs::write(&file, token).expect("written");
        Self {
            name: name.to_owned(),
            token: file,
            server: guarded.server.addresses.grpc.to_string(),
            folder: folder.to_owned(),
            client: client(&guarded.server, token).await,
            ports: guarded.ports(Some(token)).await,
            users: users.to_vec(),
            times,
        }
    }

    /// All of them. `others` are the names of training sets that somebody else has saved, and `tickets` what
    /// somebody else pulls by.
    pub async fn ways_out(&self, others: &[&str], tickets: &[Bytes]) -> Vec<Out> {
        let mut all = self.online().await;
        all.extend(self.explained().await);
        all.extend(self.trained().await);
        for ticket in tickets {
            let came = self.fly("DoGet", Ticket { ticket: ticket.clone() }.encode_to_vec()).await;
            all.push(Out { way: "somebody else's ticket".to_owned(), came, shows: NOTHING });
        }
        all.extend(self.saved(others).await);
        all.extend(self.told_of_definitions().await);
        all.extend(self.by_command(others).await);
        all
    }

    async fn online(&self) -> Vec<Out> {
        let users: ArrayRef = Arc::new(Int64Array::from(self.users.clone()));
        let of = |services: &[&str], features: &[String]| v1::GetOnlineFeaturesRequest {
            services: services.iter().map(|&name| name.to_owned()).collect(),
            features: features.to_vec(),
            entities: vec![encode_column("user_id", &users).expect("integers")],
            include_event_times: true,
            include_freshness: true,
            ..Default::default()
        };
        let single: Vec<String> = ALL.iter().map(|feature| format!("profile:{feature}")).collect();
        let past = Some(self.times[0] + 1);
        let arrow = |request| v1::GetOnlineFeaturesRequest {
            format: v1::AnswerFormat::ArrowIpc.into(),
            with_status: true,
            with_event_time: true,
            ..request
        };
        let matrix = |request| v1::GetOnlineFeaturesRequest { format: v1::AnswerFormat::Matrix.into(), ..request };
        let requests = [
            ("columns of a service", of(&["model"], &[]), EVERYTHING),
            ("columns of single features", of(&[], &single), EVERYTHING),
            ("columns of the past", v1::GetOnlineFeaturesRequest { at: past, ..of(&["model"], &[]) }, EVERYTHING),
            ("an Arrow batch", arrow(of(&["model"], &[])), EVERYTHING),
            (
                "an Arrow batch of the past",
                v1::GetOnlineFeaturesRequest { at: past, ..arrow(of(&[], &single)) },
                EVERYTHING,
            ),
            ("matrices", matrix(of(&["numbers"], &[])), IN_MATRICES),
            (
                "matrices of the past",
                v1::GetOnlineFeaturesRequest { at: past, ..matrix(of(&["numbers"], &[])) },
                IN_MATRICES,
            ),
            ("a view that is personal as a whole", of(&[], &["secret:name".to_owned()]), NAME),
        ];
        let mut outs = Vec::new();
        for (way, request, shows) in requests {
            outs.push(self.ask(way, GET, request.encode_to_vec(), shows).await);
            let request = v1::StreamOnlineFeaturesRequest { request: Some(request), batch_size: 3, unpinned: false };
            outs.push(self.ask(&format!("a stream of {way}"), STREAM, request.encode_to_vec(), shows).await);
        }
        outs
    }

    async fn explained(&self) -> Vec<Out> {
        let mut outs = Vec::new();
        for (number, user) in self.users.iter().enumerate().take(3) {
            let user: ArrayRef = Arc::new(Int64Array::from(vec![*user]));
            let request = v1::WhyRequest {
                services: vec!["model".to_owned()],
                features: vec!["secret:name".to_owned()],
                entities: vec![encode_column("user_id", &user).expect("an integer")],
                at: Some(self.times[number % 2] + 1),
                ..Default::default()
            };
            outs.push(self.ask("why", "hydrant.v1.HistoryService/Why", request.encode_to_vec(), EVERYTHING).await);
        }
        let request = v1::ExplainTrainingSetRequest { command: Some(self.command("")), rows: 5, ..Default::default() };
        let method = "hydrant.v1.HistoryService/ExplainTrainingSet";
        outs.push(self.ask("an explained training set", method, request.encode_to_vec(), NOTHING).await);
        outs
    }

    fn command(&self, spine: &str) -> v1::HistoricalFeaturesCommand {
        v1::HistoricalFeaturesCommand {
            services: vec!["model".to_owned()],
            features: vec!["secret:name".to_owned()],
            event_time: "asked".to_owned(),
            with_status: true,
            with_event_time: true,
            spine: spine.to_owned(),
            endpoint_rows: 4,
            ..Default::default()
        }
    }

    /// Each user at either time.
    fn spine(&self) -> RecordBatch {
        let users = self.times.iter().flat_map(|_| self.users.iter().copied());
        let times = self.times.iter().flat_map(|time| self.users.iter().map(move |_| time + 1));
        let users: ArrayRef = Arc::new(Int64Array::from_iter_values(users));
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"));
        RecordBatch::try_from_iter([("user_id", users), ("asked", times)]).expect("equal lengths")
    }

    async fn store(&self) -> String {
        let spine = self.spine();
        let stored = self.client.store_spine(spine.schema(), tokio_stream::iter([Ok(spine)])).await;
        stored.expect("a trainer may").id
    }

    /// By Flight: exchanged, and in parts.
    async fn trained(&self) -> Vec<Out> {
        let wrapped =
            |command| v1::FlightCommand { command: Some(v1::flight_command::Command::HistoricalFeatures(command)) };
        let spine = self.spine();
        let (mut encoder, mut first) = FlightEncoder::begin(&spine.schema(), MESSAGE_BYTES);
        let exchange = v1::HistoricalFeaturesCommand { endpoint_rows: 0, ..self.command("") };
        first.flight_descriptor = Some(FlightDescriptor::new_cmd(wrapped(exchange).encode_to_vec()));
        let messages = [first].into_iter().chain(encoder.encode(&spine).expect("encoded"));
        let messages = messages.map(|message| message.encode_to_vec()).collect();
        let came = raw(&self.ports.flight, &format!("{FLIGHT}/DoExchange"), messages).await;
        let mut outs = vec![Out { way: "an exchanged training set".to_owned(), came, shows: EVERYTHING }];
        let stored = wrapped(self.command(&self.store().await));
        outs.extend(self.pulled("a training set in parts", stored, EVERYTHING).await);
        outs
    }

    /// Where its parts are, and the parts together.
    async fn pulled(&self, way: &str, command: v1::FlightCommand, shows: &'static [&'static str]) -> Vec<Out> {
        let descriptor = FlightDescriptor::new_cmd(command.encode_to_vec());
        let came = self.fly("GetFlightInfo", descriptor.encode_to_vec()).await;
        let mut rows = Came { bytes: Vec::new(), is_refused: came.is_refused };
        if !came.is_refused {
            let command = command.command.expect("a command");
            for ticket in self.client.endpoints(command).await.expect("as before").tickets {
                let part = self.fly("DoGet", Ticket { ticket }.encode_to_vec()).await;
                rows.bytes.extend(part.bytes);
                rows.is_refused |= part.is_refused;
            }
        }
        vec![
            Out { way: format!("where {way} is"), came, shows: NOTHING },
            Out { way: way.to_owned(), came: rows, shows },
        ]
    }

    /// By which it pulls a training set.
    pub async fn tickets(&self) -> Vec<Bytes> {
        let command = v1::flight_command::Command::HistoricalFeatures(self.command(&self.store().await));
        self.client.endpoints(command).await.expect("a trainer may").tickets
    }

    async fn fly(&self, method: &str, request: Vec<u8>) -> Came {
        raw(&self.ports.flight, &format!("{FLIGHT}/{method}"), vec![request]).await
    }

    /// Its own set, and those of others.
    async fn saved(&self, others: &[&str]) -> Vec<Out> {
        let create = v1::CreateTrainingSetRequest {
            name: self.name.clone(),
            services: vec!["model".to_owned()],
            spine: self.store().await,
            event_time: "asked".to_owned(),
            with_status: true,
            with_event_time: true,
            ..Default::default()
        };
        let (method, create) = (format!("{SETS}/CreateTrainingSet"), create.encode_to_vec());
        let mut outs = vec![self.ask("a saved training set", &method, create, IN_STATISTICS).await];
        let list = v1::ListTrainingSetsRequest::default().encode_to_vec();
        outs.push(self.ask("all training sets", &format!("{SETS}/ListTrainingSets"), list, NOTHING).await);
        for name in [self.name.as_str()].into_iter().chain(others.iter().copied()) {
            let shows = |shows: &'static [&'static str]| if name == self.name { shows } else { NOTHING };
            let of = |name: &str| name.to_owned();
            let get = v1::GetTrainingSetRequest { name: of(name) }.encode_to_vec();
            let way = format!("the statistics of {name}");
            outs.push(self.ask(&way, &format!("{SETS}/GetTrainingSet"), get, shows(IN_STATISTICS)).await);
            let verify = v1::VerifyTrainingSetRequest { name: of(name) }.encode_to_vec();
            let way = format!("the verification of {name}");
            outs.push(self.ask(&way, &format!("{SETS}/VerifyTrainingSet"), verify, NOTHING).await);
            let set = v1::TrainingSetCommand { name: of(name), endpoint_rows: 4 };
            let set = v1::FlightCommand { command: Some(v1::flight_command::Command::TrainingSet(set)) };
            outs.extend(self.pulled(&format!("the rows of {name}"), set, shows(EVERYTHING)).await);
        }
        outs
    }

    /// What is told of definitions and of who uses them has no values for anybody.
    async fn told_of_definitions(&self) -> Vec<Out> {
        let kind = v1::Kind::FeatureView.into();
        let get = v1::GetDefinitionRequest { kind, name: "profile".to_owned() }.encode_to_vec();
        let mut outs = Vec::new();
        for (method, request) in [
            ("RegistryService/GetDefinition", get),
            (
                "RegistryService/ListDefinitions",
                v1::ListDefinitionsRequest { kind, ..Default::default() }.encode_to_vec(),
            ),
            ("CatalogService/ListRevisions", Vec::new()),
            (
                "CatalogService/Search",
                v1::SearchRequest { text: "profile".to_owned(), ..Default::default() }.encode_to_vec(),
            ),
            ("LineageService/GetLineageGraph", Vec::new()),
            ("FreshnessService/ListFreshness", Vec::new()),
            ("UsageService/ListUsage", Vec::new()),
            ("AuditService/ListAuditRecords", Vec::new()),
            ("QuotaService/ListQuotas", Vec::new()),
        ] {
            outs.push(self.ask(method, &format!("hydrant.v1.{method}"), request, NOTHING).await);
        }
        outs.push(Out { way: "flights".to_owned(), came: self.fly("ListFlights", Vec::new()).await, shows: NOTHING });
        outs
    }

    /// By the command line: what it prints, and the files that it writes.
    async fn by_command(&self, others: &[&str]) -> Vec<Out> {
        let spine = self.file("spine.parquet");
        let mut writer =
            ArrowWriter::try_new(File::create(&spine).expect("created"), self.spine().schema(), None).expect("begun");
        writer.write(&self.spine()).expect("written");
        writer.close().expect("finished");
        let key = format!("user_id={}", self.users[0]);
        let (at, set, out) =
            (rfc3339(self.times[0] + 1), format!("{}_by_command", self.name), self.file("out.parquet"));
        let of_spine = ["--service", "model", "--spine", &spine, "--event-time", "asked"];
        let online = ["online", "get", "--service", "model", "--key", &key];
        let columns = ["--with-status", "--with-event-time"];
        let score = ["online", "score", "--service", "model", "--keys", &spine, "-o", &out];
        let why = ["why", "--service", "model", "--key", &key, "--at", &at];
        let commands = [
            (online.to_vec(), IN_TEXT),
            ([&online[..], &["-o", "json"]].concat(), IN_TEXT),
            ([&online[..], &["--at", &at, "-o", "json"]].concat(), IN_TEXT),
            (score.to_vec(), EVERYTHING),
            ([&score[..], &["--at", &at], &columns].concat(), EVERYTHING),
            ([&["historical", "get"][..], &of_spine, &["-o", &out], &columns].concat(), EVERYTHING),
            ([&["historical", "explain"][..], &of_spine].concat(), NOTHING),
            ([&["training-set", "create", &set][..], &of_spine, &columns].concat(), IN_TABLE),
            (vec!["training-set", "get", &set, "-o", "json"], IN_JSON),
            (vec!["training-set", "get", &set], IN_TABLE),
            (vec!["training-set", "list", "-o", "json"], NOTHING),
            (vec!["training-set", "pull", &set, "-o", &out], EVERYTHING),
            (vec!["training-set", "verify", &set], NOTHING),
            (why.to_vec(), IN_TEXT),
            ([&why[..], &["-o", "json"]].concat(), IN_TEXT),
            (vec!["diff", "model", "newest", "--key", &key, "-o", "json"], NOTHING),
            (vec!["get", "views", "-o", "yaml"], NOTHING),
            (vec!["get", "view", "profile", "-o", "json"], NOTHING),
            (vec!["describe", "view", "profile"], NOTHING),
            (vec!["history", "-o", "json"], NOTHING),
            (vec!["lineage", "profile", "-o", "json"], NOTHING),
            (vec!["search", "profile", "-o", "json"], NOTHING),
            (vec!["sla", "-o", "json"], NOTHING),
            (vec!["usage", "-o", "json"], NOTHING),
            (vec!["audit", "list", "-o", "json"], NOTHING),
        ];
        let mut outs = Vec::new();
        for (command, shows) in commands {
            outs.push(self.run(&command, shows).await);
        }
        for other in others {
            outs.push(self.run(&["training-set", "get", other, "-o", "json"], NOTHING).await);
            outs.push(self.run(&["training-set", "pull", other, "-o", &out], NOTHING).await);
        }
        outs
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(format!("{}_{name}", self.name)).to_str().expect("UTF-8").to_owned()
    }

    /// What a command prints, and what lies in the file that it writes, if any: its bytes and its rows.
    async fn run(&self, arguments: &[&str], shows: &'static [&'static str]) -> Out {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hydrant"));
        command.args(arguments).env("HYDRANT_SERVER", &self.server).arg("--token-file").arg(&self.token);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
        let mut bytes = [output.stdout, output.stderr].concat();
        for file in arguments.iter().filter(|argument| argument.ends_with("out.parquet")) {
            let Ok(written) = fs::read(file) else { continue };
            bytes.extend_from_slice(&written);
            let rows = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(written)).expect("Parquet").build();
            rows.expect("readable").for_each(|batch| bytes.extend(memory_of(&batch.expect("sound"))));
            fs::remove_file(file).expect("it is there");
        }
        let came = Came { bytes, is_refused: !output.status.success() };
        Out { way: format!("hydrant {}", arguments.join(" ")), came, shows }
    }

    async fn ask(&self, way: &str, method: &str, request: Vec<u8>, shows: &'static [&'static str]) -> Out {
        Out { way: way.to_owned(), came: raw(&self.ports.grpc, method, vec![request]).await, shows }
    }
}

/// All bytes that come back, also those of a refusal. Calls of every kind look alike on the wire.
async fn raw(connection: &Connection, method: &str, requests: Vec<Vec<u8>>) -> Came {
    let mut grpc = Grpc::new(connection.clone());
    grpc.ready().await.expect("it is connected");
    let path: PathAndQuery = format!("/{method}").parse().expect("a path");
    let requests = Request::new(tokio_stream::iter(requests.into_iter().map(Bytes::from)));
    let mut came = Came::default();
    let refused = match grpc.streaming(requests, path, BytesOut::<DecodeBytes>::default()).await {
        Ok(answers) => {
            let mut answers = answers.into_inner();
            loop {
                match answers.message().await {
                    Ok(Some(message)) => came.bytes.extend_from_slice(&message),
                    Ok(None) => return came,
                    Err(status) => break status,
                }
            }
        }
        Err(status) => status,
    };
    came.bytes.extend([refused.message().as_bytes(), refused.details()].concat());
    Came { is_refused: true, ..came }
}
