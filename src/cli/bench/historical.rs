//! `hydrant bench historical`: training sets made one after the other or several at a time, from the
//! spine's first byte sent to the last row received. The rows are counted and dropped.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use hydrant_proto::v1;
use indicatif::ProgressBar;
use serde_json::{Value as Json, json};

use super::super::input::ParquetInput;
use super::super::output::{self, ResultOutput, count, counted, seconds};
use super::super::{Done, Failure, Server, historical, progress, time};
use super::Interrupt;
use super::chart::{Axis, Chart, Scale, Series, Style};
use super::figures::{self, bytes, rounded, three_digits};
use super::page::{Page, PageFile};
use super::process::ServerProcess;
use crate::bench::machine;
use crate::clock::{Clock as _, SystemClock};
use crate::rpc::client::Client;

/// Make training sets and measure the time to the first rows, the whole, and rows a second
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    hydrant bench historical --service delay_model --spine requests.parquet --event-time event_timestamp --repeat 5\n  \
    hydrant bench historical --service delay_model --spine requests.parquet --event-time event_timestamp --repeat 8 \\\n    \
    --parallel 2 --report historical.html\n\n\
    Ctrl-C ends the measuring and prints the training sets that were whole by then.")]
pub struct Args {
    /// The feature service: NAME (its current version) or NAME@N
    #[arg(long, value_name = "SERVICE")]
    service: String,

    /// The rows to find features for: a Parquet file with the join keys and a time
    #[arg(long, value_name = "FILE.parquet")]
    spine: PathBuf,

    /// The spine's column that says as of when
    #[arg(long, value_name = "COLUMN")]
    event_time: String,

    /// How many training sets to make
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repeat: u32,

    /// How many of them at a time, each over a connection of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    parallel: u32,

    /// See later corrections too: every row counts as if known when it happened
    #[arg(long = "final")]
    final_values: bool,

    /// The server's process, if it runs on this machine: tells its CPU time and memory
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,

    /// Write a page with plots
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,

    #[command(flatten)]
    pub output: ResultOutput,
}

/// Points that are kept of the course of one training set.
const MAX_POINTS: u64 = 200;

pub(super) async fn run(args: Args, server: &Server, interrupt: &Interrupt) -> Result<Done, Failure> {
    let spine = ParquetInput::open(&args.spine)?;
    let page = PageFile::begin(args.report.as_ref())?;
    let info = server.connect().await?.server_info().await?;
    let server_process = ServerProcess::find(args.server_pid, server.address())?;
    let cpu_before = server_process.map(ServerProcess::cpu_micros).transpose()?;
    let began = time::show(SystemClock.now());
    let bar = progress::rows("making training sets", spine.rows() * u64::from(args.repeat));
    let started = Instant::now();
    let mut results = Results {
        sets: Vec::new(),
        failures: Vec::new(),
        elapsed: Duration::ZERO,
        interrupted: false,
        server_cpu: None,
    };
    let mut all = std::pin::pin!(
        futures::stream::iter(0..args.repeat)
            .map(|_| async {
                let client = server.connect().await?;
                args.make(&client, &spine, started, &bar).await
            })
            .buffer_unordered(usize::try_from(args.parallel).unwrap_or(1))
    );
    let mut interrupted = interrupt.clone();
    loop {
        let made = tokio::select! {
            made = all.next() => made,
            () = interrupted.came(1) => {
                results.interrupted = true;
                break;
            }
        };
        match made {
            None => break,
            Some(Ok(set)) => results.sets.push(set),
            Some(Err(failure)) => results.failures.push(failure),
        }
    }
    bar.finish_and_clear();
    results.elapsed = started.elapsed();
    if results.sets.is_empty() {
        return Err(results.failures.into_iter().next().unwrap_or_else(Interrupt::failure));
    }
    let cpu_after = server_process.map(ServerProcess::cpu_micros).transpose()?;
    results.server_cpu = cpu_after.zip(cpu_before).map(|(after, before)| Duration::from_micros(after - before));

    let told = Told {
        args: &args,
        began,
        server: json!({"address": server.address(), "version": info.version}),
        spine_rows: spine.rows(),
    };
    output::print_as(args.output.format, &told.json(&results), || told.text(&results))?;
    if args.output.format == output::Format::Table {
        results.warnings().iter().for_each(|warning| output::warn(warning, args.output.format));
    }
    if let Some(file) = page {
        file.write(&told.page(&results))?;
    }
    if results.interrupted { Err(Interrupt::failure()) } else { Ok(Done::Done) }
}

