//! Notifications as receivers of Alertmanager read them: version "4" of its webhook format
//! (prometheus.io/docs/alerting/latest/configuration, "webhook_config"). It is made here and nowhere
//! else, and knows nothing of how it is sent.

use std::collections::BTreeMap;

use hydrant_storage::order::Micros;
use serde_json::{Map, Value as Json, json};
use xxhash_rust::xxh3::xxh3_64;

use super::alerts::{Alert, OfView, Whose};
use crate::clock::rfc3339;
use crate::registry::promise::Severity;

/// What people read of a view's alerts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub severity: Severity,
    /// Of the view; may be empty.
    pub owner: String,
    pub summary: String,
    pub description: String,
}

/// The time that Alertmanager gives to what has not ended.
const NOT_ENDED: &str = "0001-01-01T00:00:00Z";

type Texts = BTreeMap<&'static str, String>;

/// One notification: what holds now, and what was told last and doesn't hold any more.
pub fn notification(whose: &Whose, of_view: &OfView, now: Micros, told: &Told) -> String {
    let (tenant, view) = whose;
    let mut alerts: BTreeMap<Alert, (Micros, bool)> =
        of_view.told.iter().map(|(alert, since)| (*alert, (*since, false))).collect();
    alerts.extend(of_view.holding.iter().map(|(alert, since)| (*alert, (*since, true))));
    let labels: Vec<Texts> = alerts.keys().map(|alert| labels(*alert, whose, told)).collect();
    let annotations = annotations(told);
    let each = alerts.values().zip(&labels).map(|((since, holds), labels)| {
        json!({
            "status": status(*holds),
            "labels": labels,
            "annotations": annotations,
            "startsAt": rfc3339(*since),
            "endsAt": if *holds { NOT_ENDED.to_owned() } else { rfc3339(now) },
            "generatorURL": "",
            "fingerprint": fingerprint(labels),
        })
    });
    let group_key = format!("{{}}:{{tenant=\"{tenant}\", view=\"{view}\"}}");
    let body = json!({
        "version": "4",
        "groupKey": group_key,
        "truncatedAlerts": 0,
        "status": status(!of_view.holding.is_empty()),
        "receiver": "hydrant",
        "groupLabels": {"tenant": tenant, "view": view},
        "commonLabels": common(&labels),
        "commonAnnotations": annotations,
        "externalURL": "",
        "alerts": each.collect::<Vec<Json>>(),
    });
    body.to_string()
}

fn status(holds: bool) -> &'static str {
    if holds { "firing" } else { "resolved" }
}

fn labels(alert: Alert, (tenant, view): &Whose, told: &Told) -> Texts {
    BTreeMap::from([
        ("alertname", alert.name().to_owned()),
        ("tenant", tenant.to_string()),
        ("view", view.to_string()),
        ("severity", alert.severity(told.severity).as_str().to_owned()),
    ])
}

fn annotations(told: &Told) -> Texts {
    let mut annotations =
        BTreeMap::from([("summary", told.summary.clone()), ("description", told.description.clone())]);
    if !told.owner.is_empty() {
        annotations.insert("owner", told.owner.clone());
    }
    annotations
}

/// The labels that all alerts have alike.
fn common(labels: &[Texts]) -> Map<String, Json> {
    let Some((first, others)) = labels.split_first() else { return Map::new() };
    let alike = first.iter().filter(|(name, value)| others.iter().all(|other| other.get(*name) == Some(value)));
    alike.map(|(name, value)| ((*name).to_owned(), json!(value))).collect()
}

/// The same for the same labels, and only for them.
fn fingerprint(labels: &Texts) -> String {
    let mut bytes = Vec::new();
    for (name, value) in labels {
        for text in [*name, value.as_str()] {
            bytes.extend_from_slice(text.as_bytes());
            // In no UTF-8 text, so that no two lists of texts are the same bytes.
            bytes.push(0xFF);
        }
    }
    format!("{:016x}", xxh3_64(&bytes))
}
