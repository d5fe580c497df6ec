//! One backup, step by step. Its parts are taken at different instants, in the order in which each
//! needs those after it:
//!
//! 1. The log is held: from now on it lets go of nothing.
//! 2. The partitions, as a crash would leave them now. What they hold is of frames that the log has,
//!    and all that comes after it will be applied again from there.
//! 3. The history tables, each at its last commit. A partition has dropped from its tail only what had
//!    landed by then; what lands later than the partition was taken is in its tail or in the log, and
//!    the table's frame tells which of the two counts.
//! 4. The log, through its newest durable frame, which is no older than anything that partitions or
//!    tables have seen; and store time.
//! 5. The definitions, which every row of the log was written under, and the list of saved training sets.
//! 6. The stored spines, of which none goes meanwhile: each that a listed training set needs is there.
//! 7. The audit log, which tells of all changes that the rest has.
//!
//! Checksums are taken last, when nothing is held any more.

use std::path::{Path, PathBuf};
use std::time::Instant;

use hydrant_storage::backup::{About, BackupWriter, Proceed, Shelf};
use hydrant_storage::history::{FilePath, HistoryError};
use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use tokio::runtime::Handle;

use super::{BackupParts, disk_full, to_error};
use crate::error::{Code, Error, Result};
use crate::log::WriteLog as _;

/// What was taken, before it is summed up.
#[derive(Clone, Copy, Debug)]
struct Taken {
    made: Micros,
    frame: u64,
    revision: u64,
}

/// Makes a backup whole, or leaves nothing of it. Blocks.
pub(super) fn make(
    parts: &BackupParts,
    shelf: &Shelf,
    name: &Name,
    runtime: &Handle,
    proceed: &mut Proceed<'_>,
) -> Result<About> {
    let began = Instant::now();
    let mut proceed = |counts: &_| proceed(counts);
    let mut backup = BackupWriter::begin(shelf, name, &mut proceed).map_err(to_error)?;
    let taken = take(parts, runtime, &mut backup)?;
    let manifest = backup.finish(|_| About {
        format: 0,
        name: name.clone(),
        hydrant: env!("CARGO_PKG_VERSION").to_owned(),
        made: taken.made,
        frame: taken.frame,
        revision: taken.revision,
        took_micros: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
        files: 0,
        linked_bytes: 0,
        copied_bytes: 0,
        read_bytes: 0,
    });
    manifest.map(|manifest| manifest.about).map_err(to_error)
}

fn take(parts: &BackupParts, runtime: &Handle, backup: &mut BackupWriter<'_>) -> Result<Taken> {
    let revision = parts.snapshots.load().revision;
    // A control record without the files that it takes in could not be restored.
    let _nothing_is_taken_in = parts.taking_in.blocking_lock();
    if !parts.log.unsettled().is_empty() {
        let message = "a backfill was taken in by the log, and history doesn't have its rows yet";
        return Err(Error::new(Code::Unavailable, "BACKFILL_PENDING", message)
            .retry_after(std::time::Duration::from_secs(1))
            .hint("make the backup again; if it stays so, the server's log tells why the rows can't be taken in"));
    }
    let held = parts.log.hold();
    take_partitions(parts, backup)?;
    take_history(parts, runtime, backup)?;
    // What was acknowledged by now is in the log.
    let made = parts.store_time.read();
    let frame = held.back_up(backup, name_of(&parts.directories.log)).map_err(to_error)?;
    drop(held);
    let spines = parts.spines.hold();
    take_registry(parts, backup)?;
    take_spines(parts, backup)?;
    take_audit(parts, runtime, backup)?;
    drop(spines);
    Ok(Taken { made, frame, revision })
}

