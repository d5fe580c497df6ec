//! What came of a load, told: as a table for people, as JSON for programs, as a page with plots. It
//! also says what a reader must not miss, such as reads of keys that aren't there, or a generator
//! that was itself too slow.

use std::time::Duration;

use hydrant_proto::v1::CellStatus;
use serde_json::{Map, Value as Json, json};

use super::super::output::{self, share};
use super::chart::{Axis, Chart, Scale, Series, Style};
use super::figures::{self, micros, rounded};
use super::page::Page;
use super::steps::{Found, Measured, Part, Run, Settled, Step};
use crate::bench::machine;
use crate::bench::search::IN_TIME;
use crate::bench::tally::{Answers, Failures, Record, Tally};

/// All that is told of one measurement of online reads or of writes.
#[derive(Clone, Debug)]
pub struct Results {
    /// `online` or `ingest`.
    pub benchmark: &'static str,
    pub title: String,
    /// RFC 3339.
    pub began: String,
    pub server: Json,
    pub settings: Json,
    /// The settings in words.
    pub described: String,
    pub counted: Counted,
    pub measured: Measured,
    /// What was noticed before anything was measured.
    pub notes: Vec<String>,
}

/// What the counts of an answer stand for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Counted {
    /// Cells, by the number of their status.
    Cells,
    /// First the rows taken, then those that had been taken before.
    Rows { per_request: f64 },
}

const PERCENTILES: [(&str, f64); 6] =
    [("p50", 50.0), ("p90", 90.0), ("p95", 95.0), ("p99", 99.0), ("p99_9", 99.9), ("p99_99", 99.99)];

/// Less than this share of cells with a value makes a benchmark of misses.
const FEW_PRESENT: f64 = 0.9;
/// The generator's lateness is told where it is more than this part of the 99th percentile...
const LATE_SHARE: f64 = 0.25;
/// ...and more than this.
const LATE_MICROS: f64 = 200.0;

