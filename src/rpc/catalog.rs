//! CatalogService: finding definitions, telling what became of them, and going back. Rules of change are
//! the registry's.

use async_trait::async_trait;
use hydrant_proto::v1;
use hydrant_proto::v1::catalog_service_server::CatalogService;
use tonic::{Request, Response, Status};

use super::reads::Before;
use super::status::to_status;
use super::usage::decode_span;
use super::wire::definitions::{decode_kind, decode_name, encode_kind};
use super::wire::plans::{decode_node_kind, encode_changes, encode_node_kind, encode_plan};
use super::{Caller, UseCases, layers, retention};
use crate::error::{Error, Result};
use crate::registry::graph::NodeKind;
use crate::registry::revisions::{Cause, What};
use crate::registry::search::{Hit, HitShare, Query};
use crate::registry::{ToldChange, ToldRevision};
use crate::tenancy::Action;

#[derive(Debug)]
pub struct CatalogRpc {
    use_cases: UseCases,
}

impl CatalogRpc {
    pub fn new(use_cases: UseCases) -> Self {
        Self { use_cases }
    }

    async fn find(&self, caller: &Caller, request: v1::SearchRequest) -> Result<v1::SearchResponse> {
        let permit = self.use_cases.permit(caller, Action::ReadDefinitions)?;
        let kind = match request.kind {
            kind if kind == v1::Kind::Unspecified as i32 => None,
            kind => {
                let is_searched =
                    |kind: &NodeKind| !matches!(kind, NodeKind::Spine | NodeKind::TrainingSet | NodeKind::Share);
                let kind = decode_node_kind(kind).filter(is_searched);
                Some(kind.ok_or_else(|| {
                    Error::invalid("UNKNOWN_KIND", format!("nothing of kind {} is searched for", request.kind)).hint(
                        "leave it out, or use ENTITY, SOURCE, COLUMN, FEATURE_VIEW, FEATURE, FEATURE_SERVICE or CONSUMER",
                    )
                })?)
            }
        };
        let data_type = match request.r#type.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|error| Error::invalid("BAD_SEARCH", format!("type: {error}")))?),
        };
        let entity = match request.entity.as_str() {
            "" => None,
            text => Some(decode_name("entity", text)?),
        };
        let (text, tags, owner) = (request.text, request.tags.into_iter().collect(), request.owner);
        let unread = match decode_span(request.unused_micros) {
            None => None,
            Some(span) => Some(self.use_cases.usage.unread(&permit, span).await?),
        };
        let query = Query { text, kind, tags, owner, data_type, entity, unread };
        let (found, registry_revision) =
            self.use_cases.registry.search(&permit, query, request.page_size, request.page_token).await?;
        Ok(v1::SearchResponse {
            hits: found.hits.into_iter().map(encode_hit).collect(),
            next_page_token: found.next_page_token,
            total: u64::try_from(found.total).unwrap_or(u64::MAX),
            registry_revision,
        })
    }

    async fn revisions(
        &self,
        caller: &Caller,
        request: &v1::ListRevisionsRequest,
    ) -> Result<v1::ListRevisionsResponse> {
        let permit = self.use_cases.permit(caller, Action::ReadDefinitions)?;
        let kind = match request.kind {
            kind if kind == v1::Kind::Unspecified as i32 => None,
            kind => Some(decode_kind(kind)?),
        };
        let name = match request.name.as_str() {
            "" => None,
            text => Some(decode_name("name", text)?),
        };
        let of = (kind, name.as_ref());
        let page = self.use_cases.registry.revisions(&permit, of, request.page_size, &request.page_token).await?;
        Ok(v1::ListRevisionsResponse {
            revisions: page.revisions.into_iter().map(encode_revision).collect(),
            next_page_token: page.next_page_token,
            oldest_revision: page.oldest,
            registry_revision: page.current,
        })
    }

    async fn roll_back(&self, caller: &Caller, request: v1::RollbackRequest) -> Result<v1::RollbackResponse> {
        let registry = &self.use_cases.registry;
        if request.validate_only {
            let permit = self.use_cases.rehearse(caller, Action::ReadDefinitions)?;
            let plan = registry.plan_rollback(&permit, request.to_revision, request.expected_revision).await;
            let plan = plan.inspect_err(|error| self.use_cases.note_refused(caller, error))?;
            let before = Before::ask(&self.use_cases, &permit).await?;
            let v1::PlanResponse { mut changes, registry_revision, refusals, problems: _ } =
                encode_plan(&plan, &before.reads_of(&plan).await?);
            retention::tell(&self.use_cases, &permit, &plan, &mut changes).await?;
            return Ok(v1::RollbackResponse { changes, registry_revision, refusals });
        }
        let named = vec![format!("definitions of revision {}", request.to_revision)];
        let permit = self.use_cases.change(caller, Action::ChangeDefinitions, named).await?;
        let before = Before::ask(&self.use_cases, &permit).await?;
        let applied = registry.rollback(&permit, request.to_revision, request.expected_revision).await?;
        let mut changes = encode_changes(&applied.plan, &before.reads_of(&applied.plan).await?);
        retention::tell_done(&self.use_cases, &permit, &applied.plan, &mut changes).await?;
        Ok(v1::RollbackResponse { changes, registry_revision: applied.revision, refusals: Vec::new() })
    }
}

