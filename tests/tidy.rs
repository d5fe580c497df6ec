//! Holds the house rules that no compiler knows: who may import whom, where each foreign crate
//! lives, and what only one file may do. It reads the sources as text; each breach is printed with
//! its place and the rule. The rules are ARCHITECTURE.md's.

#[path = "tidy/docs.rs"]
mod docs;
#[path = "tidy/scan.rs"]
mod scan;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use scan::{NamedPath, Token};

/// A place where a rule doesn't hold.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Breach {
    file: String,
    line: usize,
    what: String,
    rule: &'static str,
}

/// One source file: its path from the top of the repository, and its text taken apart.
struct Source {
    file: String,
    lines: usize,
    first_line: String,
    /// The line of its `mod tests`.
    tests_from: Option<usize>,
    tokens: Vec<Token>,
    paths: Vec<NamedPath>,
}

const LAYERS: &str = "main -> app -> rpc, cli -> use cases -> partition, log, registry, tenancy, cluster, aggregate -> storage; \
     use cases never import one another; config, error, clock and telemetry may be imported by all";
const CLI: &str = "the command line talks to a server only through rpc::client, and reads its messages with rpc::wire";
const HOMES: &str = "each foreign crate has one home";
const UNSAFE: &str = "unsafe is forbidden outside storage/";
const KEYS: &str = "only storage/src/keys.rs makes key bytes (big-endian numbers, key hashes)";
const CODES: &str = "only src/rpc/status.rs names status codes";
const OPENING: &str = "a module opens with a `//!` comment: what it is for, what it never does";
const LENGTH: &str = "a file is at most 700 lines: split it by job";
const IGNORED: &str = "no test is disabled: a test that skips passes for nothing";

const MAX_LINES: usize = 700;

/// What everybody may import.
const COMMON: [&str; 11] = [
    "config",
    "error",
    "clock",
    "telemetry",
    "counter",
    "lands",
    "one_at_a_time",
    "pace",
    "runs",
    "sending",
    "testing",
];

/// The modules of src/, each with the modules that it may import besides itself and [`COMMON`].
const MODULES: [(&str, &[&str]); 42] = [
    ("config", &[]),
    ("error", &[]),
    ("clock", &[]),
    ("telemetry", &[]),
    ("counter", &[]),
    ("lands", &[]),
    ("one_at_a_time", &[]),
    ("pace", &[]),
    ("runs", &[]),
    ("sending", &[]),
    ("bench", &[]),
    ("cluster", &[]),
    ("log", &[]),
    ("aggregate", &[]),
    ("tenancy", &["cluster"]),
    ("registry", &["cluster", "tenancy"]),
    ("rows", &["registry"]),
    ("partition", &["log", "registry", "aggregate", "tenancy"]),
    ("testing", LOWER),
    ("access", LOWER),
    ("ingest", LOWER),
    ("serving", LOWER),
    ("landing", LOWER),
    ("compaction", LOWER),
    ("history", LOWER),
    ("backfill", LOWER),
    ("backup", LOWER),
    ("materialize", LOWER),
    ("refill", LOWER),
    ("versions", LOWER),
    ("quotas", LOWER),
    ("erasure", LOWER),
    ("audit", LOWER),
    ("freshness", LOWER),
    ("openlineage", LOWER),
    ("usage", LOWER),
    ("quality", LOWER),
    ("rpc", USE_CASES_AND_LOWER),
    ("cli", &["rpc", "registry", "bench"]),
    ("app", &[]),
    ("main", &["app", "cli"]),
    ("lib", &[]),
];

const LOWER: &[&str] = &["rows", "partition", "log", "registry", "tenancy", "cluster", "aggregate"];
const USE_CASES_AND_LOWER: &[&str] = &[
    "access",
    "ingest",
    "serving",
    "landing",
    "compaction",
    "history",
    "backfill",
    "backup",
    "materialize",
    "refill",
    "versions",
    "quotas",
    "erasure",
    "audit",
    "freshness",
    "openlineage",
    "usage",
    "quality",
    "rows",
    "partition",
    "log",
    "registry",
    "tenancy",
    "cluster",
    "aggregate",
];

