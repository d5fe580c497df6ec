//! Requests to begin from. Of methods that change nothing they are good ones; of others they are whole and
//! well formed, and refused for one thing.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_flight::utils::batches_to_flight_data;
use arrow_flight::{Action, FlightDescriptor, Ticket};
use bytes::Bytes;
use hydrant::rpc::v1;
use hydrant::rpc::v1::flight_command::Command;
use prost::Message;

use crate::methods::FLIGHT;
use crate::support::{HOUR, NOON, columns_of, ingest_request, read_request, weather_batch, weather_rows};

/// The messages of one call.
pub type Messages = Vec<Vec<u8>>;

pub struct Seeds(HashMap<String, Vec<Messages>>);

impl Seeds {
    /// `ticket` is one that was given out.
    pub fn new(ticket: &Bytes) -> Self {
        let mut seeds = Self(HashMap::new());
        seeds.reads();
        seeds.changes();
        seeds.flight(ticket);
        seeds
    }

    pub fn of(&self, method: &str) -> &[Messages] {
        self.0.get(method).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, method: &str, message: &impl Message) {
        self.add_all(&format!("hydrant.v1.{method}"), vec![message.encode_to_vec()]);
    }

    fn add_all(&mut self, method: &str, messages: Messages) {
        self.0.entry(method.to_owned()).or_default().push(messages);
    }

    fn reads(&mut self) {
        let online = || read_request(&["EWR", "JFK", "nobody"]);
        self.add("OnlineService/GetOnlineFeatures", &online());
        let arrow = v1::GetOnlineFeaturesRequest {
            format: v1::AnswerFormat::ArrowIpc.into(),
            with_status: true,
            with_event_time: true,
            ..online()
        };
        self.add("OnlineService/GetOnlineFeatures", &arrow);
        let past = v1::GetOnlineFeaturesRequest { at: Some(NOON), include_event_times: true, ..online() };
        self.add("OnlineService/GetOnlineFeatures", &past);
        let stream = v1::StreamOnlineFeaturesRequest { request: Some(online()), batch_size: 2, unpinned: true };
        self.add("OnlineService/StreamOnlineFeatures", &stream);
        let why = v1::WhyRequest {
            services: vec!["delay_model".to_owned()],
            entities: online().entities,
            at: Some(NOON),
            ..Default::default()
        };
        self.add("HistoryService/Why", &why);
        let explain =
            v1::ExplainTrainingSetRequest { command: Some(historical()), rows: 3, spine_schema: schema_of(&spine()) };
        self.add("HistoryService/ExplainTrainingSet", &explain);
        let plan = v1::PlanRequest { definitions: vec![view()], ..Default::default() };
        self.add("RegistryService/Plan", &plan);
        let named = v1::GetDefinitionRequest { kind: v1::Kind::FeatureView.into(), name: "airport_weather".to_owned() };
        self.add("RegistryService/GetDefinition", &named);
        let search = v1::SearchRequest { text: "weather temp".to_owned(), ..Default::default() };
        self.add("CatalogService/Search", &search);
        let graph = v1::GetLineageGraphRequest { name: "weather.temp".to_owned(), ..Default::default() };
        self.add("LineageService/GetLineageGraph", &graph);
        let records = v1::ListAuditRecordsRequest { page_size: 3, outcome: "refused".to_owned(), ..Default::default() };
        self.add("AuditService/ListAuditRecords", &records);
    }

    fn changes(&mut self) {
        let wrong = || bad_rows();
        let columns = ingest_request(&wrong());
        self.add("IngestService/Ingest", &columns);
        let arrow = v1::IngestRequest {
            rows: Some(v1::ingest_request::Rows::ArrowIpc(ipc(&wrong()))),
            wait_visible: false,
            ..columns.clone()
        };
        self.add("IngestService/Ingest", &arrow);
        let again = arrow.encode_to_vec();
        self.add_all("hydrant.v1.IngestService/IngestStream", vec![columns.encode_to_vec(), again]);
        let keys: ArrayRef = Arc::new(StringArray::from(vec!["EWR", "JFK"]));
        let keys = RecordBatch::try_from_iter([("origin", keys)]).expect("a batch");
        let uneven = v1::DeleteRequest {
            view: "airport_weather".to_owned(),
            keys: columns_of(&keys),
            event_times: vec![NOON; 3],
            ..Default::default()
        };
        self.add("IngestService/Delete", &uneven);
        let other = v1::CreateDefinitionRequest { definition: Some(view()) };
        self.add("RegistryService/CreateDefinition", &other);
        let stale = v1::UpdateDefinitionRequest { definition: Some(view()), etag: "stale".to_owned() };
        self.add("RegistryService/UpdateDefinition", &stale);
        let apply =
            v1::ApplyRequest { definitions: vec![view()], expected_revision: Some(1 << 40), ..Default::default() };
        self.add("RegistryService/Apply", &apply);
        let used = v1::DeleteDefinitionRequest {
            kind: v1::Kind::Source.into(),
            name: "weather".to_owned(),
            ..Default::default()
        };
        self.add("RegistryService/DeleteDefinition", &used);
        let rollback = v1::RollbackRequest { to_revision: 1 << 40, ..Default::default() };
        self.add("CatalogService/Rollback", &rollback);
        let set = v1::CreateTrainingSetRequest {
            name: "flights".to_owned(),
            services: vec!["delay_model".to_owned()],
            spine: "0123456789abcdef0123456789abcdef".to_owned(),
            event_time: "at".to_owned(),
            ..Default::default()
        };
        self.add("TrainingSetService/CreateTrainingSet", &set);
        let key = v1::CreateKeyRequest {
            tenant: "nobody".to_owned(),
            roles: vec![v1::Role::Reader.into()],
            ..Default::default()
        };
        self.add("AccessService/CreateKey", &key);
        let limits = || vec![v1::QuotaLimit { quota: "keys_per_second".to_owned(), limit: 1_000_000 }];
        let quotas = v1::UpdateQuotasRequest { set: limits(), etag: "stale".to_owned(), ..Default::default() };
        self.add("QuotaService/UpdateQuotas", &quotas);
        let raise = v1::RaiseQuotasRequest { limits: limits(), etag: "stale".to_owned(), ..Default::default() };
        self.add("QuotaService/RaiseQuotas", &raise);
        let silence = v1::SilenceFreshnessRequest { view: "airport_weather".to_owned(), ..Default::default() };
        self.add("FreshnessService/SilenceFreshness", &silence);
        let backup = v1::CreateBackupRequest { name: "no name".to_owned() };
        self.add("BackupService/CreateBackup", &backup);
    }

