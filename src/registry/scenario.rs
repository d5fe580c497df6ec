//! What owners write beside their definitions to hold them to it: sample rows, and the values that
//! reads are to give. A scenario is a value; here it is read out of `*.test.yaml` files, and what came
//! of it is told. Who runs it is another's affair.

use std::sync::Arc;
use std::time::Duration;

use hydrant_storage::names::Name;
use hydrant_storage::order::{CellStatus, Micros};
use serde_json::Value as Json;

use super::documents::API_VERSION;
use super::node::{Content, Node};
use super::reader::{Fields, Problems};
use super::yaml;

pub use super::yaml::FileProblem;

use crate::clock::parse_rfc3339;

/// How the name of a file of scenarios ends; plans and applies leave such files alone.
pub const ENDINGS: [&str; 2] = [".test.yaml", ".test.yml"];
/// The most scenarios of one file.
pub const MAX_SCENARIOS: usize = 1_000;
/// The most rows of one scenario, and the most expectations.
pub const MAX_ROWS: usize = 10_000;

/// One test of an owner's.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    pub name: Name,
    pub description: String,
    pub file: Arc<str>,
    pub line: usize,
    pub rows: Vec<SourceRows>,
    pub expectations: Vec<Expectation>,
}

/// Rows of one source.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceRows {
    pub source: Name,
    /// When the store takes them; `None`: each when it happened.
    pub arrives: Option<Micros>,
    /// Column to value, as written.
    pub rows: Vec<serde_json::Map<String, Json>>,
    pub line: usize,
}

/// What a read at an instant is to give.
#[derive(Clone, Debug, PartialEq)]
pub struct Expectation {
    /// `name` or `name@N`; or `features`.
    pub service: Option<String>,
    /// `view:feature`.
    pub features: Vec<String>,
    pub at: Micros,
    /// Request column to value.
    pub keys: serde_json::Map<String, Json>,
    pub only: Option<Read>,
    /// Column to cell, in the order in which they stand.
    pub values: Vec<(String, Expected)>,
    pub line: usize,
}

/// A cell as it is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    /// `None`: whatever stands there.
    pub value: Option<Json>,
    pub status: CellStatus,
}

/// How features are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Read {
    Online,
    Historical,
}

/// What came of a scenario.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub scenario: Name,
    pub file: Arc<str>,
    pub line: usize,
    pub took: Duration,
    /// How many cells were compared.
    pub cells: usize,
    /// Why it couldn't be run to its end: rows that are refused, columns that aren't there.
    pub broken: Option<String>,
    pub mismatches: Vec<Mismatch>,
}

/// A cell that is not as it was to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Of the expectation.
    pub line: usize,
    pub read: Read,
    pub column: String,
    pub at: Micros,
    pub expected: String,
    pub found: String,
}

impl Outcome {
    pub fn has_passed(&self) -> bool {
        self.broken.is_none() && self.mismatches.is_empty()
    }
}

impl Read {
    pub const ALL: [Self; 2] = [Self::Online, Self::Historical];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Historical => "historical",
        }
    }
}

/// Reads every document of a file. `file` is only shown.
pub fn parse(file: &str, text: &str) -> Result<Vec<Scenario>, Vec<FileProblem>> {
    let nodes = yaml::nodes(file, text)?;
    let file: Arc<str> = file.into();
    let mut scenarios = Vec::new();
    let mut problems = Vec::new();
    for node in &nodes {
        let mut found = Problems::default();
        let scenario = read_scenario(&mut found, node, &file);
        let found = found.into_vec();
        let is_good = found.is_empty();
        problems.extend(found.into_iter().map(|problem| FileProblem {
            file: Arc::clone(&file),
            place: problem.place,
            path: problem.path,
            message: problem.message,
        }));
        match scenario {
            Some(scenario) if is_good && scenarios.len() < MAX_SCENARIOS => scenarios.push(scenario),
            Some(_) if is_good => {
                let message = format!("a file has at most {MAX_SCENARIOS} tests");
                problems.push(FileProblem { file: Arc::clone(&file), place: node.place, path: String::new(), message });
                break;
            }
            _ => {}
        }
    }
    if problems.is_empty() { Ok(scenarios) } else { Err(problems) }
}