/// One training set as it was received.
#[derive(Clone, Debug)]
struct Set {
    /// Since the first of all began.
    began: Duration,
    first_batch: Duration,
    total: Duration,
    rows: u64,
    bytes: u64,
    /// Rows that had not landed in history and came from the tail.
    tail_rows: u64,
    /// Rows received, by the time since the set was begun.
    course: Vec<(Duration, u64)>,
}

#[derive(Debug)]
struct Results {
    sets: Vec<Set>,
    failures: Vec<Failure>,
    elapsed: Duration,
    interrupted: bool,
    server_cpu: Option<Duration>,
}

impl Args {
    async fn make(
        &self,
        client: &Client,
        spine: &ParquetInput,
        first: Instant,
        bar: &ProgressBar,
    ) -> Result<Set, Failure> {
        let command = v1::HistoricalFeaturesCommand {
            services: vec![self.service.clone()],
            event_time: self.event_time.clone(),
            r#final: self.final_values,
            ..Default::default()
        };
        // Connected before the clock starts: it is the training set that is measured.
        client.flight().await?;
        let (begun, began) = (Instant::now(), first.elapsed());
        let batches = historical::batches(spine, ProgressBar::hidden())?;
        let mut set = client.training_set(command, spine.schema().clone(), batches).await?;
        let (mut rows, mut first_batch, mut course) = (0, None, vec![(Duration::ZERO, 0)]);
        let stride = (spine.rows() / MAX_POINTS).max(1);
        while let Some(batch) = set.next().await? {
            let now = begun.elapsed();
            if first_batch.is_none() {
                first_batch = Some(now);
                course.push((now, 0));
            }
            rows += batch.num_rows() as u64;
            bar.inc(batch.num_rows() as u64);
            if rows >= course.last().map_or(0, |(_, rows)| *rows) + stride {
                course.push((now, rows));
            }
        }
        let total = begun.elapsed();
        course.push((total, rows));
        if rows != spine.rows() {
            let message = format!("the spine has {} rows and the training set {rows}", spine.rows());
            return Err(Failure::new("ROWS_MISSING", message));
        }
        let tail_rows = set.report().map_or(0, |report| report.tables.iter().map(|table| table.tail_rows).sum());
        let first_batch = first_batch.unwrap_or(total);
        Ok(Set { began, first_batch, total, rows, bytes: set.received_bytes(), tail_rows, course })
    }
}

impl Set {
    fn rows_per_second(&self) -> f64 {
        self.rows as f64 / self.total.as_secs_f64().max(1e-9)
    }
}

impl Results {
    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.interrupted {
            warnings.push("interrupted: what follows is what was whole until then".to_owned());
        }
        if let Some(first) = self.failures.first() {
            let failed = counted(self.failures.len() as u64, "training set");
            warnings.push(format!("{failed} failed, the first because: {}", first.message));
        }
        warnings
    }

    /// Rows a second of all together.
    fn rows_per_second(&self) -> f64 {
        self.sets.iter().map(|set| set.rows).sum::<u64>() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// The least, the middle and the most.
    fn spread(&self, of: impl Fn(&Set) -> f64) -> [f64; 3] {
        let mut values: Vec<f64> = self.sets.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        [values[0], values[values.len() / 2], values[values.len() - 1]]
    }
}

/// Results and what they are the results of.
struct Told<'a> {
    args: &'a Args,
    began: String,
    server: Json,
    spine_rows: u64,
}

