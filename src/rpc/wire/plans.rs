//! Plans for the wire: changes, what each difference means, whom it touches and how much that is read, and
//! why a plan can't be applied. It only puts into shape.

use hydrant_proto::v1;

use super::definitions::encode_kind;
use crate::registry::graph::{NodeKind, Touched};
use crate::registry::plan::{Action, Change, Class, Difference, Part, Plan, Touches};
use crate::usage::{ReadSummary, ReadsOfParts};

/// With how much each part is read that changes or goes, as far as that is known.
pub fn encode_plan(plan: &Plan, reads: &ReadsOfParts) -> v1::PlanResponse {
    let refusals = plan.refusals.iter().map(|refusal| v1::PlanRefusal {
        path: refusal.path.clone(),
        message: refusal.message.clone(),
        in_use: refusal.is_in_use,
        reads: reads_of(refusal.part.as_ref(), reads),
    });
    v1::PlanResponse {
        registry_revision: plan.revision,
        changes: encode_changes(plan, reads),
        problems: Vec::new(),
        refusals: refusals.collect(),
    }
}

pub fn encode_changes(plan: &Plan, reads: &ReadsOfParts) -> Vec<v1::Change> {
    plan.changes.iter().map(|change| encode_change(change, reads)).collect()
}

pub fn encode_reads(summary: &ReadSummary) -> v1::Reads {
    v1::Reads {
        last_online_micros: summary.last_online,
        last_training_micros: summary.last_training,
        a_day: summary.a_day,
        readers: u32::try_from(summary.readers).unwrap_or(u32::MAX),
        more_readers: summary.has_more_readers,
        counted_since_micros: summary.since,
    }
}

fn reads_of(part: Option<&Part>, reads: &ReadsOfParts) -> Option<v1::Reads> {
    reads.get(part?).map(encode_reads)
}

fn encode_change(change: &Change, reads: &ReadsOfParts) -> v1::Change {
    use v1::change::Action as Wire;
    let action = match change.action {
        Action::Create => Wire::Create,
        Action::Update => Wire::Update,
        Action::Unchanged => Wire::Unchanged,
        Action::Delete => Wire::Delete,
    };
    v1::Change {
        kind: encode_kind(change.kind).into(),
        name: change.name.to_string(),
        action: action.into(),
        details: change.details(),
        affects: change.affects.iter().map(|(kind, name)| format!("{}/{name}", kind.as_str())).collect(),
        coming_version: change.coming_version,
        apply_again: change.apply_again.iter().map(|service| format!("FeatureService/{service}")).collect(),
        differences: change.differences.iter().map(|one| encode_difference(one, reads)).collect(),
        touches: change.touches.named.iter().map(encode_touched).collect(),
        touches_more: encode_more(&change.touches),
        reads: reads_of(change.part().as_ref(), reads),
    }
}

fn encode_difference(difference: &Difference, reads: &ReadsOfParts) -> v1::Difference {
    use v1::difference::Class as Wire;
    let class = match difference.class {
        Class::InPlace => Wire::InPlace,
        Class::NewServiceVersion => Wire::NewServiceVersion,
        Class::NewViewVersion => Wire::NewViewVersion,
        Class::Refused => Wire::Refused,
    };
    v1::Difference {
        text: difference.text.clone(),
        class: class.into(),
        why: difference.why.clone().unwrap_or_default(),
        touches: difference.touches.named.iter().map(encode_touched).collect(),
        touches_more: encode_more(&difference.touches),
        reads: reads_of(difference.part.as_ref(), reads),
        rows_that_go: None,
        rows_gone: None,
    }
}

fn encode_more(touches: &Touches) -> u32 {
    u32::try_from(touches.more).unwrap_or(u32::MAX)
}

fn encode_touched(touched: &Touched) -> v1::Touched {
    v1::Touched {
        kind: encode_node_kind(touched.kind).into(),
        name: touched.name.clone(),
        owner: touched.owner.clone(),
    }
}

/// The kind of a node of lineage, of which definitions are some.
pub fn encode_node_kind(kind: NodeKind) -> v1::Kind {
    match kind {
        NodeKind::Entity => v1::Kind::Entity,
        NodeKind::Source => v1::Kind::Source,
        NodeKind::Column => v1::Kind::Column,
        NodeKind::FeatureView => v1::Kind::FeatureView,
        NodeKind::Feature => v1::Kind::Feature,
        NodeKind::FeatureService => v1::Kind::FeatureService,
        NodeKind::Spine => v1::Kind::Spine,
        NodeKind::TrainingSet => v1::Kind::TrainingSet,
        NodeKind::Consumer => v1::Kind::Consumer,
        NodeKind::Share => v1::Kind::Share,
    }
}

/// The kind of node that a request means; `None` where it is no kind of node.
pub fn decode_node_kind(kind: i32) -> Option<NodeKind> {
    NodeKind::ALL.into_iter().find(|known| encode_node_kind(*known) as i32 == kind)
}
