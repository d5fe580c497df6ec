//! RegistryService: definitions in and out, plans, lineage, and where the server's other ports are.

use std::collections::BTreeSet;

use async_trait::async_trait;
use hydrant_proto::v1;
use hydrant_proto::v1::registry_service_server::RegistryService;
use hydrant_storage::names::Name;
use tonic::{Request, Response, Status};

use super::reads::{self, Before};
use super::status::to_status;
use super::training::decode_reference;
use super::wire::definitions::{
    decode_definitions, decode_kind, decode_unread, decode_versioned_name, encode_definition, encode_kind,
    encode_problem, encode_status,
};
use super::wire::plans::{encode_changes, encode_plan, encode_reads};
use super::{Caller, UseCases, layers, retention, tenants};
use crate::error::{Code, Error, Result};
use crate::registry::Applied;
use crate::registry::definition::{Definition, Kind};
use crate::registry::lineage::{Edge, Lineage};
use crate::registry::listing::Described;
use crate::registry::plan::{Plan, Prune};
use crate::registry::selection::is_of_another;
use crate::registry::tenants::Expected;
use crate::tenancy::{Action, Permit};

/// How often it is found out anew what an apply changes, where others change definitions meanwhile. Beyond, all
/// that it asks for is named.
const NAMED_ANEW: usize = 3;

/// The ports of the other listeners.
#[derive(Clone, Copy, Debug)]
pub struct OtherPorts {
    pub flight: u16,
    pub http: u16,
}

#[derive(Debug)]
pub struct RegistryRpc {
    use_cases: UseCases,
    ports: OtherPorts,
}

impl RegistryRpc {
    pub fn new(use_cases: UseCases, ports: OtherPorts) -> Self {
        Self { use_cases, ports }
    }

    async fn change(&self, caller: &Caller, names: Vec<String>) -> Result<Permit> {
        self.use_cases.change(caller, Action::ChangeDefinitions, names).await
    }

    async fn create(&self, caller: &Caller, request: v1::CreateDefinitionRequest) -> Result<v1::Definition> {
        if request.definition.as_ref().is_some_and(tenants::is_tenant) {
            return tenants::put(&self.use_cases, caller, request.definition, Expected::Nothing).await;
        }
        let definition = single(request.definition);
        let permit = self.change(caller, names(definition.iter())).await?;
        let definition = definition?;
        self.use_cases.registry.create(&permit, definition).await.map(|described| encode_described(&described))
    }

    async fn update(&self, caller: &Caller, request: v1::UpdateDefinitionRequest) -> Result<v1::Definition> {
        if request.definition.as_ref().is_some_and(tenants::is_tenant) {
            let expected = Expected::Something(request.etag);
            return tenants::put(&self.use_cases, caller, request.definition, expected).await;
        }
        let definition = single(request.definition);
        let permit = self.change(caller, names(definition.iter())).await?;
        let definition = definition?;
        let updated = self.use_cases.registry.update(&permit, definition, request.etag).await?;
        Ok(encode_described(&updated))
    }

    async fn remove(
        &self,
        caller: &Caller,
        request: v1::DeleteDefinitionRequest,
    ) -> Result<v1::DeleteDefinitionResponse> {
        if request.kind == v1::Kind::Tenant as i32 {
            return tenants::remove(&self.use_cases, caller, request).await;
        }
        let named = decode_kind(request.kind).map(|kind| format!("{}/{}", kind.as_str(), request.name));
        let permit = self.change(caller, named.into_iter().collect()).await?;
        let kind = decode_kind(request.kind)?;
        let registry = &self.use_cases.registry;
        let (name, version) = decode_versioned_name(kind, &request.name)?;
        let reads = reads::of_deleted(&self.use_cases, &permit, (kind, &name, version)).await?;
        let deleted = match version {
            None => registry.delete(&permit, kind, &name, request.etag).await,
            Some(version) if kind == Kind::FeatureView => {
                registry.delete_view_version(&permit, &name, version, request.etag).await
            }
            Some(version) => registry.delete_version(&permit, &name, version, request.etag).await,
        };
        let registry_revision = deleted.map_err(|refused| reads::beside(refused, reads.as_ref()))?;
        Ok(v1::DeleteDefinitionResponse { registry_revision, reads: reads.as_ref().map(encode_reads) })
    }

