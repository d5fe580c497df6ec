//! AuditService: the audit log listed and verified. What is written to it is written by
//! `UseCases::change` and by the layer that sees how calls end.

use async_trait::async_trait;
use hydrant_proto::v1;
use hydrant_proto::v1::audit_service_server::AuditService;
use tonic::{Request, Response, Status};

use super::status::to_status;
use super::{Caller, UseCases, layers};
use crate::audit::{Filter, Hash, Outcome, Problem, Record, Verified};
use crate::error::{Error, Result};
use crate::tenancy::Action;

const DEFAULT_PAGE_SIZE: u32 = 100;
/// Bytes of a text to filter by.
const MAX_TEXT: usize = 256;

#[derive(Debug)]
pub struct AuditRpc {
    use_cases: UseCases,
}

impl AuditRpc {
    pub fn new(use_cases: UseCases) -> Self {
        Self { use_cases }
    }

    async fn list(
        &self,
        caller: &Caller,
        request: v1::ListAuditRecordsRequest,
    ) -> Result<v1::ListAuditRecordsResponse> {
        let permit = self.use_cases.permit(caller, Action::ReadAudit)?;
        let size = if request.page_size == 0 { DEFAULT_PAGE_SIZE } else { request.page_size };
        let before = decode_page_token(&request.page_token)?;
        let filter = decode_filter(request)?;
        let page = self.use_cases.audit.list(&permit, filter, before, size as usize).await?;
        Ok(v1::ListAuditRecordsResponse {
            records: page.records.into_iter().map(encode).collect(),
            next_page_token: page.before.map(|before| before.to_string()).unwrap_or_default(),
        })
    }

    async fn verify(&self, caller: &Caller, request: v1::VerifyAuditRequest) -> Result<v1::VerifyAuditResponse> {
        let permit = self.use_cases.permit(caller, Action::ReadAudit)?;
        let noted = if request.noted.is_empty() { None } else { Some(decode_head(&request.noted)?) };
        let verified = self.use_cases.audit.verify(&permit, noted).await?;
        let head = verified.note();
        let Verified { records, first, problems, .. } = verified;
        let problem = |Problem { file, offset, message }| v1::AuditProblem { file, offset, message };
        Ok(v1::VerifyAuditResponse { records, first, head, problems: problems.into_iter().map(problem).collect() })
    }
}

#[async_trait]
impl AuditService for AuditRpc {
    async fn list_audit_records(
        &self,
        request: Request<v1::ListAuditRecordsRequest>,
    ) -> Result<Response<v1::ListAuditRecordsResponse>, Status> {
        let caller = layers::caller(request.extensions());
        self.list(&caller, request.into_inner()).await.map(Response::new).map_err(to_status)
    }

    async fn verify_audit(
        &self,
        request: Request<v1::VerifyAuditRequest>,
    ) -> Result<Response<v1::VerifyAuditResponse>, Status> {
        let caller = layers::caller(request.extensions());
        self.verify(&caller, request.into_inner()).await.map(Response::new).map_err(to_status)
    }
}

fn decode_filter(request: v1::ListAuditRecordsRequest) -> Result<Filter> {
    let v1::ListAuditRecordsRequest { since_micros, until_micros, caller, action, resource, outcome, tenant, .. } =
        request;
    for (field, text) in [("caller", &caller), ("action", &action), ("resource", &resource), ("tenant", &tenant)] {
        if text.len() > MAX_TEXT {
            let message = format!("'{field}' has {} bytes, of which no record has more than {MAX_TEXT}", text.len());
            return Err(Error::invalid("BAD_FILTER", message).with("field", field));
        }
    }
    if !outcome.is_empty() && !Outcome::ALL.contains(&outcome.as_str()) {
        let shown: String = outcome.chars().take(80).collect();
        return Err(Error::invalid("BAD_FILTER", format!("there is no outcome '{shown}'"))
            .hint(format!("there are {}", Outcome::ALL.join(", "))));
    }
    Ok(Filter { tenant, since: since_micros, until: until_micros, caller, action, resource, outcome })
}

fn decode_page_token(token: &str) -> Result<Option<u64>> {
    if token.is_empty() {
        return Ok(None);
    }
    let before = token.parse().map(Some);
    before.map_err(|_| {
        Error::invalid("BAD_PAGE_TOKEN", "the page token is none of a listing of the audit log")
            .hint("give back a token as it was answered, or none to start anew")
    })
}

/// `SEQUENCE:HASH`, as a verification tells it.
fn decode_head(text: &str) -> Result<(u64, Hash)> {
    let wrong = || {
        Error::invalid("BAD_HEAD", "a noted head is SEQUENCE:HASH, the hash in 64 hexadecimal digits")
            .hint("give it as `hydrant audit verify` printed it")
    };
    let (sequence, hash) = text.split_once(':').ok_or_else(wrong)?;
    let digits = hash.as_bytes();
    let mut bytes = Hash::default();
    if digits.len() != 2 * bytes.len() || !digits.is_ascii() {
        return Err(wrong());
    }
    for (byte, pair) in bytes.iter_mut().zip(hash.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
    }
    Ok((sequence.parse().map_err(|_| wrong())?, bytes))
}

fn encode(record: Record) -> v1::AuditRecord {
    let outcome = record.outcome.as_str().to_owned();
    let Record { sequence, time, tenant, caller, peer, action, resources, trace, behind: _, outcome: end } = record;
    let told = v1::AuditRecord {
        sequence,
        time_micros: time,
        tenant,
        caller,
        peer,
        action,
        resources,
        trace,
        outcome,
        ..Default::default()
    };
    match end {
        Outcome::Asked => told,
        Outcome::Done { of, before, after } => {
            v1::AuditRecord { of, revision_before: before, revision_after: after, ..told }
        }
        Outcome::Failed { of, reason } => v1::AuditRecord { of, reason, ..told },
        Outcome::GivenUp { of } => v1::AuditRecord { of, ..told },
        Outcome::Refused { reason, count, since } => v1::AuditRecord { reason, count, since_micros: since, ..told },
        Outcome::Removed { through } => v1::AuditRecord { through, ..told },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::hex;

    #[test]
    fn a_head_reads_back_as_it_was_told_and_nothing_else_does() {
        let hash: Hash = std::array::from_fn(|index| index as u8);
        assert_eq!(decode_head(&format!("7:{}", hex(&hash))), Ok((7, hash)));
        let long = "0".repeat(65);
        for wrong in [
            "",
            "7",
            ":",
            "7:",
            "x:00",
            &format!("7:{long}"),
            &format!("7:{}", "ü".repeat(32)),
            &format!("-7:{}", hex(&hash)),
        ] {
            assert_eq!(decode_head(wrong).expect_err(wrong).reason, "BAD_HEAD");
        }
    }
}
