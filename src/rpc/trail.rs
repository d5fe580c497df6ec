//! What a call leaves in the audit log: of a call that changes something, which the door's table says by its
//! method, the record of what was asked, written before it is done, and what came of it, written when its
//! answer ends. No message is looked into here; handlers say what they are about to change.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hydrant_storage::names::Name;
use tonic::codegen::http::{Extensions, HeaderMap};
use tonic::transport::server::TcpConnectInfo;

use super::door::Method;
use super::{Caller, UseCases};
use crate::audit::{Asked, Conclusion, Entry};
use crate::error::{Code, Error, Result};
use crate::registry::Registry;
use crate::tenancy::{Action, Demand, OUT_OF_REACH, Permit};

/// Whether the calls of a method are audited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audited {
    /// No permit is given before the record is written.
    Always,
    /// The request says whether it changes something.
    Sometimes,
    Never,
}

/// One call's. Clones are the same.
#[derive(Clone, Debug)]
pub struct Trail {
    /// Without its package.
    method: &'static str,
    audited: Audited,
    /// `None`: nothing is ever written of it.
    kept: Option<Arc<Kept>>,
}

#[derive(Debug)]
struct Kept {
    trace: String,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Nothing,
    /// It only checks, and changes nothing.
    Rehearsed,
    Asked {
        /// The caller's tenant's, and that of another one which it is about too.
        entries: Vec<Entry>,
        revision: Option<(u64, Registry)>,
    },
    Ended,
}

impl Trail {
    /// Of a call of this method; `None`: of one that nobody serves.
    pub fn begin(method: Option<&'static Method>, headers: &HeaderMap) -> Self {
        let (name, audited) = method.map_or(("unknown", Audited::Never), |method| (method.name, method.audited));
        let kept = (audited != Audited::Never).then(|| {
            let parent = headers.get("traceparent").and_then(|value| value.to_str().ok());
            // Version, trace, span and flags.
            let trace = parent.and_then(|parent| parent.split('-').nth(1)).unwrap_or_default().to_owned();
            Arc::new(Kept { trace, state: Mutex::new(State::Nothing) })
        });
        Self { method: short(name), audited, kept }
    }

    /// Whether something may be written of it.
    pub(super) fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// That a permit may be given. INTERNAL where something would be changed that is not written down: a
    /// defect, which no test of the method would get past.
    pub(super) fn check(&self) -> Result<()> {
        match &self.kept {
            Some(kept) if self.audited == Audited::Always && matches!(*kept.lock(), State::Nothing) => {
                Err(Error::internal(format!("{} would not be audited", self.method)))
            }
            _ => Ok(()),
        }
    }

    /// The answer has ended: what came of the call. A deadline that has passed says nothing of that. Whether
    /// it is told by this.
    pub(super) fn end(&self, code: Option<Code>, reason: &str) -> bool {
        let Some(kept) = &self.kept else { return false };
        let ended = std::mem::replace(&mut *kept.lock(), State::Ended);
        let State::Asked { entries, revision } = ended else { return false };
        let entries = entries.into_iter();
        match code {
            None => {
                let after = revision.as_ref().map(|(_, registry)| registry.snapshot().revision);
                let before = revision.map(|(before, _)| before);
                entries.for_each(|entry| entry.conclude(Conclusion::Done { before, after }));
            }
            Some(Code::DeadlineExceeded) => entries.for_each(drop),
            Some(_) => entries.for_each(|entry| entry.conclude(Conclusion::Failed { reason: reason.to_owned() })),
        }
        true
    }

