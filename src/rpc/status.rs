//! The only place that knows gRPC's status codes: a refusal becomes a `tonic::Status` with details
//! after google.rpc's model (ErrorInfo, BadRequest, QuotaFailure, RetryInfo), and a client's status becomes a
//! refusal again. Details travel in HTTP/2 headers, which peers bound at about 8 KiB, so they are
//! bounded here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use tonic::Status;
use tonic::codegen::http::HeaderMap;
use tonic_types::{ErrorDetails, FieldViolation, QuotaViolation, StatusExt as _};

use crate::error::{Code, Error, QuotaUse, Violation};

/// The `domain` of every ErrorInfo.
pub const DOMAIN: &str = "hydrant.dev";

/// Bytes of a message; a longer one is cut.
const MAX_MESSAGE: usize = 768;
const MAX_HINT: usize = 512;
const MAX_METADATA_VALUE: usize = 128;
/// Bytes of all violations together; the rest is told by its number.
const MAX_VIOLATIONS: usize = 2_048;

/// The key of ErrorInfo's metadata under which the way out is sent.
const HINT: &str = "hint";

/// The dimension of QuotaFailure under which what is in use is sent; its value is the limit.
const USAGE: &str = "usage";

/// A refusal as its receiver has it: what [`Error`] was on the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: Code,
    /// Empty where the other side is no Hydrant, or a part of it that gives no reason.
    pub reason: String,
    pub message: String,
    pub hint: Option<String>,
    /// In ascending order of the keys.
    pub metadata: Vec<(String, String)>,
    pub violations: Vec<Violation>,
    pub retry_after: Option<Duration>,
    pub quota: Option<QuotaUse>,
}

impl Refusal {
    pub fn new(code: Code, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
            message: message.into(),
            hint: None,
            metadata: Vec::new(),
            violations: Vec::new(),
            retry_after: None,
            quota: None,
        }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The name of its code, as gRPC writes it.
    pub fn status(&self) -> &'static str {
        code_name(to_tonic(self.code))
    }
}

/// For answers: what the use case said, as gRPC says it.
pub fn to_status(error: Error) -> Status {
    match error.code {
        Code::Internal | Code::DataLoss => {
            tracing::error!(reason = error.reason, message = %error.message, "request failed");
        }
        _ => tracing::debug!(reason = error.reason, message = %error.message, "request refused"),
    }
    if error.code != Code::ResourceExhausted {
        return written_out(&error);
    }
    LAST_REFUSED.with_borrow_mut(|last| match last {
        Some((known, status)) if *known == error => status.clone(),
        _ => {
            let status = written_out(&error);
            *last = Some((error, status.clone()));
            status
        }
    })
}

thread_local! {
    /// What was refused last for want of room. Under overload thousands are told the same, and there is
    /// no time to write it out for each.
    static LAST_REFUSED: RefCell<Option<(Error, Status)>> = const { RefCell::new(None) };
}

fn written_out(error: &Error) -> Status {
    let mut metadata: HashMap<String, String> =
        error.metadata.iter().map(|(key, value)| ((*key).to_owned(), cut(value, MAX_METADATA_VALUE))).collect();
    if let Some(hint) = &error.hint {
        metadata.insert(HINT.to_owned(), cut(hint, MAX_HINT));
    }
    let mut details = ErrorDetails::with_error_info(error.reason, DOMAIN, metadata);
    if !error.violations.is_empty() {
        details.set_bad_request(bounded_violations(&error.violations));
    }
    if let Some(delay) = error.retry_after {
        details.set_retry_info(Some(delay));
    }
    if let Some(quota) = &error.quota {
        details.set_quota_failure(vec![quota_violation(quota)]);
    }
    Status::with_error_details(to_tonic(error.code), cut(&error.message, MAX_MESSAGE), details)
}

