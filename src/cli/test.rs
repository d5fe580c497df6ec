//! `hydrant test`: holds definitions to what their owners wrote beside them. It reads files and tells
//! what came of the tests; running them is the program's affair, and needs no server.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Value as Json, json};

use super::definitions::{DefinitionFiles, find_scenarios};
use super::output::{self, Tone};
use super::server::NoServer;
use super::{Done, Failure, Format};
use crate::clock::rfc3339;
use crate::error::Violation;
use crate::registry::definition::Definition;
use crate::registry::scenario::{self, Mismatch, Outcome, Scenario};

/// Test definitions with the sample rows and expected values beside them, without a server
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hydrant test -f definitions\n  hydrant test -f definitions weather --junit tests.xml\n\n\
    Tests stand in files that end in .test.yaml. Exit codes: 0 all passed, 1 some failed, 2 wrong usage."
)]
pub struct Args {
    /// Folder of YAML definitions and tests, or a file; may be given again
    #[arg(short = 'f', long = "file", value_name = "DIR", required = true)]
    files: Vec<PathBuf>,

    /// Only tests with this in their name
    #[arg(value_name = "NAME")]
    name: Option<String>,

    /// How to print
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "table")]
    output: Report,

    /// Write a report for CI there too, as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,

    #[command(flatten)]
    _server: NoServer,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Report {
    /// For people
    Table,
    Json,
    /// JUnit XML, for CI
    Junit,
}

/// Definitions and the tests that they are held to.
#[derive(Debug)]
pub struct Rehearsal {
    pub definitions: Vec<Definition>,
    pub scenarios: Vec<Scenario>,
}

impl Args {
    /// How failures are printed.
    pub fn format(&self) -> Format {
        if self.output == Report::Json { Format::Json } else { Format::Table }
    }

    /// Reads the files. Refused where one can't be read, all problems at once, and where there is no test.
    pub fn read(&self) -> Result<Rehearsal, Failure> {
        let mut scenarios = Vec::new();
        let mut problems = Vec::new();
        for file in find_scenarios(&self.files)? {
            let text = std::fs::read_to_string(&file).map_err(|error| Failure::file(&file, "be read", &error))?;
            match scenario::parse(&file.to_string_lossy(), &text) {
                Ok(parsed) => scenarios.extend(parsed),
                Err(found) => problems.extend(found),
            }
        }
        if !problems.is_empty() {
            let number = u64::try_from(problems.len()).unwrap_or(u64::MAX);
            let violation = |problem: scenario::FileProblem| Violation {
                path: format!("{}:{}:{}", problem.file, problem.place.line, problem.place.column),
                message: if problem.path.is_empty() {
                    problem.message
                } else {
                    format!("{}: {}", problem.path, problem.message)
                },
            };
            let message = format!("the tests can't be run: {}", output::counted(number, "problem"));
            return Err(Failure::new("INVALID_TEST", message).violations(problems.into_iter().map(violation).collect()));
        }
        if let Some(twice) = named_twice(&scenarios) {
            let message = format!("two tests are called '{}': give one another name", twice.name);
            let path = format!("{}:{}", twice.file, twice.line);
            let violation = Violation { path, message: "the second".to_owned() };
            return Err(Failure::new("INVALID_TEST", message).violations(vec![violation]));
        }
        let files = DefinitionFiles::read(&self.files, self.format())?;
        if !files.are_good() {
            return Err(files.failure(None));
        }
        scenarios.retain(|scenario| self.name.as_ref().is_none_or(|part| scenario.name.as_str().contains(part)));
        if scenarios.is_empty() {
            let message = match &self.name {
                Some(name) => format!("there is no test with '{name}' in its name"),
                None => "there is no test".to_owned(),
            };
            return Err(Failure::new("NO_TESTS", message)
                .hint("tests stand in files that end in .test.yaml, below what -f names"));
        }
        Ok(Rehearsal { definitions: files.definitions(), scenarios })
    }

    /// Tells of one test as soon as it is over.
    pub fn tell(&self, outcome: &Outcome) -> Result<(), Failure> {
        if self.output == Report::Table { output::print(&line(outcome)) } else { Ok(()) }
    }