impl Results {
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.notes.clone();
        if self.measured.interrupted {
            warnings.push("interrupted: what follows is what was measured until then".to_owned());
        }
        if let Some(Found { highest: None, .. }) = &self.measured.search {
            warnings
                .push("no rate was kept up: the server, this machine or the way between them is too busy".to_owned());
        }
        warnings.extend(self.cells_warning());
        for step in self.steps() {
            warnings.extend(self.warnings_of(&step));
        }
        warnings
    }

    /// What the cells were that had no value, where those were many.
    fn cells_warning(&self) -> Option<String> {
        let mut answers = Answers::default();
        for step in self.steps().filter(|_| self.counted == Counted::Cells) {
            answers.counts.iter_mut().zip(step.tally.answers.counts).for_each(|(sum, count)| *sum += count);
        }
        let all: u64 = answers.counts.iter().sum();
        let many = |status: CellStatus| answers.counts[status as usize] as f64 > (1.0 - FEW_PRESENT) * all as f64;
        let present = answers.counts[CellStatus::Present as usize];
        if present as f64 >= FEW_PRESENT * all as f64 {
            return None;
        }
        let others = cells(&answers).filter(|(name, _)| *name != CellStatus::Present.as_str_name());
        let others: Vec<String> = others.map(|(name, count)| format!("{name} {}", share(count, all))).collect();
        let mut warning =
            format!("only {} of the cells were PRESENT, the others {}", share(present, all), others.join(", "));
        if many(CellStatus::NotFound) {
            warning.push_str("; reads of keys that aren't there cost less");
        }
        if many(CellStatus::Expired) {
            warning.push_str("; rows that have expired are read, but their values are not sent");
        }
        Some(warning)
    }

    fn warnings_of(&self, step: &Step<'_>) -> Vec<String> {
        let tally = step.tally;
        let at = format!("at {}", self.rate_told(step));
        let mut warnings = Vec::new();
        if tally.failed() > 0 {
            let told = told_failures(&tally.failures, tally.unanswered);
            warnings.push(format!(
                "{at}: {} failed, and are in no percentile: {told}",
                output::counted(tally.failed(), "request")
            ));
        }
        let lateness = tally.lateness.value_at_quantile(0.99) as f64 / 1e3;
        if lateness > LATE_MICROS && lateness > LATE_SHARE * tally.percentile_micros(99.0) {
            let told = micros(lateness);
            warnings.push(format!("{at}: 1 % of the requests left {told} late or later: the generator was too slow or had no core, and its lateness is part of the latencies; give it cores that the server doesn't use, such as by `taskset`"));
        }
        let short = tally.rate() < IN_TIME * step.rate && tally.refused() == 0 && tally.failed() == 0;
        if short && !self.measured.interrupted {
            let answered = figures::rate(tally.rate() * self.per_request());
            warnings.push(format!("{at}: not kept up, {answered} a second were answered"));
        }
        warnings
    }

    pub fn json(&self) -> Json {
        let mut json = json!({
            "benchmark": self.benchmark, "began": self.began, "interrupted": self.measured.interrupted,
            "hydrant": env!("CARGO_PKG_VERSION"), "server": self.server, "machine": machine::describe(),
            "settings": self.settings, "warnings": self.warnings(),
        });
        if let Some(found) = &self.measured.search {
            json["search"] = search_json(found);
        }
        json["steps"] = self.steps().map(|step| self.step_json(&step)).collect();
        json["windows"] = self.measured.runs.iter().map(|run| windows_json(&run.ran.record)).collect();
        json
    }

    fn step_json(&self, step: &Step<'_>) -> Json {
        let tally = step.tally;
        let mut json = json!({
            "part": step.part.name(), "rate": rounded(step.rate, 2), "seconds": rounded(tally.lasted.as_secs_f64(), 3),
            "sent": tally.sent, "answered": tally.answered(), "answered_rate": rounded(tally.rate(), 2),
            "refused": tally.refused(), "failed": tally.failed(), "partial": tally.answers.partial,
            "latency_us": percentiles(&tally.latency), "lateness_us": percentiles(&tally.lateness),
            "refused_latency_us": percentiles(&tally.refusals),
            "answer_bytes": tally.answers.bytes,
        });
        let failures = |kinds: &[Failures], key: &str| -> Json {
            let kind = |kind: &Failures| match kind.message.as_str() {
                "" => json!({key: kind.status, "count": kind.count}),
                message => json!({key: kind.status, "count": kind.count, "message": message}),
            };
            kinds.iter().map(kind).collect()
        };
        json["failures"] = failures(&tally.failures, "status");
        json["unanswered"] = json!(tally.unanswered);
        json["refused_for"] = failures(&tally.refused_for, "reason");
        if tally.delays.told > 0 {
            let (least, most) = (millis(tally.delays.least), millis(tally.delays.most));
            json["retry_after_ms"] = json!({"told": tally.delays.told, "least": least, "most": most});
        }
        match self.counted {
            Counted::Cells => {
                json["cells"] = cells(&tally.answers)
                    .map(|(name, count)| (name.to_owned(), json!(count)))
                    .collect::<Map<_, _>>()
                    .into();
                let present = self.present(&tally.answers).filter(|(_, cells)| *cells > 0);
                json["present_share"] =
                    json!(present.map(|(present, cells)| rounded(present as f64 / cells as f64, 4)));
            }
            Counted::Rows { .. } => {
                let [rows, again, ..] = tally.answers.counts;
                json["rows"] = json!(rows + again);
                json["rows_rate"] = json!(rounded((rows + again) as f64 / tally.lasted.as_secs_f64().max(1e-9), 2));
            }
        }
        let (own, server) = cpu_per_request(step);
        json["cpu_us_per_request"] =
            json!({"generator": own.map(|own| rounded(own, 1)), "server": server.map(|server| rounded(server, 1))});
        if let Some(settled) = step.settled_after {
            json["settled_after_s"] = match settled {
                Settled::After(duration) => json!(rounded(duration.as_secs_f64(), 3)),
                Settled::Never => Json::Null,
            };
        }
        json
    }

    /// The table for people.
    pub fn text(&self) -> String {
        let (header, rows, right) = self.table();
        let mut text = format!("{}\n{}\n\n{}\n", self.title, self.described, output::table(&header, &rows, &right));
        for line in self.remarks() {
            text.push_str(&format!("\n{line}"));
        }
        text
    }

    fn table(&self) -> (Vec<&'static str>, Vec<Vec<String>>, Vec<usize>) {
        let with_burst = self.measured.runs.iter().any(|run| run.arrivals.phases().len() > 1);
        let mut header = vec![if self.counted == Counted::Cells { "requests/s" } else { "rows/s" }];
        if with_burst {
            header.push("part");
        }
        header.extend(["answered/s", "p50", "p99", "p99.9", "p99.99", "max", "refused", "failed"]);
        header.push(if self.counted == Counted::Cells { "present" } else { "batches/s" });
        header.push("CPU here");
        let with_server = self.measured.runs.iter().any(|run| run.ran.server_cpu_micros.is_some());
        if with_server {
            header.push("CPU server");
        }
        let row = |step: Step<'_>| {
            let tally = step.tally;
            let mut row = vec![figures::rate(step.rate * self.per_request())];
            if with_burst {
                row.push(step.part.name().to_owned());
            }
            row.push(figures::rate(tally.rate() * self.per_request()));
            let shown = |micros_: f64| if tally.answered() == 0 { "-".to_owned() } else { micros(micros_) };
            row.extend([50.0, 99.0, 99.9, 99.99, 100.0].map(|percentile| shown(tally.percentile_micros(percentile))));
            row.extend([tally.refused(), tally.failed()].map(output::count));
            row.push(match self.present(&tally.answers) {
                Some((present, cells)) => share(present, cells),
                None => figures::rate(tally.rate()),
            });
            let (own, server) = cpu_per_request(&step);
            let cpu = |micros_: Option<f64>| micros_.map_or_else(|| "-".to_owned(), micros);
            row.push(cpu(own));
            if with_server {
                row.push(cpu(server));
            }
            row
        };
        let rows: Vec<Vec<String>> = self.steps().map(row).collect();
        let right = (0..header.len()).filter(|index| header[*index] != "part").collect();
        (header, rows, right)
    }

    /// What the table has no column for.
    fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if let Some(Found { highest: Some(highest), trials, .. }) = &self.measured.search {
            let (rate, trials) =
                (figures::rate(highest * self.per_request()), output::counted(trials.len() as u64, "trial"));
            remarks.push(format!("highest rate kept up: {rate} a second ({trials})"));
        }
        for step in self.steps() {
            let at = format!("at {}", self.rate_told(&step));
            let tally = step.tally;
            match step.settled_after {
                Some(Settled::After(duration)) => {
                    remarks.push(format!("{at}: settled after {}", output::seconds(duration)))
                }
                Some(Settled::Never) => remarks.push(format!("{at}: did not settle")),
                None => {}
            }
            if tally.refused() > 0 {
                let refused = output::counted(tally.refused(), "request");
                let p99 = micros(tally.refusals.value_at_quantile(0.99) as f64 / 1e3);
                let delays = match tally.delays.told {
                    0 => "none with a delay to try again".to_owned(),
                    told => format!("{} of them to try again after {}", output::count(told), delay_told(tally)),
                };
                remarks.push(format!(
                    "{at}: {refused} refused ({}), 99 % of them within {p99}, {delays}",
                    told_failures(&tally.refused_for, 0)
                ));
            }
            if tally.answers.partial > 0 {
                remarks.push(format!(
                    "{at}: {} in part only (cells NOT_READY)",
                    output::counted(tally.answers.partial, "answer")
                ));
            }
        }
        remarks
    }

    pub fn page(&self) -> Page {
        let mut page = Page::new(&self.title, &format!("{} · {}", self.began, self.described));
        page.warnings(&self.warnings());
        let (header, rows, right) = self.table();
        page.table(&header, &rows, &right);
        for remark in self.remarks() {
            page.text(&remark);
        }
        page.heading("Latency");
        page.chart(&self.percentile_chart());
        if self.measured.runs.len() > 1 {
            page.chart(&self.rate_chart());
        }
        for run in &self.measured.runs {
            let rate = figures::rate(run.rate * self.per_request());
            page.heading(&match run.arrivals.phases().len() {
                1 => format!("{rate} a second"),
                _ => format!("{rate} a second, with a burst"),
            });
            page.chart(&time_chart(run));
            page.chart(&replies_chart(run));
        }
        if let Some(found) = &self.measured.search {
            page.heading("Search for the highest rate");
            let row = |trial: &super::steps::Trial| {
                let kept_up = if trial.kept_up { "yes" } else { "no" };
                let rate = |rate: f64| figures::rate(rate * self.per_request());
                vec![rate(trial.rate), rate(trial.answered_rate), micros(trial.p99_micros), kept_up.to_owned()]
            };
            let rows: Vec<Vec<String>> = found.trials.iter().map(row).collect();
            page.table(&["tried, a second", "answered, a second", "p99", "kept up"], &rows, &[0, 1, 2]);
        }
        page.heading("What is measured");
        page.text(
            "Requests leave at instants that are fixed beforehand, whatever the server does, and a latency counts from \
             that instant: a stall shows in every request that it delayed. Percentiles are of what was answered; \
             refused (RESOURCE_EXHAUSTED) and failed requests are counted apart.",
        );
        let mut rows = Vec::new();
        for (name, value) in
            [("server", &self.server), ("this machine", &machine::describe()), ("settings", &self.settings)]
        {
            rows.extend(setting_rows(name, value));
        }
        page.table(&["", "", ""], &rows, &[]);
        page
    }

    fn percentile_chart(&self) -> Chart {
        let series = self.steps().enumerate().map(|(index, step)| {
            let name = self.rate_told(&step);
            Series { name, points: quantiles(step.tally), style: Style::Line(index) }
        });
        Chart {
            title: "Latency by percentile".to_owned(),
            x: Axis {
                label: "percentile",
                scale: Scale::Nines,
                written: |quantile| format!("{} %", trimmed(quantile * 100.0)),
            },
            y: LATENCY,
            series: series.collect(),
            marks: Vec::new(),
        }
    }

    fn rate_chart(&self) -> Chart {
        let of_percentile = |(index, (name, percentile)): (usize, (&str, f64))| Series {
            name: name.to_owned(),
            points: self
                .steps()
                .map(|step| (step.rate * self.per_request(), step.tally.percentile_micros(percentile)))
                .collect(),
            style: Style::Line(index),
        };
        let told = [("p50", 50.0), ("p99", 99.0), ("p99.9", 99.9)];
        let mut series: Vec<Series> = told.into_iter().enumerate().map(of_percentile).collect();
        for series in &mut series {
            series.points.sort_by(|one, other| one.0.total_cmp(&other.0));
        }
        let label = if self.counted == Counted::Cells { "requests a second" } else { "rows a second" };
        Chart {
            title: "Latency by rate".to_owned(),
            x: Axis { label, scale: Scale::Linear, written: figures::rate },
            y: LATENCY,
            series,
            marks: Vec::new(),
        }
    }

    fn steps(&self) -> impl Iterator<Item = Step<'_>> {
        self.measured.runs.iter().flat_map(Run::steps)
    }

    fn rate_told(&self, step: &Step<'_>) -> String {
        let rate = figures::rate(step.rate * self.per_request());
        match step.part {
            Part::Steady => format!("{rate} a second"),
            part => format!("{rate} a second ({})", part.name()),
        }
    }

    fn per_request(&self) -> f64 {
        match self.counted {
            Counted::Cells => 1.0,
            Counted::Rows { per_request } => per_request,
        }
    }

    /// Cells that were PRESENT, and all.
    fn present(&self, answers: &Answers) -> Option<(u64, u64)> {
        let present = answers.counts[CellStatus::Present as usize];
        (self.counted == Counted::Cells).then(|| (present, answers.counts.iter().sum()))
    }
}