/// Foreign crates (a trailing `*` stands for the rest of a name) and the only paths that may use
/// them. Tests, benchmarks and examples are programs of their own and may use any.
const CRATE_HOMES: [(&str, &[&str]); 30] = [
    ("tonic*", &["src/rpc/", "proto/"]),
    ("tower*", &["src/rpc/"]),
    ("reqwest", &["src/rpc/webhook.rs", "src/rpc/openlineage.rs", "src/rpc/oidc.rs"]),
    ("rustls", &["src/rpc/"]),
    ("tokio_rustls", &["src/rpc/"]),
    ("x509_parser", &["src/rpc/tls.rs"]),
    ("prost*", &["src/rpc/", "proto/"]),
    ("arrow_flight", &["src/rpc/"]),
    ("hydrant_proto", &["src/rpc/", "src/cli/"]),
    ("actix_web", &["src/rpc/http.rs"]),
    ("actix", &["src/partition/", "src/landing/", "src/registry/", "src/freshness/", "src/app.rs"]),
    ("rocksdb", &["storage/src/"]),
    ("deltalake*", &["storage/src/history/delta.rs", "storage/src/sources/delta.rs"]),
    ("object_store", &["storage/src/history/", "storage/src/sources/"]),
    ("rdkafka", &["src/log/kafka.rs"]),
    ("etcd_client", &["src/cluster/etcd.rs"]),
    ("saphyr*", &["src/registry/yaml.rs"]),
    ("toml", &["src/config/"]),
    ("clap", &["src/cli/"]),
    ("clap_complete", &["src/cli/"]),
    ("comfy_table", &["src/cli/"]),
    ("indicatif", &["src/cli/"]),
    ("opentelemetry*", &["src/telemetry.rs", "src/telemetry/"]),
    ("tracing_opentelemetry", &["src/telemetry.rs", "src/telemetry/"]),
    ("tracing_subscriber", &["src/telemetry.rs", "src/telemetry/"]),
    ("prometheus", &["src/telemetry.rs", "src/telemetry/"]),
    ("anyhow", &["src/main.rs"]),
    ("mimalloc", &["src/main.rs"]),
    ("quick_cache", &["storage/src/partition/row_cache.rs"]),
    ("rustix", &["storage/src/threads.rs"]),
];

/// Big-endian bytes and the slot hash are how key bytes come about.
const KEY_MAKERS: [&str; 4] = ["to_be_bytes", "from_be_bytes", "xxh3_64_with_seed", "xxh3_128_with_seed"];

/// Constructors of a gRPC status.
const STATUS_MAKERS: [&str; 19] = [
    "new",
    "with_details",
    "with_metadata",
    "ok",
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "unauthenticated",
];

#[test]
fn the_sources_keep_the_house_rules() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut breaches = Vec::new();
    let mut files = 0;
    for folder in ["src", "storage", "proto", "tests", "benches", "examples"] {
        for path in rust_files(&top.join(folder)) {
            let text = fs::read_to_string(&path).expect("a source file is readable");
            let name = path.strip_prefix(top).expect("it lies under the top").to_string_lossy().into_owned();
            breaches.extend(breaches_of(&Source::parse(&name, &text)));
            files += 1;
        }
    }
    assert!(files > 10, "found only {files} source files under {}", top.display());
    let listed: Vec<String> = breaches.iter().map(ToString::to_string).collect();
    assert!(listed.is_empty(), "{} breaches of the house rules:\n{}", listed.len(), listed.join("\n"));
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    let of_path = |path: PathBuf| match path {
        path if path.is_dir() => rust_files(&path),
        path if path.extension().is_some_and(|extension| extension == "rs") => vec![path],
        _ => Vec::new(),
    };
    paths.into_iter().flat_map(of_path).collect()
}

fn breaches_of(source: &Source) -> Vec<Breach> {
    let rules = [imports, foreign_crates, unsafe_code, keys, status_codes, ignored_tests, opening, length];
    rules.iter().flat_map(|rule| rule(source)).collect()
}

fn imports(source: &Source) -> Vec<Breach> {
    let Some(importer) = source.module() else { return Vec::new() };
    let Some((_, allowed)) = MODULES.iter().find(|(name, _)| *name == importer) else {
        return vec![source.breach(1, format!("`{importer}` has no place in the layers of tests/tidy.rs"), LAYERS)];
    };
    // `app` puts everything together, and `lib` only lists the modules.
    if matches!(importer, "app" | "lib") {
        return Vec::new();
    }
    let may = |target: &str| target == importer || COMMON.contains(&target) || allowed.contains(&target);
    let check = |path: &NamedPath| {
        let root = if importer == "main" { "hydrant" } else { "crate" };
        let target = path.starts_with(&[root]).then(|| path.segments.get(1)).flatten()?;
        if !MODULES.iter().any(|(name, _)| name == target) {
            return None;
        }
        if !may(target) {
            return Some(source.breach(path.line, format!("`{importer}` names `{}`", path.text()), LAYERS));
        }
        let open_to_cli = |part| path.starts_with(&["crate", "rpc", part]);
        let other_rpc = importer == "cli" && target == "rpc" && !open_to_cli("client") && !open_to_cli("wire");
        other_rpc.then(|| source.breach(path.line, format!("`cli` names `{}`", path.text()), CLI))
    };
    source.paths.iter().filter_map(check).collect()
}