    /// Tells of all of them at the end.
    pub fn tell_all(&self, outcomes: &[Outcome]) -> Result<Done, Failure> {
        if let Some(file) = &self.junit {
            write(file, &junit(outcomes))?;
        }
        match self.output {
            Report::Table => output::print(&summary(outcomes))?,
            Report::Json => output::print_json(&json_of(outcomes))?,
            Report::Junit => output::print(&junit(outcomes))?,
        }
        Ok(if outcomes.iter().all(Outcome::has_passed) { Done::Done } else { Done::Failed })
    }
}

fn named_twice(scenarios: &[Scenario]) -> Option<&Scenario> {
    let mut seen = std::collections::BTreeSet::new();
    scenarios.iter().find(|scenario| !seen.insert(&scenario.name))
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(file, text).map_err(|error| Failure::file(file, "be written", &error))
}

fn line(outcome: &Outcome) -> String {
    let (word, tone) = if outcome.has_passed() { ("ok    ", Tone::Good) } else { ("FAILED", Tone::Bad) };
    let word = output::on_stdout(word, tone);
    format!("{word} {} ({}, {} ms)", outcome.scenario, cells(outcome.cells), outcome.took.as_millis())
}

fn cells(count: usize) -> String {
    output::counted(u64::try_from(count).unwrap_or(u64::MAX), "cell")
}

/// What failed and how, then the sum.
fn summary(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes.iter().filter(|outcome| !outcome.has_passed()) {
        let title = format!("\n{} ({}:{})", outcome.scenario, outcome.file, outcome.line);
        text.push_str(&format!("{}\n", output::on_stdout(&title, Tone::Strong)));
        if let Some(told) = &outcome.broken {
            text.push_str(&format!("  can't be run: {told}\n"));
        }
        for mismatch in &outcome.mismatches {
            text.push_str(&format!("  {}\n", place(outcome, mismatch)));
            text.push_str(&output::on_stdout(&format!("    - expected {}\n", mismatch.expected), Tone::Good));
            text.push_str(&output::on_stdout(&format!("    + found    {}\n", mismatch.found), Tone::Bad));
        }
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.has_passed()).count();
    let all = outcomes.iter().map(|outcome| outcome.cells).sum();
    text.push_str(&format!("\n{} passed, {failed} failed, {} compared", outcomes.len() - failed, cells(all)));
    text
}

fn place(outcome: &Outcome, mismatch: &Mismatch) -> String {
    let Mismatch { line, read, column, at, .. } = mismatch;
    format!("{}:{line}: {column}, {} at {}", outcome.file, read.as_str(), rfc3339(*at))
}

fn json_of(outcomes: &[Outcome]) -> Json {
    let mismatch = |mismatch: &Mismatch| {
        json!({
            "line": mismatch.line, "read": mismatch.read.as_str(), "column": mismatch.column,
            "at": rfc3339(mismatch.at), "expected": mismatch.expected, "found": mismatch.found,
        })
    };
    let test = |outcome: &Outcome| {
        let mut json = json!({
            "name": outcome.scenario, "file": &*outcome.file, "line": outcome.line, "passed": outcome.has_passed(),
            "cells": outcome.cells, "milliseconds": u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX),
            "mismatches": outcome.mismatches.iter().map(mismatch).collect::<Vec<_>>(),
        });
        if let Some(told) = &outcome.broken {
            json["broken"] = json!(told);
        }
        json
    };
    let failed = outcomes.iter().filter(|outcome| !outcome.has_passed()).count();
    json!({
        "tests": outcomes.iter().map(test).collect::<Vec<_>>(),
        "passed": outcomes.len() - failed, "failed": failed,
    })
}

