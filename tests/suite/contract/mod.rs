//! The promises of docs/contract.md, section by section: one test a promise, named as a statement,
//! end to end through a node. What belongs to the inside of a part is tested beside that part;
//! `page` sees to it that every promise names a test that exists, and every test is named.

mod page;
mod s01_one_sentence;
mod s02_time;
mod s03_latest;
mod s04_expiry;
mod s05_status;
mod s06_join;
mod s08_writes;
mod s09_keys_and_values;
mod s12_corruption;
mod s13_provenance;
mod s14_backups;
mod s15_explanations;
mod s16_training_sets;
mod s17_backfills;
mod s18_access;
mod s19_quotas;
mod s20_audit;
mod s21_lineage;
mod s22_freshness;
mod s24_masking;
mod s25_erasure;
mod s26_shares;
mod s27_usage;
mod s28_view_versions;
mod s29_openlineage;
mod s31_retention;

use hydrant::access::NewKey;
use hydrant::tenancy::Role;
use serde_json::{Value as Json, json};

/// An API key of the caller's tenant with these roles, not limited.
fn new_key(roles: &[Role]) -> NewKey {
    NewKey {
        tenant: None,
        roles: roles.iter().copied().collect(),
        views: Vec::new(),
        services: Vec::new(),
        shared_views: Vec::new(),
        shared_services: Vec::new(),
        description: String::new(),
        expires_after: None,
    }
}

/// A row of the source `audits`.
fn audit(user: i64, happened: i64, noticed: i64, verdict: &str) -> Json {
    json!({"user_id": user, "happened": happened, "noticed": noticed, "verdict": verdict})
}

/// A shop: what users click is known when it arrives; facts are known when they happen, reports ten
/// minutes later, and audits when their column says.
const SHOP: &str = "
apiVersion: hydrant/v1
kind: Entity
metadata: {name: user}
spec: {joinKeys: [{name: user_id, type: int64}]}
---
apiVersion: hydrant/v1
kind: Entity
metadata: {name: item}
spec: {joinKeys: [{name: item_id, type: string}]}
---
apiVersion: hydrant/v1
kind: Source
metadata: {name: clicks}
spec:
  type: push
  eventTime: happened
  columns:
    - {name: user_id, type: int64}
    - {name: item_id, type: string}
    - {name: happened, type: timestamp}
    - {name: amount, type: float64}
    - {name: page, type: string}
    - {name: score, type: int64}
---
apiVersion: hydrant/v1
kind: Source
metadata: {name: facts}
spec:
  type: push
  eventTime: happened
  knownTime: event
  columns:
    - {name: user_id, type: int64}
    - {name: happened, type: timestamp}
    - {name: plan, type: string}
    - {name: level, type: int64}
---
apiVersion: hydrant/v1
kind: Source
metadata: {name: reports}
spec:
  type: push
  eventTime: happened
  knownTime: {event: +10m}
  maxFuture: 1h
  columns:
    - {name: user_id, type: int64}
    - {name: happened, type: timestamp}
    - {name: grade, type: string}
---
apiVersion: hydrant/v1
kind: Source
metadata: {name: audits}
spec:
  type: push
  eventTime: happened
  knownTime: {column: noticed}
  columns:
    - {name: user_id, type: int64}
    - {name: happened, type: timestamp}
    - {name: noticed, type: timestamp}
    - {name: verdict, type: string}
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: user_clicks}
spec:
  entities: [user]
  source: clicks
  ttl: 1h
  features: [{name: amount}, {name: page, default: none}]
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: user_scores}
spec:
  entities: [user]
  source: clicks
  features: [{name: score}]
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: pair_scores}
spec:
  entities: [user, item]
  source: clicks
  features: [{name: score}]
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: user_facts}
spec:
  entities: [user]
  source: facts
  features: [{name: plan}, {name: level, default: -1}]
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: recent_facts}
spec:
  entities: [user]
  source: facts
  ttl: 1h
  features: [{name: plan, default: free}, {name: level}]
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: user_reports}
spec:
  entities: [user]
  source: reports
  features: [{name: grade}]
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: user_audits}
spec:
  entities: [user]
  source: audits
  features: [{name: verdict}]
---
apiVersion: hydrant/v1
kind: FeatureService
metadata: {name: model}
spec:
  features:
    - user_clicks
    - user_facts:plan
    - {view: user_facts, features: [level], as: friend, keys: {user_id: friend_id}}
";