/// For clients: what a status says.
pub fn from_status(status: &Status) -> Refusal {
    if is_own_timeout(status) {
        let error = deadline_exceeded();
        return Refusal::new(error.code, error.reason, error.message);
    }
    let details = status.get_error_details();
    let info = details.error_info();
    let mut metadata: Vec<(String, String)> =
        info.map(|info| info.metadata.clone().into_iter().collect()).unwrap_or_default();
    metadata.sort();
    let hint = metadata.iter().position(|(key, _)| key == HINT).map(|index| metadata.remove(index).1);
    let violations = details.bad_request().map(|request| request.field_violations.as_slice()).unwrap_or_default();
    Refusal {
        code: from_tonic(status.code()),
        reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
        message: status.message().to_owned(),
        hint,
        metadata,
        violations: violations
            .iter()
            .map(|violation| Violation { path: violation.field.clone(), message: violation.description.clone() })
            .collect(),
        retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
        quota: details.quota_failure().and_then(|failure| failure.violations.first()).map(quota_of),
    }
}

/// How a call ended: `None` where all went well, and the reason.
pub(super) fn ended(status: &Status) -> (Option<Code>, String) {
    if status.code() == tonic::Code::Ok {
        return (None, String::new());
    }
    let refusal = from_status(status);
    let reason = if refusal.reason.is_empty() { code_name(status.code()).to_owned() } else { refusal.reason };
    (Some(refusal.code), reason)
}

/// What stands in the interface and isn't served yet.
pub fn not_yet_served(field: &'static str, reason: &'static str) -> Error {
    Error::new(Code::Unimplemented, reason, format!("'{field}' is not served yet"))
        .with("field", field)
        .hint("leave it out")
}

/// How large a message a port takes and sends, and the option that says so.
#[derive(Clone, Copy, Debug)]
pub struct MessageLimit {
    pub option: &'static str,
    pub bytes: u64,
}

/// A message beyond the limit of its port.
pub fn message_too_large(limit: MessageLimit, told: &str) -> Error {
    let MessageLimit { option, bytes } = limit;
    let message = format!("{told}; '{option}' allows messages of {bytes} bytes");
    let hint = format!("send or ask for less at a time, or raise '{option}' in the server's configuration");
    Error::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", message)
        .hint(hint)
        .with("option", option)
        .with("limit", bytes)
}

/// A handler that panicked.
pub fn defect(told: &str) -> Error {
    Error::internal(format!("a defect ended the call: {told}"))
}

/// A path that no service has.
pub fn unknown_method() -> Status {
    let error = Error::new(Code::Unimplemented, "UNKNOWN_METHOD", "there is no such service or method");
    to_status(error.hint("ask the server's reflection what it serves"))
}

/// A message that is none.
pub fn malformed(told: impl ToString) -> Error {
    Error::invalid("MALFORMED_MESSAGE", told.to_string())
}

/// A message that would have to be unpacked first.
pub fn compression_not_served() -> Error {
    Error::new(Code::Unimplemented, "COMPRESSION_NOT_SERVED", "messages that are compressed are not read")
        .hint("send them as they are, without `grpc-encoding`")
}

pub fn deadline_exceeded() -> Error {
    Error::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "the deadline passed before the answer was complete")
}

/// Names of codes for metrics and logs, as gRPC writes them.
pub fn code_name(code: tonic::Code) -> &'static str {
    match code {
        tonic::Code::Ok => "OK",
        tonic::Code::Cancelled => "CANCELLED",
        tonic::Code::Unknown => "UNKNOWN",
        tonic::Code::InvalidArgument => "INVALID_ARGUMENT",
        tonic::Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        tonic::Code::NotFound => "NOT_FOUND",
        tonic::Code::AlreadyExists => "ALREADY_EXISTS",
        tonic::Code::PermissionDenied => "PERMISSION_DENIED",
        tonic::Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        tonic::Code::FailedPrecondition => "FAILED_PRECONDITION",
        tonic::Code::Aborted => "ABORTED",
        tonic::Code::OutOfRange => "OUT_OF_RANGE",
        tonic::Code::Unimplemented => "UNIMPLEMENTED",
        tonic::Code::Internal => "INTERNAL",
        tonic::Code::Unavailable => "UNAVAILABLE",
        tonic::Code::DataLoss => "DATA_LOSS",
        tonic::Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The code of a call whose client went away before its end, for metrics.
pub const GIVEN_UP: &str = "CANCELLED";

/// The name of the code among headers or trailers that say all there is to say: a success, or a status
/// with details. Under overload there is no time to read those again.
pub fn well_told(headers: &HeaderMap) -> Option<&'static str> {
    let code = tonic::Code::from_bytes(headers.get(Status::GRPC_STATUS)?.as_bytes());
    (code == tonic::Code::Ok || headers.contains_key(Status::GRPC_STATUS_DETAILS)).then(|| code_name(code))
}

