//! The log of a history table, in Delta Lake's format: which files the table has, its columns, the
//! frame through which rows have landed, and which backfills were taken in, all of which change in one commit. The only user of
//! deltalake; it never touches a data file's content.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deltalake::DeltaTable;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties, TableReference};
use deltalake::kernel::{Action, Add, ArrayType, DataType as DeltaType, Remove, StructField, Transaction};
use deltalake::logstore::{StorageConfig, default_logstore};
use deltalake::operations::create::CreateBuilder;
use deltalake::protocol::{DeltaOperation, SaveMode};
use futures::TryStreamExt;
use url::Url;

use crate::history::HistoryError;
use crate::history::schema::{self, Column, HistoryViewSpec};
use crate::history::synced_store::SyncedStore;
use crate::history::writer::{FileFacts, WrittenFile};
use crate::order::Micros;
use crate::value::{DataType, ScalarType};

/// Under this id the table's log carries the frame through which rows have landed.
pub const LANDING_APPLICATION: &str = "hydrant-landing";

/// Under this one the instant before which rows may be gone by retention, in microseconds.
const RETENTION_APPLICATION: &str = "hydrant-retention";

/// Under such an id it carries, for each backfill, the frame with which that was taken in.
fn backfill_application(backfill: &str) -> String {
    format!("hydrant-backfill-{backfill}")
}

/// The tag of a file under which its [`FileFacts`] lie.
const FACTS_TAG: &str = "hydrant.file";
/// A checkpoint spares readers the commits before it. Tests want to meet it soon.
pub(crate) const COMMITS_PER_CHECKPOINT: u64 = if cfg!(test) { 8 } else { 50 };

/// A file of the table.
#[derive(Clone, Debug)]
pub(crate) struct ListedFile {
    pub name: String,
    pub bytes: u64,
    pub facts: FileFacts,
}

/// Why files take the place of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replacement {
    /// They hold the same rows, in files of about so many bytes.
    Compaction { file_bytes: u64 },
    /// They hold fewer.
    Erasure,
    /// They hold none that happened before an instant.
    Retention { before: Micros },
}

/// A table's log, at the version last loaded or committed.
pub(crate) struct DeltaLog {
    directory: PathBuf,
    store: SyncedStore,
    table: DeltaTable,
}

impl DeltaLog {
    /// Opens the log of the table in `root` / `spec.directory()`; without one, creates it.
    pub async fn open_or_create(
        store: &SyncedStore,
        root: &Path,
        spec: &HistoryViewSpec,
    ) -> Result<Self, HistoryError> {
        let directory = root.join(spec.directory());
        let failed = |error: deltalake::DeltaTableError| to_error(&directory, error);
        // A made-up scheme: paths go to the store as they are, and no machine's path gets into the log.
        let location = format!("hydrant:///{}/{}/v{}/", spec.tenant, spec.view, spec.version);
        let location = Url::parse(&location).map_err(|error| to_error(&directory, error))?;
        let log_store = default_logstore(
            Arc::new(store.at(&directory)),
            Arc::new(store.at(root)),
            &location,
            &StorageConfig::default(),
        );

        let mut table = DeltaTable::new(log_store.clone());
        if table.verify_deltatable_existence().await.map_err(failed)? {
            table.load().await.map_err(failed)?;
        } else {
            table = CreateBuilder::new()
                .with_log_store(log_store)
                .with_table_name(spec.view.as_str())
                .with_columns(spec.columns().iter().map(to_field))
                .with_commit_properties(commit_properties())
                .await
                .map_err(failed)?;
        }
        Ok(Self { directory, store: store.clone(), table })
    }

    /// Reads again what the log holds: after a commit of which it isn't known whether it succeeded.
    pub async fn reload(&mut self) -> Result<(), HistoryError> {
        let mut table = DeltaTable::new(self.table.log_store());
        table.load().await.map_err(|error| self.error(error))?;
        self.table = table;
        Ok(())
    }

    pub fn version(&self) -> Result<u64, HistoryError> {
        self.table.snapshot().map(|state| state.version()).map_err(|error| self.error(error))
    }

