//! Why a command failed, whoever said so: a server, a file, or the command itself. It is shown, not
//! branched upon; the exit code is all that programs get besides the reason.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Violation};
use crate::rpc::client::Refusal;

/// A failure that is ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    /// One line that names the thing and the rule.
    pub message: String,
    pub hint: Option<String>,
    pub metadata: Vec<(String, String)>,
    /// Where exactly: rows of a file, places in definitions.
    pub violations: Vec<Violation>,
    /// When the same command may do, where waiting helps.
    pub retry_after: Option<Duration>,
}

impl Failure {
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            message: message.into(),
            hint: None,
            metadata: Vec::new(),
            violations: Vec::new(),
            retry_after: None,
        }
    }

    /// A file or folder that the command was given, or was to write.
    pub fn file(path: &Path, doing: &str, error: &dyn fmt::Display) -> Self {
        Self::new("FILE_FAILED", format!("{}: can't {doing}: {error}", path.display())).with("file", path.display())
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.metadata.push((key.to_owned(), value.to_string()));
        self
    }

    #[must_use]
    pub fn violations(mut self, violations: Vec<Violation>) -> Self {
        self.violations = violations;
        self
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let reason = if refusal.reason.is_empty() { format!("{:?}", refusal.code) } else { refusal.reason };
        Self {
            reason,
            message: refusal.message,
            hint: refusal.hint,
            metadata: refusal.metadata,
            violations: refusal.violations,
            retry_after: refusal.retry_after,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            reason: error.reason.to_owned(),
            message: error.message,
            hint: error.hint,
            metadata: error.metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            violations: error.violations,
            retry_after: error.retry_after,
        }
    }
}
