//! Who is let in to which method: every method that is served stands here with whether it is audited and
//! the rule for its callers, which is asked before anything of a request is read. What a rule can't tell by
//! the method alone (a Flight command, a single view), the handler's permit asks again. An unknown method
//! is nobody's.

use std::sync::Arc;

use futures::future::BoxFuture;
use tonic::codegen::http::{Extensions, HeaderMap, header};

use super::Caller;
use super::trail::{self, Audited, Trail};
use crate::audit::{Asked, Audit};
use crate::error::{Code, Error, Result};
use crate::tenancy::{Action, Authenticates, Identity, grants};

/// No credential is longer.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Anybody: what load balancers and orchestrators ask.
    Anybody,
    /// Whoever is known.
    AnyCaller,
    /// Who may do this.
    Needs(Action),
    /// Who may do one of these: which, the request says.
    NeedsOneOf(&'static [Action]),
}

/// A method that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// As in a path, without its first slash.
    pub name: &'static str,
    pub rule: Rule,
    /// Whether calls of it are in the audit log.
    pub audited: Audited,
}

/// Who was not let in.
pub(super) enum Turned {
    Away(Error),
    /// Not yet: whether the credential is good is known once this is ready.
    Later(BoxFuture<'static, ()>),
}

/// What is asked of whoever comes to a port.
#[derive(Clone, Debug)]
pub struct Door {
    authenticates: Arc<dyn Authenticates>,
    /// Where refusals are told.
    audit: Option<Audit>,
}

impl Door {
    pub fn new(authenticates: Arc<dyn Authenticates>, audit: Audit) -> Self {
        Self { authenticates, audit: Some(audit) }
    }

    /// Where everybody is the operator.
    #[cfg(test)]
    pub fn open() -> Self {
        Self::of(Arc::new(crate::tenancy::LoopbackOnly))
    }

    /// One that tells nobody of refusals.
    #[cfg(test)]
    pub fn of(authenticates: Arc<dyn Authenticates>) -> Self {
        Self { authenticates, audit: None }
    }

    /// Refuses who may not do this: UNAUTHENTICATED, PERMISSION_DENIED.
    pub(super) async fn let_in_to(&self, action: Action, headers: &HeaderMap) -> Result<()> {
        let known = match self.know(headers, true) {
            Err(Turned::Later(known)) => {
                known.await;
                self.authenticates.authenticate(token(headers)?)?
            }
            Err(Turned::Away(refused)) => return Err(refused),
            Ok(identity) => identity,
        };
        grants::check(&known, action)
    }

    /// Whose the credential is. Only where it is refused is it asked whether there is something to wait for.
    fn know(&self, headers: &HeaderMap, may_wait: bool) -> Result<Identity, Turned> {
        let token = token(headers).map_err(Turned::Away)?;
        self.authenticates.authenticate(token).map_err(|refused| {
            let awaited = if may_wait { self.authenticates.awaits(token) } else { None };
            awaited.map_or(Turned::Away(refused), Turned::Later)
        })
    }

    /// Tells of a caller who was let in, and then refused by what their credential is limited to.
    pub(super) fn note_outside(&self, caller: &Caller, reason: &str) {
        if let Some(audit) = &self.audit {
            audit.note_refused(trail::attempt(caller), reason);
        }
    }