    fn flight(&mut self, ticket: &Bytes) {
        let path = |kind: &str, name: &str| FlightDescriptor::new_path(vec![kind.to_owned(), name.to_owned()]);
        for method in ["GetFlightInfo", "GetSchema", "PollFlightInfo"] {
            for descriptor in [
                path("view", "airport_weather"),
                path("source", "weather"),
                path("service", "delay_model"),
                command(Command::HistoricalFeatures(historical())),
                command(Command::TrainingSet(v1::TrainingSetCommand { name: "flights".to_owned(), endpoint_rows: 1 })),
            ] {
                self.add_all(&format!("{FLIGHT}/{method}"), vec![descriptor.encode_to_vec()]);
            }
        }
        self.add_all(&format!("{FLIGHT}/DoGet"), vec![Ticket { ticket: ticket.clone() }.encode_to_vec()]);
        let action = Action { r#type: "training_set.progress".to_owned(), body: ticket.clone() };
        self.add_all(&format!("{FLIGHT}/DoAction"), vec![action.encode_to_vec()]);
        let exchange = upload(command(Command::HistoricalFeatures(historical())), &spine());
        self.add_all(&format!("{FLIGHT}/DoExchange"), exchange);
        let ingest = v1::IngestCommand { source: "weather".to_owned(), ..Default::default() };
        self.add_all(&format!("{FLIGHT}/DoPut"), upload(command(Command::Ingest(ingest)), &bad_rows()));
        let backfill =
            v1::BackfillCommand { source: "weather".to_owned(), id: "1".to_owned(), rows: 9, ..Default::default() };
        self.add_all(&format!("{FLIGHT}/DoPut"), upload(command(Command::Backfill(backfill)), &bad_rows()));
        // A spine without a schema.
        let mut spine = upload(command(Command::StoreSpine(v1::StoreSpineCommand {})), &spine());
        spine[0] = arrow_flight::FlightData {
            flight_descriptor: Some(command(Command::StoreSpine(v1::StoreSpineCommand {}))),
            ..Default::default()
        }
        .encode_to_vec();
        self.add_all(&format!("{FLIGHT}/DoPut"), spine);
    }
}

/// Rows of `weather`, one of which is dated far ahead.
fn bad_rows() -> RecordBatch {
    weather_batch(&[Some("EWR"), Some("JFK"), None], &[NOON + HOUR, 4_102_444_800_000_000, NOON], &[1.0, 2.0, 3.0])
}

pub fn historical() -> v1::HistoricalFeaturesCommand {
    v1::HistoricalFeaturesCommand {
        services: vec!["delay_model".to_owned()],
        event_time: "at".to_owned(),
        with_status: true,
        ..Default::default()
    }
}

pub fn spine() -> RecordBatch {
    let origins: ArrayRef = Arc::new(StringArray::from(vec!["EWR", "JFK"]));
    let at: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![NOON, NOON + HOUR]).with_timezone("UTC"));
    RecordBatch::try_from_iter([("origin", origins), ("at", at)]).expect("a batch")
}

fn command(command: Command) -> FlightDescriptor {
    FlightDescriptor::new_cmd(v1::FlightCommand { command: Some(command) }.encode_to_vec())
}

fn upload(descriptor: FlightDescriptor, batch: &RecordBatch) -> Messages {
    let mut messages = batches_to_flight_data(&batch.schema(), vec![batch.clone()]).expect("encoded");
    messages[0].flight_descriptor = Some(descriptor);
    messages.iter().map(Message::encode_to_vec).collect()
}

fn schema_of(batch: &RecordBatch) -> Vec<u8> {
    batches_to_flight_data(&batch.schema(), Vec::new()).expect("encoded")[0].data_header.to_vec()
}

fn ipc(batch: &RecordBatch) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut writer = arrow_ipc::writer::StreamWriter::try_new(&mut stream, &batch.schema()).expect("a schema");
    writer.write(batch).expect("written");
    writer.finish().expect("finished");
    drop(writer);
    stream
}

/// A view that contradicts the one that is there.
fn view() -> v1::Definition {
    let spec = v1::FeatureViewSpec {
        entities: vec!["airport".to_owned()],
        source: "weather".to_owned(),
        features: vec![v1::FeatureSpec { name: "temp".to_owned(), r#type: "string".to_owned(), ..Default::default() }],
        ..Default::default()
    };
    v1::Definition {
        metadata: Some(v1::Metadata { name: "airport_weather".to_owned(), ..Default::default() }),
        spec: Some(v1::definition::Spec::FeatureView(spec)),
        ..Default::default()
    }
}

/// The rows that are there before anything else.
pub fn first_rows() -> v1::IngestRequest {
    ingest_request(&weather_rows())
}