    /// The frame through which rows have landed; 0 before the first landing.
    pub async fn landed_through(&self) -> Result<u64, HistoryError> {
        let state = self.table.snapshot().map_err(|error| self.error(error))?;
        let log_store = self.table.log_store();
        let landed = state.transaction_version(log_store.as_ref(), LANDING_APPLICATION).await;
        let landed = landed.map_err(|error| self.error(error))?;
        u64::try_from(landed.unwrap_or(0)).map_err(|error| self.error(error))
    }

    /// The instant before which rows may be gone by retention.
    pub async fn retained_from(&self) -> Result<Option<Micros>, HistoryError> {
        let state = self.table.snapshot().map_err(|error| self.error(error))?;
        let log_store = self.table.log_store();
        let before = state.transaction_version(log_store.as_ref(), RETENTION_APPLICATION).await;
        before.map_err(|error| self.error(error))
    }

    /// The table's files: runs whose rows landed first in front, the files of a run in history order.
    pub fn files(&self) -> Result<Vec<ListedFile>, HistoryError> {
        let state = self.table.snapshot().map_err(|error| self.error(error))?;
        let mut files = Vec::new();
        for view in state.log_data().iter() {
            // The one way to a file's tags that deltalake 1.1 has.
            #[allow(deprecated)]
            let add = view.add_action();
            let file = self.directory.join(&add.path);
            let facts = add.tags.as_ref().and_then(|tags| tags.get(FACTS_TAG)?.as_deref());
            let facts: Option<FileFacts> = facts.and_then(|facts| serde_json::from_str(facts).ok());
            let (Some(facts), Ok(bytes)) = (facts, u64::try_from(add.size)) else {
                return Err(HistoryError::ForeignFile { file });
            };
            files.push(ListedFile { name: add.path, bytes, facts });
        }
        in_order(&mut files);
        Ok(files)
    }

    /// The files that were in the table once, and that readers of older versions need, with when they
    /// were removed: milliseconds.
    pub async fn removed_files(&self) -> Result<HashMap<String, i64>, HistoryError> {
        let state = self.table.snapshot().map_err(|error| self.error(error))?;
        let log_store = self.table.log_store();
        let removed = state.all_tombstones(log_store.as_ref());
        let removed = removed.map_ok(|file| (file.path().into_owned(), file.deletion_timestamp().unwrap_or_default()));
        removed.try_collect().await.map_err(|error| self.error(error))
    }

    /// The names and types of the table's columns, as its log says them.
    pub fn columns(&self) -> Result<Vec<(String, String)>, HistoryError> {
        let state = self.table.snapshot().map_err(|error| self.error(error))?;
        Ok(state.schema().fields().map(|field| (field.name().clone(), field.data_type().to_string())).collect())
    }

    /// Adds a data file and the frame through which rows have landed with it. On an error the
    /// commit may have been made or not: [`DeltaLog::reload`] tells.
    pub async fn commit_landing(
        &mut self,
        name: &str,
        file: &WrittenFile,
        through: u64,
        now: Micros,
    ) -> Result<(), HistoryError> {
        let through = i64::try_from(through).map_err(|error| self.error(error))?;
        let add = self.add_of(name, file, now, true)?;
        let landed = Transaction::new_with_last_update(LANDING_APPLICATION, through, Some(to_millis(now)));
        let operation = DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
        let properties = commit_properties().with_application_transaction(landed);
        self.commit(properties, vec![Action::Add(add)], operation).await
    }

    /// The frame with which a backfill was taken in, if it was.
    pub async fn taken_in(&self, backfill: &str) -> Result<Option<u64>, HistoryError> {
        let state = self.table.snapshot().map_err(|error| self.error(error))?;
        let log_store = self.table.log_store();
        let frame = state.transaction_version(log_store.as_ref(), backfill_application(backfill)).await;
        let frame = frame.map_err(|error| self.error(error))?;
        frame.map(|frame| u64::try_from(frame).map_err(|error| self.error(error))).transpose()
    }