    /// Who calls, if they may call this method. UNAUTHENTICATED, PERMISSION_DENIED. With `may_wait`, it may
    /// be that first something has to be waited for.
    pub(super) fn let_in(
        &self,
        method: Option<&'static Method>,
        headers: &HeaderMap,
        extensions: &Extensions,
        may_wait: bool,
    ) -> Result<Caller, Turned> {
        let (name, rule) = method.map_or(("unknown", Rule::AnyCaller), |method| (method.name, method.rule));
        let peer = trail::peer_of(extensions);
        let tell = |known: Option<&Identity>, refused: &Error| {
            if let Some(audit) = &self.audit {
                let caller = known.map(|identity| identity.name().to_owned()).unwrap_or_default();
                let tenant = known.map(|identity| identity.tenant().to_string()).unwrap_or_default();
                let (peer, action) = (trail::told(peer), trail::short(name).to_owned());
                audit.note_refused(Asked { tenant, caller, peer, action, ..Asked::default() }, refused.reason);
            }
        };
        let identity = match rule {
            Rule::Anybody => Identity::nobody(),
            _ => self.know(headers, may_wait).inspect_err(|turned| {
                if let Turned::Away(refused) = turned {
                    tell(None, refused);
                }
            })?,
        };
        let allowed = match rule {
            Rule::Anybody | Rule::AnyCaller => Ok(()),
            Rule::Needs(action) => grants::check(&identity, action),
            Rule::NeedsOneOf(actions) => check_one_of(&identity, actions),
        };
        allowed.inspect_err(|refused| tell(Some(&identity), refused)).map_err(Turned::Away)?;
        Ok(Caller { identity, peer, trail: Trail::begin(method, headers) })
    }
}

/// The refusal of the first, where none is granted.
fn check_one_of(identity: &Identity, actions: &[Action]) -> Result<()> {
    let mut refused = None;
    for action in actions {
        match grants::check(identity, *action) {
            Ok(()) => return Ok(()),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    refused.map_or(Ok(()), Err)
}

/// The credential of `authorization: Bearer …`.
fn token(headers: &HeaderMap) -> Result<Option<&str>> {
    let bad = |message: &str| {
        Error::new(Code::Unauthenticated, "BAD_AUTHORIZATION", message)
            .hint("send the header `authorization: Bearer KEY`, once")
    };
    let mut values = headers.get_all(header::AUTHORIZATION).into_iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(bad("there is more than one header 'authorization'"));
    }
    let text = value.to_str().map_err(|_| bad("the header 'authorization' is no text"))?;
    let scheme_and_token = text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let (_, token) = scheme_and_token.ok_or_else(|| bad("the header 'authorization' doesn't begin with 'Bearer '"))?;
    if token.len() > MAX_TOKEN_BYTES {
        return Err(bad("the credential is longer than any that there is"));
    }
    Ok(Some(token))
}

/// The method of a path. Only known ones become labels: a stranger's paths would be without number.
pub fn method_of(path: &str) -> Option<&'static Method> {
    let name = path.strip_prefix('/')?;
    METHODS.iter().find(|method| method.name == name)
}

/// Always changes something.
const fn change(name: &'static str, rule: Rule) -> Method {
    Method { name, rule, audited: Audited::Always }
}

/// Backfills, beside ingest and spines.
const fn may_change(name: &'static str, rule: Rule) -> Method {
    Method { name, rule, audited: Audited::Sometimes }
}

/// Changes nothing, or is a write of rows, which the log itself tells; or isn't ours.
const fn quiet(name: &'static str, rule: Rule) -> Method {
    Method { name, rule, audited: Audited::Never }
}

const READ_DEFINITIONS: Rule = Rule::Needs(Action::ReadDefinitions);
/// Tenants are definitions too, and the platform's.
const READ_DEFINITIONS_OR_TENANTS: Rule = Rule::NeedsOneOf(&[Action::ReadDefinitions, Action::ManageTenants]);
const CHANGE_DEFINITIONS_OR_TENANTS: Rule = Rule::NeedsOneOf(&[Action::ChangeDefinitions, Action::ManageTenants]);
/// An admin manages its tenant's keys; the platform its own, and a tenant's first.
const MANAGE_KEYS: Rule = Rule::NeedsOneOf(&[Action::ManageKeys, Action::ManageTenants]);
/// Of tenants the platform; of keys whoever manages them.
const CHANGE_QUOTAS: Rule = Rule::NeedsOneOf(&[Action::ChangeQuotas, Action::ManageKeys]);
const READ_HISTORY: Rule = Rule::Needs(Action::ReadHistory);
const CHANGE_DEFINITIONS: Rule = Rule::Needs(Action::ChangeDefinitions);
const WRITE: Rule = Rule::Needs(Action::Write);
const BACK_UP: Rule = Rule::Needs(Action::BackUp);
const BY_FLIGHT: Rule = Rule::NeedsOneOf(&[Action::ReadDefinitions, Action::ReadHistory]);

/// What is asked for most comes first.
const METHODS: [Method; METHOD_COUNT] = [
    quiet("hydrant.v1.OnlineService/GetOnlineFeatures", Rule::Needs(Action::ReadOnline)),
    quiet("hydrant.v1.OnlineService/StreamOnlineFeatures", Rule::Needs(Action::ReadInBulk)),
    quiet("hydrant.v1.IngestService/Ingest", WRITE),
    quiet("hydrant.v1.IngestService/IngestStream", WRITE),
    change("hydrant.v1.IngestService/Delete", WRITE),
    change("hydrant.v1.RegistryService/CreateDefinition", CHANGE_DEFINITIONS_OR_TENANTS),
    quiet("hydrant.v1.RegistryService/GetDefinition", READ_DEFINITIONS_OR_TENANTS),
    quiet("hydrant.v1.RegistryService/ListDefinitions", READ_DEFINITIONS_OR_TENANTS),
    change("hydrant.v1.RegistryService/UpdateDefinition", CHANGE_DEFINITIONS_OR_TENANTS),
    change("hydrant.v1.RegistryService/DeleteDefinition", CHANGE_DEFINITIONS_OR_TENANTS),
    quiet("hydrant.v1.RegistryService/Plan", READ_DEFINITIONS_OR_TENANTS),
    change("hydrant.v1.RegistryService/Apply", CHANGE_DEFINITIONS_OR_TENANTS),
    quiet("hydrant.v1.RegistryService/GetLineage", READ_DEFINITIONS),
    quiet("hydrant.v1.RegistryService/GetServerInfo", Rule::AnyCaller),
    quiet("hydrant.v1.LineageService/GetLineageGraph", READ_DEFINITIONS),
    quiet("hydrant.v1.CatalogService/Search", READ_DEFINITIONS),
    quiet("hydrant.v1.CatalogService/ListRevisions", READ_DEFINITIONS),
    // Who only wants to know what it would do needn't be allowed to do it.
    change(
        "hydrant.v1.CatalogService/Rollback",
        Rule::NeedsOneOf(&[Action::ChangeDefinitions, Action::ReadDefinitions]),
    ),
    quiet("hydrant.v1.HistoryService/ExplainTrainingSet", READ_HISTORY),
    quiet("hydrant.v1.HistoryService/Why", Rule::Needs(Action::ReadOnline)),
    change("hydrant.v1.TrainingSetService/CreateTrainingSet", READ_HISTORY),
    quiet("hydrant.v1.TrainingSetService/GetTrainingSet", READ_HISTORY),
    quiet("hydrant.v1.TrainingSetService/ListTrainingSets", READ_HISTORY),
    quiet("hydrant.v1.TrainingSetService/VerifyTrainingSet", READ_HISTORY),
    change("hydrant.v1.TrainingSetService/DeleteTrainingSet", READ_HISTORY),
    quiet("hydrant.v1.BackfillService/GetBackfill", WRITE),
    change("hydrant.v1.BackfillService/Materialize", WRITE),
    change("hydrant.v1.BackfillService/AbandonBackfill", WRITE),
    change("hydrant.v1.BackupService/CreateBackup", BACK_UP),
    quiet("hydrant.v1.BackupService/ListBackups", BACK_UP),
    change("hydrant.v1.BackupService/DeleteBackup", BACK_UP),
    change("hydrant.v1.AccessService/CreateKey", MANAGE_KEYS),
    quiet("hydrant.v1.AccessService/GetKey", MANAGE_KEYS),
    quiet("hydrant.v1.AccessService/ListKeys", MANAGE_KEYS),
    change("hydrant.v1.AccessService/RotateKey", MANAGE_KEYS),
    change("hydrant.v1.AccessService/RevokeKey", MANAGE_KEYS),
    quiet("hydrant.v1.AccessService/WhoAmI", Rule::AnyCaller),
    quiet("hydrant.v1.QuotaService/GetQuotas", Rule::Needs(Action::ReadQuotas)),
    quiet("hydrant.v1.QuotaService/ListQuotas", Rule::Needs(Action::ReadQuotas)),
    change("hydrant.v1.QuotaService/UpdateQuotas", CHANGE_QUOTAS),
    change("hydrant.v1.QuotaService/RaiseQuotas", CHANGE_QUOTAS),
    change("hydrant.v1.ErasureService/EraseKey", Rule::Needs(Action::Erase)),
    quiet("hydrant.v1.ErasureService/GetErasure", Rule::Needs(Action::Erase)),
    quiet("hydrant.v1.ErasureService/ListErasures", Rule::Needs(Action::Erase)),
    quiet("hydrant.v1.AuditService/ListAuditRecords", Rule::Needs(Action::ReadAudit)),
    quiet("hydrant.v1.AuditService/VerifyAudit", Rule::Needs(Action::ReadAudit)),
    change("hydrant.v1.SharingService/CreateShare", CHANGE_DEFINITIONS),
    quiet("hydrant.v1.SharingService/GetShare", READ_DEFINITIONS),
    quiet("hydrant.v1.SharingService/ListShares", READ_DEFINITIONS),
    change("hydrant.v1.SharingService/WithdrawShare", CHANGE_DEFINITIONS),
    quiet("hydrant.v1.UsageService/GetUsage", Rule::Needs(Action::ReadUsage)),
    quiet("hydrant.v1.UsageService/ListUsage", Rule::Needs(Action::ReadUsage)),
    quiet("hydrant.v1.FreshnessService/GetFreshness", READ_DEFINITIONS),
    quiet("hydrant.v1.FreshnessService/ListFreshness", READ_DEFINITIONS),
    change("hydrant.v1.FreshnessService/SilenceFreshness", CHANGE_DEFINITIONS),
    quiet("hydrant.v1.FreshnessService/ListSilences", READ_DEFINITIONS),
    change("hydrant.v1.FreshnessService/DeleteSilence", CHANGE_DEFINITIONS),
    quiet("arrow.flight.protocol.FlightService/Handshake", Rule::AnyCaller),
    quiet("arrow.flight.protocol.FlightService/ListFlights", READ_DEFINITIONS),
    quiet("arrow.flight.protocol.FlightService/GetFlightInfo", BY_FLIGHT),
    quiet("arrow.flight.protocol.FlightService/PollFlightInfo", Rule::AnyCaller),
    quiet("arrow.flight.protocol.FlightService/GetSchema", BY_FLIGHT),
    quiet("arrow.flight.protocol.FlightService/DoGet", READ_HISTORY),
    may_change("arrow.flight.protocol.FlightService/DoPut", Rule::NeedsOneOf(&[Action::Write, Action::ReadHistory])),
    quiet("arrow.flight.protocol.FlightService/DoExchange", READ_HISTORY),
    quiet("arrow.flight.protocol.FlightService/DoAction", READ_HISTORY),
    quiet("arrow.flight.protocol.FlightService/ListActions", Rule::AnyCaller),
    quiet("grpc.health.v1.Health/Check", Rule::Anybody),
    quiet("grpc.health.v1.Health/Watch", Rule::Anybody),
    quiet("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Rule::AnyCaller),
    quiet("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Rule::AnyCaller),
];

const METHOD_COUNT: usize = 71;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use hydrant_proto::v1;
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// Every method of the services that a descriptor set describes.
    fn described(set: &[u8]) -> BTreeSet<String> {
        let set = FileDescriptorSet::decode(set).expect("the compiled-in descriptors are whole");
        let methods = set.file.iter().flat_map(|file| {
            file.service.iter().flat_map(move |service| {
                let service_name = format!("{}.{}", file.package(), service.name());
                service.method.iter().map(move |method| format!("{service_name}/{}", method.name()))
            })
        });
        methods.collect()
    }

    #[test]
    fn every_method_that_is_served_has_a_rule_and_no_other() {
        let ours = described(v1::FILE_DESCRIPTOR_SET);
        let health = described(tonic_health::pb::FILE_DESCRIPTOR_SET);
        let known: BTreeSet<String> = METHODS.iter().map(|method| method.name.to_owned()).collect();
        assert_eq!(known.len(), METHODS.len(), "a method stands here twice");
        let without: Vec<_> = ours.union(&health).filter(|name| !known.contains(*name)).collect();
        assert!(without.is_empty(), "no rule says who may call {without:?}");
        let foreign = ["arrow.flight.", "grpc.reflection."];
        let in_vain: Vec<_> = known
            .iter()
            .filter(|name| !ours.contains(*name) && !health.contains(*name))
            .filter(|name| !foreign.iter().any(|package| name.starts_with(package)))
            .collect();
        assert!(in_vain.is_empty(), "nobody serves {in_vain:?}");
    }

    #[test]
    fn only_what_orchestrators_ask_is_anybody_s() {
        let open: Vec<_> = METHODS.iter().filter(|method| method.rule == Rule::Anybody).collect();
        assert!(open.iter().all(|method| method.name.starts_with("grpc.health.v1.Health/")), "{open:?}");
    }

    #[test]
    fn a_stranger_s_paths_are_no_method() {
        let name = |path: &str| method_of(path).map(|method| method.name);
        let online = "hydrant.v1.OnlineService/GetOnlineFeatures";
        assert_eq!(name(&format!("/{online}")), Some(online));
        for path in ["/", "", "/hydrant.v1.OnlineService/Get", online] {
            assert_eq!(name(path), None);
        }
    }

    #[test]
    fn a_credential_is_read_from_one_header_and_nothing_else() {
        let headers = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().expect("a header's value"));
            }
            headers
        };
        assert_eq!(token(&headers(&[])).expect("none"), None);
        assert_eq!(token(&headers(&["Bearer key"])).expect("one"), Some("key"));
        assert_eq!(token(&headers(&["bearer key"])).expect("one"), Some("key"));
        let long = format!("Bearer {}", "x".repeat(MAX_TOKEN_BYTES + 1));
        for values in [&["Bearer a", "Bearer b"][..], &["Basic a"], &["Bearer"], &[""], &[&long]] {
            let refused = token(&headers(values)).expect_err("it is refused");
            assert_eq!((refused.code, refused.reason), (Code::Unauthenticated, "BAD_AUTHORIZATION"));
        }
    }
}