impl Told<'_> {
    fn json(&self, results: &Results) -> Json {
        let second = |duration: Duration| rounded(duration.as_secs_f64(), 4);
        let set = |set: &Set| {
            json!({
                "began_s": second(set.began), "first_batch_s": second(set.first_batch), "total_s": second(set.total),
                "rows": set.rows, "rows_rate": rounded(set.rows_per_second(), 1), "received_bytes": set.bytes,
                "tail_rows": set.tail_rows,
            })
        };
        let spread = |of: fn(&Set) -> f64| {
            let [least, median, most] = results.spread(of).map(|value| rounded(value, 4));
            json!({"least": least, "median": median, "most": most})
        };
        json!({
            "benchmark": "historical", "began": self.began, "interrupted": results.interrupted,
            "hydrant": env!("CARGO_PKG_VERSION"), "server": self.server, "machine": machine::describe(),
            "settings": self.settings(), "warnings": results.warnings(),
            "first_batch_s": spread(|set| set.first_batch.as_secs_f64()),
            "total_s": spread(|set| set.total.as_secs_f64()),
            "rows_rate": spread(Set::rows_per_second),
            "all": {
                "seconds": second(results.elapsed), "rows_rate": rounded(results.rows_per_second(), 1),
                "made": results.sets.len(), "failed": results.failures.len(),
                "server_cpu_s": results.server_cpu.map(second),
            },
            "sets": results.sets.iter().map(set).collect::<Vec<_>>(),
        })
    }

    fn settings(&self) -> Json {
        json!({
            "service": self.args.service, "spine": self.args.spine.display().to_string(), "spine_rows": self.spine_rows,
            "event_time": self.args.event_time, "final": self.args.final_values, "repeat": self.args.repeat,
            "parallel": self.args.parallel,
        })
    }

    fn title(&self) -> String {
        format!("Training sets of {}", self.args.service)
    }

    fn described(&self) -> String {
        format!("{} of spine, {} at a time", counted(self.spine_rows, "row"), self.args.parallel)
    }

    fn table(&self, results: &Results) -> Vec<Vec<String>> {
        let row = |(number, set): (usize, &Set)| {
            vec![
                (number + 1).to_string(),
                seconds(set.first_batch),
                seconds(set.total),
                figures::rate(set.rows_per_second()),
                bytes(set.bytes as f64),
            ]
        };
        results.sets.iter().enumerate().map(row).collect()
    }

    fn remark(&self, results: &Results) -> String {
        let [_, first, _] = results.spread(|set| set.first_batch.as_secs_f64());
        let [_, total, _] = results.spread(|set| set.total.as_secs_f64());
        let mut remark = format!(
            "median: first rows after {}, all after {}; all together {} rows a second",
            seconds(Duration::from_secs_f64(first)),
            seconds(Duration::from_secs_f64(total)),
            figures::rate(results.rows_per_second()),
        );
        if let Some(cpu) = results.server_cpu {
            remark.push_str(&format!(", {} of the server's CPU", seconds(cpu)));
        }
        let tail_rows = results.sets.iter().map(|set| set.tail_rows).max().unwrap_or(0);
        if tail_rows > 0 {
            remark.push_str(&format!("; up to {} rows had not landed in history yet", count(tail_rows)));
        }
        remark
    }

    fn text(&self, results: &Results) -> String {
        let table = output::table(&HEADER, &self.table(results), &RIGHT);
        format!("{}\n{}\n\n{table}\n\n{}", self.title(), self.described(), self.remark(results))
    }

    fn page(&self, results: &Results) -> Page {
        let mut page = Page::new(&self.title(), &format!("{} · {}", self.began, self.described()));
        page.warnings(&results.warnings());
        page.table(&HEADER, &self.table(results), &RIGHT);
        page.text(&self.remark(results));
        page.heading("Rows received");
        page.chart(&Chart {
            title: "Rows received over time, from when each training set was begun".to_owned(),
            x: Axis { label: "seconds", scale: Scale::Linear, written: three_digits },
            y: Axis { label: "rows", scale: Scale::Linear, written: figures::rate },
            series: (0..).zip(&results.sets).map(|(index, set)| course(index, set)).collect(),
            marks: Vec::new(),
        });
        page.heading("What is measured");
        page.text(
            "A training set is measured from the spine's first byte sent to the last row received. The spine is read \
             from its file meanwhile, and the rows received are decoded, counted and dropped.",
        );
        let mut rows = Vec::new();
        for (name, value) in
            [("server", self.server.clone()), ("this machine", machine::describe()), ("settings", self.settings())]
        {
            rows.extend(super::results::setting_rows(name, &value));
        }
        page.table(&["", "", ""], &rows, &[]);
        page
    }
}

const HEADER: [&str; 5] = ["set", "first rows", "total", "rows/s", "received"];
const RIGHT: [usize; 5] = [0, 1, 2, 3, 4];

fn course(index: usize, set: &Set) -> Series {
    let points = set.course.iter().map(|(at, rows)| (at.as_secs_f64(), *rows as f64)).collect();
    Series { name: format!("set {}", index + 1), points, style: Style::Line(index) }
}