fn foreign_crates(source: &Source) -> Vec<Breach> {
    if !source.is_product() {
        return Vec::new();
    }
    let check = |path: &NamedPath| {
        let named = path.segments.first()?;
        let (_, homes) = CRATE_HOMES.iter().find(|(pattern, _)| match pattern.strip_suffix('*') {
            Some(prefix) => named.starts_with(prefix),
            None => named == pattern,
        })?;
        let at_home = homes.iter().any(|home| source.file.starts_with(home)) || (named == "anyhow" && path.in_tests);
        let what = || format!("`{}` belongs in {}", path.text(), homes.join(", "));
        (!at_home).then(|| source.breach(path.line, what(), HOMES))
    };
    source.paths.iter().filter_map(check).collect()
}

fn unsafe_code(source: &Source) -> Vec<Breach> {
    if source.file.starts_with("storage/") {
        return Vec::new();
    }
    source.each_token(|word| word == "unsafe", UNSAFE)
}

fn keys(source: &Source) -> Vec<Breach> {
    // Positions on the wire are big-endian too, and no keys.
    let elsewhere = ["storage/src/keys.rs", "src/rpc/"].iter().any(|place| source.file.starts_with(place));
    if !source.is_product() || elsewhere {
        return Vec::new();
    }
    let mut breaches = source.each_token(|word| KEY_MAKERS.contains(&word), KEYS);
    // Tests at a file's end may make keys, to compare with.
    breaches.retain(|breach| source.tests_from.is_none_or(|line| breach.line < line));
    breaches
}

fn status_codes(source: &Source) -> Vec<Breach> {
    if !source.is_product() || source.file == "src/rpc/status.rs" {
        return Vec::new();
    }
    let check = |path: &NamedPath| {
        let makes_status = match path.segments.as_slice() {
            [.., owner, maker] => owner == "Status" && STATUS_MAKERS.contains(&maker.as_str()),
            _ => false,
        };
        let names_code = path.starts_with(&["tonic", "Code"]);
        let what = || format!("`{}`", path.text());
        (makes_status || names_code).then(|| source.breach(path.line, what(), CODES))
    };
    source.paths.iter().filter_map(check).collect()
}

fn ignored_tests(source: &Source) -> Vec<Breach> {
    let texts: Vec<&str> = source.tokens.iter().map(|token| token.text.as_str()).collect();
    let attribute = |window: &[&str]| window == ["#", "[", "ignore"];
    let at = texts.windows(3).position(attribute);
    at.map(|at| source.breach(source.tokens[at].line, "`#[ignore]`".to_owned(), IGNORED)).into_iter().collect()
}

fn opening(source: &Source) -> Vec<Breach> {
    let missing = source.is_product() && !source.first_line.starts_with("//!");
    missing.then(|| source.breach(1, "no opening comment".to_owned(), OPENING)).into_iter().collect()
}

fn length(source: &Source) -> Vec<Breach> {
    let too_long = source.lines > MAX_LINES;
    too_long.then(|| source.breach(MAX_LINES, format!("{} lines", source.lines), LENGTH)).into_iter().collect()
}

impl Source {
    fn parse(file: &str, text: &str) -> Self {
        let tokens = scan::tokens(text);
        let paths = scan::paths(&tokens, &module_path(file));
        let first_line = text.lines().next().unwrap_or_default().to_owned();
        let words: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
        let tests = words.windows(3).position(|window| window == ["mod", "tests", "{"]);
        let tests_from = tests.map(|at| tokens[at].line);
        Self { file: file.to_owned(), lines: text.lines().count(), first_line, tests_from, tokens, paths }
    }

    /// The module of src/ that the file belongs to.
    fn module(&self) -> Option<&str> {
        let inside = self.file.strip_prefix("src/")?;
        inside.split('/').next().map(|first| first.trim_end_matches(".rs"))
    }

