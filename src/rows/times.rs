//! When each row of a request became true and when it counts as known, by the source's rule or the
//! request's. A row without an event time, or too far ahead of store time, is bad.

use hydrant_storage::order::Micros;

use super::bad_rows::BadRows;
use crate::clock::rfc3339;
use crate::registry::definition::KnownTimeRule;

/// The times of a request's rows. Where a row is bad its times mean nothing.
#[derive(Debug)]
pub struct RowTimes {
    pub event: Vec<Micros>,
    /// `None`: known on arrival.
    pub known: Option<Vec<Micros>>,
}

/// A column of times with where it is null.
#[derive(Clone, Copy, Debug)]
pub struct TimeColumn<'a> {
    pub name: &'a str,
    pub micros: &'a [Micros],
    pub nulls: Option<&'a arrow_buffer::NullBuffer>,
}

/// The known times that `rule` gives; `column` is the one that it names, if it names one.
pub fn resolve(
    event: TimeColumn<'_>,
    rule: &KnownTimeRule,
    column: Option<TimeColumn<'_>>,
    latest: Latest,
    bad_rows: &mut BadRows,
) -> RowTimes {
    check_column(event, latest, bad_rows);
    let known = match rule {
        KnownTimeRule::Arrival => None,
        KnownTimeRule::Event { delay } => {
            let known: Vec<Micros> = event.micros.iter().map(|event| event.saturating_add(*delay)).collect();
            for (row, micros) in known.iter().enumerate() {
                if *micros > latest.allowed() {
                    bad_rows.add(row, event.name, || latest.reason("known time", *micros));
                }
            }
            Some(known)
        }
        KnownTimeRule::Column(_) => column.map(|column| {
            check_column(column, latest, bad_rows);
            column.micros.to_vec()
        }),
    };
    RowTimes { event: event.micros.to_vec(), known }
}

/// How far ahead times may lie.
#[derive(Clone, Copy, Debug)]
pub struct Latest {
    pub store_time: Micros,
    pub max_future: Micros,
}

impl Latest {
    fn allowed(self) -> Micros {
        self.store_time.saturating_add(self.max_future)
    }

    fn reason(self, what: &str, micros: Micros) -> String {
        let ahead = micros.saturating_sub(self.store_time);
        format!(
            "{what} {} lies {} ahead of store time {}, and the source allows {}",
            rfc3339(micros),
            seconds(ahead),
            rfc3339(self.store_time),
            seconds(self.max_future)
        )
    }
}

fn check_column(column: TimeColumn<'_>, latest: Latest, bad_rows: &mut BadRows) {
    for (row, micros) in column.micros.iter().enumerate() {
        if column.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            bad_rows.add(row, column.name, || "the time is null".to_owned());
        } else if *micros > latest.allowed() {
            bad_rows.add(row, column.name, || latest.reason("time", *micros));
        }
    }
}

fn seconds(micros: Micros) -> String {
    format!("{}s", micros as f64 / 1e6)
}
