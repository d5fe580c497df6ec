//! `hydrant backup`: backups of a running server, and what is done with them where none runs: held to
//! their checksums, and restored into a directory for a server to start on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hydrant_proto::v1;
use hydrant_storage::backup::{self as backups, About, BackupError, Counts, Manifest, Problem};
use hydrant_storage::files::LocalFiles;
use indicatif::{HumanBytes, ProgressBar};
use serde_json::{Value, json};

use super::output::{self, ResultOutput};
use super::server::{NoServer, NotInsecure};
use super::{Done, Failure, Format, Server, progress, time};
use crate::error::Violation;

/// Problems that are told one by one; of more only how many there are.
const MAX_PROBLEMS: usize = 100;

/// Back up a running server; verify and restore backups
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  hydrant backup create monday\n  hydrant backup list\n  \
    hydrant backup restore hydrant-data/backups/monday restored && hydrant serve --data-dir restored")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Create(CreateArgs),
    List(ListArgs),
    Delete(DeleteArgs),
    Verify(VerifyArgs),
    Restore(RestoreArgs),
}

/// Make a backup of everything that the server keeps, while it serves
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  hydrant backup create monday\n\nIt holds everything that was acknowledged before. \
    Ctrl-C stops it, and leaves nothing of it."
)]
struct CreateArgs {
    /// A name that is free, such as nightly_20261128: [a-z][a-z0-9_]{0,62} without '__'
    name: String,

    #[command(flatten)]
    output: ResultOutput,
}

/// List the server's backups, the oldest first
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  hydrant backup list -o json")]
struct ListArgs {
    #[command(flatten)]
    output: ResultOutput,
}

/// Delete a backup of the server
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  hydrant backup delete monday")]
struct DeleteArgs {
    /// The backup's name, as `hydrant backup list` shows it
    name: String,

    #[command(flatten)]
    output: ResultOutput,
}

/// Hold a backup to its checksums, without a server
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  hydrant backup verify hydrant-data/backups/monday\n\nReads every byte, and changes nothing."
)]
struct VerifyArgs {
    /// The backup's directory, or a copy of it
    path: PathBuf,

    #[command(flatten)]
    output: ResultOutput,

    #[command(flatten)]
    _server: NoServer,

    #[command(flatten)]
    _not_insecure: NotInsecure,
}

/// Copy a backup into an empty directory, verified, for a server to start on
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  hydrant backup restore hydrant-data/backups/monday restored\n  \
    hydrant serve --data-dir restored")]
struct RestoreArgs {
    /// The backup's directory, or a copy of it; it stays as it is
    path: PathBuf,

    /// A directory that is empty or not there
    data_dir: PathBuf,

    #[command(flatten)]
    output: ResultOutput,

    #[command(flatten)]
    _server: NoServer,

    #[command(flatten)]
    _not_insecure: NotInsecure,
}

impl Args {
    pub fn format(&self) -> Format {
        match &self.command {
            Command::Create(args) => args.output.format,
            Command::List(args) => args.output.format,
            Command::Delete(args) => args.output.format,
            Command::Verify(args) => args.output.format,
            Command::Restore(args) => args.output.format,
        }
    }

    /// Whether it needs no server.
    pub fn is_offline(&self) -> bool {
        matches!(self.command, Command::Verify(_) | Command::Restore(_))
    }

    /// What Ctrl-C leaves behind.
    pub fn interrupted(&self) -> Option<&'static str> {
        match self.command {
            Command::Create(_) => {
                Some("nothing of the backup is left, unless it was whole: `hydrant backup list` tells")
            }
            Command::Delete(_) => Some("it may have been deleted all the same; `hydrant backup list` tells"),
            Command::Restore(_) => Some("the directory is as it was before"),
            Command::List(_) | Command::Verify(_) => None,
        }
    }
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    match args.command {
        Command::Create(args) => create(args, server).await,
        Command::List(args) => list(&args, server).await,
        Command::Delete(args) => delete(args, server).await,
        Command::Verify(args) => verify(args).await,
        Command::Restore(args) => restore(args).await,
    }
}