fn read_scenario(problems: &mut Problems, node: &Node, file: &Arc<str>) -> Option<Scenario> {
    let document = problems.fields(node, "", &["apiVersion", "kind", "metadata", "spec"]);
    for (field, known) in [("apiVersion", API_VERSION), ("kind", "Test")] {
        if let Some((node, path)) = document.required(problems, field)
            && let Some(text) = problems.text(node, &path)
            && text != known
        {
            let shown: String = text.chars().take(80).collect();
            problems.add(path, node.place, format!("expected {known} in a file of tests, found '{shown}'"));
        }
    }
    let metadata = document.required(problems, "metadata");
    let metadata = metadata.map(|(node, path)| problems.fields(node, &path, &["name", "description"]));
    let name = metadata.as_ref().and_then(|fields| fields.required(problems, "name"));
    let name = name.and_then(|(node, path)| problems.name(node, &path));
    let description = metadata.as_ref().and_then(|fields| fields.optional_value("description"));
    let description = description.and_then(|(node, path)| problems.text(node, &path)).unwrap_or_default();
    let (spec, path) = document.required(problems, "spec")?;
    let fields = problems.fields(spec, &path, &["rows", "expect"]);
    let rows: Vec<SourceRows> = match fields.optional_value("rows") {
        None => Vec::new(),
        Some((node, path)) => {
            let elements = problems.sequence(node, &path);
            elements.into_iter().filter_map(|(node, path)| read_rows(problems, node, &path)).collect()
        }
    };
    let expectations: Vec<Expectation> = match fields.required(problems, "expect") {
        None => Vec::new(),
        Some((node, path)) => {
            let elements = problems.sequence(node, &path);
            if elements.is_empty() {
                problems.add(path, node.place, "a test expects something: it is no test otherwise");
            }
            elements.into_iter().filter_map(|(node, path)| read_expectation(problems, node, &path)).collect()
        }
    };
    let count: usize = rows.iter().map(|rows| rows.rows.len()).sum();
    if count > MAX_ROWS || expectations.len() > MAX_ROWS {
        problems.add("spec", spec.place, format!("a test has at most {MAX_ROWS} rows, and as many expectations"));
    }
    Some(Scenario { name: name?, description, file: Arc::clone(file), line: node.place.line, rows, expectations })
}

fn read_rows(problems: &mut Problems, node: &Node, path: &str) -> Option<SourceRows> {
    let fields = problems.fields(node, path, &["source", "arrives", "rows"]);
    let source = fields.required(problems, "source").and_then(|(node, path)| problems.name(node, &path));
    let arrives = fields.optional_value("arrives").map(|(node, path)| problems.parsed(node, &path, parse_rfc3339));
    let (rows, rows_path) = fields.required(problems, "rows")?;
    let elements = problems.sequence(rows, &rows_path);
    let rows = elements.into_iter().filter_map(|(node, path)| mapping(problems, node, &path)).collect();
    let arrives = match arrives {
        None => None,
        Some(at) => Some(at?),
    };
    Some(SourceRows { source: source?, arrives, rows, line: node.place.line })
}

fn read_expectation(problems: &mut Problems, node: &Node, path: &str) -> Option<Expectation> {
    let fields = problems.fields(node, path, &["service", "features", "at", "keys", "only", "values"]);
    let service = fields.optional_value("service").and_then(|(node, path)| problems.text(node, &path));
    let features = read_features(problems, &fields);
    if service.is_some() != features.is_empty() {
        problems.add(path, node.place, "an expectation is of a `service` or of `features`, one of the two");
    }
    let at = fields.required(problems, "at").and_then(|(node, path)| problems.parsed(node, &path, parse_rfc3339));
    let keys = fields.required(problems, "keys").and_then(|(node, path)| mapping(problems, node, &path));
    let only = fields.optional_value("only").map(|(node, path)| {
        let text = problems.text(node, &path)?;
        let read = Read::ALL.into_iter().find(|read| read.as_str() == text);
        if read.is_none() {
            let shown: String = text.chars().take(80).collect();
            problems.add(path, node.place, format!("'{shown}' is no way to read: use online or historical"));
        }
        read
    });
    let values = fields.required(problems, "values").map(|(node, path)| read_values(problems, node, &path));
    let only = match only {
        None => None,
        Some(read) => Some(read?),
    };
    let line = node.place.line;
    Some(Expectation { service, features, at: at?, keys: keys?, only, values: values?, line })
}

fn read_features(problems: &mut Problems, fields: &Fields<'_>) -> Vec<String> {
    let Some((node, path)) = fields.optional_value("features") else { return Vec::new() };
    let elements = problems.sequence(node, &path);
    elements.into_iter().filter_map(|(node, path)| problems.text(node, &path)).collect()
}

fn read_values(problems: &mut Problems, node: &Node, path: &str) -> Vec<(String, Expected)> {
    let Content::Mapping(entries) = &node.content else {
        problems.wanted::<()>(node, path, "a mapping from columns to what is expected");
        return Vec::new();
    };
    if entries.is_empty() {
        problems.add(path, node.place, "an expectation without a value expects nothing");
    }
    let mut values = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        let path = format!("{path}.{}", key.text);
        if let Some(expected) = read_expected(problems, value, &path) {
            values.push((key.text.clone(), expected));
        }
    }
    values
}

