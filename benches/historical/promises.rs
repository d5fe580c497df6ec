//! What is promised of the point-in-time workloads, held against what was measured.

use anyhow::Result;

use crate::server::{Joined, Sink};
use crate::support::promise::{Bound, tell};
use crate::support::report::Report;
use crate::workload::Workload;

/// One workload as it was measured.
pub struct Measured {
    workload: Workload,
    sink: Sink,
    seconds: f64,
    first_rows: f64,
    busy: f64,
    peak_bytes: u64,
    taken_bytes: u64,
    /// Of the spine and of the history together.
    rows: usize,
    scan_seconds: f64,
    /// Name, seconds, peak memory.
    pub rivals: Vec<(&'static str, f64, u64)>,
}

impl Measured {
    pub fn new(workload: Workload, sink: Sink, own: &Joined, spine: usize, history: usize, scan_seconds: f64) -> Self {
        let Joined { seconds, first_rows, busy, peak_bytes, taken_bytes, .. } = *own;
        let rows = spine + history;
        Self {
            workload,
            sink,
            seconds,
            first_rows,
            busy,
            peak_bytes,
            taken_bytes,
            rows,
            scan_seconds,
            rivals: Vec::new(),
        }
    }

    fn rows_per_second(&self) -> f64 {
        self.rows as f64 / self.seconds
    }

    pub fn tell(&self, report: &mut Report) -> Result<()> {
        let of = format!("join {}, answer as {}", self.workload.name(), self.sink.name());
        for (rival, seconds, peak_bytes) in &self.rivals {
            let times = match (self.workload, *rival) {
                (Workload::S, "polars") => Some(3.0),
                (Workload::S, _) => Some(4.0),
                (Workload::M, "duckdb") => Some(8.0),
                _ => None,
            };
            if let Some(times) = times {
                let what = format!("{rival}'s seconds / Hydrant's");
                tell(report, &of, &what, seconds / self.seconds, Bound::AtLeast(times))?;
            }
            if self.workload == Workload::M && *rival == "duckdb" {
                let share = self.peak_bytes as f64 / *peak_bytes as f64;
                tell(report, &of, "peak memory / DuckDB's", share, Bound::AtMost(0.25))?;
            }
        }
        if self.sink == Sink::Arrow && matches!(self.workload, Workload::S | Workload::M) {
            let what = "seconds inside the server / a plain scan of the columns";
            tell(report, &of, what, self.busy / self.scan_seconds, Bound::AtMost(4.0))?;
        }
        match (self.workload, self.sink) {
            (Workload::S, Sink::Arrow) => tell(
                report,
                &of,
                "seconds from the spine's last byte to the first rows",
                self.first_rows,
                Bound::Under(1.0),
            ),
            (Workload::M, _) => {
                let what = "from the spine's last byte to the first rows / the whole";
                tell(report, &of, what, self.first_rows / self.seconds, Bound::AtMost(0.9))
            }
            (Workload::Small, _) => tell(report, &of, "seconds", self.seconds, Bound::Under(1.0)),
            (Workload::L, _) => {
                let what = "memory that the server took for it, GiB";
                tell(report, &of, what, self.taken_bytes as f64 / f64::from(1 << 30), Bound::AtMost(1.0))
            }
            _ => Ok(()),
        }
    }
}

/// How the cost grows from one workload to another, where both were measured.
pub fn tell_growth(all: &[Measured], report: &mut Report) -> Result<()> {
    let of = |workload| all.iter().find(|one| one.workload == workload && one.sink == Sink::Arrow);
    if let Some((skew, s)) = of(Workload::Skew).zip(of(Workload::S)) {
        report.part(Workload::Skew.name());
        tell(
            report,
            "join skew, answer as arrow",
            "seconds / those of S",
            skew.seconds / s.seconds,
            Bound::AtMost(1.5),
        )?;
    }
    let Some(l) = of(Workload::L) else { return Ok(()) };
    report.part(Workload::L.name());
    if let Some(m) = of(Workload::M) {
        let share = l.rows_per_second() / m.rows_per_second();
        let what = "rows of spine and history a second / those of M";
        tell(report, "join L, answer as arrow", what, share, Bound::AtLeast(0.7))?;
    }
    if let Some(s) = of(Workload::S) {
        let exponent = (l.seconds / s.seconds).ln() / (l.rows as f64 / s.rows as f64).ln();
        let what = "exponent of the seconds by rows of spine and history, from S";
        tell(report, "join L, answer as arrow", what, exponent, Bound::AtMost(1.1))?;
    }
    Ok(())
}