    fn get(&self, caller: &Caller, request: &v1::GetDefinitionRequest) -> Result<v1::Definition> {
        if tenants::sees_all(caller, request.kind) {
            return tenants::get(&self.use_cases, caller, &request.name);
        }
        let permit = self.use_cases.permit(caller, Action::ReadDefinitions)?;
        let kind = decode_kind(request.kind)?;
        let described = match decode_versioned_name(kind, &request.name)? {
            (name, None) => self.use_cases.registry.get(&permit, kind, &name)?,
            (name, Some(version)) if kind == Kind::FeatureView => {
                self.use_cases.registry.get_view_version(&permit, &name, version)?
            }
            (name, Some(version)) => self.use_cases.registry.get_version(&permit, &name, version)?,
        };
        Ok(encode_described(&described))
    }

    fn list(&self, caller: &Caller, request: &v1::ListDefinitionsRequest) -> Result<v1::ListDefinitionsResponse> {
        if tenants::sees_all(caller, request.kind) {
            return tenants::list(&self.use_cases, caller, request);
        }
        let permit = self.use_cases.permit(caller, Action::ReadDefinitions)?;
        let kind = decode_kind(request.kind)?;
        let page = self.use_cases.registry.list(&permit, kind, request.page_size, &request.page_token)?;
        Ok(v1::ListDefinitionsResponse {
            definitions: page.items.iter().map(encode_described).collect(),
            next_page_token: page.next_page_token,
            registry_revision: page.revision,
        })
    }

    /// Problems of the definitions are the plan's answer; anything else is a refusal.
    async fn draft(&self, caller: &Caller, request: v1::PlanRequest) -> Result<v1::PlanResponse> {
        if request.definitions.iter().any(tenants::is_tenant) {
            return tenants::draft(&self.use_cases, caller, request);
        }
        let permit = self.use_cases.permit(caller, Action::ReadDefinitions)?;
        let registry = &self.use_cases.registry;
        let unread = decode_unread(request.unread)?;
        let prune = decode_prune(request.prune);
        let planned = match decode_definitions(request.definitions) {
            Ok(all) if unread.is_empty() => registry.plan_apart(&permit, all, prune).await,
            Ok(all) => registry.check_beside(&permit, &all, &unread).map(|()| Plan {
                revision: registry.snapshot().revision,
                changes: Vec::new(),
                refusals: Vec::new(),
            }),
            Err(error) => Err(error),
        };
        match planned {
            Ok(plan) => {
                let before = Before::ask(&self.use_cases, &permit).await?;
                let mut planned = encode_plan(&plan, &before.reads_of(&plan).await?);
                retention::tell(&self.use_cases, &permit, &plan, &mut planned.changes).await?;
                Ok(planned)
            }
            Err(error) if error.code == Code::InvalidArgument && !error.violations.is_empty() => Ok(v1::PlanResponse {
                registry_revision: registry.snapshot().revision,
                changes: Vec::new(),
                refusals: Vec::new(),
                problems: error.violations.iter().map(encode_problem).collect(),
            }),
            Err(error) => {
                // Commands don't apply what a plan refuses, so it is told here.
                self.use_cases.note_refused(caller, &error);
                Err(error)
            }
        }
    }

    async fn make_so(&self, caller: &Caller, request: v1::ApplyRequest) -> Result<v1::ApplyResponse> {
        if request.definitions.iter().any(tenants::is_tenant) {
            return tenants::make_so(&self.use_cases, caller, request).await;
        }
        let prune = decode_prune(request.prune);
        let definitions = match decode_definitions(request.definitions) {
            Ok(definitions) => definitions,
            Err(error) => {
                self.change(caller, Vec::new()).await?;
                return Err(error);
            }
        };
        let permit = self.use_cases.let_do(caller, Action::ChangeDefinitions)?;
        let before = Before::ask(&self.use_cases, &permit).await?;
        let applied = self.apply_named(caller, &permit, &definitions, prune, request.expected_revision).await?;
        let mut changes = encode_changes(&applied.plan, &before.reads_of(&applied.plan).await?);
        retention::tell_done(&self.use_cases, &permit, &applied.plan, &mut changes).await?;
        Ok(v1::ApplyResponse { changes, registry_revision: applied.revision })
    }

