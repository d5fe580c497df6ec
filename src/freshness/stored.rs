//! What is kept of freshness across restarts, as JSON under two keys of the metadata: the time spent by
//! each view, written now and then, and the book of alerts, written at each change. A value of another
//! format, or one that can't be read, stops the start: a budget is not forgotten in silence.

use std::collections::BTreeMap;

use bytes::Bytes;
use hydrant_storage::names::{Name, ViewId};
use hydrant_storage::order::Micros;
use serde::{Deserialize, Serialize};

use super::alerts::{Book, Delivery, OfView, Silence};
use super::budget::{Budget, Ring, Spent};
use super::state::{Cause, State};
use crate::error::{Code, Error, Result};

pub const BUDGETS: &str = "freshness_budgets";
pub const ALERTS: &str = "freshness_alerts";

/// Of both values.
const FORMAT: u32 = 1;

/// What is kept of one view.
#[derive(Clone, Debug)]
pub struct KeptView {
    pub id: ViewId,
    pub state: State,
    pub cause: Option<Cause>,
    pub since: Micros,
    /// Until when time was measured.
    pub looked_at: Micros,
    pub had_rows: bool,
    pub budget: Budget,
}

#[derive(Serialize, Deserialize)]
struct Budgets {
    format: u32,
    views: Vec<StoredView>,
}

#[derive(Serialize, Deserialize)]
struct StoredView {
    id: u32,
    state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    since: Micros,
    looked_at: Micros,
    had_rows: bool,
    window: Micros,
    minutes: StoredRing,
    hours: StoredRing,
}

/// Cells that are alike and follow one another are one entry: how many, good, bad.
#[derive(Serialize, Deserialize)]
struct StoredRing {
    first: i64,
    runs: Vec<(u32, Micros, Micros)>,
}

#[derive(Serialize, Deserialize)]
struct StoredBook {
    format: u32,
    next: u64,
    views: Vec<StoredAlerts>,
    silences: Vec<Silence>,
    outbox: Vec<Delivery>,
}

#[derive(Serialize, Deserialize)]
struct StoredAlerts {
    tenant: Name,
    view: Name,
    #[serde(flatten)]
    of_view: OfView,
}

/// No window has more hours, and no ring more cells.
const MAX_CELLS: u32 = 1 << 16;

pub fn write_budgets<'a>(views: impl Iterator<Item = (&'a KeptView, Micros)>) -> Bytes {
    let stored = views.map(|(view, window)| StoredView {
        id: view.id.0,
        state: view.state.as_str().to_owned(),
        cause: view.cause.map(|cause| cause.as_str().to_owned()),
        since: view.since,
        looked_at: view.looked_at,
        had_rows: view.had_rows,
        window,
        minutes: StoredRing::of(view.budget.minutes()),
        hours: StoredRing::of(view.budget.hours()),
    });
    written(&Budgets { format: FORMAT, views: stored.collect() })
}

pub fn read_budgets(value: &[u8]) -> Result<Vec<KeptView>> {
    let Budgets { format, views } = read(BUDGETS, value)?;
    check_format(BUDGETS, format)?;
    let kept = |view: StoredView| -> Result<KeptView, String> {
        let state = State::ALL.into_iter().find(|state| state.as_str() == view.state).ok_or("an unknown state")?;
        let cause = match view.cause {
            None => None,
            Some(text) => Some(Cause::ALL.into_iter().find(|cause| cause.as_str() == text).ok_or("an unknown cause")?),
        };
        Ok(KeptView {
            id: ViewId(view.id),
            state,
            cause,
            since: view.since,
            looked_at: view.looked_at,
            had_rows: view.had_rows,
            budget: Budget::restored(view.window, view.minutes.cells()?, view.hours.cells()?),
        })
    };
    views.into_iter().map(kept).collect::<Result<_, String>>().map_err(|problem| damaged(BUDGETS, &problem))
}

pub fn write_book(book: &Book) -> Bytes {
    let views = book.views.iter().map(|((tenant, view), of_view)| StoredAlerts {
        tenant: tenant.clone(),
        view: view.clone(),
        of_view: of_view.clone(),
    });
    written(&StoredBook {
        format: FORMAT,
        next: book.next,
        views: views.collect(),
        silences: book.silences.values().cloned().collect(),
        outbox: book.outbox.clone(),
    })
}

pub fn read_book(value: &[u8]) -> Result<Book> {
    let StoredBook { format, next, views, silences, outbox } = read(ALERTS, value)?;
    check_format(ALERTS, format)?;
    Ok(Book {
        next,
        views: views.into_iter().map(|stored| ((stored.tenant, stored.view), stored.of_view)).collect(),
        silences: silences.into_iter().map(|silence| (silence.id, silence)).collect::<BTreeMap<_, _>>(),
        outbox,
    })
}