const LATENCY: Axis = Axis { label: "latency", scale: Scale::Log, written: micros };
const TIME: Axis = Axis { label: "seconds", scale: Scale::Linear, written: figures::three_digits };

fn time_chart(run: &Run) -> Chart {
    let record = &run.ran.record;
    let series = |name: &str, quantile: f64, style: Style| {
        let latency = |histogram: &hdrhistogram::Histogram<u64>| match histogram.is_empty() {
            true => f64::NAN,
            false => histogram.value_at_quantile(quantile) as f64 / 1e3,
        };
        let points = over_time(record, |window| latency(&window.latency));
        Series { name: name.to_owned(), points, style }
    };
    Chart {
        title: "Latency over time, by when requests were due".to_owned(),
        x: TIME,
        y: LATENCY,
        // What lies over the others comes last.
        series: vec![
            series("slowest", 1.0, Style::Faint),
            series("p99", 0.99, Style::Line(1)),
            series("p50", 0.5, Style::Line(0)),
        ],
        marks: marks(run),
    }
}

fn replies_chart(run: &Run) -> Chart {
    let record = &run.ran.record;
    let seconds = record.window.as_secs_f64();
    let series = |name: &str, count: fn(&crate::bench::tally::Window) -> u64, style: Style| {
        let points = over_time(record, |window| count(window) as f64 / seconds);
        Series { name: name.to_owned(), points, style }
    };
    let mut all = vec![
        series("sent", |window| window.sent, Style::Faint),
        series("answered", |window| window.answered, Style::Line(2)),
    ];
    if record.windows.iter().any(|window| window.refused > 0) {
        all.push(series("refused", |window| window.refused, Style::Line(1)));
    }
    if record.windows.iter().any(|window| window.failed > 0) {
        all.push(series("failed", |window| window.failed, Style::Line(3)));
    }
    Chart {
        title: "Requests a second, by when they were due".to_owned(),
        x: TIME,
        y: Axis { label: "requests a second", scale: Scale::Linear, written: figures::rate },
        series: all,
        marks: marks(run),
    }
}