    /// Adds the files of a backfill, or those made from another table with the instant before which it had lost
    /// rows, and that it was taken in. On an error the commit may have been made or not: [`DeltaLog::reload`] tells.
    pub async fn commit_take_in(
        &mut self,
        backfill: &str,
        files: &[ListedFile],
        frame: u64,
        retained_from: Option<Micros>,
        now: Micros,
    ) -> Result<(), HistoryError> {
        let frame = i64::try_from(frame).map_err(|error| self.error(error))?;
        let taken = Transaction::new_with_last_update(backfill_application(backfill), frame, Some(to_millis(now)));
        let mut actions = Vec::with_capacity(files.len());
        for ListedFile { name, bytes, facts } in files {
            let written = WrittenFile { bytes: *bytes, facts: *facts };
            actions.push(Action::Add(self.add_of(name, &written, now, true)?));
        }
        let operation = DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
        let mut properties = commit_properties().with_application_transaction(taken);
        if let Some(before) = retained_from.max(self.retained_from().await?) {
            properties = properties.with_application_transaction(gone_before(before, now));
        }
        self.commit(properties, actions, operation).await
    }

    /// Puts files in the place of others that hold the same rows, or all but those that were erased or are too
    /// old. On an error the commit may have been made or not: [`DeltaLog::reload`] tells.
    pub async fn commit_replacement(
        &mut self,
        removed: &[ListedFile],
        added: &[(String, WrittenFile)],
        replacement: Replacement,
        now: Micros,
    ) -> Result<(), HistoryError> {
        let data_change = !matches!(replacement, Replacement::Compaction { .. });
        let mut actions = Vec::with_capacity(removed.len() + added.len());
        for file in removed {
            actions.push(Action::Remove(Remove {
                path: file.name.clone(),
                data_change,
                deletion_timestamp: Some(to_millis(now)),
                extended_file_metadata: Some(true),
                partition_values: Some(HashMap::new()),
                size: Some(i64::try_from(file.bytes).map_err(|error| self.error(error))?),
                tags: Some(self.tags_of(&file.facts)?),
                deletion_vector: None,
                base_row_id: None,
                default_row_commit_version: None,
            }));
        }
        for (name, file) in added {
            actions.push(Action::Add(self.add_of(name, file, now, data_change)?));
        }
        let mut properties = commit_properties();
        let operation = match replacement {
            Replacement::Compaction { file_bytes } => {
                let target_size = i64::try_from(file_bytes).unwrap_or(i64::MAX);
                DeltaOperation::Optimize { predicate: None, target_size }
            }
            // What was erased is not said.
            Replacement::Erasure => DeltaOperation::Delete { predicate: None },
            Replacement::Retention { before } => {
                let predicate = Some(format!("{} < {before}", schema::EVENT_TIME));
                let latest = self.retained_from().await?.map_or(before, |known| known.max(before));
                properties = properties.with_application_transaction(gone_before(latest, now));
                DeltaOperation::Delete { predicate }
            }
        };
        self.commit(properties, actions, operation).await
    }

    async fn commit(
        &mut self,
        properties: CommitProperties,
        actions: Vec<Action>,
        operation: DeltaOperation,
    ) -> Result<(), HistoryError> {
        let state = self.table.snapshot().map_err(|error| self.error(error))?;
        // Whoever commits has the log to itself: another process's commit in between is not merged with.
        let committed = CommitBuilder::from(properties.with_max_retries(0))
            .with_actions(actions)
            .build(Some(state as &dyn TableReference), self.table.log_store(), operation)
            .await
            .map_err(|error| self.error(error))?;
        self.table.state = Some(committed.snapshot());
        Ok(())
    }

    fn add_of(&self, name: &str, file: &WrittenFile, now: Micros, data_change: bool) -> Result<Add, HistoryError> {
        Ok(Add {
            path: name.to_owned(),
            size: i64::try_from(file.bytes).map_err(|error| self.error(error))?,
            modification_time: to_millis(now),
            data_change,
            stats: Some(statistics(&file.facts)),
            tags: Some(self.tags_of(&file.facts)?),
            partition_values: HashMap::new(),
            deletion_vector: None,
            base_row_id: None,
            default_row_commit_version: None,
            clustering_provider: None,
        })
    }

    fn tags_of(&self, facts: &FileFacts) -> Result<HashMap<String, Option<String>>, HistoryError> {
        let facts = serde_json::to_string(facts).map_err(|error| self.error(error))?;
        Ok(HashMap::from([(FACTS_TAG.to_owned(), Some(facts))]))
    }

    /// Appends columns to the table's schema.
    pub async fn add_columns(&mut self, columns: &[Column]) -> Result<(), HistoryError> {
        let fields: Vec<StructField> = columns.iter().map(to_field).collect();
        let adding = self.table.clone().add_columns().with_fields(fields);
        let table = adding.with_commit_properties(commit_properties()).await.map_err(|error| self.error(error))?;
        self.table = table;
        Ok(())
    }

