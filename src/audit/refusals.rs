//! Refused attempts, counted before they are written: the same caller, method and reason within a minute
//! make one record, so that nobody fills the disk by trying. Bounded, and for each tenant by
//! itself: of too many different ones the rest is counted together.

use std::collections::BTreeMap;

use hydrant_storage::order::Micros;

use super::Asked;
use super::record::{Outcome, Record};

/// Within it, the same is told once more at most.
const MINUTE: Micros = 60_000_000;
/// Different ones that are counted by themselves.
const MAX_KINDS: usize = 1_024;
/// Of one tenant, and of those who are not known.
const MAX_EACH: usize = 64;
/// In the place of callers and actions of which there are too many.
const SEVERAL: &str = "(several)";

/// Tenant, caller, action and reason.
type Kind = (String, String, String, String);

#[derive(Debug, Default)]
pub struct Refusals {
    kinds: BTreeMap<Kind, Counted>,
}

#[derive(Debug)]
struct Counted {
    /// Of the last attempt.
    asked: Asked,
    count: u64,
    since: Micros,
    /// When it was written last.
    written: Option<Micros>,
}

impl Refusals {
    pub fn note(&mut self, asked: Asked, reason: &str, now: Micros) {
        let own: Kind = (asked.tenant.clone(), asked.caller.clone(), asked.action.clone(), reason.to_owned());
        let (kind, asked) = if self.kinds.contains_key(&own) || self.has_room(&asked.tenant) {
            (own, asked)
        } else {
            // There are no more of these than tenants, times the reasons that the server has.
            let several = Asked { caller: SEVERAL.to_owned(), action: SEVERAL.to_owned(), ..asked };
            let kind = (several.tenant.clone(), several.caller.clone(), several.action.clone(), reason.to_owned());
            (kind, several)
        };
        let counted = self.kinds.entry(kind).or_insert_with(|| Counted {
            asked: asked.clone(),
            count: 0,
            since: now,
            written: None,
        });
        if counted.count == 0 {
            counted.since = now;
        }
        counted.count += 1;
        counted.asked = asked;
    }

    fn has_room(&self, tenant: &str) -> bool {
        let first = (tenant.to_owned(), String::new(), String::new(), String::new());
        let of_tenant = self.kinds.range(first..).take_while(|((own, ..), _)| own == tenant);
        self.kinds.len() < MAX_KINDS && of_tenant.take(MAX_EACH).count() < MAX_EACH
    }

    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// What is to be written now, so many records at most; with `all`, everything that has not been.
    pub fn due(&mut self, now: Micros, all: bool, at_most: usize) -> Vec<Record> {
        let mut due = Vec::new();
        self.kinds.retain(|(.., reason), counted| {
            let is_long_ago = counted.written.is_none_or(|written| now.saturating_sub(written) >= MINUTE);
            if counted.count == 0 {
                return !is_long_ago;
            }
            if (is_long_ago || all) && due.len() < at_most {
                let outcome = Outcome::Refused { reason: reason.clone(), count: counted.count, since: counted.since };
                due.push(counted.asked.clone().into_record(now, outcome));
                counted.count = 0;
                counted.written = Some(now);
            }
            true
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(caller: &str) -> Asked {
        let action = "RegistryService/Apply".to_owned();
        Asked { caller: caller.to_owned(), action, ..Asked::default() }
    }

    fn counts(records: &[Record]) -> Vec<(String, u64)> {
        let count = |record: &Record| match record.outcome {
            Outcome::Refused { count, .. } => (record.caller.clone(), count),
            _ => panic!("{record:?}"),
        };
        records.iter().map(count).collect()
    }

    #[test]
    fn the_first_is_told_at_once_and_the_same_again_once_a_minute_with_how_often() {
        let mut refusals = Refusals::default();
        refusals.note(asked("eve"), "PERMISSION_DENIED", 0);
        assert_eq!(counts(&refusals.due(0, false, MAX_KINDS)), [("eve".to_owned(), 1)]);
        for at in 1..=500 {
            refusals.note(asked("eve"), "PERMISSION_DENIED", at);
        }
        assert_eq!(refusals.due(MINUTE - 1, false, MAX_KINDS), []);
        assert_eq!(counts(&refusals.due(MINUTE, false, MAX_KINDS)), [("eve".to_owned(), 500)]);
        assert_eq!(refusals.due(2 * MINUTE, false, MAX_KINDS), []);
        assert!(refusals.is_empty(), "what is over is forgotten");
    }

    #[test]
    fn nothing_that_is_counted_is_lost_when_everything_is_to_be_told() {
        let mut refusals = Refusals::default();
        for caller in ["ann", "eve", "eve"] {
            refusals.note(asked(caller), "UNAUTHENTICATED", 5);
        }
        assert_eq!(counts(&refusals.due(5, true, MAX_KINDS)), [("ann".to_owned(), 1), ("eve".to_owned(), 2)]);
        refusals.note(asked("eve"), "UNAUTHENTICATED", 6);
        assert_eq!(counts(&refusals.due(6, true, MAX_KINDS)), [("eve".to_owned(), 1)]);
    }

    #[test]
    fn of_ever_new_callers_no_more_is_kept_than_there_is_room_for() {
        let mut refusals = Refusals::default();
        for number in 0..100_000 {
            let tenant = format!("tenant {}", number % 1_000);
            refusals.note(Asked { tenant, ..asked(&number.to_string()) }, "UNAUTHENTICATED", 0);
        }
        let mut told = Vec::new();
        while let group = counts(&refusals.due(0, false, 100))
            && !group.is_empty()
        {
            assert!(group.len() <= 100);
            told.extend(group);
        }
        // Each tenant has one of its own for those of its callers for whom there is no room.
        assert_eq!(told.len(), MAX_KINDS + 1_000);
        assert_eq!(told.iter().map(|(_, count)| count).sum::<u64>(), 100_000);
    }

    #[test]
    fn one_tenant_s_refusals_take_nobody_else_s_room() {
        let mut refusals = Refusals::default();
        for caller in 0..10_000 {
            // As many actions as there may be, too.
            let action = format!("Service/{}", caller % 70);
            refusals.note(Asked { action, ..asked(&caller.to_string()) }, "UNAUTHENTICATED", 0);
        }
        refusals.note(Asked { tenant: "acme".to_owned(), ..asked("eve") }, "PERMISSION_DENIED", 0);
        let told = counts(&refusals.due(0, false, MAX_KINDS));
        assert_eq!(told.len(), MAX_EACH + 2);
        assert!(told.contains(&(SEVERAL.to_owned(), 10_000 - MAX_EACH as u64)));
        assert!(told.contains(&("eve".to_owned(), 1)));
    }
}
