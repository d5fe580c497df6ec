//! What came of a comparison, as a table or as JSON.

use std::time::Duration;

use hydrant_proto::v1::CellStatus;
use hydrant_storage::order::Micros;
use serde_json::{Map, Value as Json, json};

use super::comparison::{Cell, Comparison, Example, Feature};
use crate::cli::output::{self, Tone};
use crate::cli::time;
use crate::registry::values;

/// Texts longer than this are cut in the table.
const SHOWN_CHARACTERS: usize = 60;

/// One of the two services.
#[derive(Debug)]
pub struct Side {
    /// With its version.
    pub service: String,
    /// Of each read, from sending to the whole answer.
    pub latencies: Vec<Duration>,
    /// Cells that the caller may not see.
    pub masked: u64,
}

#[derive(Debug)]
pub struct Report {
    pub left: Side,
    pub right: Side,
    /// The instant of all reads; `None`: each had its own.
    pub t: Option<Micros>,
    pub comparison: Comparison,
}

impl Report {
    pub fn differs(&self) -> bool {
        self.comparison.differs()
    }

    /// What could not be compared.
    pub fn warning(&self) -> Option<String> {
        let masked = self.left.masked.max(self.right.masked);
        (masked > 0).then(|| {
            let cells = output::counted(masked, "cell");
            format!("{cells} may not be seen with this key (MASKED), so that their values were not compared")
        })
    }

    pub fn json(&self) -> Json {
        let comparison = &self.comparison;
        json!({
            "left": self.left.json(),
            "right": self.right.json(),
            "t": self.t.map(time::show),
            "rows": comparison.rows,
            "tolerance": comparison.tolerance(),
            "differs": comparison.differs(),
            "features": comparison.features.iter().map(feature_json).collect::<Vec<_>>(),
            "only_left": comparison.only_left,
            "only_right": comparison.only_right,
        })
    }

    pub fn text(&self) -> String {
        let comparison = &self.comparison;
        let mut text = String::new();
        let lines: Vec<Vec<String>> = comparison.features.iter().map(feature_line).collect();
        let header = ["feature", "equal", "values differ", "statuses differ", "max diff", "mean diff"];
        text.push_str(&output::table(&header, &lines, &[1, 2, 3, 4, 5]));
        text.push('\n');
        for feature in comparison.features.iter().filter(|feature| feature.differs()) {
            text.push_str(&format!("\n{}\n", output::on_stdout(&feature.name, Tone::Strong)));
            let (left, right) = feature.types;
            if left != right {
                text.push_str(&format!("  type: {left} and {right}\n"));
            }
            for ((left, right), count) in &feature.statuses {
                text.push_str(&format!("  {left} and {right}: {}\n", output::counted(*count, "cell")));
            }
            for example in &feature.examples {
                text.push_str(&format!("  {}\n", example_text(example)));
            }
        }
        for (side, names) in [(&self.left, &comparison.only_left), (&self.right, &comparison.only_right)] {
            if !names.is_empty() {
                text.push_str(&format!("\nonly in {}: {}\n", side.service, names.join(", ")));
            }
        }
        let lines = [self.left.line(), self.right.line()];
        text.push('\n');
        text.push_str(&output::table(&["service", "reads", "p50", "p99"], &lines, &[1, 2, 3]));
        let instant =
            self.t.map_or_else(|| "each read at its own instant".to_owned(), |t| format!("at {}", time::show(t)));
        let verdict = if comparison.differs() { "they differ" } else { "no difference" };
        let rows = output::counted(comparison.rows, "row");
        text.push_str(&output::on_stdout(&format!("\n\n{verdict}; {rows} compared, {instant}"), Tone::Faint));
        text
    }
}

impl Side {
    fn json(&self) -> Json {
        json!({
            "service": self.service,
            "reads": self.latencies.len(),
            "p50_us": micros(percentile(&self.latencies, 50)),
            "p99_us": micros(percentile(&self.latencies, 99)),
        })
    }

    fn line(&self) -> Vec<String> {
        let shown = |percent: usize| format!("{:.2} ms", percentile(&self.latencies, percent).as_secs_f64() * 1e3);
        vec![self.service.clone(), output::count(self.latencies.len() as u64), shown(50), shown(99)]
    }
}

/// The smallest that so many percent of them don't exceed.
fn percentile(latencies: &[Duration], percent: usize) -> Duration {
    let mut sorted = latencies.to_vec();
    sorted.sort_unstable();
    let place = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(place).copied().unwrap_or_default()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn feature_json(feature: &Feature) -> Json {
    let statuses = feature.statuses.iter();
    let statuses = statuses.map(|((left, right), cells)| json!({"left": left, "right": right, "cells": cells}));
    let mut json = json!({
        "feature": feature.name,
        "types": {"left": feature.types.0.to_string(), "right": feature.types.1.to_string()},
        "equal": feature.equal,
        "values_differ": feature.values_differ,
        "statuses_differ": feature.statuses_differ,
        "statuses": statuses.collect::<Vec<_>>(),
        "examples": feature.examples.iter().map(example_json).collect::<Vec<_>>(),
    });
    if feature.distance.pairs > 0 {
        json["max_difference"] = json!(feature.distance.max);
        json["mean_difference"] = json!(feature.distance.mean());
    }
    json
}

fn feature_line(feature: &Feature) -> Vec<String> {
    let distance = |number: f64| if feature.distance.pairs == 0 { String::new() } else { format!("{number}") };
    vec![
        feature.name.clone(),
        output::count(feature.equal),
        output::count(feature.values_differ),
        output::count(feature.statuses_differ),
        distance(feature.distance.max),
        distance(feature.distance.mean()),
    ]
}

fn example_json(example: &Example) -> Json {
    let cell = |cell: &Cell| json!({"value": values::to_json(&cell.value), "status": cell.status.as_str_name()});
    json!({"key": example.key, "left": cell(&example.left), "right": cell(&example.right)})
}

fn example_text(example: &Example) -> String {
    let key = |key: &Map<String, Json>| {
        key.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect::<Vec<_>>().join(",")
    };
    format!("{}: {} and {}", key(&example.key), cell_text(&example.left), cell_text(&example.right))
}

fn cell_text(cell: &Cell) -> String {
    let value = plain(&values::to_json(&cell.value));
    match cell.status {
        CellStatus::Present => value,
        status if value.is_empty() => status.as_str_name().to_owned(),
        status => format!("{value} {}", status.as_str_name()),
    }
}

fn plain(value: &Json) -> String {
    let text = match value {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_latency_that_was_measured() {
        let latencies: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&latencies, 50), Duration::from_millis(100));
        assert_eq!(percentile(&latencies, 99), Duration::from_millis(198));
        assert_eq!(percentile(&latencies[..1], 50), Duration::from_millis(200));
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }
}
