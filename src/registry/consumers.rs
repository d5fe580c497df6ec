//! What consumers use has to be there once all else of a request is in place. Whoever takes it away is
//! perhaps not their owner, so each problem names whom to ask.

use super::definition::{ConsumerSpec, Definition, Kind, Spec};
use super::state::TenantState;
use super::validation::Violations;
use super::world::{Referred, World};
use crate::error::Violation;

/// How many versions a problem lists.
const SHOWN_VERSIONS: usize = 20;

/// Looks at each consumer of a request; `new` is the tenant after it.
pub(super) fn check(new: &TenantState, world: &World<'_>, definitions: &[Definition], violations: &mut Violations) {
    for (index, definition) in definitions.iter().enumerate() {
        let Spec::Consumer(spec) = &definition.spec else { continue };
        let mut missing = Violations::default();
        check_consumer(new, world, definitions, spec, &format!("definitions[{index}].spec"), &mut missing);
        // That it has no owner is a problem of its own.
        let owner = definition.metadata.owner.trim();
        let asked = if owner.is_empty() { String::new() } else { format!("; the consumer's owner is {owner}") };
        for Violation { path, message } in missing.into_vec() {
            violations.add(path, format!("{message}{asked}"));
        }
    }
}

fn check_consumer(
    new: &TenantState,
    world: &World<'_>,
    definitions: &[Definition],
    spec: &ConsumerSpec,
    path: &str,
    violations: &mut Violations,
) {
    for (index, used) in spec.services.iter().enumerate() {
        let path = format!("{path}.services[{index}]");
        let name = &used.service;
        if world.unread.covers(Kind::FeatureService, name) {
            continue;
        }
        let Some(service) = new.services.get(name) else {
            // One that is among the definitions and can't be frozen has problems of its own.
            let is_given = |other: &Definition| other.kind() == Kind::FeatureService && other.name() == name;
            if !definitions.iter().any(is_given) {
                violations.add(path, format!("there is no feature service '{name}'"));
            }
            continue;
        };
        let numbers: Vec<u32> = service.versions.iter().map(|version| version.number).collect();
        if let Some(number) = used.version.filter(|number| !numbers.contains(number)) {
            let shown: Vec<String> = numbers.iter().rev().take(SHOWN_VERSIONS).map(ToString::to_string).collect();
            let message = format!("feature service '{name}' has no version {number}; it has {}", shown.join(", "));
            violations.add(path, message);
        }
    }
    for (index, used) in spec.features.iter().enumerate() {
        let path = format!("{path}.features[{index}]");
        match world.view(&used.view) {
            Referred::Unread => {}
            Referred::Absent => violations.add(path, format!("there is no feature view '{}'", used.view)),
            Referred::Read(view) => {
                if !view.features.iter().any(|feature| feature.name == used.feature) {
                    let message = format!("feature view '{}' has no feature '{}'", used.view, used.feature);
                    violations.add(path, message);
                }
            }
        }
    }
}