#[async_trait]
impl CatalogService for CatalogRpc {
    async fn search(&self, request: Request<v1::SearchRequest>) -> Result<Response<v1::SearchResponse>, Status> {
        let caller = layers::caller(request.extensions());
        self.find(&caller, request.into_inner()).await.map(Response::new).map_err(to_status)
    }

    async fn list_revisions(
        &self,
        request: Request<v1::ListRevisionsRequest>,
    ) -> Result<Response<v1::ListRevisionsResponse>, Status> {
        let caller = layers::caller(request.extensions());
        self.revisions(&caller, request.get_ref()).await.map(Response::new).map_err(to_status)
    }

    async fn rollback(&self, request: Request<v1::RollbackRequest>) -> Result<Response<v1::RollbackResponse>, Status> {
        let caller = layers::caller(request.extensions());
        self.roll_back(&caller, request.into_inner()).await.map(Response::new).map_err(to_status)
    }
}

fn encode_hit(hit: Hit) -> v1::Hit {
    v1::Hit {
        kind: encode_node_kind(hit.kind).into(),
        name: hit.name,
        description: hit.description,
        owner: hit.owner,
        r#type: hit.data_type,
        matched: hit.matched.into_iter().map(str::to_owned).collect(),
        shares: hit.shares.into_iter().map(encode_share).collect(),
        last_read_micros: hit.last_read,
    }
}

fn encode_share(share: HitShare) -> v1::HitShare {
    v1::HitShare { name: share.name, to: share.to.to_string(), ends_micros: share.ends }
}

fn encode_revision(told: ToldRevision) -> v1::Revision {
    use v1::revision::Cause as Wire;
    let (cause, rolled_back_to) = match told.cause {
        Cause::Change => (Wire::Change, 0),
        Cause::Rollback { to } => (Wire::Rollback, to),
        Cause::Found => (Wire::Found, 0),
    };
    v1::Revision {
        revision: told.revision,
        at_micros: told.at,
        by: told.by,
        cause: cause.into(),
        rolled_back_to,
        changes: told.changes.into_iter().map(encode_change).collect(),
    }
}

fn encode_change(change: ToldChange) -> v1::RevisionChange {
    use v1::revision_change::What as Wire;
    let (what, version) = match change.what {
        What::Created => (Wire::Created, change.version),
        What::Updated => (Wire::Updated, change.version),
        What::Deleted => (Wire::Deleted, None),
        What::VersionDeleted(number) => (Wire::VersionDeleted, Some(number)),
        What::VersionServed(number) => (Wire::VersionServed, Some(number)),
    };
    v1::RevisionChange {
        kind: encode_kind(change.kind).into(),
        name: change.name.to_string(),
        what: what.into(),
        details: change.details,
        version: version.unwrap_or_default(),
    }
}
