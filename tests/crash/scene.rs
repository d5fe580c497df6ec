//! One data directory, its servers one after the other, and the rounds of writing, killing, starting
//! again and checking.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use hydrant::error::Code;
use hydrant::registry::definition::Kind;
use hydrant::rpc::client::Client;
use hydrant::rpc::v1::ingest_response::Outcome;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::answers;
use crate::ledger::{Fate, Ledger};
use crate::process::{PATIENCE, Setup};
use crate::random::Random;
use crate::rows::{self, Row};
use crate::training::TrainingSet;
use crate::writers::{self, Round, WRITERS, Writer};

/// Small files, and everything that goes on by itself as often as can be.
const CONFIG: &str = r#"
[storage]
partitions = 4
block_cache = "8MiB"
write_buffers = "16MiB"
[log]
segment = "1MiB"
recent = "1MiB"
[partitions]
flush_interval = "100ms"
trim_interval = "100ms"
[landing]
tail = "64KiB"
interval = "100ms"
[compaction]
interval = "50ms"
runs_per_level = 2
file = "64KiB"
"#;

/// The same, but nothing lands.
const RESTING: &str = r#"
[storage]
partitions = 4
[landing]
interval = "7d"
"#;

const VIEWS: [&str; 2] = ["by_device", "by_site"];

/// Of requests without an answer, how many in a hundred are not sent again.
const ABANDONED: u64 = 20;

/// Acknowledged requests that are sent again after each start, per writer.
const REPEATED: usize = 3;

/// When the server is killed.
#[derive(Clone, Copy, Debug)]
pub enum KillAt {
    /// While it opens its partitions and replays the log.
    Listening,
    /// When it has acknowledged so many requests of the round.
    Acknowledged(usize),
    /// When rows of the first view have landed, and perhaps not those of the second.
    Landed,
}

pub struct Scene {
    folder: TempDir,
    ledger: Arc<Mutex<Ledger>>,
    writers: Vec<Writer>,
    random: Random,
    /// The description that was acknowledged last, and those sent after it.
    descriptions: Vec<String>,
    /// Commits of the views' tables, of landings and merges, that were counted after a kill.
    commits: usize,
}

impl Scene {
    pub async fn new(seed: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let writers = (0..WRITERS.len()).map(|number| Writer::new(number, seed)).collect();
        let descriptions = vec!["before the first round".to_owned()];
        let scene =
            Self { folder, ledger: Arc::default(), writers, random: Random::new(seed), descriptions, commits: 0 };
        let server = scene.setup().start().await;
        server.client().await.apply(&rows::definitions(&scene.descriptions[0]), None).await.expect("they fit");
        server.kill();
        scene
    }

    /// How a round ends.
    pub fn choose(&mut self, round: usize) -> KillAt {
        match round % 10 {
            9 => KillAt::Listening,
            2 | 5 | 8 => KillAt::Landed,
            _ => KillAt::Acknowledged(1 + self.random.below(300)),
        }
    }

    /// Starts the server, checks what is there, sends again what was not answered, writes, and kills.
    pub async fn round(&mut self, number: usize, kill_at: KillAt) {
        if let KillAt::Listening = kill_at {
            return self.setup().spawn().kill();
        }
        let server = self.setup().start().await;
        let client = server.client().await;
        self.check(&client).await;

        let round = Round::new(client, self.ledger.clone());
        let writing: Vec<_> = self.writers.drain(..).map(|writer| tokio::spawn(writer.write(round.clone()))).collect();
        let reading = tokio::spawn(writers::read(round.clone()));
        let describing = number.is_multiple_of(4).then(|| tokio::spawn(writers::describe(round.clone(), number)));
        let landed = self.commits_of(VIEWS[0]);
        let is_time = || match kill_at {
            KillAt::Listening => true,
            KillAt::Acknowledged(count) => round.acknowledged() >= count,
            KillAt::Landed => self.commits_of(VIEWS[0]) > landed,
        };
        let wait = async {
            while !is_time() {
                round.progress.notified().await;
            }
        };
        if timeout(PATIENCE, wait).await.is_err() {
            panic!("round {number}: {kill_at:?} was not reached\n{}", server.log());
        }
        round.will_be_killed();
        server.kill();
        for writer in writing {
            self.writers.push(writer.await.expect("the writer's checks hold"));
        }
        reading.await.expect("the reader's checks hold");
        if let Some(describing) = describing {
            let (acknowledged, sent) = describing.await.expect("descriptions are taken");
            if let Some(acknowledged) = acknowledged {
                self.descriptions = vec![acknowledged];
            }
            self.descriptions.push(sent);
        }
        self.commits = VIEWS.iter().map(|view| self.commits_of(view)).sum();
    }