    /// Nobody waits for the answer any more.
    pub(super) fn give_up(&self) {
        if let Some(kept) = &self.kept {
            let given_up = std::mem::replace(&mut *kept.lock(), State::Ended);
            drop(given_up);
        }
    }
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UseCases {
    /// Leave to change something: as [`Self::permit`], once it is written down what. `resources` are names,
    /// such as `FeatureView/airport_weather`, never values.
    pub(super) async fn change(&self, caller: &Caller, action: Action, resources: Vec<String>) -> Result<Permit> {
        let permit = self.let_do(caller, action)?;
        self.ask(caller, &permit, resources).await?;
        Ok(permit)
    }

    /// As [`Self::change`], of what is another tenant's business too: it is told what is done, by which
    /// tenant, and not by whom of it.
    pub(super) async fn change_for(
        &self,
        caller: &Caller,
        action: Action,
        resources: Vec<String>,
        other: Option<&Name>,
    ) -> Result<Permit> {
        let permit = self.let_do(caller, action)?;
        let other = other.map(|other| Asked {
            tenant: other.to_string(),
            caller: format!("tenants/{}", permit.tenant()),
            action: caller.trail.method.to_owned(),
            resources: resources.clone(),
            ..Asked::default()
        });
        self.ask_with(caller, &permit, resources, other).await?;
        Ok(permit)
    }

    /// Writes down what is about to be changed by a permit that is there already.
    pub(super) async fn ask(&self, caller: &Caller, permit: &Permit, resources: Vec<String>) -> Result<()> {
        self.ask_with(caller, permit, resources, None).await
    }

    async fn ask_with(
        &self,
        caller: &Caller,
        permit: &Permit,
        resources: Vec<String>,
        other: Option<Asked>,
    ) -> Result<()> {
        let Some(kept) = &caller.trail.kept else {
            return Err(Error::internal("a change by a method that is said to change nothing"));
        };
        let asked = Asked {
            tenant: permit.tenant().to_string(),
            caller: permit.caller().to_owned(),
            peer: told(caller.peer),
            action: caller.trail.method.to_owned(),
            resources,
            trace: kept.trace.clone(),
        };
        let is_of_definitions = matches!(permit.action(), Action::ChangeDefinitions)
            || (permit.action() == Action::ManageTenants && caller.trail.method.starts_with("RegistryService/"));
        let lane = asked.tenant.clone();
        let asked = [asked].into_iter().chain(other);
        // Written together, both in the turn of the caller's tenant: what it does doesn't wait for another.
        let entries = asked.map(|asked| self.audit.ask_by(lane.clone(), asked));
        let entries = futures::future::try_join_all(entries).await?;
        let revision = is_of_definitions.then(|| (self.registry.snapshot().revision, self.registry.clone()));
        *kept.lock() = State::Asked { entries, revision };
        Ok(())
    }

    /// Leave to find out whether something could be changed, without changing it.
    pub(super) fn rehearse(&self, caller: &Caller, action: Action) -> Result<Permit> {
        if let Some(kept) = &caller.trail.kept {
            *kept.lock() = State::Rehearsed;
        }
        self.let_do(caller, action)
    }

    /// As [`Self::change`], when it is the request's turn; `resources` are told once there is the permit.
    pub(super) async fn change_in_turn(
        &self,
        caller: &Caller,
        action: Action,
        demand: Demand,
        resources: Vec<String>,
    ) -> Result<Permit> {
        let permit = self.line_up(caller, action, demand).await?;
        self.ask(caller, &permit, resources).await?;
        Ok(permit)
    }

    pub(super) async fn line_up(&self, caller: &Caller, action: Action, demand: Demand) -> Result<Permit> {
        let admitted = self.tenancy.admit(&caller.identity, action, demand).await;
        admitted.inspect_err(|error| self.note_refused(caller, error))
    }

    pub(super) fn let_do(&self, caller: &Caller, action: Action) -> Result<Permit> {
        let permit = self.tenancy.authorize(&caller.identity, action);
        permit.inspect_err(|error| self.note_refused(caller, error))
    }

    /// Tells the audit log of an attempt that was not allowed.
    pub(super) fn note_refused(&self, caller: &Caller, error: &Error) {
        // What is out of a key's reach is noted with the answer.
        if matches!(error.code, Code::PermissionDenied | Code::Unauthenticated) && error.reason != OUT_OF_REACH {
            self.audit.note_refused(attempt(caller), error.reason);
        }
    }
}

/// What a caller has tried, for the audit log.
pub(super) fn attempt(caller: &Caller) -> Asked {
    Asked {
        tenant: caller.identity.tenant().to_string(),
        caller: caller.identity.name().to_owned(),
        peer: told(caller.peer),
        action: caller.trail.method.to_owned(),
        ..Asked::default()
    }
}

/// Where a connection comes from.
pub(super) fn peer_of(extensions: &Extensions) -> Option<SocketAddr> {
    extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr)
}