/// Whether headers or trailers refuse what their caller may not do.
pub fn is_denied(headers: &HeaderMap) -> bool {
    let code = headers.get(Status::GRPC_STATUS).map(|code| tonic::Code::from_bytes(code.as_bytes()));
    code == Some(tonic::Code::PermissionDenied)
}

/// What tonic says of a request that is no message, or no frame; by its code it would be a defect of ours.
const BROKEN: [&str; 5] = [
    "failed to decode Protobuf message",
    "protocol error: received message with",
    "Unexpected EOF decoding stream",
    "Missing request message",
    "Error decompressing",
];

/// What tonic says in its own words, in ours; `None` where it is well said already.
pub fn clarify(status: &Status, limit: MessageLimit) -> Option<Status> {
    if !status.details().is_empty() {
        return None;
    }
    let message = status.message();
    let oversized = message.contains("message length too large") || message.contains("size limit, of");
    let error = match status.code() {
        tonic::Code::OutOfRange | tonic::Code::ResourceExhausted if oversized => {
            message_too_large(limit, "a message is too large")
        }
        tonic::Code::Internal if BROKEN.iter().any(|broken| message.contains(broken)) => malformed(message),
        tonic::Code::Unimplemented if message.starts_with("Content is compressed") => compression_not_served(),
        tonic::Code::Unimplemented => {
            let message = if message.is_empty() { "there is no such service or method" } else { message };
            Error::new(Code::Unimplemented, "UNKNOWN_METHOD", message)
                .hint("ask the server's reflection what it serves")
        }
        // The client ended the stream in the middle, with whatever code; it hears of nothing any more.
        tonic::Code::Internal if message.contains("h2 protocol error") => return Some(Status::cancelled(message)),
        // Of services that aren't ours, which repeat what they were asked. Longer headers than a client
        // takes end its connection, and with it all other calls.
        _ if message.len() > MAX_MESSAGE => return Some(Status::new(status.code(), cut(message, MAX_MESSAGE))),
        _ => return None,
    };
    Some(to_status(error))
}

/// Whether a call was given up by who made it.
pub fn is_cancelled(status: &Status) -> bool {
    status.code() == tonic::Code::Cancelled
}

/// Whether the client's side of the connection gave the call up at its deadline, which it tells as a
/// cancellation.
fn is_own_timeout(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::TimeoutExpired>() {
            return true;
        }
        source = error.source();
    }
    false
}

fn to_tonic(code: Code) -> tonic::Code {
    match code {
        Code::InvalidArgument => tonic::Code::InvalidArgument,
        Code::NotFound => tonic::Code::NotFound,
        Code::AlreadyExists => tonic::Code::AlreadyExists,
        Code::FailedPrecondition => tonic::Code::FailedPrecondition,
        Code::Aborted => tonic::Code::Aborted,
        Code::PermissionDenied => tonic::Code::PermissionDenied,
        Code::Unauthenticated => tonic::Code::Unauthenticated,
        Code::ResourceExhausted => tonic::Code::ResourceExhausted,
        Code::Unavailable => tonic::Code::Unavailable,
        Code::DeadlineExceeded => tonic::Code::DeadlineExceeded,
        Code::DataLoss => tonic::Code::DataLoss,
        Code::Unimplemented => tonic::Code::Unimplemented,
        Code::Internal => tonic::Code::Internal,
    }
}

