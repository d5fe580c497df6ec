//! Requests by the hundred thousand that are wrong in every way that a generator knows, over every method
//! of every service, against a whole server over its sockets. None may end in a panic, in INTERNAL or
//! UNKNOWN, or in a refusal without a reason; and none that is refused may have changed anything.
//!
//! `HYDRANT_TEST_CASES` says how many, `HYDRANT_TEST_SEED` replays one.

mod making;
mod methods;
#[allow(dead_code, reason = "several test programs share it, and this uses a part")]
#[path = "../support/random.rs"]
mod random;
mod seeds;
mod store;
#[allow(dead_code, reason = "it is shared with tests/server, and this uses a part")]
#[path = "../server/support.rs"]
mod support;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tonic::codegen::http::{HeaderName, HeaderValue};

use crate::making::{Maker, mutate};
use crate::methods::{Method, Schema};
use crate::random::{CASES_VARIABLE, Random, SEED_VARIABLE, seeds};
use crate::seeds::Seeds;
use crate::store::Store;
use crate::wire::{Call, End, Outcome, call, framed};

/// Calls between two looks at what the server keeps.
const BATCH: usize = 1_000;
/// Calls under way at a time.
const AT_ONCE: usize = 24;
/// A server is attacked so often, and then another one.
const SERVER_CASES: usize = 200_000;
/// What the process may have taken at the end more than after the first calls.
const MOST_GROWTH: u64 = 700 << 20;
/// Failures that are told.
const TOLD: usize = 12;

static PANICS: AtomicUsize = AtomicUsize::new(0);
/// In Arrow's decoder, where they are caught and refused as what they are: data that contradicts itself.
static CONTAINED: AtomicUsize = AtomicUsize::new(0);
static ERRORS: Mutex<Vec<String>> = Mutex::new(Vec::new());

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    Admin,
    Reader,
    /// With no credential, or with one that is none.
    Stranger,
}

/// One call, as a seed makes it.
struct Case {
    seed: u64,
    method: Method,
    caller: Caller,
    call: Call,
    /// How it was made.
    made: &'static str,
    /// What is below gRPC is wrong too, and may be answered there.
    below: bool,
    channel: usize,
}