/// The format that CI systems read: a failure where a value is another, an error where a test can't be
/// run.
fn junit(outcomes: &[Outcome]) -> String {
    let broken = outcomes.iter().filter(|outcome| outcome.broken.is_some()).count();
    let failed = outcomes.iter().filter(|outcome| outcome.broken.is_none() && !outcome.has_passed()).count();
    let took: Duration = outcomes.iter().map(|outcome| outcome.took).sum();
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let sums = format!(
        "tests=\"{}\" failures=\"{failed}\" errors=\"{broken}\" time=\"{:.3}\"",
        outcomes.len(),
        took.as_secs_f64()
    );
    // Writing into a text can't fail.
    let _ = writeln!(text, "<testsuites {sums}>\n  <testsuite name=\"hydrant test\" {sums}>");
    for outcome in outcomes {
        let _ = write!(
            text,
            "    <testcase name=\"{}\" classname=\"{}\" file=\"{}\" line=\"{}\" time=\"{:.3}\"",
            outcome.scenario,
            in_xml(&outcome.file),
            in_xml(&outcome.file),
            outcome.line,
            outcome.took.as_secs_f64()
        );
        if outcome.has_passed() {
            text.push_str("/>\n");
            continue;
        }
        text.push_str(">\n");
        if let Some(told) = &outcome.broken {
            let _ = writeln!(text, "      <error message=\"{}\"/>", in_xml(told));
        } else {
            let number = u64::try_from(outcome.mismatches.len()).unwrap_or(u64::MAX);
            let message = format!("{} not as expected", output::counted(number, "cell"));
            let _ = writeln!(text, "      <failure message=\"{message}\">");
            for mismatch in &outcome.mismatches {
                let told =
                    format!("{}: expected {}, found {}", place(outcome, mismatch), mismatch.expected, mismatch.found);
                let _ = writeln!(text, "{}", in_xml(&told));
            }
            text.push_str("      </failure>\n");
        }
        text.push_str("    </testcase>\n");
    }
    text.push_str("  </testsuite>\n</testsuites>\n");
    text
}

/// Within a text or a quoted attribute. What XML 1.0 can't hold at all becomes U+FFFD.
fn in_xml(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\r' | '\t' => escaped.push_str(&format!("&#{};", u32::from(letter))),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::scenario::Read;

    fn outcomes() -> Vec<Outcome> {
        let outcome = |name: &str, broken: Option<&str>, mismatches: Vec<Mismatch>| Outcome {
            scenario: name.parse().expect("a name"),
            file: "d/<a>&\"b\".test.yaml".into(),
            line: 3,
            took: Duration::from_millis(12),
            cells: 2,
            broken: broken.map(str::to_owned),
            mismatches,
        };
        let mismatch = Mismatch {
            line: 17,
            read: Read::Online,
            column: "v__f".to_owned(),
            at: 1_388_444_400_000_000,
            expected: "\"a<b\"".to_owned(),
            found: "NOT_FOUND".to_owned(),
        };
        vec![
            outcome("good", None, Vec::new()),
            outcome("wrong", None, vec![mismatch]),
            outcome("bad", Some("no source\u{1} 'x' & y"), Vec::new()),
        ]
    }

    #[test]
    fn what_failed_is_told_with_what_was_expected_and_what_was_found() {
        assert_eq!(line(&outcomes()[0]), "ok     good (2 cells, 12 ms)");
        let shown = summary(&outcomes());
        let expected = "
wrong (d/<a>&\"b\".test.yaml:3)
  d/<a>&\"b\".test.yaml:17: v__f, online at 2013-12-30T23:00:00Z
    - expected \"a<b\"
    + found    NOT_FOUND

bad (d/<a>&\"b\".test.yaml:3)
  can't be run: no source\u{1} 'x' & y

1 passed, 2 failed, 6 cells compared";
        assert_eq!(shown, expected);
        let json = json_of(&outcomes());
        assert_eq!((json["passed"].as_u64(), json["failed"].as_u64()), (Some(1), Some(2)));
        assert_eq!(json["tests"][1]["mismatches"][0]["found"], "NOT_FOUND");
    }

    #[test]
    fn a_report_for_ci_is_xml_whatever_stands_in_it() {
        let xml = junit(&outcomes());
        assert!(xml.contains("tests=\"3\" failures=\"1\" errors=\"1\" time=\"0.036\""), "{xml}");
        assert!(xml.contains("<error message=\"no source\u{fffd} 'x' &amp; y\"/>"), "{xml}");
        assert!(xml.contains("expected &quot;a&lt;b&quot;, found NOT_FOUND"), "{xml}");
        assert!(xml.contains("file=\"d/&lt;a&gt;&amp;&quot;b&quot;.test.yaml\""), "{xml}");
        // Every tag that is opened is closed.
        for tag in ["testsuites", "testsuite", "failure"] {
            assert_eq!(xml.matches(&format!("<{tag} ")).count(), xml.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }
}
