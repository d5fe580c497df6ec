//! ErasureService: keys are given up to be erased, and erasures told. No message of it repeats a key.

use async_trait::async_trait;
use hydrant_proto::v1;
use hydrant_proto::v1::erasure_service_server::ErasureService;
use hydrant_storage::names::{InvalidName, Name};
use tonic::{Request, Response, Status};

use super::status::to_status;
use super::wire::columns::{column_length, decode_column};
use super::{Caller, UseCases, layers};
use crate::erasure::{Erasure, Places};
use crate::error::{Error, Result};
use crate::tenancy::Action;

/// Join keys of an entity, with room to spare.
const MAX_COLUMNS: usize = 64;
const DEFAULT_PAGE_SIZE: u32 = 100;
const MAX_PAGE_SIZE: u32 = 1_000;
/// Letters of an entity's name that are told before it was checked.
const MAX_SHOWN: usize = 64;

#[derive(Debug)]
pub struct ErasureRpc {
    use_cases: UseCases,
}

impl ErasureRpc {
    pub fn new(use_cases: UseCases) -> Self {
        Self { use_cases }
    }

    async fn erase(&self, caller: &Caller, request: v1::EraseKeyRequest) -> Result<v1::Erasure> {
        let v1::EraseKeyRequest { entity, keys, validate_only } = request;
        let permit = if validate_only {
            self.use_cases.rehearse(caller, Action::Erase)?
        } else {
            let shown: String = entity.chars().take(MAX_SHOWN).collect();
            self.use_cases.change(caller, Action::Erase, vec![format!("Entity/{shown}")]).await?
        };
        let entity: Name =
            entity.parse().map_err(|error: InvalidName| Error::invalid("INVALID_NAME", error.to_string()))?;
        if keys.len() > MAX_COLUMNS || keys.iter().any(|column| column_length(column) != 1) {
            let message = "a key is given by one column of one value for each join key of the entity";
            return Err(Error::invalid("BAD_ENTITY_COLUMNS", message));
        }
        let mut columns = Vec::with_capacity(keys.len());
        for column in keys {
            let column = decode_column(column)?;
            columns.push((column.name, column.values));
        }
        if validate_only {
            let (views, found) = self.use_cases.erasures.find(&permit, &entity, &columns).await?;
            let views = views.iter().map(Name::to_string).collect();
            let (entity, erased) = (entity.to_string(), Some(encode_places(&found)));
            return Ok(v1::Erasure { entity, views, erased, ..Default::default() });
        }
        Ok(encode(self.use_cases.erasures.request(&permit, &entity, &columns).await?))
    }

    fn get(&self, caller: &Caller, name: &str) -> Result<v1::Erasure> {
        let permit = self.use_cases.permit(caller, Action::Erase)?;
        let prefix = format!("tenants/{}/erasures/", permit.tenant());
        let number = name.strip_prefix(&prefix).unwrap_or(name);
        let id = number.parse().map_err(|_| {
            Error::invalid("INVALID_NAME", "erasures are named tenants/TENANT/erasures/NUMBER, of your tenant")
                .hint("or by the number alone; `hydrant erase list` tells them")
        })?;
        self.use_cases.erasures.get(&permit, id).map(encode)
    }

    fn list(&self, caller: &Caller, request: &v1::ListErasuresRequest) -> Result<v1::ListErasuresResponse> {
        let permit = self.use_cases.permit(caller, Action::Erase)?;
        let wrong = |_| Error::invalid("BAD_PAGE_TOKEN", "the page token is none of a listing of erasures");
        let token = Some(request.page_token.as_str()).filter(|token| !token.is_empty());
        let before = token.map(|token| token.parse().map_err(wrong)).transpose()?;
        let size =
            if request.page_size == 0 { DEFAULT_PAGE_SIZE } else { request.page_size.min(MAX_PAGE_SIZE) } as usize;
        let mut found = self.use_cases.erasures.list(&permit, before, size + 1)?;
        let has_more = found.len() > size;
        found.truncate(size);
        let next_page_token = match found.last() {
            Some(last) if has_more => last.id.to_string(),
            _ => String::new(),
        };
        Ok(v1::ListErasuresResponse { erasures: found.into_iter().map(encode).collect(), next_page_token })
    }
}

#[async_trait]
impl ErasureService for ErasureRpc {
    async fn erase_key(&self, request: Request<v1::EraseKeyRequest>) -> Result<Response<v1::Erasure>, Status> {
        let caller = layers::caller(request.extensions());
        self.erase(&caller, request.into_inner()).await.map(Response::new).map_err(to_status)
    }

    async fn get_erasure(&self, request: Request<v1::GetErasureRequest>) -> Result<Response<v1::Erasure>, Status> {
        let caller = layers::caller(request.extensions());
        self.get(&caller, &request.get_ref().name).map(Response::new).map_err(to_status)
    }

    async fn list_erasures(
        &self,
        request: Request<v1::ListErasuresRequest>,
    ) -> Result<Response<v1::ListErasuresResponse>, Status> {
        let caller = layers::caller(request.extensions());
        self.list(&caller, request.get_ref()).map(Response::new).map_err(to_status)
    }
}

fn encode(erasure: Erasure) -> v1::Erasure {
    v1::Erasure {
        name: format!("tenants/{}/erasures/{}", erasure.tenant, erasure.id),
        entity: erasure.entity.to_string(),
        views: erasure.views.iter().map(Name::to_string).collect(),
        requested_micros: erasure.requested,
        requested_by: erasure.requested_by,
        finished_micros: erasure.finished,
        through_frame: erasure.through.unwrap_or_default(),
        erased: Some(encode_places(&erasure.erased)),
        left: erasure.left.as_ref().map(encode_places),
        backups: erasure.backups.iter().map(Name::to_string).collect(),
        problem: erasure.problem.unwrap_or_default(),
    }
}

fn encode_places(places: &Places) -> v1::ErasedPlaces {
    v1::ErasedPlaces {
        online_rows: places.online_rows,
        tail_rows: places.tail_rows,
        log_rows: places.log_rows,
        log_segments: places.log_segments,
        history_rows: places.history_rows,
        history_files: places.history_files,
        older_files: places.older_files,
        staged_backfills: places.staged_backfills,
        spine_rows: places.spine_rows,
        spines: places.spines,
        training_sets: places.training_sets,
    }
}
