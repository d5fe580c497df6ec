//! What the machine itself does to a thread that only wants to wake up. While a load is measured, one
//! thread on the server's core and one on the client's sleep for a millisecond over and over and note
//! how much later they woke. With real-time priority, which root may have, they wait neither for the
//! server nor for the load: what they see is the machine's own doing. Without it the column says so.
//! Other processes of the machine they don't see either; how much CPU time those took is told beside it,
//! and which thread of the kernel took most: a little of it, taken at once, is what a server waits for.

use std::collections::HashMap;
use std::fs;
use std::future::Future;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use serde_json::Value;

use crate::support::machine;
use crate::support::report::figure;
use crate::{CLIENT_CORE, SERVER_CORE};

const SLEEP: Duration = Duration::from_millis(1);
/// The server's and the load's.
const CORES: f64 = 2.0;

/// How late a thread woke that had nothing else to do, in microseconds: of the two cores the worse.
#[derive(Clone, Debug)]
pub struct Stalls {
    p99: f64,
    most: f64,
    real_time: bool,
    /// What other processes took of the cores, in percent.
    others: f64,
    /// The thread of the kernel that ran longest, and for how long, in milliseconds.
    kernel: String,
}

/// CPU time in microseconds, and when.
struct Busy {
    at: Instant,
    machine: u64,
    /// Server and load.
    measured: u64,
    kernel: KernelThreads,
}

/// How long each thread of the kernel has run, by number: its name, and nanoseconds.
struct KernelThreads(HashMap<u32, (String, u64)>);

/// Threads that watch until they are told to stop.
struct Watch {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Histogram<u64>>>,
    real_time: bool,
}

/// Has a load done on a server, and watches the machine meanwhile.
pub async fn watched<T>(server: u32, load: impl Future<Output = T>) -> Result<(T, Stalls)> {
    let watch = Watch::begin()?;
    let before = Busy::now(server)?;
    let outcome = load.await;
    let after = Busy::now(server)?;
    let (others, kernel) = (after.others_percent(&before), after.kernel.busiest_since(&before.kernel));
    Ok((outcome, Stalls { others, kernel, ..watch.end()? }))
}

impl Busy {
    fn now(server: u32) -> Result<Self> {
        let measured = machine::cpu_micros(server)? + machine::cpu_micros(std::process::id())?;
        let (machine, kernel) = (machine::machine_cpu_micros()?, KernelThreads::now()?);
        Ok(Self { at: Instant::now(), machine, measured, kernel })
    }

    fn others_percent(&self, before: &Self) -> f64 {
        let (machine, measured) = (self.machine - before.machine, self.measured - before.measured);
        let elapsed = (self.at - before.at).as_micros() as f64 * CORES;
        // The two are counted in steps of 10 ms, and not at the same instants.
        (machine as f64 - measured as f64).max(0.0) / elapsed * 100.0
    }
}

impl KernelThreads {
    fn now() -> Result<Self> {
        /// Whose children all of them are.
        const KTHREADD: &str = "2";
        let mut threads = HashMap::new();
        for entry in fs::read_dir("/proc").context("can't read /proc")? {
            let path = entry?.path();
            let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            let Some(number) = number else { continue };
            // What can't be read has ended meanwhile, or the kernel doesn't count it.
            let (Ok(stat), Ok(ran)) =
                (fs::read_to_string(path.join("stat")), fs::read_to_string(path.join("schedstat")))
            else {
                continue;
            };
            // The name stands in parentheses, and may hold some itself; state and parent follow.
            let Some((begin, end)) = stat.rsplit_once(')') else { continue };
            let name = begin.split_once('(').map(|(_, name)| name.to_owned()).unwrap_or_default();
            let nanos = ran.split(' ').next().and_then(|nanos| nanos.parse().ok());
            if let (Some(KTHREADD), Some(nanos)) = (end.split_ascii_whitespace().nth(1), nanos) {
                threads.insert(number, (name, nanos));
            }
        }
        Ok(Self(threads))
    }

    fn busiest_since(&self, before: &Self) -> String {
        let ran = self.0.iter().map(|(number, (name, nanos))| {
            let earlier = before.0.get(number).map_or(0, |(_, nanos)| *nanos);
            (nanos.saturating_sub(earlier), name)
        });
        match ran.max() {
            Some((nanos, name)) => format!("{name} {:.1}", nanos as f64 / 1e6),
            None => "not told".to_owned(),
        }
    }
}

impl Stalls {
    /// Adds its columns to a row, which is an object.
    pub fn tell(&self, row: &mut Value) {
        let name = if self.real_time { "machine stall" } else { "machine stall or wait for a core" };
        row[format!("{name} p99 µs")] = figure(self.p99);
        row[format!("{name} max µs")] = figure(self.most);
        row["other processes' CPU %"] = figure(self.others);
        row["busiest kernel thread, ms"] = self.kernel.clone().into();
    }
}

impl Watch {
    fn begin() -> Result<Self> {
        let mut watch = Self { stop: Arc::default(), threads: Vec::new(), real_time: true };
        for core in [SERVER_CORE, CLIENT_CORE] {
            let (ready, is_ready) = mpsc::sync_channel(1);
            let stop = watch.stop.clone();
            let thread = std::thread::Builder::new().name("stalls".to_owned()).spawn(move || {
                let settled = settle_on(core);
                let watches = settled.is_ok();
                if ready.send(settled).is_err() || !watches {
                    return histogram();
                }
                overshoots(&stop)
            });
            watch.threads.push(thread?);
            let real_time = is_ready.recv().context("a thread that watches the machine has ended")??;
            watch.real_time &= real_time;
        }
        Ok(watch)
    }

    fn end(mut self) -> Result<Stalls> {
        self.stop.store(true, Ordering::Relaxed);
        let kernel = String::new();
        let mut stalls = Stalls { p99: 0.0, most: 0.0, real_time: self.real_time, others: 0.0, kernel };
        for thread in self.threads.drain(..) {
            let late = thread.join().map_err(|_| anyhow::anyhow!("a thread that watches the machine has panicked"))?;
            stalls.p99 = stalls.p99.max(late.value_at_percentile(99.0) as f64 / 1_000.0);
            stalls.most = stalls.most.max(late.max() as f64 / 1_000.0);
        }
        Ok(stalls)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Keeps the thread that calls this on a core, and puts it before all else that runs there; `false`
/// where only the first may be done.
fn settle_on(core: &str) -> Result<bool> {
    let own = fs::read_link("/proc/thread-self").context("can't read /proc/thread-self")?;
    let thread = own.file_name().context("a thread has a number")?.to_string_lossy().into_owned();
    let run = |program: &str, arguments: [&str; 4]| {
        Command::new(program).args(arguments).output().with_context(|| format!("can't run {program}"))
    };
    let kept = run("taskset", ["--cpu-list", "--pid", core, &thread])?;
    ensure!(kept.status.success(), "taskset: {}", String::from_utf8_lossy(&kept.stderr).trim());
    Ok(run("chrt", ["--fifo", "--pid", "1", &thread])?.status.success())
}

#[expect(clippy::disallowed_methods, reason = "how long a sleep takes is what is measured")]
fn overshoots(stop: &AtomicBool) -> Histogram<u64> {
    let mut late = histogram();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        std::thread::sleep(SLEEP);
        let overshoot = begun.elapsed().saturating_sub(SLEEP);
        late.saturating_record(u64::try_from(overshoot.as_nanos()).unwrap_or(u64::MAX));
    }
    late
}

/// Nanoseconds.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(100, 120_000_000_000, 3).expect("constant bounds")
}