    /// Applies what is written down before, by the names of what it changes and of nothing else.
    async fn apply_named(
        &self,
        caller: &Caller,
        permit: &Permit,
        definitions: &[Definition],
        prune: Prune,
        expected: Option<u64>,
    ) -> Result<Applied> {
        let registry = &self.use_cases.registry;
        for _ in 0..NAMED_ANEW {
            let (named, revision) = registry.changed_by(permit, definitions, prune).await?;
            self.use_cases.ask(caller, permit, named).await?;
            let at = expected.or(Some(revision));
            match registry.apply_with(permit, definitions.to_vec(), prune, at).await {
                // Somebody else has changed something since: it may be other definitions that change now.
                Err(error) if error.reason == "REVISION_MISMATCH" && expected.is_none() => {}
                applied => return applied,
            }
        }
        let mut named = names(definitions.iter());
        named.extend((prune != Prune::Nothing).then(|| "whatever is pruned".to_owned()));
        self.use_cases.ask(caller, permit, named).await?;
        registry.apply_with(permit, definitions.to_vec(), prune, None).await
    }

    fn lineage(&self, caller: &Caller, request: &v1::GetLineageRequest) -> Result<v1::GetLineageResponse> {
        if request.kind == v1::Kind::TrainingSet as i32 {
            return self.lineage_of_training_set(caller, &request.name);
        }
        let permit = self.use_cases.permit(caller, Action::ReadDefinitions)?;
        let kind = decode_kind(request.kind)?;
        let Lineage { upstream, downstream, training_sets } = match decode_versioned_name(kind, &request.name)? {
            // A view has the same place in all its versions.
            (name, None) => self.use_cases.registry.lineage(&permit, kind, &name)?,
            (name, Some(_)) if kind == Kind::FeatureView => self.use_cases.registry.lineage(&permit, kind, &name)?,
            (name, Some(version)) => self.use_cases.registry.lineage_of_version(&permit, &name, version)?,
        };
        let uses = training_sets.into_iter().map(|(service, set)| encode_use(service.to_string(), set));
        Ok(v1::GetLineageResponse {
            upstream: upstream.iter().map(encode_edge).collect(),
            downstream: downstream.iter().map(encode_edge).chain(uses).collect(),
        })
    }

    /// What a saved training set is made of: versions of services, and what these are made of; and the
    /// consumers that it may train.
    fn lineage_of_training_set(&self, caller: &Caller, name: &str) -> Result<v1::GetLineageResponse> {
        let (name, version) = decode_reference(name)?;
        let set =
            self.use_cases.training_sets.get(&self.use_cases.permit(caller, Action::ReadHistory)?, &name, version)?;
        let permit = self.use_cases.permit(caller, Action::ReadDefinitions)?;
        let (mut upstream, mut versions) = (Vec::new(), BTreeSet::new());
        for reference in &set.services {
            // What another tenant's service is made of is that tenant's to know.
            if is_of_another(reference) {
                upstream.push(encode_use(reference.clone(), set.reference()));
                continue;
            }
            if let (service, Some(number)) = decode_versioned_name(Kind::FeatureService, reference)? {
                versions.insert((service.clone(), number));
                let lineage = self.use_cases.registry.lineage_of_version(&permit, &service, number)?;
                let new = lineage.upstream.iter().map(encode_edge).filter(|edge| !upstream.contains(edge));
                upstream.extend(new.collect::<Vec<_>>());
            }
            upstream.push(encode_use(reference.clone(), set.reference()));
        }
        // Consumers use services of their own tenant alone.
        let trained = match versions.len() == set.services.len() {
            true => self.use_cases.registry.consumers_of_all(&permit, &versions)?,
            false => Vec::new(),
        };
        let edge = |consumer: Name| v1::LineageEdge {
            from_kind: v1::Kind::TrainingSet.into(),
            from_name: set.reference(),
            to_kind: v1::Kind::Consumer.into(),
            to_name: consumer.to_string(),
        };
        Ok(v1::GetLineageResponse { upstream, downstream: trained.into_iter().map(edge).collect() })
    }