/// A value for each window, at its middle.
fn over_time(record: &Record, value: impl Fn(&crate::bench::tally::Window) -> f64) -> Vec<(f64, f64)> {
    let window = record.window.as_secs_f64();
    record.windows.iter().enumerate().map(|(index, of)| ((index as f64 + 0.5) * window, value(of))).collect()
}

fn marks(run: &Run) -> Vec<(f64, String)> {
    let mark = |(phase, part): (&crate::bench::arrivals::Phase, &str)| (phase.begins.as_secs_f64(), part.to_owned());
    run.arrivals.phases().iter().skip(1).zip(["burst", "after"]).map(mark).collect()
}

/// Points for the plot: closer together the higher the quantile, up to where one request counts.
fn quantiles(tally: &Tally) -> Vec<(f64, f64)> {
    let answered = tally.answered();
    if answered == 0 {
        return Vec::new();
    }
    const STEPS_PER_NINE: f64 = 12.0;
    let nines = (answered as f64).log10().max(0.3);
    let steps = (nines * STEPS_PER_NINE).floor() as usize;
    let quantile = |step: usize| 1.0 - 10_f64.powf(-(step as f64) / STEPS_PER_NINE);
    (0..=steps)
        .map(quantile)
        .map(|quantile| (quantile, tally.latency.value_at_quantile(quantile) as f64 / 1e3))
        .collect()
}