/// A method's name without its package.
pub(super) fn short(method: &'static str) -> &'static str {
    method.rsplit('.').next().unwrap_or(method)
}

/// An address for the audit log.
pub(super) fn told(address: Option<SocketAddr>) -> String {
    address.map(|address| address.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use hydrant_proto::v1;
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::super::door::method_of;
    use super::*;

    /// What changes nothing, or is a write of rows, which the log itself tells.
    const READS: [&str; 35] = [
        "hydrant.v1.OnlineService/GetOnlineFeatures",
        "hydrant.v1.OnlineService/StreamOnlineFeatures",
        "hydrant.v1.IngestService/Ingest",
        "hydrant.v1.IngestService/IngestStream",
        "hydrant.v1.RegistryService/GetDefinition",
        "hydrant.v1.RegistryService/ListDefinitions",
        "hydrant.v1.RegistryService/Plan",
        "hydrant.v1.RegistryService/GetLineage",
        "hydrant.v1.RegistryService/GetServerInfo",
        "hydrant.v1.LineageService/GetLineageGraph",
        "hydrant.v1.CatalogService/Search",
        "hydrant.v1.CatalogService/ListRevisions",
        "hydrant.v1.HistoryService/ExplainTrainingSet",
        "hydrant.v1.HistoryService/Why",
        "hydrant.v1.TrainingSetService/GetTrainingSet",
        "hydrant.v1.TrainingSetService/ListTrainingSets",
        "hydrant.v1.TrainingSetService/VerifyTrainingSet",
        "hydrant.v1.BackfillService/GetBackfill",
        "hydrant.v1.BackupService/ListBackups",
        "hydrant.v1.SharingService/GetShare",
        "hydrant.v1.SharingService/ListShares",
        "hydrant.v1.UsageService/GetUsage",
        "hydrant.v1.UsageService/ListUsage",
        "hydrant.v1.FreshnessService/GetFreshness",
        "hydrant.v1.FreshnessService/ListFreshness",
        "hydrant.v1.FreshnessService/ListSilences",
        "hydrant.v1.AccessService/GetKey",
        "hydrant.v1.AccessService/ListKeys",
        "hydrant.v1.AccessService/WhoAmI",
        "hydrant.v1.QuotaService/GetQuotas",
        "hydrant.v1.QuotaService/ListQuotas",
        "hydrant.v1.ErasureService/GetErasure",
        "hydrant.v1.ErasureService/ListErasures",
        "hydrant.v1.AuditService/ListAuditRecords",
        "hydrant.v1.AuditService/VerifyAudit",
    ];

    #[test]
    fn every_method_says_whether_it_is_audited() {
        let set = FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).expect("the compiled-in descriptors are whole");
        let ours: BTreeSet<String> = set
            .file
            .iter()
            .flat_map(|file| {
                file.service.iter().map(move |service| (format!("{}.{}", file.package(), service.name()), service))
            })
            .flat_map(|(name, service)| service.method.iter().map(move |method| format!("{name}/{}", method.name())))
            .collect();
        let audited = |name: &str| method_of(&format!("/{name}")).map(|method| method.audited);
        let quiet: BTreeSet<String> = READS.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(quiet.len(), READS.len(), "a method stands here twice");
        for name in &ours {
            let expected = if quiet.contains(name) { Audited::Never } else { Audited::Always };
            assert_eq!(audited(name), Some(expected), "{name}");
        }
        let in_vain: Vec<_> = quiet.difference(&ours).collect();
        assert!(in_vain.is_empty(), "nobody serves {in_vain:?}");
        assert_eq!(audited("arrow.flight.protocol.FlightService/DoPut"), Some(Audited::Sometimes));
    }

    #[tokio::test]
    async fn what_was_given_up_or_came_too_late_may_have_been_made() {
        let store_time = crate::clock::StoreTime::new(Arc::new(crate::clock::ManualClock::new(5)), 5);
        let (files, options) = (
            hydrant_storage::files::LossyFiles::new(1),
            crate::audit::AuditOptions {
                directory: "/data/audit".into(),
                segment_bytes: 1 << 20,
                retention: std::time::Duration::from_hours(24),
            },
        );
        let audit = crate::audit::Audit::open(Arc::new(files), Arc::new(store_time), options).expect("it opens");
        let begin = async || {
            let trail = Trail::begin(method_of("/hydrant.v1.RegistryService/Apply"), &HeaderMap::new());
            let entry = audit.ask(Asked::default()).await.expect("there is room");
            *trail.kept.as_ref().expect("it is audited").lock() = State::Asked { entries: vec![entry], revision: None };
            trail
        };
        assert!(begin().await.end(Some(Code::DeadlineExceeded), "DEADLINE_EXCEEDED"));
        begin().await.give_up();
        assert!(begin().await.end(Some(Code::NotFound), "VIEW_NOT_FOUND"));
        let ended = begin().await;
        assert!(ended.end(None, "") && !ended.end(None, ""), "it is told once");
        ended.give_up();
        let permit = crate::testing::permit(Action::ReadAudit);
        let page = audit.list(&permit, crate::audit::Filter::default(), None, 100).await.expect("whole");
        let told: Vec<&str> = page.records.iter().rev().map(|record| record.outcome.as_str()).collect();
        assert_eq!(told, ["asked", "given_up", "asked", "given_up", "asked", "failed", "asked", "done"]);
    }

    #[test]
    fn no_permit_is_given_to_a_change_that_was_not_written_down() {
        let headers = HeaderMap::new();
        assert!(Trail::begin(method_of("/hydrant.v1.RegistryService/Apply"), &headers).check().is_err());
        assert!(Trail::begin(method_of("/hydrant.v1.RegistryService/Plan"), &headers).check().is_ok());
        assert!(Trail::begin(method_of("/arrow.flight.protocol.FlightService/DoPut"), &headers).check().is_ok());
    }
}
