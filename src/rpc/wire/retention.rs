//! Rows that go or are gone since a view keeps them only for so long, on the wire and as people are told of them:
//! by plans, by answers that may lack some, and by who asks before they go.

use hydrant_proto::v1;
use hydrant_storage::order::Micros;

use crate::clock::rfc3339;
use crate::config::durations;
use crate::registry::keeping::HeldBack;

pub fn encode_held_back(held: &HeldBack) -> v1::HeldBack {
    v1::HeldBack {
        service: held.service.clone(),
        view_version: held.view_version,
        ttl_micros: held.ttl.and_then(|ttl| u64::try_from(ttl).ok()),
    }
}

/// What goes, what holds rows back, and who loses values, a line for each.
pub fn lines_of_what_goes(rows: &v1::RowsThatGo) -> Vec<String> {
    let declared = rfc3339(rows.declared_before_micros);
    let mut lines = vec![match rows.before_micros {
        Some(before) if before == rows.declared_before_micros => {
            format!("rows that happened before {declared} go for good, and later ones as they come to be as old")
        }
        Some(before) => {
            let before = rfc3339(before);
            format!("rows that happened before {before} go for good; until {declared} they are held back")
        }
        None => format!("no row goes yet: those that happened before {declared} are held back"),
    }];
    lines.extend(rows.held_back.iter().map(held_back_text));
    if let Some(about) = rows.rows_about {
        lines.push(format!("that is about {about} of {} rows in history", rows.of_rows));
    }
    if !rows.training_sets.is_empty() {
        let more = match rows.training_sets_more {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        lines.push(format!("saved training sets lose values: {}{more}", rows.training_sets.join(", ")));
    }
    lines
}

/// Such as `model@1 keeps the rows of version 1 for its ttl of 5h, until it is deleted`.
pub fn held_back_text(held: &v1::HeldBack) -> String {
    let v1::HeldBack { service, view_version, ttl_micros } = held;
    match ttl_micros.and_then(|ttl| Micros::try_from(ttl).ok()) {
        Some(ttl) => {
            let ttl = durations::format(ttl);
            format!("{service} keeps the rows of version {view_version} for its ttl of {ttl}, until it is deleted")
        }
        None => format!("{service} keeps all rows of version {view_version}, as it froze no ttl, until it is deleted"),
    }
}

/// Rows that don't come back, and which answers lack them.
pub fn text_of_what_is_gone(gone: &v1::RowsGone) -> String {
    let before = rfc3339(gone.before_micros);
    let lacking = match gone.lacks_before_micros {
        Micros::MAX => "answers for all instants may lack them".to_owned(),
        until => format!("answers for instants before {} may lack them", rfc3339(until)),
    };
    format!("rows that happened before {before} are gone for good and don't come back: {lacking}")
}

/// Of rows that were taken in and don't stay.
pub fn text_of_what_is_too_old(view: &str, rows: u64) -> String {
    let (rows, are) = if rows == 1 { ("1 row".to_owned(), "is") } else { (format!("{rows} rows"), "are") };
    format!("{rows} of {view} {are} older than its retention and will not be kept")
}

/// Of an answer whose instant lies before the one from which on it is whole.
pub fn text_of_what_lacks(view: &str, whole_from: Micros) -> String {
    let whole = match whole_from {
        Micros::MAX => "No instant is whole".to_owned(),
        from => format!("Instants from {} on are whole", rfc3339(from)),
    };
    format!(
        "rows of {view} that counted at this instant may be gone for good, since the view keeps rows only for so long \
         (`retention`): what is NOT_FOUND may have had a value. {whole}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2013-12-30T20:00:00Z
    const AT: Micros = 1_388_433_600_000_000;
    const HOUR: Micros = 3_600_000_000;

    fn held(ttl: Option<Micros>) -> v1::HeldBack {
        encode_held_back(&HeldBack { service: "model@1".to_owned(), view_version: 2, ttl })
    }

    #[test]
    fn what_goes_is_told_with_what_holds_it_back_and_who_loses_by_it() {
        let mut rows =
            v1::RowsThatGo { before_micros: Some(AT), declared_before_micros: AT, ..v1::RowsThatGo::default() };
        let alone =
            "rows that happened before 2013-12-30T20:00:00Z go for good, and later ones as they come to be as old";
        assert_eq!(lines_of_what_goes(&rows), [alone]);
        rows = v1::RowsThatGo {
            before_micros: Some(AT - HOUR),
            held_back: vec![held(Some(5 * HOUR))],
            rows_about: Some(12),
            of_rows: 50,
            training_sets: vec!["early@1".to_owned(), "late@2".to_owned()],
            training_sets_more: 3,
            ..rows
        };
        let expected = [
            "rows that happened before 2013-12-30T19:00:00Z go for good; until 2013-12-30T20:00:00Z they are held back",
            "model@1 keeps the rows of version 2 for its ttl of 5h, until it is deleted",
            "that is about 12 of 50 rows in history",
            "saved training sets lose values: early@1, late@2 and 3 more",
        ];
        assert_eq!(lines_of_what_goes(&rows), expected);
        let none = v1::RowsThatGo { before_micros: None, held_back: vec![held(None)], ..v1::RowsThatGo::default() };
        let lines = lines_of_what_goes(&none);
        assert!(lines[0].starts_with("no row goes yet"), "{lines:?}");
        assert_eq!(lines[1], "model@1 keeps all rows of version 2, as it froze no ttl, until it is deleted");
    }

    #[test]
    fn what_is_gone_is_told_with_the_instants_that_are_whole() {
        let mut gone = v1::RowsGone { before_micros: AT, lacks_before_micros: AT + HOUR };
        assert!(
            text_of_what_is_gone(&gone).ends_with("answers for instants before 2013-12-30T21:00:00Z may lack them")
        );
        gone.lacks_before_micros = Micros::MAX;
        assert!(text_of_what_is_gone(&gone).ends_with("answers for all instants may lack them"));
        assert!(text_of_what_lacks("pages", AT).ends_with("Instants from 2013-12-30T20:00:00Z on are whole"));
        assert!(text_of_what_lacks("pages", Micros::MAX).ends_with("No instant is whole"));
    }
}
