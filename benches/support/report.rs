//! How a benchmark tells what came out: one JSON object a line on standard output, for programs, and
//! the same as tables on standard error, for people.

use anyhow::Result;
use comfy_table::Table;
use hydrant::clock::{Clock as _, SystemClock, rfc3339};
use serde_json::{Map, Value, json};

use super::machine;

/// The rows told so far, by table.
#[derive(Debug)]
pub struct Report {
    benchmark: &'static str,
    /// What is being measured, where a benchmark has parts.
    part: Option<String>,
    tables: Vec<(String, Vec<Map<String, Value>>)>,
}

impl Report {
    /// Begins with a line on the machine, the versions and the settings.
    pub fn begin(benchmark: &'static str, versions: Value, settings: Value) -> Self {
        let command: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
        let line = json!({
            "benchmark": benchmark,
            "date": rfc3339(SystemClock.now()),
            "arguments": command.join(" "),
            "machine": machine::describe(),
            "versions": versions,
            "settings": settings,
        });
        println!("{line}");
        eprintln!("{line:#}");
        Self { benchmark, part: None, tables: Vec::new() }
    }

    /// The part that the rows from here on belong to. A part that is measured again replaces its rows
    /// (`scripts/benchmarks.py`).
    pub fn part(&mut self, name: &str) {
        self.part = Some(name.to_owned());
    }

    /// One row of one table: an object whose fields are the table's columns.
    pub fn row(&mut self, table: &str, figures: Value) -> Result<()> {
        let Value::Object(figures) = figures else { anyhow::bail!("a row is an object") };
        let mut line = Map::new();
        line.insert("benchmark".to_owned(), self.benchmark.into());
        line.extend(self.part.clone().map(|part| ("part".to_owned(), part.into())));
        line.insert("table".to_owned(), table.into());
        line.extend(figures.clone());
        println!("{}", Value::Object(line));
        match self.tables.iter_mut().find(|(name, _)| name == table) {
            Some((_, rows)) => rows.push(figures),
            None => self.tables.push((table.to_owned(), vec![figures])),
        }
        Ok(())
    }

    /// Shows the tables.
    pub fn finish(self) {
        for (name, rows) in self.tables {
            let mut columns: Vec<&String> = Vec::new();
            for column in rows.iter().flat_map(Map::keys) {
                if !columns.contains(&column) {
                    columns.push(column);
                }
            }
            let mut table = Table::new();
            table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED).set_header(columns.iter().copied());
            for row in &rows {
                table.add_row(columns.iter().map(|column| row.get(*column).map(cell).unwrap_or_default()));
            }
            eprintln!("\n{}: {name}\n{table}", self.benchmark);
        }
    }
}

/// A figure to three digits.
pub fn figure(value: f64) -> Value {
    if !value.is_finite() {
        return Value::Null;
    }
    if value.abs() >= 100.0 {
        return json!(value.round() as i64);
    }
    let digits = 3 - 1 - value.abs().max(1e-9).log10().floor() as i32;
    let scale = 10_f64.powi(digits.max(0));
    json!((value * scale).round() / scale)
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