    pub fn assert_that_rows_landed_meanwhile(&self) {
        let segments = std::fs::read_dir(self.setup().data().join("log")).expect("readable");
        let names = segments.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
        let oldest = names.filter(|name| name.ends_with(".seg")).min().expect("the log has a segment");
        assert!(oldest > format!("{:020}.seg", 1), "the log was never trimmed, which was to be tested");
        // Three rounds of ten end just after a landing; how many more there are is a matter of speed.
        assert!(self.commits >= 15, "rows landed only {} times, and more was to be tested", self.commits);
    }

    /// Everything is checked once more, row by row, and over another restart.
    pub async fn finish(mut self) {
        let server = self.setup().start().await;
        let client = server.client().await;
        self.check(&client).await;
        let rows = self.ledger().sent_rows();
        let first = TrainingSet::of(&client, &rows, None).await;
        first.check(&mut self.ledger());
        // What it told of requests without an answer, reads tell too.
        let answer = answers::read_all(&client, None).await.expect("an answer");
        self.ledger().check_read(&answer);
        server.stop().await;

        let server = self.setup().config(RESTING).start().await;
        let client = server.client().await;
        let again = TrainingSet::of(&client, &rows, Some(first.report.cutoff)).await;
        assert_eq!(again.report.content_hash, first.report.content_hash, "the same cut-off, another training set");
        self.check_that_rows_are_there_once(&again);
        self.check_the_count_of_frames(&client).await;
        server.stop().await;
    }

    fn setup(&self) -> Setup {
        Setup::new(self.folder.path()).config(CONFIG)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no other task has failed")
    }

    /// What was acknowledged is there, what was not is whole or not there; then it is sent again.
    async fn check(&mut self, client: &Client) {
        let answer = answers::read_all(client, None).await.expect("an answer");
        self.ledger().check_read(&answer);
        self.check_definitions(client).await;
        self.send_again(client).await;
        self.repeat(client).await;
        let answer = answers::read_all(client, None).await.expect("an answer");
        assert!(answer.revision > 0);
    }

    async fn check_definitions(&self, client: &Client) {
        for view in VIEWS {
            let view = client.get_definition(Kind::FeatureView, view).await.expect("it was applied");
            let description = view.metadata.expect("it has metadata").description;
            assert!(self.descriptions.contains(&description), "'{description}', not {:?}", self.descriptions);
        }
    }

    /// Sends what was not answered, but for what its writer gives up.
    async fn send_again(&mut self, client: &Client) {
        let unanswered = self.ledger().unanswered();
        let mut given_up = Vec::new();
        for request in unanswered {
            if self.random.chance(ABANDONED) {
                self.ledger().requests[request].abandoned = true;
                given_up.push(request);
                continue;
            }
            let before = self.ledger().last_frame();
            let message = writers::message(&self.ledger(), request);
            let answer = client.ingest(message).await.unwrap_or_else(|refusal| panic!("{refusal:?}"));
            let mut ledger = self.ledger();
            let is_new = answer.outcome() == Outcome::Applied;
            writers::acknowledge(&mut ledger, request, &answer);
            assert!(!is_new || ledger.last_frame() > before, "a new request has an old position");
        }
        // A sequence that was left out can't come after a later one of its writer.
        for request in given_up {
            let message = {
                let ledger = self.ledger();
                let sent = &ledger.requests[request];
                let is_later = |other: &usize| {
                    ledger.requests[*other].writer == sent.writer
                        && ledger.requests[*other].sequence > sent.sequence
                        && ledger.is_acknowledged(*other)
                };
                let passed = (0..ledger.requests.len()).any(|other| is_later(&other));
                (sent.fate == Fate::NotTaken && passed).then(|| writers::message(&ledger, request))
            };
            if let Some(message) = message {
                let refusal = client.ingest(message).await.expect_err("it comes too late");
                assert_eq!((refusal.code, refusal.reason.as_str()), (Code::FailedPrecondition, "SEQUENCE_TOO_OLD"));
            }
        }
    }