/// What came of all calls.
#[derive(Default)]
struct Tally {
    failures: Vec<String>,
    /// By status, or what else there was.
    ends: BTreeMap<String, u64>,
    methods: BTreeSet<String>,
    /// Batches in which a request of an admin happened to be good, and changed something.
    good_by_chance: usize,
    batches: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_malformed_request_panics_ends_in_internal_or_has_an_effect() {
    watch();
    let cases = seeds(100_000);
    println!("{SEED_VARIABLE} {} and the {} after it", cases[0], cases.len() - 1);
    let schema = Schema::read();
    let documented = documented_reasons();
    let mut tally = Tally::default();
    let mut after_first = None;
    let mut batches = cases.chunks(BATCH).peekable();
    while batches.peek().is_some() {
        let store = Store::start().await;
        let seeds = Seeds::new(&store.ticket);
        let before = store.state().await.expect("it serves");
        // Until it has changed, which it may where a request happens to be good.
        for batch in batches.by_ref().take(SERVER_CASES / BATCH) {
            let is_as_before = attack(&store, &schema, &seeds, &documented, batch, &before, &mut tally).await;
            after_first.get_or_insert_with(resident_bytes);
            if !is_as_before {
                break;
            }
        }
        let metrics = store.metrics().await;
        for code in ["INTERNAL", "UNKNOWN"] {
            let counted = format!("code=\"{code}\"");
            let line = metrics.lines().find(|line| line.contains(&counted) && line.contains("_count"));
            tally.failures.extend(line.map(|line| format!("the server counted {line}")));
        }
        store.stop().await;
    }
    let grown = resident_bytes().saturating_sub(after_first.expect("there were cases"));
    let (panics, contained) = (PANICS.load(Ordering::SeqCst), CONTAINED.load(Ordering::SeqCst));
    println!("{panics} panics, {contained} contained, {} MiB grown, {:#?}", grown >> 20, tally.ends);
    println!("good by chance in {} of {} batches", tally.good_by_chance, tally.batches);
    let errors = std::mem::take(&mut *ERRORS.lock().unwrap_or_else(PoisonError::into_inner));
    tally.failures.extend(errors.into_iter().take(TOLD).map(|error| format!("logged as an error: {error}")));
    if panics > 0 {
        tally.failures.push("something panicked: see above".to_owned());
    }
    assert!(tally.failures.is_empty(), "{} failures:\n{}", tally.failures.len(), told(&tally.failures));
    if cases.len() > 10 * schema.methods.len() {
        assert_eq!(tally.methods.len(), schema.methods.len(), "every method is called");
        assert!(tally.good_by_chance * 4 <= tally.batches, "too many requests are good by chance for this to tell");
    }
    assert!(grown <= MOST_GROWTH, "the process has grown by {grown} bytes");
}

/// Makes the calls of a batch; whether the server keeps after it what it kept before.
async fn attack(
    store: &Store,
    schema: &Schema,
    seeds: &Seeds,
    documented: &BTreeSet<String>,
    batch: &[u64],
    before: &BTreeMap<String, String>,
    tally: &mut Tally,
) -> bool {
    let ended = stream::iter(batch.iter().map(|seed| case(*seed, schema, seeds, store)))
        .map(|case| async move {
            let channels = if case.method.is_flight() { &store.flight } else { &store.grpc };
            let channel = channels[case.channel % channels.len()].clone();
            let sent = case.call.clone();
            let outcome = call(channel, &case.method.name, sent).await;
            (case, outcome)
        })
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    let mut may_have_changed = BTreeSet::new();
    for (case, outcome) in &ended {
        if tally.methods.len() < schema.methods.len() {
            tally.methods.insert(case.method.name.clone());
        }
        *tally.ends.entry(kind_of(&outcome.end)).or_default() += 1;
        // Who may not is refused, whatever the request is; and who goes away may have been served.
        let accepted = matches!(outcome.end, End::Ok | End::Endless) || outcome.answered || case.call.given_up;
        if case.caller == Caller::Admin && case.method.changes && accepted {
            may_have_changed.insert(case.method.name.as_str());
        }
        if let Some(wrong) = wrong_with(case, outcome, documented) {
            tally.failures.push(format!("{wrong}\n{}", described(case)));
        }
    }
    tally.batches += 1;
    let after = store.state().await;
    if after.as_ref().is_ok_and(|after| after == before) {
        return true;
    }
    let changed = match &after {
        Ok(after) => {
            let parts = after.iter().filter(|(part, told)| before.get(*part) != Some(told));
            parts.map(|(part, told)| format!("{part}: {} -> {told}", before[part.as_str()])).collect()
        }
        Err(refused) => vec![format!("it can't be asked: {refused}")],
    };
    if may_have_changed.is_empty() {
        let (first, last) = (batch[0], batch[batch.len() - 1]);
        tally.failures.push(format!("an effect of what was refused, {first} to {last}: {}", changed.join("\n")));
    } else {
        tally.good_by_chance += 1;
        let parts: Vec<&str> = changed.iter().filter_map(|part| part.split(':').next()).collect();
        println!("good by chance: {parts:?} by one of {may_have_changed:?}");
    }
    false
}

/// What a call may not end in.
fn wrong_with(case: &Case, outcome: &Outcome, documented: &BTreeSet<String>) -> Option<String> {
    let status = match &outcome.end {
        End::Ok | End::Endless if case.caller == Caller::Stranger && case.method.is_ours() => {
            return Some("a stranger was let in".to_owned());
        }
        End::Ok | End::Endless => return None,
        End::Http(_) if case.below || case.call.given_up => return None,
        End::Http(told) => return Some(format!("it ended below gRPC: {told}")),
        End::Never => return Some("it never ended".to_owned()),
        End::Refused(status) => status,
    };
    if matches!(status.code(), tonic::Code::Internal | tonic::Code::Unknown | tonic::Code::DataLoss) {
        return Some(format!("{status:?}"));
    }
    let reasons = wire::reasons(status);
    match reasons.as_slice() {
        [] if !case.method.is_ours() => None,
        [reason] if documented.contains(reason) => None,
        [reason] => Some(format!("'{reason}' is not in docs/errors.md: {status:?}")),
        _ => Some(format!("{} reasons: {status:?}", reasons.len())),
    }
}

/// The call that a seed makes.
fn case(seed: u64, schema: &Schema, seeds: &Seeds, store: &Store) -> Case {
    let mut random = Random::new(seed);
    let random = &mut random;
    let method = random.pick(&schema.methods).clone();
    let caller = *random.pick(&[Caller::Admin, Caller::Admin, Caller::Admin, Caller::Reader, Caller::Stranger]);
    let (messages, mut made) = messages(random, &method, schema, seeds);
    let mut call = Call::default();
    let mut below = false;
    call.headers = vec![header("content-type", "application/grpc"), header("te", "trailers")];
    let token = match caller {
        Caller::Admin => Some(store.admin_token.clone()),
        Caller::Reader => Some(store.reader_token.clone()),
        Caller::Stranger => bad_token(random, &store.reader_token),
    };
    if let Some(token) = token {
        let value = HeaderValue::from_bytes(format!("Bearer {token}").as_bytes()).expect("a header's value");
        call.headers.push((HeaderName::from_static("authorization"), value));
    }
    if random.chance(12) {
        // Never of a change that might be made in the time.
        below = hostile_headers(random, &mut call, !method.changes);
    }
    let mut bytes = Vec::new();
    if random.chance(15) {
        made = hostile_frames(random, &messages, &mut bytes, &mut call);
    } else {
        messages.iter().for_each(|message| bytes.extend(framed(message)));
    }
    let bytes = Bytes::from(bytes);
    let pieces = 1 + random.below(3);
    let step = bytes.len() / pieces + 1;
    call.chunks = (0..bytes.len()).step_by(step).map(|at| bytes.slice(at..(at + step).min(bytes.len()))).collect();
    Case { seed, method, caller, call, made, below, channel: random.below(64) }
}

fn messages(random: &mut Random, method: &Method, schema: &Schema, seeds: &Seeds) -> (Vec<Vec<u8>>, &'static str) {
    let known = seeds.of(&method.name);
    if !known.is_empty() && random.chance(50) {
        let mut messages = random.pick(known).clone();
        let number = random.next();
        let other = random.pick(random_seed(number, schema, seeds)).clone();
        let at = random.below(messages.len());
        mutate(random, &mut messages[at], &other);
        if messages.len() > 1 && random.chance(20) {
            random.shuffle(&mut messages);
        }
        return (messages, "a request whose bytes were changed");
    }
    let count = if method.streams_in { 1 + random.below(3) } else { 1 };
    let never_good = method.changes;
    let mut messages: Vec<_> =
        (0..count).map(|_| Maker { schema, random, never_good }.message(&method.input)).collect();
    if random.chance(15) {
        let at = random.below(count);
        mutate(random, &mut messages[at], &[]);
        return (messages, "made field by field, and changed");
    }
    (messages, "made field by field")
}

/// The messages of another method.
fn random_seed<'a>(number: u64, schema: &Schema, seeds: &'a Seeds) -> &'a [Vec<u8>] {
    let known: Vec<_> = schema.methods.iter().flat_map(|method| seeds.of(&method.name)).collect();
    known[usize::try_from(number % known.len() as u64).expect("an index")]
}

