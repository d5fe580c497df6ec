//! ListFlights, GetFlightInfo and GetSchema: sources (what DoPut takes), views and services (what
//! DoExchange gives, beside the spine). They tell of definitions and never read a row.

use std::sync::Arc;

use arrow_flight::{FlightDescriptor, FlightInfo, SchemaResult};
use arrow_schema::{Field, Schema};
use hydrant_storage::names::Name;
use hydrant_storage::value::DataType;

use super::super::wire::definitions::decode_name;
use super::super::wire::ipc::encode_schema;
use super::super::{Caller, UseCases};
use super::{Asked, read_descriptor};
use crate::error::{Error, Result};
use crate::registry::catalog::{Snapshot, Source, TenantCatalog, View};
use crate::registry::table::Beside;
use crate::tenancy::{Action, Permit};

/// The kinds of path, as they stand first in it.
const SOURCE: &str = "source";
const VIEW: &str = "view";
const SERVICE: &str = "service";

/// Everything that there is, by kind and name.
pub(super) fn list(use_cases: &UseCases, caller: &Caller) -> Result<Vec<FlightInfo>> {
    let (permit, snapshot, catalog) = definitions(use_cases, caller)?;
    permit.require(Action::ReadDefinitions)?;
    let mut flights = Vec::new();
    for source in catalog.sources.values() {
        flights.push(flight(path(SOURCE, source.name.as_str()), &source_schema(source))?);
    }
    for view in catalog.views.values() {
        flights.push(flight(path(VIEW, view.name.as_str()), &view_schema(view))?);
    }
    for name in catalog.services.keys() {
        let selection = snapshot.select(&catalog, &[name.to_string()], &[])?;
        flights.push(flight(path(SERVICE, name.as_str()), &Beside::default().schema(&selection))?);
    }
    Ok(flights)
}

pub(super) fn of(use_cases: &UseCases, caller: &Caller, descriptor: FlightDescriptor) -> Result<FlightInfo> {
    let schema = schema(use_cases, caller, descriptor.clone())?;
    flight(descriptor, &schema)
}

pub(super) fn schema_of(use_cases: &UseCases, caller: &Caller, descriptor: FlightDescriptor) -> Result<SchemaResult> {
    Ok(SchemaResult { schema: encode_schema(&schema(use_cases, caller, descriptor)?)? })
}

fn schema(use_cases: &UseCases, caller: &Caller, descriptor: FlightDescriptor) -> Result<Schema> {
    let (permit, snapshot, catalog) = definitions(use_cases, caller)?;
    match read_descriptor(descriptor)? {
        Asked::Ingest(command) => source(&permit, &catalog, &command.source),
        Asked::Backfill(command) => source(&permit, &catalog, &command.source),
        Asked::HistoricalFeatures(command) => {
            permit.check_reads(&command.services, &command.features)?;
            let beside = Beside { status: command.with_status, event_time: command.with_event_time };
            Ok(beside.schema(&snapshot.select(&catalog, &command.services, &command.features)?))
        }
        // With a spine there are endpoints.
        Asked::TrainingSet(_) | Asked::StoreSpine => {
            Err(Error::invalid("BAD_DESCRIPTOR", "a spine that is put has no schema of its own")
                .hint("put it (DoPut), then ask for what is made of it"))
        }
        Asked::Path(kind, name) => match kind.as_str() {
            SOURCE => source(&permit, &catalog, &name),
            VIEW => {
                let name = decode_name("view", &name)?;
                permit.check_view(name.as_str())?;
                let view = catalog.views.get(&name).ok_or_else(|| missing("view", "VIEW_NOT_FOUND", &name))?;
                Ok(view_schema(view))
            }
            SERVICE => {
                let services = [name];
                permit.check_reads(&services, &[])?;
                Ok(Beside::default().schema(&snapshot.select(&catalog, &services, &[])?))
            }
            other => {
                let told = format!("there is no kind '{}' of flight", other.chars().take(80).collect::<String>());
                Err(Error::not_found("UNKNOWN_KIND", told).hint("use source, view, service or training_set"))
            }
        },
    }
}

fn definitions(use_cases: &UseCases, caller: &Caller) -> Result<(Permit, Arc<Snapshot>, Arc<TenantCatalog>)> {
    let permit = use_cases.permit(caller, Action::ReadDefinitions)?;
    let snapshot = use_cases.registry.snapshot();
    let catalog = snapshot.tenant(permit.tenant())?.clone();
    Ok((permit, snapshot, catalog))
}

fn source(permit: &Permit, catalog: &TenantCatalog, name: &str) -> Result<Schema> {
    let name = decode_name("source", name)?;
    let found = catalog.sources.get(&name);
    permit.check_source(name.as_str(), found.map(|source| source.views.iter().map(|view| &view.name)))?;
    let source = catalog.sources.get(&name).ok_or_else(|| missing("source", "SOURCE_NOT_FOUND", &name))?;
    Ok(source_schema(source))
}

fn missing(kind: &'static str, reason: &'static str, name: &Name) -> Error {
    Error::not_found(reason, format!("there is no {kind} '{name}'")).with(kind, name)
}

fn source_schema(source: &Source) -> Schema {
    let columns = source.columns.iter().map(|column| field(column.name.as_str(), column.data_type));
    Schema::new(columns.collect::<Vec<_>>())
}

/// The join keys, then the features.
fn view_schema(view: &View) -> Schema {
    let keys = view.join_keys.iter().map(|key| field(key.name.as_str(), DataType::Scalar(key.key_type)));
    let features = view.features.iter().map(|feature| field(feature.name.as_str(), feature.data_type));
    Schema::new(keys.chain(features).collect::<Vec<_>>())
}

fn field(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type.to_arrow(), true)
}

fn path(kind: &str, name: &str) -> FlightDescriptor {
    FlightDescriptor::new_path(vec![kind.to_owned(), name.to_owned()])
}

/// How many rows there are isn't known before they are read.
fn flight(descriptor: FlightDescriptor, schema: &Schema) -> Result<FlightInfo> {
    let info =
        FlightInfo { schema: encode_schema(schema)?, total_records: -1, total_bytes: -1, ..FlightInfo::default() };
    Ok(info.with_descriptor(descriptor))
}
