//! What a caller is told when something is refused or fails: one of a closed set of codes, a stable
//! reason for programs, a message that names the thing and the rule, and the way out. It knows
//! nothing of transport: `rpc::status` alone turns it into gRPC statuses.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The kinds of failure that a caller may treat differently. The set is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The request is wrong whatever the state of the system.
    InvalidArgument,
    /// Something that the request names doesn't exist.
    NotFound,
    AlreadyExists,
    /// The request is fine, but not in the present state of the system.
    FailedPrecondition,
    /// Somebody else changed what the request was about: read again, then retry.
    Aborted,
    PermissionDenied,
    Unauthenticated,
    /// A quota or a bound is used up.
    ResourceExhausted,
    /// For now; the same request may succeed later.
    Unavailable,
    DeadlineExceeded,
    /// Stored bytes fail their checksum.
    DataLoss,
    /// In the interface, and not served yet.
    Unimplemented,
    /// A defect of Hydrant.
    Internal,
}

/// One wrong place in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where, such as `rows[17].event_timestamp` or `definitions[2].spec.features[0].type`.
    pub path: String,
    pub message: String,
}

/// A quota that is used up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaUse {
    /// Whose, such as `tenants/default`.
    pub subject: String,
    /// Which, such as `keys_per_second`.
    pub quota: String,
    pub usage: u64,
    pub limit: u64,
}

/// A refusal or failure, as a caller sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub code: Code,
    /// Stable, in UPPER_SNAKE_CASE; listed in docs/errors.md.
    pub reason: &'static str,
    /// Names the thing and the rule, in lower case.
    pub message: String,
    /// The way out, where there is one.
    pub hint: Option<String>,
    /// The parts of the message, for programs.
    pub metadata: Vec<(&'static str, String)>,
    pub violations: Vec<Violation>,
    pub retry_after: Option<Duration>,
    pub quota: Option<Box<QuotaUse>>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            hint: None,
            metadata: Vec::new(),
            violations: Vec::new(),
            retry_after: None,
            quota: None,
        }
    }

    pub fn invalid(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, reason, message)
    }

    pub fn not_found(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, reason, message)
    }

    /// Several places of a request are wrong. One is told with why; of more the message has the
    /// names, and the violations say why of each.
    pub fn wrong_places(reason: &'static str, what: impl fmt::Display, violations: Vec<Violation>) -> Self {
        let told = match violations.as_slice() {
            [only] => format!("{}: {}", only.path, only.message),
            all => all.iter().map(|violation| violation.path.as_str()).collect::<Vec<_>>().join(", "),
        };
        Self::invalid(reason, format!("{what}: {told}")).violations(violations)
    }

    /// A defect: the caller did nothing wrong and can do nothing about it.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, "INTERNAL", message)
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.metadata.push((key, value.to_string()));
        self
    }

    #[must_use]
    pub fn violations(mut self, violations: Vec<Violation>) -> Self {
        self.violations = violations;
        self
    }

    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }
}

impl fmt::Display for QuotaUse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = if self.quota.ends_with("_bytes") || self.quota.contains("_bytes_") { " bytes" } else { "" };
        write!(formatter, "{} of {}{unit} are in use", self.usage, self.limit)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// What is called when it is not known any more what is durable: a sync has failed. The process must
/// end: by default it aborts.
#[derive(Clone)]
pub struct FatalHook(Arc<dyn Fn(&str) + Send + Sync>);

impl FatalHook {
    pub fn new(hook: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }

    pub fn call(&self, problem: &str) {
        (self.0)(problem);
    }
}

impl Default for FatalHook {
    fn default() -> Self {
        Self::new(|_| std::process::abort())
    }
}

impl fmt::Debug for FatalHook {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("FatalHook")
    }
}
