//! How results and failures look: tables for people, JSON and YAML for programs. Colours only where
//! a terminal reads along; a reader who hangs up (`| head`) is no failure.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde_json::{Map, Value, json};

use super::Failure;
use crate::error::Violation;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    Json,
    Yaml,
}

/// `-o`, for commands that print definitions.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct DocumentOutput {
    /// How to print
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "table")]
    pub format: Format,
}

/// `-o`, for commands that print results.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct ResultOutput {
    /// How to print
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "table", value_parser = table_or_json())]
    pub format: Format,
}

/// Reads `table` or `json`, and tells shells that there are these.
pub fn table_or_json() -> impl TypedValueParser<Value = Format> {
    let read = |text: String| if text == "json" { Format::Json } else { Format::Table };
    PossibleValuesParser::new(["table", "json"]).map(read)
}

/// A part of a text that has a meaning of its own.
#[derive(Clone, Copy, Debug)]
pub enum Tone {
    Good,
    Changed,
    Bad,
    Faint,
    Strong,
}

/// Prints data: text with its last line ended.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| if text.ends_with('\n') { Ok(()) } else { stdout.write_all(b"\n") });
    match written.and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new("OUTPUT_FAILED", format!("can't write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

pub fn print_json(value: &Value) -> Result<(), Failure> {
    print(&format!("{value:#}"))
}

/// Prints documents in the format asked for; a table is made only if it is wanted.
pub fn print_as(format: Format, value: &Value, table: impl FnOnce() -> String) -> Result<(), Failure> {
    match format {
        Format::Json => print_json(value),
        Format::Yaml => print(&super::yaml::documents(value)),
        Format::Table => print(&table()),
    }
}

/// Tells people something that is no data.
pub fn note(text: &str) {
    // Nobody to tell is no reason to fail.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Says what went well and is perhaps not what was meant; for programs as one object on a line.
pub fn warn(text: &str, format: Format) {
    match format {
        Format::Json => note(&json!({"warning": {"message": text}}).to_string()),
        Format::Table | Format::Yaml => note(&format!("{} {text}", on_stderr("warning:", Tone::Changed))),
    }
}

/// Shows a failure: the line that names the thing and the rule, the places, the way out.
pub fn failure(failure: &Failure, format: Format) {
    if format == Format::Json {
        return note(&failure_json(failure).to_string());
    }
    note(&format!("{} {}", on_stderr("error:", Tone::Bad), failure.message));
    // One place alone is mostly in the message already.
    let said = |violation: &Violation| {
        let name = violation.path.rsplit('.').next().unwrap_or_default();
        let parts = [violation.message.as_str(), name];
        failure.violations.len() == 1 && parts.iter().all(|part| failure.message.contains(part))
    };
    for violation in failure.violations.iter().filter(|violation| !said(violation)) {
        let place = if violation.path.is_empty() { String::new() } else { format!("{}: ", violation.path) };
        note(&format!("  {place}{}", violation.message));
    }
    if let Some(hint) = &failure.hint {
        note(&format!("{} {hint}", on_stderr("hint:", Tone::Strong)));
    }
    if let Some(delay) = failure.retry_after {
        note(&format!("{} try again in {} s", on_stderr("hint:", Tone::Strong), tenths_up(delay)));
    }
}

/// Seconds with one place behind the point, and never less than it takes.
fn tenths_up(delay: Duration) -> String {
    let tenths = delay.as_micros().div_ceil(100_000).max(1);
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// A failure for programs.
pub fn failure_json(failure: &Failure) -> Value {
    let metadata: Map<String, Value> =
        failure.metadata.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    let mut error = json!({"reason": failure.reason, "message": failure.message, "metadata": metadata});
    if let Some(hint) = &failure.hint {
        error["hint"] = json!(hint);
    }
    if !failure.violations.is_empty() {
        let violations =
            failure.violations.iter().map(|violation| json!({"path": violation.path, "message": violation.message}));
        error["violations"] = violations.collect();
    }
    if let Some(delay) = failure.retry_after {
        // Rounded up: who comes back earlier is refused again.
        error["retry_after_ms"] = json!(delay.as_micros().div_ceil(1_000));
    }
    json!({ "error": error })
}

/// Rows under a header, as wide as they are. `right` tells which columns hold numbers.
pub fn table(header: &[&str], rows: &[Vec<String>], right: &[usize]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().map(|title| Cell::new(title.to_uppercase())));
    table.add_rows(rows.iter().map(|row| row.iter().map(Cell::new).collect::<Vec<_>>()));
    let columns = header.len();
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index + 1 == columns { 0 } else { 2 }));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// The text in a colour, if stdout is a terminal.
pub fn on_stdout(text: &str, tone: Tone) -> String {
    painted(text, tone, io::stdout().is_terminal())
}

pub fn on_stderr(text: &str, tone: Tone) -> String {
    painted(text, tone, io::stderr().is_terminal())
}

fn painted(text: &str, tone: Tone, terminal: bool) -> String {
    // https://no-color.org
    if !terminal || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        return text.to_owned();
    }
    let code = match tone {
        Tone::Good => "32",
        Tone::Changed => "33",
        Tone::Bad => "1;31",
        Tone::Faint => "2",
        Tone::Strong => "1",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// `336776` -> `336,776`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// `1 row`, `2 rows`.
pub fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", count(number), if number == 1 { "" } else { "s" })
}

pub fn seconds(duration: Duration) -> String {
    match duration.as_secs_f64() {
        short if short < 10.0 => format!("{short:.2} s"),
        long => format!("{long:.0} s"),
    }
}

/// `1,000 rows in 0.50 s, 2,000 rows a second`.
pub fn rows_in(rows: u64, elapsed: Duration) -> String {
    format!("{} in {}, {} rows a second", counted(rows, "row"), seconds(elapsed), rate(rows, elapsed))
}

/// How many cells of a feature have no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nulls {
    pub feature: String,
    pub nulls: u64,
    /// The caller may not see it, so that none has a value.
    pub is_masked: bool,
}

/// How many of so many cells of each feature have no value, or that it is masked.
pub fn nulls(features: &[Nulls], rows: u64) -> String {
    let line = |of: &Nulls| {
        let (nulls, share) = match of.is_masked {
            true => ("masked".to_owned(), String::new()),
            false => (count(of.nulls), share(of.nulls, rows)),
        };
        vec![of.feature.clone(), nulls, share]
    };
    let mut text = table(&["feature", "nulls", "share"], &features.iter().map(line).collect::<Vec<_>>(), &[1, 2]);
    if features.iter().any(|of| of.is_masked) {
        text.push_str("\nmasked: personal data (pii) that you may not see");
    }
    text
}

/// The same for programs: what is masked is not among what is missing.
pub fn nulls_json(features: &[Nulls]) -> [(&'static str, Value); 2] {
    let (masked, seen): (Vec<&Nulls>, Vec<&Nulls>) = features.iter().partition(|of| of.is_masked);
    let nulls: Map<String, Value> = seen.into_iter().map(|of| (of.feature.clone(), json!(of.nulls))).collect();
    let masked: Vec<&str> = masked.into_iter().map(|of| of.feature.as_str()).collect();
    [("nulls", Value::Object(nulls)), ("masked", json!(masked))]
}

/// Rows a second, rounded.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a figure for people"
)]
pub fn rate(rows: u64, duration: Duration) -> String {
    count((rows as f64 / duration.as_secs_f64().max(1e-6)) as u64)
}