/// A value is PRESENT, `null` is NULL; anything else is said by a status, perhaps with the default that
/// stands in.
fn read_expected(problems: &mut Problems, node: &Node, path: &str) -> Option<Expected> {
    let Content::Mapping(_) = &node.content else {
        let value = node.to_json();
        let status = if value.is_null() { CellStatus::Null } else { CellStatus::Present };
        return Some(Expected { value: Some(value), status });
    };
    let fields = problems.fields(node, path, &["value", "status"]);
    let value = fields.optional("value").map(|(node, _)| node.to_json());
    let (node, path) = fields.required(problems, "status")?;
    // YAML reads the bare word NULL as a null, which is what is meant.
    let text = match node.content {
        Content::Null => CellStatus::Null.as_str().to_owned(),
        _ => problems.text(node, &path)?,
    };
    let possible = [CellStatus::Present, CellStatus::Null, CellStatus::NotFound, CellStatus::Expired];
    let status = possible.into_iter().find(|status| status.as_str() == text);
    if status.is_none() {
        let shown: String = text.chars().take(80).collect();
        problems.add(
            path,
            node.place,
            format!("'{shown}' is no status to expect: use PRESENT, NULL, NOT_FOUND or EXPIRED"),
        );
    }
    Some(Expected { value, status: status? })
}

fn mapping(problems: &mut Problems, node: &Node, path: &str) -> Option<serde_json::Map<String, Json>> {
    match node.to_json() {
        Json::Object(mapping) => Some(mapping),
        _ => problems.wanted(node, path, "a mapping from columns to values"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEST: &str = "
apiVersion: hydrant/v1
kind: Test
metadata: {name: weather_expires}
spec:
  rows:
    - source: weather
      rows:
        - {origin: EWR, event_timestamp: 2013-12-30T20:00:00Z, temp: 39.02, wind: null}
    - {source: weather, arrives: 2013-12-30T23:00:00Z, rows: []}
  expect:
    - service: delay_model
      at: 2013-12-30T22:30:00Z
      keys: {origin: EWR}
      values: {airport_weather__temp: 39.02, airport_weather__wind: null, airport_weather__gust: {value: 0.0, status: EXPIRED}}
    - {features: [airport_weather:temp], only: historical, at: 2013-12-30T23:30:00Z, keys: {origin: EWR}, values: {airport_weather__temp: {status: EXPIRED}}}
";

    #[test]
    fn a_scenario_is_rows_and_what_reads_are_to_give() {
        let read = parse("a.test.yaml", TEST).expect("well written");
        let [scenario] = read.as_slice() else { panic!("one scenario: {read:?}") };
        assert_eq!((scenario.name.as_str(), scenario.line, scenario.rows.len()), ("weather_expires", 2, 2));
        assert_eq!(scenario.rows[0].arrives, None);
        assert_eq!(scenario.rows[1].arrives, Some(1_388_444_400_000_000));
        let [first, second] = scenario.expectations.as_slice() else { panic!("two expectations") };
        let statuses: Vec<CellStatus> = first.values.iter().map(|(_, expected)| expected.status).collect();
        assert_eq!(statuses, [CellStatus::Present, CellStatus::Null, CellStatus::Expired]);
        assert_eq!((second.only, second.values[0].1.value.as_ref()), (Some(Read::Historical), None));
    }

    #[test]
    fn the_status_null_is_read_as_it_is_listed_and_as_a_text() {
        for written in ["NULL", "\"NULL\"", "null"] {
            let text = TEST.replacen("{status: EXPIRED}", &format!("{{status: {written}}}"), 1);
            assert_ne!(text, TEST);
            let read = parse("a.test.yaml", &text).unwrap_or_else(|problems| panic!("{written}: {problems:?}"));
            let expected = &read[0].expectations[1].values[0].1;
            assert_eq!((expected.status, &expected.value), (CellStatus::Null, &None), "{written}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_scenario_is_told_with_its_place_all_of_it() {
        for (from, to, told) in [
            ("kind: Test", "kind: Entity", "3:7: kind: expected Test in a file of tests, found 'Entity'"),
            ("at: 2013-12-30T22:30:00Z", "at: noon", "spec.expect[0].at: "),
            ("only: historical", "only: offline", "'offline' is no way to read: use online or historical"),
            ("status: EXPIRED}}}", "status: DAMAGED}}}", "'DAMAGED' is no status to expect"),
            ("service: delay_model\n", "view: x\n", "unknown field 'view'"),
            ("features: [airport_weather:temp], ", "", "a `service` or of `features`, one of the two"),
            ("{status: EXPIRED}", "{value: 3}", "'status' is missing"),
            ("rows: []", "rows: [7]", "expected a mapping from columns to values, found a number"),
        ] {
            let text = TEST.replacen(from, to, 1);
            assert_ne!(text, TEST, "{from}");
            let problems = parse("a.test.yaml", &text).expect_err(to);
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            assert!(lines.iter().any(|line| line.contains(told)), "{told}: {lines:?}");
        }
        let empty = TEST.split("  expect:").next().expect("a part").to_owned() + "  expect: []\n";
        assert!(parse("a.test.yaml", &empty).expect_err("nothing")[0].message.contains("it is no test otherwise"));
        assert!(parse("a.test.yaml", "{").is_err());
        assert_eq!(parse("a.test.yaml", "# nothing\n"), Ok(Vec::new()));
    }
}
