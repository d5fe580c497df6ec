//! Refused attempts, counted before they are written: the same caller, method and reason within a minute
//! make one record, so that nobody fills the disk by trying. Bounded: of too many different ones the rest
//! is counted together.

use std::collections::BTreeMap;

use hydrant_storage::order::Micros;

use super::Asked;
use super::record::{Outcome, Record};

/// Within it, the same is told once more at most.
const MINUTE: Micros = 60_000_000;
/// Different ones that are counted by themselves.
const MAX_KINDS: usize = 1_024;

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
        let kind = |tenant: &str, caller: &str| {
            (tenant.to_owned(), caller.to_owned(), asked.action.clone(), reason.to_owned())
        };
        let own = kind(&asked.tenant, &asked.caller);
        let is_known = self.kinds.contains_key(&own);
        let (kind, asked) = match is_known || self.kinds.len() < MAX_KINDS {
            true => (own, asked),
            // There are no more actions and reasons than the server has.
            false => (kind("", "(several)"), Asked { caller: "(several)".to_owned(), tenant: String::new(), ..asked }),
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

    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// What is to be written now; with `all`, everything that has not been.
    pub fn due(&mut self, now: Micros, all: bool) -> Vec<Record> {
        let mut due = Vec::new();
        self.kinds.retain(|(.., reason), counted| {
            let is_long_ago = counted.written.is_none_or(|written| now.saturating_sub(written) >= MINUTE);
            if counted.count == 0 {
                return !is_long_ago;
            }
            if is_long_ago || all {
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
        assert_eq!(counts(&refusals.due(0, false)), [("eve".to_owned(), 1)]);
        for at in 1..=500 {
            refusals.note(asked("eve"), "PERMISSION_DENIED", at);
        }
        assert_eq!(refusals.due(MINUTE - 1, false), []);
        assert_eq!(counts(&refusals.due(MINUTE, false)), [("eve".to_owned(), 500)]);
        assert_eq!(refusals.due(2 * MINUTE, false), []);
        assert!(refusals.is_empty(), "what is over is forgotten");
    }

    #[test]
    fn nothing_that_is_counted_is_lost_when_everything_is_to_be_told() {
        let mut refusals = Refusals::default();
        for caller in ["ann", "eve", "eve"] {
            refusals.note(asked(caller), "UNAUTHENTICATED", 5);
        }
        assert_eq!(counts(&refusals.due(5, true)), [("ann".to_owned(), 1), ("eve".to_owned(), 2)]);
        refusals.note(asked("eve"), "UNAUTHENTICATED", 6);
        assert_eq!(counts(&refusals.due(6, true)), [("eve".to_owned(), 1)]);
    }

    #[test]
    fn of_ever_new_callers_no_more_is_kept_than_there_is_room_for() {
        let mut refusals = Refusals::default();
        for caller in 0..100_000 {
            refusals.note(asked(&caller.to_string()), "UNAUTHENTICATED", 0);
        }
        let told = counts(&refusals.due(0, false));
        assert_eq!(told.len(), MAX_KINDS + 1);
        assert_eq!(told.iter().map(|(_, count)| count).sum::<u64>(), 100_000);
        assert!(told.contains(&("(several)".to_owned(), 100_000 - MAX_KINDS as u64)));
    }
}