/// Frames as no client sends them.
fn hostile_frames(random: &mut Random, messages: &[Vec<u8>], bytes: &mut Vec<u8>, call: &mut Call) -> &'static str {
    let first = messages.first().cloned().unwrap_or_default();
    let whole = framed(&first);
    match random.below(9) {
        0 => {
            bytes.extend(&whole[..random.below(whole.len())]);
            "a frame that is cut off"
        }
        1 => {
            let length = *random.pick(&[u32::MAX, 1 << 31, (1 << 20) + 1, first.len() as u32 + 1]);
            bytes.push(0);
            bytes.extend(length.to_be_bytes());
            bytes.extend(first);
            "a frame that says more than it has"
        }
        2 => {
            bytes.extend(whole);
            bytes[0] = 1;
            "a frame that says that it is compressed"
        }
        3 => {
            bytes.extend(whole);
            bytes[0] = *random.pick(&[2, 0x7f, 0x80, 0xff]);
            "a frame with a flag that there is not"
        }
        4 => {
            for _ in 0..=random.below(4) {
                bytes.extend(&whole);
            }
            bytes.extend(&[0, 0, 0]);
            "several frames, and a piece of one"
        }
        5 => "no frame",
        6 => {
            let length = (1 << 20) + random.below(1 << 16);
            bytes.extend(framed(&vec![b'x'; length]));
            "a frame that is too large"
        }
        7 => {
            bytes.extend(&whole[..random.below(whole.len())]);
            call.given_up = true;
            "given up in a frame"
        }
        _ => {
            bytes.extend(framed(&[]));
            bytes.extend(framed(&[]));
            "frames without anything in them"
        }
    }
}