    /// Whether it is built into what users run.
    fn is_product(&self) -> bool {
        let is_test = self.file.ends_with("/tests.rs") || self.file.contains("/tests/");
        !is_test && ["src/", "storage/src/", "proto/src/"].iter().any(|folder| self.file.starts_with(folder))
    }

    fn breach(&self, line: usize, what: String, rule: &'static str) -> Breach {
        Breach { file: self.file.clone(), line, what, rule }
    }

    fn each_token(&self, wanted: impl Fn(&str) -> bool, rule: &'static str) -> Vec<Breach> {
        let found = self.tokens.iter().filter(|token| wanted(&token.text));
        found.map(|token| self.breach(token.line, format!("`{}`", token.text), rule)).collect()
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {} (rule: {})", self.file, self.line, self.what, self.rule)
    }
}

/// `src/registry/yaml.rs` -> `["registry", "yaml"]`.
fn module_path(file: &str) -> Vec<String> {
    let inside = file.split_once("src/").map_or(file, |(_, inside)| inside);
    let mut parts: Vec<String> = inside.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

/// The rules on snippets that keep and break them.
mod on_snippets {
    use super::*;

    fn broken_rules(file: &str, text: &str) -> Vec<&'static str> {
        let breaches = breaches_of(&Source::parse(file, &format!("//! Opens.\n{text}")));
        let mut rules: Vec<_> = breaches.into_iter().map(|breach| breach.rule).collect();
        rules.dedup();
        rules
    }

    #[track_caller]
    fn breaks(rule: &'static str, file: &str, text: &str) {
        assert_eq!(broken_rules(file, text), [rule], "{file}: {text}");
    }

    #[track_caller]
    fn keeps(file: &str, text: &str) {
        assert_eq!(broken_rules(file, text), [] as [&str; 0], "{file}: {text}");
    }

    #[test]
    fn a_use_case_may_not_import_another() {
        breaks(LAYERS, "src/history/join.rs", "use crate::serving::PinnedHistory;");
        breaks(LAYERS, "src/history/join.rs", "use crate::{error::Error, serving::PinnedHistory};");
        breaks(LAYERS, "src/history/join.rs", "fn f(_: &crate::serving::Serving) {}");
        breaks(LAYERS, "src/history/mod.rs", "use super::serving::Serving;");
        breaks(LAYERS, "src/history/join.rs", "mod tests { use super::super::super::serving::Serving; }");
        breaks(LAYERS, "src/history/join.rs", "impl crate::serving::PinnedHistory for X {}");
        keeps(
            "src/history/join.rs",
            "use crate::partition::PartitionHandle; use super::plan::Plan; use crate::error::Error;",
        );
        keeps("src/history/join.rs", "mod tests { use super::*; use super::super::plan::Plan; }");
    }

    #[test]
    fn what_lies_lower_does_not_know_what_lies_higher() {
        breaks(LAYERS, "src/log/local.rs", "use crate::partition::Partitions;");
        breaks(LAYERS, "src/registry/mod.rs", "use crate::rpc::wire;");
        breaks(LAYERS, "src/rpc/online.rs", "use crate::app::Node;");
        breaks(LAYERS, "src/config/mod.rs", "use crate::registry::Registry;");
        breaks(LAYERS, "src/main.rs", "use hydrant::serving::Serving;");
        keeps("src/main.rs", "use hydrant::{app::App, cli, config::Config};");
        keeps("src/app.rs", "use crate::{rpc, history, log::LocalLog, cli};");
    }

    #[test]
    fn a_new_module_must_take_its_place_in_the_layers() {
        breaks(LAYERS, "src/misc/mod.rs", "");
    }

    #[test]
    fn the_command_line_knows_no_more_of_rpc_than_its_client() {
        breaks(CLI, "src/cli/get.rs", "use crate::rpc::status::to_status;");
        breaks(LAYERS, "src/cli/get.rs", "use crate::serving::Serving;");
        keeps(
            "src/cli/get.rs",
            "use crate::rpc::client::Client; use crate::rpc::wire::columns; use crate::registry::yaml;",
        );
    }

    #[test]
    fn a_foreign_crate_is_used_only_at_its_home() {
        breaks(HOMES, "src/serving/mod.rs", "use tonic::Request;");
        breaks(HOMES, "src/serving/mod.rs", "fn f(_: tonic_health::Server) {}");
        breaks(HOMES, "src/ingest/mod.rs", "#[actix::main] async fn f() {}");
        breaks(HOMES, "storage/src/history/table.rs", "pub use deltalake::DeltaTable;");
        breaks(HOMES, "src/partition/actor.rs", "use rocksdb::{DB, Options as Settings};");
        breaks(HOMES, "src/cli/get.rs", "fn f() -> anyhow::Result<()> { Ok(()) }");
        breaks(HOMES, "src/serving/mod.rs", "fn f() { ::prost::Message::encode(); }");
        keeps("src/rpc/online.rs", "use tonic::Request;");
        keeps("src/cli/get.rs", "mod tests { fn f() -> anyhow::Result<()> { Ok(()) } }");
        keeps("benches/online.rs", "use rocksdb::DB;");
        keeps(
            "src/serving/mod.rs",
            "// tonic::Status\nconst TEXT: &str = \"tonic::Status\"; const RAW: &str = r#\"use tonic::X;\"#;",
        );
    }

    #[test]
    fn unsafe_code_lives_in_storage_alone() {
        breaks(UNSAFE, "src/serving/mod.rs", "fn f() { unsafe { g() } }");
        breaks(UNSAFE, "tests/crash.rs", "unsafe fn f() {}");
        keeps("storage/src/row.rs", "fn f() { unsafe { g() } }");
        keeps(
            "src/serving/mod.rs",
            "/* unsafe /* nested */ still */ const S: &str = \"unsafe\"; // unsafe\n#![forbid(unsafe_code)]",
        );
    }

    #[test]
    fn key_bytes_are_made_in_one_file() {
        breaks(KEYS, "storage/src/partition/mod.rs", "fn f() { 1u16.to_be_bytes(); }");
        breaks(KEYS, "src/ingest/mod.rs", "use xxhash_rust::xxh3::xxh3_64_with_seed;");
        keeps("storage/src/keys.rs", "fn f() { 1u16.to_be_bytes(); }");
        keeps("storage/src/row.rs", "fn f() { 1u16.to_le_bytes(); }");
        keeps("storage/src/row.rs", "mod tests { fn f() { 1u16.to_be_bytes(); } }");
    }

    #[test]
    fn status_codes_are_named_in_one_file() {
        breaks(CODES, "src/rpc/online.rs", "fn f() { Status::not_found(\"x\"); }");
        breaks(CODES, "src/rpc/online.rs", "fn f() { tonic::Status::internal(\"x\"); }");
        breaks(CODES, "src/rpc/online.rs", "use tonic::{Request, Code};");
        keeps("src/rpc/status.rs", "use tonic::Code; fn f() { tonic::Status::internal(\"x\"); }");
        keeps("src/rpc/online.rs", "fn f() -> Result<(), tonic::Status> { Ok(()) }");
    }

    #[test]
    fn no_test_is_disabled() {
        breaks(IGNORED, "tests/crash.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}");
    }

    #[test]
    fn a_module_opens_with_what_it_is_for() {
        let breaches = breaches_of(&Source::parse("src/clock.rs", "use std::fmt;\n"));
        assert_eq!(breaches.iter().map(|breach| breach.rule).collect::<Vec<_>>(), [OPENING]);
    }

    #[test]
    fn a_file_of_hundreds_of_lines_is_split() {
        breaks(LENGTH, "src/clock.rs", &"\n".repeat(MAX_LINES + 1));
    }

    #[test]
    fn a_breach_names_the_place_and_the_rule() {
        let breaches =
            breaches_of(&Source::parse("src/ingest/mod.rs", "//! Opens.\n\nuse std::fmt;\nuse crate::serving::X;\n"));
        assert_eq!(breaches.len(), 1);
        let shown = breaches[0].to_string();
        assert!(
            shown.starts_with("src/ingest/mod.rs:4: `ingest` names `crate::serving::X` (rule: main -> app"),
            "{shown}"
        );
    }

    #[test]
    fn lifetimes_and_quotes_do_not_confuse_the_scan() {
        keeps("src/serving/mod.rs", "fn f<'a>(x: &'a str) -> char { let _ = '\"'; let _ = '\\''; let _ = b'\"'; 'x' }");
        breaks(UNSAFE, "src/serving/mod.rs", "fn f<'a>() { let _ = '\"'; unsafe {} }");
        breaks(UNSAFE, "src/serving/mod.rs", "const A: &str = r##\"a\"#b\"##; unsafe fn f() {}");
    }
}