fn take_partitions(parts: &BackupParts, backup: &mut BackupWriter<'_>) -> Result<()> {
    let directory = &parts.directories.partitions;
    let below = name_of(directory);
    // Made before the partitions, and never changed.
    let count = "COUNT";
    backup.link(&directory.join(count), &format!("{below}/{count}")).map_err(to_error)?;
    for handle in parts.partitions.handles() {
        let path = format!("{below}/{}", handle.index());
        let place = backup.place_for(&path).map_err(to_error)?;
        let view = handle.view()?;
        view.checkpoint(&place).map_err(|error| {
            let message = format!("partition {} can't be backed up: {error}", handle.index());
            let code = if error.is_damage() { Code::DataLoss } else { Code::Unavailable };
            let refused =
                if error.is_out_of_space() { disk_full(message) } else { Error::new(code, "BACKUP_FAILED", message) };
            refused.with("partition", handle.index())
        })?;
        let original = view.directory();
        drop(view);
        backup.adopt(&path, &original).map_err(to_error)?;
    }
    Ok(())
}

fn take_history(parts: &BackupParts, runtime: &Handle, backup: &mut BackupWriter<'_>) -> Result<()> {
    let below = name_of(&parts.directories.history);
    let snapshot = parts.snapshots.load();
    for (tenant_name, tenant) in &snapshot.tenants {
        for view in tenant.all_views().filter(|view| view.offline) {
            let failed = |error: HistoryError| {
                let message = format!("the history of view '{}' can't be backed up: {error}", view.name);
                Error::new(Code::Unavailable, "BACKUP_FAILED", message).with("view", &view.name)
            };
            let table = runtime.block_on(parts.tables.table(view.history_spec(tenant_name))).map_err(failed)?;
            let held = runtime.block_on(table.hold()).map_err(failed)?;
            let mut link =
                |(from, path): FilePath| backup.link(&from, &format!("{below}/{}", path.display())).map_err(to_error);
            held.log_files().map_err(failed)?.into_iter().try_for_each(&mut link)?;
            // To another file system data is copied, which takes its time, and landing goes on meanwhile.
            held.release().paths().try_for_each(link)?;
        }
    }
    Ok(())
}

fn take_registry(parts: &BackupParts, backup: &mut BackupWriter<'_>) -> Result<()> {
    let directory = &parts.directories.registry;
    let listed = parts.files.list(directory).map_err(|error| {
        Error::new(Code::Unavailable, "BACKUP_FAILED", format!("'{}' can't be listed: {error}", directory.display()))
    })?;
    let names = listed.iter().filter_map(|entry| entry.name.to_str());
    // Values are replaced as a whole, so each is the old one or the new one; the rest is half written.
    for name in names.filter(|name| name.ends_with(".value")) {
        backup.link(&directory.join(name), &format!("{}/{name}", name_of(directory))).map_err(to_error)?;
    }
    Ok(())
}

fn take_spines(parts: &BackupParts, backup: &mut BackupWriter<'_>) -> Result<()> {
    let below = name_of(&parts.directories.spines);
    let link = |(from, path): (PathBuf, String)| backup.link(&from, &format!("{below}/{path}")).map_err(to_error);
    parts.spines.files().into_iter().try_for_each(link)
}

/// Last, so that it has at least all that the rest has.
fn take_audit(parts: &BackupParts, runtime: &Handle, backup: &mut BackupWriter<'_>) -> Result<()> {
    let below = name_of(&parts.directories.audit);
    let files = runtime.block_on(parts.audit.files())?;
    let last = files.len().saturating_sub(1);
    for (number, (path, bytes)) in files.into_iter().enumerate() {
        let target = format!("{below}/{}", name_of(&path));
        if number == last {
            backup.copy(&path, bytes, &target).map_err(to_error)?;
        } else {
            // What has been kept for long enough may go meanwhile.
            backup.link_if_there(&path, &target).map_err(to_error)?;
        }
    }
    Ok(())
}

/// A part of the data directory has in a backup the name that it has there.
fn name_of(directory: &Path) -> &str {
    directory.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}