/// Headers as no client sends them; whether HTTP itself may refuse them.
fn hostile_headers(random: &mut Random, call: &mut Call, timeouts: bool) -> bool {
    let mut below = false;
    for _ in 0..=random.below(2) {
        let (name, value): (&str, Vec<u8>) = match random.below(8) {
            0 if timeouts => {
                // The client's side keeps to it too.
                below = true;
                let times = ["0n", "1n", "5m", "99999999H", "-1S", "1e3S", "", "S", "123456789S", "1 S", "0S"];
                ("grpc-timeout", random.pick(&times).as_bytes().to_vec())
            }
            1 => ("grpc-encoding", random.pick(&["gzip", "zstd", "deflate", "identity", "x", ""]).as_bytes().to_vec()),
            2 => ("grpc-accept-encoding", b"x,y,,,".to_vec()),
            3 => {
                // The long one, twice, is more than HTTP takes.
                below = true;
                let parents = [
                    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                    "00-00000000000000000000000000000000-0000000000000000-ff",
                    "-----",
                    "ff-zz-zz-zz",
                ];
                let parent = if random.chance(20) { "0-".repeat(2_000) } else { (*random.pick(&parents)).to_owned() };
                ("traceparent", parent.into_bytes())
            }
            4 => ("tracestate", vec![0xfe; 1 + random.below(300)]),
            5 => {
                below = true;
                let length = *random.pick(&[100, 5_000, 20_000]);
                ("x-junk-bin", vec![b'='; length])
            }
            6 => {
                below = true;
                call.headers.retain(|(name, _)| name != "content-type");
                let types = ["application/grpc+json", "text/html", "application/grpc-web", ""];
                ("content-type", random.pick(&types).as_bytes().to_vec())
            }
            _ => ("authorization", b"Bearer twice".to_vec()),
        };
        let value = HeaderValue::from_bytes(&value).expect("a header's value");
        call.headers.push((HeaderName::from_static(name), value));
    }
    below
}

/// A credential that is none, or no credential.
fn bad_token(random: &mut Random, good: &str) -> Option<String> {
    let mut token = good.as_bytes().to_vec();
    let at = random.below(token.len());
    match random.below(5) {
        0 => return None,
        1 => token[at] = if token[at] == b'x' { b'y' } else { b'x' },
        2 => token.truncate(at),
        3 => token = vec![b'h'; *random.pick(&[0, 1, 300, 9_000])],
        _ => token.extend(b" and more"),
    }
    Some(String::from_utf8(token).expect("it is text"))
}

