//! How much is read what a change of definitions touches. It is asked before the change, since what is
//! deleted takes its reads along, and told beside what the change says. It decides nothing.

use std::collections::BTreeSet;

use hydrant_storage::names::Name;

use super::UseCases;
use super::wire::plans::encode_reads;
use super::wire::reads::reads_text;
use crate::clock::rfc3339;
use crate::error::{Error, Result};
use crate::registry::definition::Kind;
use crate::registry::part_of_deleted;
use crate::registry::plan::{Part, Plan};
use crate::tenancy::Permit;
use crate::usage::{ReadSummary, ReadsOfParts, SoFar};

/// What was read before a change; nothing for whoever may not see usage.
pub(super) struct Before(Option<SoFar>);

impl Before {
    pub async fn ask(use_cases: &UseCases, permit: &Permit) -> Result<Self> {
        use_cases.usage.so_far(permit).await.map(Self)
    }

    /// How much each part of a definition was read that a plan changes or takes away.
    pub async fn reads_of(self, plan: &Plan) -> Result<ReadsOfParts> {
        self.told(plan.parts()).await
    }

    async fn told(self, parts: BTreeSet<Part>) -> Result<ReadsOfParts> {
        match self.0 {
            Some(so_far) => so_far.told(parts).await,
            None => Ok(ReadsOfParts::new()),
        }
    }
}

/// How much a definition was read that is about to be deleted, or a version of a service. Reads are not told
/// apart by versions of views.
pub(super) async fn of_deleted(
    use_cases: &UseCases,
    permit: &Permit,
    (kind, name, version): (Kind, &Name, Option<u32>),
) -> Result<Option<ReadSummary>> {
    let Some(part) = part_of_deleted(kind, name, version) else { return Ok(None) };
    let told = Before::ask(use_cases, permit).await?.told([part].into()).await?;
    Ok(told.into_values().next())
}

/// The refusal to delete what is in use, with how much it is read.
pub(super) fn beside(mut refused: Error, reads: Option<&ReadSummary>) -> Error {
    let Some(reads) = reads.filter(|_| refused.reason == "DEFINITION_IN_USE").map(encode_reads) else { return refused };
    refused.message.push_str(&format!("; it was {}", reads_text(&reads)));
    let last = reads.last_online_micros.max(reads.last_training_micros);
    let refused = refused
        .with("reads_a_day", format!("{:.1}", reads.a_day))
        .with("readers", reads.readers)
        .with("reads_counted_since", rfc3339(reads.counted_since_micros));
    match last {
        Some(last) => refused.with("last_read", rfc3339(last)),
        None => refused,
    }
}