/// What is known of a thing, as rows of a table.
pub(super) fn setting_rows(name: &str, value: &Json) -> Vec<Vec<String>> {
    let known = |value: &Json| !value.is_null() && value.as_str() != Some("");
    let fields = value.as_object().into_iter().flatten().filter(|(_, value)| known(value));
    let text = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    fields.map(|(field, value)| vec![name.to_owned(), field.replace('_', " "), text(value)]).collect()
}

/// Latencies in microseconds; null where there is none.
fn percentiles(histogram: &hdrhistogram::Histogram<u64>) -> Json {
    if histogram.is_empty() {
        return Json::Null;
    }
    let micros = |nanos: f64| json!(rounded(nanos / 1e3, 1));
    let mut json = Map::new();
    json.insert("mean".to_owned(), micros(histogram.mean()));
    for (name, percentile) in PERCENTILES {
        json.insert(name.to_owned(), micros(histogram.value_at_percentile(percentile) as f64));
    }
    json.insert("max".to_owned(), micros(histogram.max() as f64));
    Json::Object(json)
}

fn search_json(found: &Found) -> Json {
    let trial = |trial: &super::steps::Trial| {
        json!({
            "rate": rounded(trial.rate, 2), "answered_rate": rounded(trial.answered_rate, 2),
            "p99_us": rounded(trial.p99_micros, 1), "kept_up": trial.kept_up,
        })
    };
    json!({
        "closed_loop_rate": rounded(found.closed_loop, 2), "highest_rate": found.highest.map(|rate| rounded(rate, 2)),
        "trials": found.trials.iter().map(trial).collect::<Vec<_>>(),
    })
}