    /// Writes a checkpoint when one is due. The table is as good without it, so a failure is only told.
    pub async fn checkpoint_if_due(&self) {
        let due = self.version().is_ok_and(|version| version > 0 && version.is_multiple_of(COMMITS_PER_CHECKPOINT));
        if due && let Err(error) = deltalake::checkpoints::create_checkpoint(&self.table, None).await {
            tracing::warn!(table = %self.directory.display(), %error, "no checkpoint of a history table's log was written");
        }
    }

    fn error(&self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> HistoryError {
        if self.store.has_failed_to_sync() {
            return HistoryError::SyncFailed { path: self.directory.clone() };
        }
        to_error(&self.directory, error)
    }
}

/// Runs stay together, since a run's first frame is that of all its files.
fn in_order(files: &mut [ListedFile]) {
    let mut first_frames: HashMap<u64, u64> = HashMap::new();
    for file in files.iter() {
        if let Some(place) = file.facts.place {
            let first = first_frames.entry(place.run).or_insert(u64::MAX);
            *first = file.facts.first_frame.min(*first);
        }
    }
    files.sort_by_cached_key(|file| match file.facts.place {
        None => (file.facts.first_frame, 0, 0, file.name.clone()),
        Some(place) => (first_frames[&place.run], place.run, place.file, file.name.clone()),
    });
}

fn gone_before(before: Micros, now: Micros) -> Transaction {
    Transaction::new_with_last_update(RETENTION_APPLICATION, before, Some(to_millis(now)))
}

fn to_millis(time: Micros) -> i64 {
    time.div_euclid(1_000)
}

fn to_error(table: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> HistoryError {
    HistoryError::Log { table: table.to_path_buf(), source: error.into() }
}

/// Checkpoints are written when we say so, and the log is kept whole.
fn commit_properties() -> CommitProperties {
    CommitProperties::default().with_create_checkpoint(false).with_cleanup_expired_logs(Some(false))
}

fn statistics(facts: &FileFacts) -> String {
    if facts.taken_in.is_some() {
        // What other engines see in its columns is not what it was taken in with.
        let (least, greatest) = (facts.first_slot, facts.last_slot);
        let (least, greatest) = (serde_json::json!({ "_slot": least }), serde_json::json!({ "_slot": greatest }));
        let nulls = serde_json::json!({ "_slot": 0 });
        let all = serde_json::json!({
            "numRecords": facts.rows, "minValues": least, "maxValues": greatest, "nullCount": nulls,
        });
        return all.to_string();
    }
    serde_json::json!({
        "numRecords": facts.rows,
        "minValues": { "_slot": facts.first_slot, "_frame": facts.first_frame },
        "maxValues": { "_slot": facts.last_slot, "_frame": facts.last_frame },
        "nullCount": { "_slot": 0, "_frame": 0 },
    })
    .to_string()
}

fn to_field(column: &Column) -> StructField {
    let data_type = match column.data_type {
        DataType::Scalar(scalar) => to_delta(scalar),
        DataType::List(element) => ArrayType::new(to_delta(element), true).into(),
        DataType::Vector(_) => ArrayType::new(DeltaType::FLOAT, false).into(),
    };
    StructField::new(column.name.clone(), data_type, column.nullable)
}

fn to_delta(scalar: ScalarType) -> DeltaType {
    match scalar {
        ScalarType::Bool => DeltaType::BOOLEAN,
        ScalarType::Int32 => DeltaType::INTEGER,
        ScalarType::Int64 => DeltaType::LONG,
        ScalarType::Float32 => DeltaType::FLOAT,
        ScalarType::Float64 => DeltaType::DOUBLE,
        ScalarType::String => DeltaType::STRING,
        ScalarType::Bytes => DeltaType::BINARY,
        ScalarType::Timestamp => DeltaType::TIMESTAMP,
    }
}

/// The names and types that a view's columns have in a table's log.
pub(crate) fn expected_columns(spec: &HistoryViewSpec) -> Vec<(String, String)> {
    let fields = spec.columns();
    fields.iter().map(to_field).map(|field| (field.name().clone(), field.data_type().to_string())).collect()
}
