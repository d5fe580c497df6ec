//! Files that a run is written into: as many as it takes, durable, and of no table yet. Nothing is left of
//! them where that fails or nobody keeps them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::files::{Files, remove_if_there};
use crate::history::writer::{OpenFile, Purpose, RowChecks, WrittenFile};
use crate::history::{HistoryError, HistoryViewSpec, Run};

/// Files that were written; removed if they aren't kept.
#[derive(Debug)]
pub(super) struct Outputs {
    files: Arc<dyn Files>,
    directory: PathBuf,
    /// In history order.
    pub written: Vec<(String, WrittenFile)>,
}

/// Where and how files are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    pub files: &'a Arc<dyn Files>,
    pub directory: &'a Path,
    pub spec: &'a HistoryViewSpec,
    pub purpose: Purpose,
    /// A file ends once it has about as many, wherever a row ends.
    pub file_bytes: u64,
}

impl Outputs {
    pub fn new(files: Arc<dyn Files>, directory: PathBuf) -> Self {
        Self { files, directory, written: Vec::new() }
    }

    /// Somebody else removes them, if they are to be.
    pub fn keep(&mut self) -> Vec<(String, WrittenFile)> {
        std::mem::take(&mut self.written)
    }

    pub fn rows(&self) -> u64 {
        self.written.iter().map(|(_, file)| file.facts.rows).sum()
    }
}

impl Drop for Outputs {
    fn drop(&mut self) {
        for (name, _) in &self.written {
            if let Err(error) = remove_if_there(self.files.as_ref(), &self.directory.join(name)) {
                tracing::warn!(file = name, %error, "a file that came to nothing is left until the next start");
            }
        }
    }
}

/// Writes all rows of a run. `pace` is told of the bytes and may let the work wait; false: it is given up.
/// Blocks.
pub(super) fn write_run(
    rows: &mut dyn Run,
    target: &Target<'_>,
    new_name: &dyn Fn() -> String,
    checks: RowChecks,
    pace: &mut dyn FnMut(u64) -> bool,
) -> Result<Outputs, HistoryError> {
    let mut outputs = Outputs::new(target.files.clone(), target.directory.to_owned());
    let mut checks = Some(checks);
    let mut open: Option<(String, OpenFile<'_>)> = None;
    let mut told = 0;
    loop {
        let next = rows.next()?;
        if let Some((name, file)) = open.take_if(|(_, file)| next.is_none() || file.bytes() >= target.file_bytes) {
            let (written, for_next) = file.finish(None)?;
            checks = Some(for_next);
            outputs.written.push((name, written));
            if !pace(written.bytes.saturating_sub(told)) {
                return Err(HistoryError::GivenUp);
            }
            told = 0;
        }
        let Some(batch) = next else { return Ok(outputs) };
        if let Some(checks) = checks.take() {
            let name = new_name();
            let path = target.directory.join(&name);
            let file =
                OpenFile::create(target.files.as_ref(), path, target.spec, checks, target.purpose, Some(&batch))?;
            open = Some((name, file));
        }
        if let Some((_, file)) = &mut open {
            file.write(batch)?;
            let bytes = file.bytes();
            if !pace(bytes.saturating_sub(told)) {
                return Err(HistoryError::GivenUp);
            }
            told = told.max(bytes);
        }
    }
}
