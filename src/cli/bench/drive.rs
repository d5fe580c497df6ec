//! The threads that send. Each has a runtime and connections of its own and its share of every run,
//! so that nothing else of the process is in the way of its requests. The command's own runtime only
//! watches: it moves the bar and hears Ctrl-C.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use indicatif::ProgressBar;
use tokio::sync::{mpsc, oneshot};

use super::super::{Failure, output, progress};
use super::Interrupt;
use super::process::{ServerProcess, cpu_failure};
use crate::bench::arrivals::Arrivals;
use crate::bench::load::{self, Live, Share, Target};
use crate::bench::machine;
use crate::bench::tally::Record;
use crate::bench::timer::{Monotonic, Timer as _};

/// How often the bar is moved.
const TICK: Duration = Duration::from_millis(100);

/// What the threads do next.
#[derive(Clone, Debug)]
pub enum Work {
    /// Send when due.
    Open(Arrivals),
    /// Keep so many under way.
    Closed { under_way: usize, lasts: Duration },
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Ran {
    pub record: Record,
    /// CPU time of this process, without looking at the clock.
    pub own_cpu_micros: u64,
    pub server_cpu_micros: Option<u64>,
}

/// Threads that are connected and wait for work. They end when this is dropped.
#[derive(Debug)]
pub struct Drivers {
    threads: Vec<mpsc::Sender<Job>>,
    server_process: Option<ServerProcess>,
    interrupt: Interrupt,
}

#[derive(Debug)]
struct Job {
    work: Work,
    share: Share,
    timer: Monotonic,
    live: Arc<Live>,
    done: oneshot::Sender<Record>,
}

impl Drivers {
    /// Starts threads, each with what `connect` gives it.
    pub async fn start<T, F>(
        threads: u16,
        connect: impl Fn() -> F + Clone + Send + 'static,
        server_process: Option<ServerProcess>,
        interrupt: &Interrupt,
    ) -> Result<Self, Failure>
    where
        T: Target,
        F: Future<Output = Result<T, Failure>>,
    {
        let (mut started, mut connected) = (Vec::new(), Vec::new());
        for _ in 0..threads {
            let (jobs, job) = mpsc::channel(1);
            let (ready, is_ready) = oneshot::channel();
            let connect = connect.clone();
            let thread = std::thread::Builder::new().name("bench-load".to_owned());
            thread.spawn(move || drive(connect, ready, job)).map_err(|error| broken(&error))?;
            started.push(jobs);
            connected.push(is_ready);
        }
        for is_ready in connected {
            is_ready.await.map_err(|error| broken(&error))??;
        }
        Ok(Self { threads: started, server_process, interrupt: interrupt.clone() })
    }

    pub fn interrupted(&self) -> bool {
        self.interrupt.has_come()
    }

    /// Has all threads do their share, with a bar meanwhile. After Ctrl-C it ends early with what
    /// there is.
    pub async fn run(&mut self, work: Work, label: &str) -> Result<Ran, Failure> {
        let live = Arc::<Live>::default();
        let (own_before, server_before) = self.cpu_micros()?;
        let timer = Monotonic::begin();
        let mut records = Vec::new();
        for (index, thread) in (0..).zip(&self.threads) {
            let share = Share { index, of: self.threads.len() as u64 };
            let (done, record) = oneshot::channel();
            let job = Job { work: work.clone(), share, timer: timer.clone(), live: live.clone(), done };
            thread.send(job).await.map_err(|error| broken(&error))?;
            records.push(record);
        }
        let bar = progress::load(label, work.lasts());
        let records = self.watch(try_join_all(records), &live, &timer, &bar).await;
        bar.finish_and_clear();
        let mut records = records.map_err(|error| broken(&error))?.into_iter();
        let mut record = records.next().ok_or_else(|| broken(&"no thread has sent anything"))?;
        records.for_each(|other| record.add(&other));
        let (own_after, server_after) = self.cpu_micros()?;
        let waited = u64::try_from(timer.spent_waiting().as_micros()).unwrap_or(u64::MAX);
        Ok(Ran {
            record,
            own_cpu_micros: (own_after - own_before).saturating_sub(waited),
            server_cpu_micros: server_after.zip(server_before).map(|(after, before)| after - before),
        })
    }

    async fn watch<R>(
        &mut self,
        records: impl Future<Output = R>,
        live: &Live,
        timer: &Monotonic,
        bar: &ProgressBar,
    ) -> R {
        let mut records = std::pin::pin!(records);
        let mut ticks = tokio::time::interval(TICK);
        // Where nobody sees the bar, a line tells what is under way.
        let mut untold = bar.is_hidden();
        loop {
            tokio::select! {
                records = &mut records => return records,
                () = self.interrupt.came(1), if !live.stopped() => live.stop(),
                _ = ticks.tick() => {
                    bar.set_position(progress::millis(timer.now()));
                    bar.set_message(told(live));
                    if untold && live.sent() > 0 {
                        output::note(&bar.prefix());
                        untold = false;
                    }
                }
            }
        }
    }

    fn cpu_micros(&self) -> Result<(u64, Option<u64>), Failure> {
        let own = machine::cpu_micros(std::process::id()).map_err(|error| cpu_failure(&error))?;
        Ok((own, self.server_process.map(ServerProcess::cpu_micros).transpose()?))
    }
}

impl Work {
    fn lasts(&self) -> Duration {
        match self {
            Self::Open(arrivals) => arrivals.lasts(),
            Self::Closed { lasts, .. } => *lasts,
        }
    }
}

/// The life of one thread.
fn drive<T, F>(connect: impl Fn() -> F, ready: oneshot::Sender<Result<(), Failure>>, mut jobs: mpsc::Receiver<Job>)
where
    T: Target,
    F: Future<Output = Result<T, Failure>>,
{
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // Whoever asked has gone, or hears it.
            let _ = ready.send(Err(broken(&error)));
            return;
        }
    };
    runtime.block_on(async {
        let target = match connect().await {
            Ok(target) => target,
            Err(failure) => {
                let _ = ready.send(Err(failure));
                return;
            }
        };
        if ready.send(Ok(())).is_err() {
            return;
        }
        while let Some(Job { work, share, timer, live, done }) = jobs.recv().await {
            let record = match work {
                Work::Open(arrivals) => load::open_loop(&target, &arrivals, share, &timer, &live).await,
                Work::Closed { under_way, lasts } => {
                    let own = under_way.div_ceil(usize::try_from(share.of).unwrap_or(1));
                    load::closed_loop(&target, own, lasts, share, &timer, &live).await
                }
            };
            if done.send(record).is_err() {
                return;
            }
        }
    });
}

fn told(live: &Live) -> String {
    let mut told = format!("{} answered", live.answered());
    for (count, what) in [(live.refused(), "refused"), (live.failed(), "failed")] {
        if count > 0 {
            told.push_str(&format!(", {count} {what}"));
        }
    }
    told
}

fn broken(error: &dyn std::fmt::Display) -> Failure {
    Failure::new("INTERNAL", format!("a thread that sends has ended: {error}"))
}