fn windows_json(record: &Record) -> Json {
    let window = |(index, window): (usize, &crate::bench::tally::Window)| {
        let micros = |quantile: f64| {
            let told = !window.latency.is_empty();
            told.then(|| rounded(window.latency.value_at_quantile(quantile) as f64 / 1e3, 1))
        };
        json!({
            "at_s": rounded(index as f64 * record.window.as_secs_f64(), 3), "sent": window.sent,
            "answered": window.answered, "refused": window.refused, "failed": window.failed,
            "p50_us": micros(0.5), "p99_us": micros(0.99), "max_us": micros(1.0),
        })
    };
    record.windows.iter().enumerate().map(window).collect()
}

/// Of this process and of the server, where the whole run had one rate.
fn cpu_per_request(step: &Step<'_>) -> (Option<f64>, Option<f64>) {
    let answered = Some(step.tally.answered()).filter(|answered| *answered > 0 && step.part == Part::Steady);
    let each = |micros: u64| answered.map(|answered| micros as f64 / answered as f64);
    (each(step.run.ran.own_cpu_micros), step.run.ran.server_cpu_micros.and_then(each))
}

/// Statuses that there are cells of, with their numbers.
fn cells(answers: &Answers) -> impl Iterator<Item = (&'static str, u64)> {
    let name = |(number, count): (usize, u64)| {
        let status = i32::try_from(number).ok().and_then(|number| CellStatus::try_from(number).ok());
        (status.unwrap_or(CellStatus::Unspecified).as_str_name(), count)
    };
    answers.counts.into_iter().enumerate().filter(|(_, count)| *count > 0).map(name)
}

fn told_failures(kinds: &[Failures], unanswered: u64) -> String {
    let mut told: Vec<String> =
        kinds.iter().map(|kind| format!("{} {}", output::count(kind.count), kind.status)).collect();
    if unanswered > 0 {
        told.push(format!("{} without any reply", output::count(unanswered)));
    }
    told.join(", ")
}

fn delay_told(tally: &Tally) -> String {
    let (least, most) = (millis(tally.delays.least), millis(tally.delays.most));
    if least == most { format!("{least} ms") } else { format!("{least} to {most} ms") }
}

fn millis(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64() * 1e3, 3)
}

/// `99.9`, not `99.90000000000001`.
fn trimmed(number: f64) -> String {
    let text = format!("{number:.7}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