/// `0.0731` -> `7.3 %`.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "0 %".to_owned();
    }
    let percent = part as f64 / whole as f64 * 100.0;
    match percent {
        _ if part == 0 => "0 %".to_owned(),
        _ if percent < 0.1 => "< 0.1 %".to_owned(),
        _ => format!("{percent:.1} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_shares_never_hide_that_there_is_something() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(336_776), "336,776");
        assert_eq!(count(1_000_000), "1,000,000");
        assert_eq!(share(0, 10), "0 %");
        assert_eq!(share(1, 1_000_000), "< 0.1 %");
        assert_eq!(share(1, 8), "12.5 %");
        assert_eq!(share(1, 0), "0 %");
    }

    #[test]
    fn a_table_lines_up_and_leaves_no_blanks_behind() {
        let shown =
            table(&["name", "rows"], &[vec!["weather".into(), "5".into()], vec!["w".into(), "1,000".into()]], &[1]);
        assert_eq!(shown, "NAME      ROWS\nweather      5\nw        1,000");
    }

    #[test]
    fn a_failure_for_programs_is_one_object() {
        let failure = Failure::new("UNKNOWN_VIEW", "there is no view 'x'")
            .hint("`hydrant get views` lists them")
            .with("view", "x")
            .violations(vec![Violation { path: "rows[3]".into(), message: "is bad".into() }]);
        let expected = json!({"error": {
            "reason": "UNKNOWN_VIEW", "message": "there is no view 'x'", "metadata": {"view": "x"},
            "hint": "`hydrant get views` lists them", "violations": [{"path": "rows[3]", "message": "is bad"}],
        }});
        assert_eq!(failure_json(&failure), expected);
        let later = Failure { retry_after: Some(Duration::from_micros(1_200)), ..failure };
        assert_eq!(failure_json(&later)["error"]["retry_after_ms"], 2, "never earlier than it helps");
    }

    #[test]
    fn when_to_try_again_is_never_told_too_early() {
        for (millis, told) in [(0, "0.1"), (100, "0.1"), (101, "0.2"), (999, "1.0"), (61_000, "61.0")] {
            assert_eq!(tenths_up(Duration::from_millis(millis)), told);
        }
        assert_eq!(tenths_up(Duration::from_micros(100_001)), "0.2");
    }
}