fn from_tonic(code: tonic::Code) -> Code {
    match code {
        tonic::Code::InvalidArgument | tonic::Code::OutOfRange => Code::InvalidArgument,
        tonic::Code::NotFound => Code::NotFound,
        tonic::Code::AlreadyExists => Code::AlreadyExists,
        tonic::Code::FailedPrecondition => Code::FailedPrecondition,
        tonic::Code::Aborted => Code::Aborted,
        tonic::Code::PermissionDenied => Code::PermissionDenied,
        tonic::Code::Unauthenticated => Code::Unauthenticated,
        tonic::Code::ResourceExhausted => Code::ResourceExhausted,
        tonic::Code::Unavailable | tonic::Code::Cancelled => Code::Unavailable,
        tonic::Code::DeadlineExceeded => Code::DeadlineExceeded,
        tonic::Code::DataLoss => Code::DataLoss,
        tonic::Code::Unimplemented => Code::Unimplemented,
        tonic::Code::Internal | tonic::Code::Unknown | tonic::Code::Ok => Code::Internal,
    }
}

/// As many violations as fit, then how many more there are.
fn bounded_violations(violations: &[Violation]) -> Vec<FieldViolation> {
    let mut room = MAX_VIOLATIONS;
    let mut told = Vec::new();
    for violation in violations {
        let size = violation.path.len() + violation.message.len();
        if size > room {
            break;
        }
        room -= size;
        told.push(FieldViolation::new(violation.path.clone(), violation.message.clone()));
    }
    if told.is_empty() {
        let first = &violations[0];
        told.push(FieldViolation::new(cut(&first.path, MAX_METADATA_VALUE), cut(&first.message, MAX_MESSAGE)));
    }
    let untold = violations.len() - told.len();
    if untold > 0 {
        told.push(FieldViolation::new("", format!("and {untold} more")));
    }
    told
}

fn quota_violation(quota: &QuotaUse) -> QuotaViolation {
    let told = quota.to_string();
    let QuotaUse { subject, quota, usage, limit } = quota;
    let mut violation = QuotaViolation::new(subject, told);
    violation.quota_metric.clone_from(quota);
    violation.quota_id.clone_from(quota);
    violation.quota_value = i64::try_from(*limit).unwrap_or(i64::MAX);
    violation.quota_dimensions = HashMap::from([(USAGE.to_owned(), usage.to_string())]);
    violation
}

fn quota_of(violation: &QuotaViolation) -> QuotaUse {
    QuotaUse {
        subject: violation.subject.clone(),
        quota: violation.quota_id.clone(),
        usage: violation.quota_dimensions.get(USAGE).and_then(|usage| usage.parse().ok()).unwrap_or_default(),
        limit: u64::try_from(violation.quota_value).unwrap_or_default(),
    }
}