async fn create(args: CreateArgs, server: &Server) -> Result<Done, Failure> {
    let client = server.connect().await?;
    let bar = progress::unknown(&format!("backing up to {}", args.name));
    let made = client.create_backup(&args.name, |counts| {
        bar.set_message(format!(
            "{} files, {} linked, {} copied, {} read",
            output::count(counts.files),
            HumanBytes(counts.linked_bytes),
            HumanBytes(counts.copied_bytes),
            HumanBytes(counts.read_bytes)
        ));
        bar.tick();
    });
    let made = made.await;
    bar.finish_and_clear();
    let made = made?;
    output::print_as(args.output.format, &shown(&made), || {
        format!(
            "backup {} made in {}: {}, {} linked, {} copied, {} read for checksums\n{}",
            made.name,
            output::seconds(Duration::from_micros(made.took_micros)),
            output::counted(made.files, "file"),
            HumanBytes(made.linked_bytes),
            HumanBytes(made.copied_bytes),
            HumanBytes(made.read_bytes),
            made.path,
        )
    })?;
    Ok(Done::Done)
}

async fn list(args: &ListArgs, server: &Server) -> Result<Done, Failure> {
    let all = server.connect().await?.list_backups().await?;
    let documents = json!({ "backups": all.iter().map(shown).collect::<Vec<_>>() });
    output::print_as(args.output.format, &documents, || {
        if all.is_empty() {
            return "there are no backups".to_owned();
        }
        let row = |backup: &v1::Backup| match backup.problem.as_str() {
            "" => vec![
                backup.name.clone(),
                time::show(backup.made_micros),
                output::count(backup.files),
                HumanBytes(backup.linked_bytes + backup.copied_bytes).to_string(),
                output::count(backup.frame),
                backup.path.clone(),
            ],
            _ => vec![
                backup.name.clone(),
                "damaged".to_owned(),
                String::new(),
                String::new(),
                String::new(),
                backup.path.clone(),
            ],
        };
        let rows: Vec<Vec<String>> = all.iter().map(row).collect();
        let table = output::table(&["name", "made", "files", "size", "frame", "path"], &rows, &[2, 3, 4]);
        let problems = all.iter().filter(|backup| !backup.problem.is_empty()).map(|backup| &backup.problem);
        problems.fold(table, |told, problem| format!("{told}\n{problem}"))
    })?;
    Ok(Done::Done)
}

async fn delete(args: DeleteArgs, server: &Server) -> Result<Done, Failure> {
    server.connect().await?.delete_backup(&args.name).await?;
    output::print_as(args.output.format, &json!({ "deleted": args.name }), || format!("deleted backup {}", args.name))?;
    Ok(Done::Done)
}

async fn verify(args: VerifyArgs) -> Result<Done, Failure> {
    let path = args.path.clone();
    let verified =
        with_bar("verifying", &args.path, move |proceed| backups::verify(&LocalFiles, &path, proceed)).await?;
    if !verified.problems.is_empty() {
        return Err(damaged(&args.path, &verified.problems));
    }
    let about = &verified.manifest.about;
    output::print_as(args.output.format, &shown_about(about, &args.path), || {
        let size = HumanBytes(about.bytes());
        format!("backup {} is whole: {}, {size}", about.name, output::counted(about.files, "file"))
    })?;
    Ok(Done::Done)
}

async fn restore(args: RestoreArgs) -> Result<Done, Failure> {
    let (from, to) = (args.path.clone(), args.data_dir.clone());
    let restoring = move |proceed: &mut backups::Proceed<'_>| backups::restore(&LocalFiles, &from, &to, proceed);
    let Manifest { about, .. } = with_bar("restoring", &args.path, restoring).await?;
    output::print_as(args.output.format, &shown_about(&about, &args.data_dir), || {
        let (size, to) = (HumanBytes(about.bytes()), args.data_dir.display());
        format!(
            "backup {} of {} restored into {to}: {}, {size}\nto start on it: hydrant serve --data-dir {to}",
            about.name,
            time::show(about.made),
            output::counted(about.files, "file")
        )
    })?;
    Ok(Done::Done)
}