impl StoredRing {
    fn of(ring: &Ring) -> Self {
        let mut runs: Vec<(u32, Micros, Micros)> = Vec::new();
        for Spent { good, bad } in ring.cells() {
            match runs.last_mut() {
                Some((count, of_good, of_bad)) if (*of_good, *of_bad) == (good, bad) => *count += 1,
                _ => runs.push((1, good, bad)),
            }
        }
        Self { first: ring.first(), runs }
    }

    fn cells(self) -> Result<(i64, Vec<Spent>), String> {
        let count: u64 = self.runs.iter().map(|(count, ..)| u64::from(*count)).sum();
        if count > u64::from(MAX_CELLS) || self.runs.iter().any(|(_, good, bad)| *good < 0 || *bad < 0) {
            return Err(format!("{count} stretches of time, or one of less than no time"));
        }
        let run = |(count, good, bad)| std::iter::repeat_n(Spent { good, bad }, count as usize);
        Ok((self.first, self.runs.into_iter().flat_map(run).collect()))
    }
}

fn written(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("names, texts and numbers are JSON").into()
}

fn read<T: serde::de::DeserializeOwned>(key: &str, value: &[u8]) -> Result<T> {
    serde_json::from_slice(value).map_err(|error| damaged(key, &error.to_string()))
}

fn check_format(key: &str, format: u32) -> Result<()> {
    if format == FORMAT { Ok(()) } else { Err(damaged(key, &format!("format {format}, and {FORMAT} is known"))) }
}

fn damaged(key: &str, problem: &str) -> Error {
    let message = format!("what is kept of freshness can't be read: '{key}' in registry: {problem}");
    Error::new(Code::DataLoss, "FRESHNESS_STATE_DAMAGED", message).hint(
        "use the version of Hydrant that wrote it, or a later one, or restore that file from a backup; without it \
               budgets, silences and alerts begin anew",
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::freshness::alerts::Alert;

    #[test]
    fn what_is_kept_comes_back_and_is_small() {
        let mut budget = Budget::new(30 * 24 * 3_600_000_000);
        budget.add(0, 20 * 24 * 3_600_000_000, i64::MAX);
        budget.add(21 * 24 * 3_600_000_000, 21 * 24 * 3_600_000_000 + 7, 0);
        let window = 30 * 24 * 3_600_000_000;
        let view = KeptView {
            id: ViewId(7),
            state: State::AtRisk,
            cause: Some(Cause::NearLimit),
            since: 5,
            looked_at: 9,
            had_rows: true,
            budget,
        };
        let bytes = write_budgets([(&view, window)].into_iter());
        assert!(bytes.len() < 600, "{}", bytes.len());
        let back = read_budgets(&bytes).expect("as written");
        assert_eq!(back.len(), 1);
        assert_eq!(back[0].budget, view.budget);
        assert_eq!((back[0].state, back[0].cause, back[0].since), (State::AtRisk, Some(Cause::NearLimit), 5));

        let [tenant, name]: [Name; 2] = ["default", "a"].map(|name| name.parse().expect("a name"));
        let mut book = Book { next: 3, ..Default::default() };
        let since = BTreeMap::from([(Alert::Breached, 4)]);
        let of_view = OfView { holding: since.clone(), told: since, told_at: 5 };
        book.views.insert((tenant.clone(), name.clone()), of_view);
        let silence =
            Silence { id: 1, tenant, view: name, until: 8, reason: "r".into(), created: 2, created_by: "c".into() };
        book.silences.insert(1, silence);
        assert_eq!(read_book(&write_book(&book)).expect("as written"), book);
    }

    #[test]
    fn what_is_not_as_it_was_written_is_told_and_not_taken_for_nothing() {
        for value in ["", "{}", r#"{"format":2,"views":[]}"#, r#"{"format":1,"views":[{"id":1}]}"#] {
            assert_eq!(read_budgets(value.as_bytes()).expect_err(value).reason, "FRESHNESS_STATE_DAMAGED");
        }
        let huge = r#"{"format":1,"views":[{"id":1,"state":"OK","since":0,"looked_at":0,"had_rows":true,"window":1,
            "minutes":{"first":0,"runs":[[4000000000,0,0]]},"hours":{"first":0,"runs":[]}}]}"#;
        assert!(read_budgets(huge.as_bytes()).is_err());
    }
}
