//! How far threads stand back behind those that answer online reads, where more want to run than there
//! are processors. A thread that others are started from hands its standing on to them. It only ever
//! lowers a thread, and never the process: what an operator chose for that stays the standard.

/// What a thread does for which nobody waits as for an online read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Bringing written rows to where they can be read.
    Applying,
    /// Making room in memory for more of them.
    Flushing,
    /// Making training sets.
    Training,
    /// What may be done whenever there is time: compacting, landing, backups.
    Upkeep,
}

impl Work {
    /// As `nice` counts: 10 steps are a tenth of the time of a thread that is always busy, 14 a
    /// twenty-third, 15 a twenty-eighth. Whoever wakes up interrupts who stands so far behind.
    #[cfg(target_os = "linux")]
    fn steps(self) -> i32 {
        match self {
            Self::Applying | Self::Flushing => 10,
            Self::Training => 14,
            Self::Upkeep => 15,
        }
    }
}

/// Lets the calling thread, and those that it starts from now on, do this work, and nothing else any
/// more.
#[cfg(target_os = "linux")]
pub fn stand_back(work: Work) {
    if let Err(error) = lower(work.steps()) {
        tracing::warn!(%error, ?work, "a thread can't be lowered: online reads will wait for it more often");
    }
}

/// Priorities are the process's here, and not a thread's.
#[cfg(not(target_os = "linux"))]
pub fn stand_back(_: Work) {}

/// Runs this on a thread of its own that does such work, and so do the threads that it starts.
pub fn standing_back<T: Send>(work: Work, run: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    std::thread::scope(|scope| {
        let standing_back = move || {
            stand_back(work);
            run()
        };
        let thread = std::thread::Builder::new().spawn_scoped(scope, standing_back)?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

#[cfg(target_os = "linux")]
fn lower(steps: i32) -> std::io::Result<()> {
    use rustix::process::{getpid, getpriority_process, setpriority_process};
    /// There is nothing behind it.
    const LAST: i32 = 19;
    // The main thread's, which is never lowered.
    let of_process = getpriority_process(Some(getpid()))?;
    let wanted = (of_process + steps).min(LAST);
    // Without a process it is the calling thread's.
    if getpriority_process(None)? < wanted {
        setpriority_process(None, wanted)?;
    }
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::process::{getpid, getpriority_process};

    use super::*;

    fn own() -> i32 {
        getpriority_process(None).expect("it is told")
    }

    #[test]
    fn a_thread_stands_back_with_those_that_it_starts_and_with_nobody_else() {
        let (process, before) = (getpriority_process(Some(getpid())).expect("it is told"), own());
        let (applying, started, upkeep, again) = standing_back(Work::Applying, || {
            let applying = own();
            let started = std::thread::spawn(own).join().expect("no panic");
            stand_back(Work::Upkeep);
            let upkeep = own();
            stand_back(Work::Applying);
            (applying, started, upkeep, own())
        })
        .expect("a thread is started");
        assert_eq!((applying, started), ((process + 10).min(19), (process + 10).min(19)));
        assert_eq!((upkeep, again), ((process + 15).min(19), (process + 15).min(19)), "it is never raised");
        assert_eq!(own(), before);
        assert_eq!(getpriority_process(Some(getpid())).expect("it is told"), process);
    }
}