    fn info(&self) -> v1::GetServerInfoResponse {
        v1::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            flight_port: self.ports.flight.into(),
            http_port: self.ports.http.into(),
            registry_revision: self.use_cases.registry.snapshot().revision,
            store_time: self.use_cases.store_time.read(),
        }
    }
}

#[async_trait]
impl RegistryService for RegistryRpc {
    async fn create_definition(
        &self,
        request: Request<v1::CreateDefinitionRequest>,
    ) -> Result<Response<v1::Definition>, Status> {
        answer(self.create(&layers::caller(request.extensions()), request.into_inner()).await)
    }

    async fn get_definition(
        &self,
        request: Request<v1::GetDefinitionRequest>,
    ) -> Result<Response<v1::Definition>, Status> {
        answer(self.get(&layers::caller(request.extensions()), request.get_ref()))
    }

    async fn list_definitions(
        &self,
        request: Request<v1::ListDefinitionsRequest>,
    ) -> Result<Response<v1::ListDefinitionsResponse>, Status> {
        answer(self.list(&layers::caller(request.extensions()), request.get_ref()))
    }

    async fn update_definition(
        &self,
        request: Request<v1::UpdateDefinitionRequest>,
    ) -> Result<Response<v1::Definition>, Status> {
        answer(self.update(&layers::caller(request.extensions()), request.into_inner()).await)
    }

    async fn delete_definition(
        &self,
        request: Request<v1::DeleteDefinitionRequest>,
    ) -> Result<Response<v1::DeleteDefinitionResponse>, Status> {
        answer(self.remove(&layers::caller(request.extensions()), request.into_inner()).await)
    }

    async fn plan(&self, request: Request<v1::PlanRequest>) -> Result<Response<v1::PlanResponse>, Status> {
        answer(self.draft(&layers::caller(request.extensions()), request.into_inner()).await)
    }

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        answer(self.make_so(&layers::caller(request.extensions()), request.into_inner()).await)
    }

    async fn get_lineage(
        &self,
        request: Request<v1::GetLineageRequest>,
    ) -> Result<Response<v1::GetLineageResponse>, Status> {
        answer(self.lineage(&layers::caller(request.extensions()), request.get_ref()))
    }

    async fn get_server_info(
        &self,
        _: Request<v1::GetServerInfoRequest>,
    ) -> Result<Response<v1::GetServerInfoResponse>, Status> {
        Ok(Response::new(self.info()))
    }
}

/// As the audit log names definitions.
pub(super) fn names<'a>(definitions: impl Iterator<Item = &'a Definition>) -> Vec<String> {
    definitions.map(|definition| format!("{}/{}", definition.kind().as_str(), definition.name())).collect()
}

fn answer<T>(outcome: Result<T>) -> Result<Response<T>, Status> {
    outcome.map(Response::new).map_err(to_status)
}

pub(super) fn single(definition: Option<v1::Definition>) -> Result<Definition> {
    let missing = || Error::invalid("INVALID_DEFINITION", "the request holds no definition");
    let mut decoded = decode_definitions(vec![definition.ok_or_else(missing)?])?;
    decoded.pop().ok_or_else(missing)
}

pub(super) fn encode_described(described: &Described) -> v1::Definition {
    let status = encode_status(described);
    v1::Definition { status: Some(status), ..encode_definition(&described.applied.definition) }
}

fn decode_prune(prune: bool) -> Prune {
    if prune { Prune::KindsOfRequest } else { Prune::Nothing }
}

/// From a service to a saved training set.
fn encode_use(service: String, training_set: String) -> v1::LineageEdge {
    v1::LineageEdge {
        from_kind: v1::Kind::FeatureService.into(),
        from_name: service,
        to_kind: v1::Kind::TrainingSet.into(),
        to_name: training_set,
    }
}

fn encode_edge(edge: &Edge) -> v1::LineageEdge {
    v1::LineageEdge {
        from_kind: encode_kind(edge.from.0).into(),
        from_name: edge.from.1.to_string(),
        to_kind: encode_kind(edge.to.0).into(),
        to_name: edge.to.1.to_string(),
    }
}