    /// What was acknowledged before is answered as before, and another payload is refused.
    async fn repeat(&mut self, client: &Client) {
        for writer in 0..WRITERS.len() {
            let mut acknowledged: Vec<usize> = {
                let ledger = self.ledger();
                let of_writer = |request: &usize| ledger.requests[*request].writer == writer;
                (0..ledger.requests.len())
                    .filter(of_writer)
                    .filter(|request| ledger.is_acknowledged(*request))
                    .collect()
            };
            let Some(last) = acknowledged.pop() else { continue };
            // Answers are kept for the last thousand.
            let recent = &acknowledged[acknowledged.len().saturating_sub(900)..];
            let mut repeated = vec![last];
            if !recent.is_empty() {
                repeated.extend((0..REPEATED).map(|_| *self.random.pick(recent)));
            }
            for request in repeated {
                let message = writers::message(&self.ledger(), request);
                let answer = client.ingest(message).await.unwrap_or_else(|refusal| panic!("{refusal:?}"));
                assert_eq!(answer.outcome(), Outcome::AlreadyApplied);
                writers::acknowledge(&mut self.ledger(), request, &answer);
            }
            let other = Row { tick: 0, device: 0, site: 0, event_time: 0, deleted: false };
            let mut message = writers::message(&self.ledger(), last);
            message.rows = Some(writers::as_columns(&[other]));
            let refusal = client.ingest(message).await.expect_err("the sequence was taken with other rows");
            assert_eq!((refusal.code, refusal.reason.as_str()), (Code::AlreadyExists, "SEQUENCE_REUSED"));
        }
    }

    /// Each row that was taken is in history or in the tail, once.
    fn check_that_rows_are_there_once(&self, set: &TrainingSet) {
        let taken = self.ledger().taken_rows().count() as u64;
        for view in VIEWS {
            let landed: u64 = files_of(&self.table(view)).iter().map(|file| rows_in(file)).sum();
            let table = set.report.tables.iter().find(|table| table.view == view).expect("it was read");
            let (there, untold) = (landed + table.tail_rows, self.untold_rows());
            assert!(
                (taken..=taken + untold).contains(&there),
                "{view}: {landed} rows landed and {} wait to; {taken} were taken, and {untold} more may have been",
                table.tail_rows
            );
        }
    }

    /// Nothing is in the log that nobody sent.
    async fn check_the_count_of_frames(&self, client: &Client) {
        let (taken, possible) = self.ledger().taken_and_possible();
        let request =
            self.ledger().sends(0, u64::MAX, vec![Row { tick: 0, device: 0, site: 0, event_time: 1, deleted: false }]);
        let message = writers::message(&self.ledger(), request);
        let answer = client.ingest(message).await.expect("good rows");
        writers::acknowledge(&mut self.ledger(), request, &answer);
        let frames = self.ledger().last_frame();
        assert!(
            (taken + 1..=taken + possible + 1).contains(&frames),
            "{frames} frames, and {taken} requests were taken"
        );
    }

    /// Rows of requests of which it can't be told whether they were taken.
    fn untold_rows(&self) -> u64 {
        let ledger = self.ledger();
        let untold = ledger.requests.iter().filter(|sent| sent.fate == Fate::Unanswered);
        untold.map(|sent| sent.rows.len() as u64).sum()
    }

    fn table(&self, view: &str) -> PathBuf {
        self.setup().data().join("history/default").join(view).join("v1")
    }

    fn commits_of(&self, view: &str) -> usize {
        let Ok(entries) = std::fs::read_dir(self.table(view).join("_delta_log")) else { return 0 };
        entries
            .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().extension().is_some_and(|end| end == "json")))
            .count()
    }
}

/// The files that a table's log lists: all added ones but for those removed since, which may still be
/// there. The log is kept whole.
fn files_of(table: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(table.join("_delta_log")).expect("readable");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let commits: BTreeSet<PathBuf> = paths.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    let mut files = BTreeSet::new();
    for commit in commits {
        for line in std::fs::read_to_string(commit).expect("readable").lines() {
            let action: serde_json::Value = serde_json::from_str(line).expect("an action");
            let path = |kind: &str| action[kind]["path"].as_str().map(|path| table.join(path));
            files.extend(path("add"));
            if let Some(removed) = path("remove") {
                assert!(files.remove(&removed), "{} was removed and not there", removed.display());
            }
        }
    }
    files
}

fn rows_in(file: &Path) -> u64 {
    let file = std::fs::File::open(file).expect("readable");
    let reader = SerializedFileReader::new(file).expect("whole");
    u64::try_from(reader.metadata().file_metadata().num_rows()).expect("not negative")
}