fn header(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_static(value))
}

/// Counts panics, and keeps what the server logs as an error.
fn watch() {
    use tracing_subscriber::layer::SubscriberExt as _;
    let show = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if info.location().is_some_and(|at| at.file().contains("/arrow-")) {
            CONTAINED.fetch_add(1, Ordering::SeqCst);
            return println!("contained: {info}");
        }
        PANICS.fetch_add(1, Ordering::SeqCst);
        show(info);
    }));
    let subscriber = tracing_subscriber::registry().with(KeepErrors);
    tracing::subscriber::set_global_default(subscriber).expect("nobody else set one");
}

struct KeepErrors;

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for KeepErrors {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: tracing_subscriber::layer::Context<'_, S>) -> bool {
        *metadata.level() == tracing::Level::ERROR && metadata.target().starts_with("hydrant")
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        let mut errors = ERRORS.lock().unwrap_or_else(PoisonError::into_inner);
        if errors.len() < 100 {
            errors.push(format!("{event:?}"));
        }
    }
}

/// Every reason in the tables of the manual.
fn documented_reasons() -> BTreeSet<String> {
    let page = include_str!("../../docs/errors.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split_once('`')).map(|(reason, _)| reason.to_owned()).collect()
}

fn kind_of(end: &End) -> String {
    match end {
        End::Refused(status) => format!("{:?}", status.code()),
        End::Http(_) => "below gRPC".to_owned(),
        other => format!("{other:?}"),
    }
}

fn described(case: &Case) -> String {
    let Case { seed, method, caller, call, made, .. } = case;
    let bytes: Vec<u8> = call.chunks.iter().flat_map(|chunk| chunk.iter().copied()).collect();
    let shown: String = bytes.iter().take(300).fold(String::new(), |mut shown, byte| {
        write!(shown, "{byte:02x}").expect("written");
        shown
    });
    let named = |(name, value): &(HeaderName, HeaderValue)| match name.as_str() {
        "authorization" | "te" => String::new(),
        name => format!("{name}: {} ", String::from_utf8_lossy(&value.as_bytes()[..value.len().min(60)])),
    };
    let headers: String = call.headers.iter().map(named).collect();
    format!(
        "  {SEED_VARIABLE}={seed}: {} by {caller:?}, {made}, {} bytes: {shown}\n  {headers}",
        method.name,
        bytes.len()
    )
}

/// The first of each kind.
fn told(failures: &[String]) -> String {
    let mut shown = Vec::new();
    let mut seen = BTreeSet::new();
    for failure in failures {
        let kind: String = failure.chars().filter(|letter| !letter.is_ascii_digit()).take(90).collect();
        if seen.insert(kind) && shown.len() < 40 {
            shown.push(failure.as_str());
        }
    }
    format!("{}\nmore by {CASES_VARIABLE}", shown.join("\n"))
}

/// What tells content from other content.
fn hash_of(bytes: &[u8]) -> String {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    format!("{:016x}", hasher.finish())
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it does");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1_024
}

#[test]
fn every_method_of_the_descriptors_is_among_those_that_are_called() {
    let schema = Schema::read();
    for service in ["FlightService/DoPut", "Health/Watch", "v1.ServerReflection/", "v1alpha.ServerReflection/"] {
        assert!(schema.methods.iter().any(|method| method.name.contains(service)), "{service}");
    }
    let ours = schema.methods.iter().filter(|method| method.name.starts_with("hydrant.v1."));
    assert!(ours.count() >= 48);
    for (name, changes) in [("IngestService/Ingest", true), ("OnlineService/StreamOnlineFeatures", false)] {
        assert_eq!(schema.method(&format!("hydrant.v1.{name}")).changes, changes);
    }
}
