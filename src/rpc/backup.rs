//! BackupService: backups of the whole server, made, listed and deleted. A client that hangs up while
//! one is made drops what it was told from, which stops the work.

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::{BoxStream, unfold};
use hydrant_proto::v1;
use hydrant_proto::v1::backup_service_server::BackupService;
use hydrant_storage::backup::{About, Counts};
use hydrant_storage::names::Name;
use tonic::{Request, Response, Status};

use super::status::to_status;
use super::{Caller, UseCases, layers};
use crate::backup::{Listed, Making, Told};
use crate::error::{Error, Result};
use crate::tenancy::Action;

#[derive(Debug)]
pub struct BackupRpc {
    use_cases: UseCases,
}

impl BackupRpc {
    pub fn new(use_cases: UseCases) -> Self {
        Self { use_cases }
    }

    async fn create(&self, caller: &Caller, name: &str) -> Result<Making> {
        let permit = self.use_cases.change(caller, Action::BackUp, vec![format!("Backup/{name}")]).await?;
        self.use_cases.backups.create(&permit, decode_name(name)?)
    }

    async fn list(&self, caller: &Caller) -> Result<v1::ListBackupsResponse> {
        let permit = self.use_cases.permit(caller, Action::BackUp)?;
        let listed = self.use_cases.backups.list(&permit).await?;
        Ok(v1::ListBackupsResponse { backups: listed.into_iter().map(|listed| self.encode_listed(listed)).collect() })
    }

    async fn remove(&self, caller: &Caller, name: &str) -> Result<v1::DeleteBackupResponse> {
        let permit = self.use_cases.change(caller, Action::BackUp, vec![format!("Backup/{name}")]).await?;
        self.use_cases.backups.delete(&permit, decode_name(name)?).await?;
        Ok(v1::DeleteBackupResponse {})
    }

    fn encode_listed(&self, listed: Listed) -> v1::Backup {
        match listed.about {
            Ok(about) => encode_backup(&self.use_cases, about),
            Err(problem) => v1::Backup {
                path: self.use_cases.backups.path_of(&listed.name).display().to_string(),
                name: listed.name.to_string(),
                problem,
                ..Default::default()
            },
        }
    }
}

#[async_trait]
impl BackupService for BackupRpc {
    type CreateBackupStream = BoxStream<'static, Result<v1::CreateBackupResponse, Status>>;

    async fn create_backup(
        &self,
        request: Request<v1::CreateBackupRequest>,
    ) -> Result<Response<Self::CreateBackupStream>, Status> {
        let caller = layers::caller(request.extensions());
        let making = self.create(&caller, &request.get_ref().name).await.map_err(to_status)?;
        let use_cases = self.use_cases.clone();
        let told = unfold(Some(making), move |making| {
            let use_cases = use_cases.clone();
            async move {
                let mut making = making?;
                match making.next().await {
                    Told::Progress(counts) => Some((Ok(encode_progress(counts)), Some(making))),
                    Told::Done(outcome) => {
                        let last = outcome.map(|about| v1::CreateBackupResponse {
                            told: Some(v1::create_backup_response::Told::Backup(encode_backup(&use_cases, about))),
                        });
                        Some((last.map_err(to_status), None))
                    }
                }
            }
        });
        Ok(Response::new(told.boxed()))
    }

    async fn list_backups(
        &self,
        request: Request<v1::ListBackupsRequest>,
    ) -> Result<Response<v1::ListBackupsResponse>, Status> {
        self.list(&layers::caller(request.extensions())).await.map(Response::new).map_err(to_status)
    }

    async fn delete_backup(
        &self,
        request: Request<v1::DeleteBackupRequest>,
    ) -> Result<Response<v1::DeleteBackupResponse>, Status> {
        self.remove(&layers::caller(request.extensions()), &request.get_ref().name)
            .await
            .map(Response::new)
            .map_err(to_status)
    }
}

fn decode_name(name: &str) -> Result<Name> {
    name.parse().map_err(|error: hydrant_storage::names::InvalidName| Error::invalid("INVALID_NAME", error.to_string()))
}

fn encode_progress(counts: Counts) -> v1::CreateBackupResponse {
    let Counts { files, linked_bytes, copied_bytes, read_bytes } = counts;
    let progress = v1::BackupProgress { files, linked_bytes, copied_bytes, read_bytes };
    v1::CreateBackupResponse { told: Some(v1::create_backup_response::Told::Progress(progress)) }
}

fn encode_backup(use_cases: &UseCases, about: About) -> v1::Backup {
    let path = use_cases.backups.path_of(&about.name).display().to_string();
    let About { format: _, name, hydrant, made, frame, revision, took_micros, files, .. } = about;
    let About { linked_bytes, copied_bytes, read_bytes, .. } = about;
    v1::Backup {
        name: name.to_string(),
        problem: String::new(),
        path,
        made_micros: made,
        frame,
        registry_revision: revision,
        hydrant,
        took_micros,
        files,
        linked_bytes,
        copied_bytes,
        read_bytes,
    }
}