/// The text, or as much of it as `limit` bytes hold, at a character's boundary.
fn cut(text: &str, limit: usize) -> String {
    const MARK: &str = "…";
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(limit - MARK.len());
    format!("{}{MARK}", &text[..end])
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    const CODES: [Code; 13] = [
        Code::InvalidArgument,
        Code::NotFound,
        Code::AlreadyExists,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::PermissionDenied,
        Code::Unauthenticated,
        Code::ResourceExhausted,
        Code::Unavailable,
        Code::DeadlineExceeded,
        Code::DataLoss,
        Code::Unimplemented,
        Code::Internal,
    ];

    #[test]
    fn refusals_for_want_of_room_say_what_each_is_about_however_alike_they_are() {
        let full = |used: u64| {
            Error::new(Code::ResourceExhausted, "FULL", "as much as may be")
                .with("used", used)
                .retry_after(Duration::from_millis(used))
        };
        for used in [1, 1, 2, 1, 2, 2] {
            let refusal = from_status(&to_status(full(used)));
            assert_eq!(refusal.metadata, [("used".to_owned(), used.to_string())]);
            assert_eq!(refusal.retry_after, Some(Duration::from_millis(used)));
        }
    }

    #[test]
    fn a_refusal_reaches_its_caller_whole() {
        let quota =
            QuotaUse { subject: "tenants/default".into(), quota: "keys_per_second".into(), usage: 1_001, limit: 1_000 };
        for code in CODES {
            let mut error = Error::new(code, "SOME_REASON", "view 'weather' is not what it was")
                .hint("look again")
                .with("view", "weather")
                .violations(vec![Violation { path: "rows[3].temp".into(), message: "is no number".into() }])
                .retry_after(Duration::from_millis(250));
            error.quota = Some(Box::new(quota.clone()));
            let refusal = from_status(&to_status(error));
            assert_eq!(
                refusal,
                Refusal {
                    code,
                    reason: "SOME_REASON".into(),
                    message: "view 'weather' is not what it was".into(),
                    hint: Some("look again".into()),
                    metadata: vec![("view".into(), "weather".into())],
                    violations: vec![Violation { path: "rows[3].temp".into(), message: "is no number".into() }],
                    retry_after: Some(Duration::from_millis(250)),
                    quota: Some(quota.clone()),
                }
            );
        }
    }

    #[test]
    fn a_refusal_fits_into_the_headers_of_any_client_however_much_is_wrong() {
        let violations = (0..5_000)
            .map(|row| Violation {
                path: format!("rows[{row}].event_timestamp"),
                message: "lies too far ahead ".repeat(3),
            })
            .collect();
        let error = Error::invalid("BAD_ROWS", "ä".repeat(10_000))
            .hint("x".repeat(10_000))
            .with("view", "y".repeat(10_000))
            .violations(violations);
        let status = to_status(error);
        assert!(status.details().len() * 4 / 3 + status.message().len() * 3 < 8_192, "{}", status.details().len());
        let refusal = from_status(&status);
        assert!(refusal.violations.len() > 10);
        let last = refusal.violations.last().expect("there are some");
        assert!(last.message.starts_with("and ") && last.message.ends_with(" more"), "{last:?}");
    }

    #[test]
    fn one_enormous_violation_is_cut_and_not_lost() {
        let violation = Violation { path: "p".repeat(9_000), message: "m".repeat(9_000) };
        let refusal = from_status(&to_status(Error::invalid("BAD", "bad").violations(vec![violation])));
        assert_eq!(refusal.violations.len(), 1);
        assert!(refusal.violations[0].message.starts_with("mmm"));
    }

    #[test]
    fn an_oversized_message_is_told_with_the_option_to_change() {
        let limit = MessageLimit { option: "server.grpc_max_message", bytes: 1_024 };
        let told = "Error, decoded message length too large: found 9999 bytes, the limit is: 1024 bytes";
        let refusal = from_status(&clarify(&Status::out_of_range(told), limit).expect("clearer"));
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
        assert!(refusal.message.contains("'server.grpc_max_message'") && refusal.hint.is_some());
        let undecodable = Status::internal("failed to decode Protobuf message: invalid wire type");
        assert_eq!(from_status(&clarify(&undecodable, limit).expect("clearer")).code, Code::InvalidArgument);
        for broken in ["Missing request message.", "Unexpected EOF decoding stream."] {
            let refusal = from_status(&clarify(&Status::internal(broken), limit).expect("clearer"));
            assert_eq!((refusal.code, refusal.reason.as_str()), (Code::InvalidArgument, "MALFORMED_MESSAGE"));
        }
        assert!(clarify(&Status::internal("a defect"), limit).is_none());
        let reset = Status::internal("h2 protocol error: error reading a body from connection");
        assert_eq!(clarify(&reset, limit).expect("clearer").code(), tonic::Code::Cancelled);
        let echo = clarify(&Status::not_found("x".repeat(70_000)), limit).expect("shorter");
        assert_eq!((echo.code(), echo.message().len()), (tonic::Code::NotFound, MAX_MESSAGE));
        assert!(clarify(&to_status(Error::internal("as it is")), limit).is_none());
    }

    #[test]
    fn a_status_from_elsewhere_is_read_too() {
        let refusal = from_status(&Status::unavailable("connection refused"));
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unavailable, ""));
    }
}