/// Runs what reads a whole backup beside a bar. If nobody waits any more, it is stopped.
async fn with_bar<T: Send + 'static>(
    label: &'static str,
    backup: &Path,
    work: impl FnOnce(&mut backups::Proceed<'_>) -> Result<T, BackupError> + Send + 'static,
) -> Result<T, Failure> {
    struct StopWhenDropped(Arc<AtomicBool>);
    impl Drop for StopWhenDropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    let stop = StopWhenDropped(Arc::default());
    let stopped = stop.0.clone();
    let path = backup.to_owned();
    let done = tokio::task::spawn_blocking(move || {
        let total = Manifest::read(&LocalFiles, &path)?.about.bytes();
        let bar: ProgressBar = progress::bytes(label, total);
        let mut proceed = |counts: &Counts| {
            bar.set_position(counts.read_bytes + counts.copied_bytes);
            !stopped.load(Ordering::Acquire)
        };
        let done = work(&mut proceed);
        bar.finish_and_clear();
        done
    });
    let done = done.await.map_err(|error| Failure::new("INTERNAL", format!("the work ended early: {error}")))?;
    drop(stop);
    done.map_err(failure)
}

fn damaged(path: &Path, problems: &[Problem]) -> Failure {
    let told = problems.iter().take(MAX_PROBLEMS);
    let told = told.map(|problem| Violation { path: problem.path.clone(), message: problem.problem.clone() });
    let count = output::counted(problems.len() as u64, "file");
    let message = match problems {
        [only] => format!("the backup {} is damaged: {}: {}", path.display(), only.path, only.problem),
        _ => format!("the backup {} is damaged: {count} are not as they were made", path.display()),
    };
    Failure::new("BACKUP_DAMAGED", message)
        .with("damaged", problems.len())
        .violations(told.collect())
        .hint("take another backup, or another copy of this one; and check the disk")
}

fn failure(error: BackupError) -> Failure {
    let message = error.to_string();
    match error {
        BackupError::NoBackup { .. } => Failure::new("NO_BACKUP", message)
            .hint("name the directory of one backup, such as hydrant-data/backups/NAME"),
        BackupError::Format { .. } => {
            Failure::new("BACKUP_FORMAT", message).hint("use the version of Hydrant that wrote it, or a later one")
        }
        BackupError::Damaged { .. } => {
            Failure::new("BACKUP_DAMAGED", message).hint("take another backup, or another copy of this one")
        }
        BackupError::NotEmpty { .. } => Failure::new("DATA_DIR_NOT_EMPTY", message)
            .hint("name a directory that is empty or not there: nothing is ever overwritten"),
        BackupError::InBackup { .. } => Failure::new("DATA_DIR_IN_BACKUP", message)
            .hint("name a directory that lies in no backup: nothing was done"),
        BackupError::Io { path, .. } => Failure::new("FILE_FAILED", message).with("file", path.display()),
        BackupError::Taken { .. }
        | BackupError::InTheWay { .. }
        | BackupError::Unknown { .. }
        | BackupError::Stopped => Failure::new("INTERNAL", message),
    }
}

/// A backup for programs.
fn shown(backup: &v1::Backup) -> Value {
    if !backup.problem.is_empty() {
        return json!({ "name": backup.name, "path": backup.path, "problem": backup.problem });
    }
    json!({
        "name": backup.name, "path": backup.path, "made": time::show(backup.made_micros), "frame": backup.frame,
        "registry_revision": backup.registry_revision, "hydrant": backup.hydrant,
        "seconds": Duration::from_micros(backup.took_micros).as_secs_f64(), "files": backup.files,
        "linked_bytes": backup.linked_bytes, "copied_bytes": backup.copied_bytes, "read_bytes": backup.read_bytes,
    })
}

fn shown_about(about: &About, path: &Path) -> Value {
    json!({
        "name": about.name.as_str(), "path": path.display().to_string(), "made": time::show(about.made),
        "frame": about.frame, "registry_revision": about.revision, "hydrant": about.hydrant, "files": about.files,
        "bytes": about.bytes(),
    })
}
