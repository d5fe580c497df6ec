//! Holds the documents to the code: every reason, metric, option, command, path and link that one of
//! the two names is known to the other. It compares names and never judges what is said about them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Literals that look like reasons and aren't: gRPC's own names, cell statuses, variables.
const NO_REASONS: [&str; 18] = [
    "ALREADY_EXISTS",
    "AT_RISK",
    "CARGO_PKG_VERSION",
    "DATA_LOSS",
    "FAILED_PRECONDITION",
    "HYDRANT_CA",
    "HYDRANT_CLIENT_CERT",
    "HYDRANT_CLIENT_KEY",
    "HYDRANT_SERVER",
    "HYDRANT_TOKEN",
    "HYDRANT_TOKEN_FILE",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "NO_COLOR",
    "NO_DATA",
    "OUT_OF_RANGE",
    "RESOURCE_EXHAUSTED",
    "TRAINING_SET",
];

/// What a reason of one word stands behind.
const REASON_FOLLOWS: [&str; 3] = ["invalid(", "not_found(", "Failure::new("];

/// Where a word in backticks that begins so is a path.
const TOP_FOLDERS: [&str; 9] =
    ["src/", "storage/", "proto/", "tests/", "benches/", "examples/", "docs/", "scripts/", ".ci/"];

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = top().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The documents, by their path from the top, with their text.
fn documents() -> Vec<(String, String)> {
    let mut paths: Vec<PathBuf> =
        [top().to_owned(), top().join("docs")].iter().flat_map(|folder| files(folder)).collect();
    paths.push(top().join("examples/nycflights13/README.md"));
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.sort();
    let named = |path: PathBuf| {
        let name = path.strip_prefix(top()).expect("it lies under the top").to_string_lossy().into_owned();
        (name.clone(), read(name))
    };
    paths.into_iter().map(named).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.expect("a readable folder").path()).filter(|path| path.is_file()).collect()
}

/// The product's sources, without their tests and comments.
fn product() -> Vec<String> {
    let paths = ["src", "storage/src"].iter().flat_map(|folder| super::rust_files(&top().join(folder)));
    let is_test = |path: &PathBuf| {
        let name = path.to_string_lossy();
        name.ends_with("/tests.rs") || name.contains("/tests/")
    };
    let code = |path: PathBuf| {
        let text = read(path);
        let code = text.split("\nmod tests {").next().unwrap_or_default();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        lines.collect::<Vec<_>>().join("\n")
    };
    paths.filter(|path| !is_test(path)).map(code).collect()
}

/// Every text between two marks of the same kind on one line that `wanted` accepts, with what stands
/// before it.
fn between(text: &str, mark: char, wanted: impl Fn(&str) -> bool) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(mark) {
        let rest = &text[at + mark.len_utf8()..];
        let Some(end) = rest.find([mark, '\n']) else { continue };
        if rest[end..].starts_with(mark) && wanted(&rest[..end]) {
            found.push((text[..at].trim_end(), &rest[..end]));
        }
    }
    found
}

fn is_upper_word(text: &str) -> bool {
    let letters =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    text.starts_with(|first: char| first.is_ascii_uppercase()) && text.split('_').all(letters)
}

fn reasons_of_the_code() -> BTreeSet<String> {
    let mut reasons = BTreeSet::new();
    for code in product() {
        for (before, word) in between(&code, '"', is_upper_word) {
            let after_code = before.strip_suffix(',').is_some_and(|before| {
                let name = before.rsplit(|letter: char| !letter.is_alphanumeric()).next().unwrap_or_default();
                before.strip_suffix(name).is_some_and(|before| before.ends_with("Code::"))
            });
            let stated = after_code || REASON_FOLLOWS.iter().any(|opening| before.ends_with(opening));
            if stated || (word.contains('_') && !NO_REASONS.contains(&word)) {
                reasons.insert(word.to_owned());
            }
        }
    }
    reasons
}

/// The first cells of the tables whose first column is called `reason`.
fn reasons_of_the_document() -> BTreeSet<String> {
    let text = read("docs/errors.md");
    let mut reasons = BTreeSet::new();
    let mut among_reasons = false;
    for line in text.lines() {
        among_reasons = line.starts_with("| reason |") || (among_reasons && line.starts_with('|'));
        let cell = line.strip_prefix("| `").and_then(|rest| rest.split_once("` |")).map(|(cell, _)| cell);
        if let Some(reason) = cell.filter(|_| among_reasons) {
            assert!(reasons.insert(reason.to_owned()), "docs/errors.md lists {reason} twice");
        }
    }
    reasons
}

#[test]
fn every_reason_is_documented_and_no_other() {
    let (code, document) = (reasons_of_the_code(), reasons_of_the_document());
    assert!(code.len() > 100, "found only {} reasons in the code", code.len());
    let missing: Vec<_> = code.difference(&document).collect();
    let unknown: Vec<_> = document.difference(&code).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "docs/errors.md lacks {missing:?}, and lists {unknown:?} in vain"
    );
}

#[test]
fn every_metric_is_documented_and_no_other() {
    let is_metric = |text: &str| {
        let parts: Vec<&str> = text.split('.').collect();
        let letters =
            |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        parts[0] == "hydrant" && parts.len() > 2 && parts.iter().all(letters)
    };
    let code = product();
    let metrics: BTreeSet<String> =
        code.iter().flat_map(|code| between(code, '"', is_metric)).map(|(_, name)| name.replace('.', "_")).collect();
    assert!(metrics.len() > 20, "found only {} metrics in the code", metrics.len());
    let text = read("docs/operate.md");
    let documented: BTreeSet<&str> =
        between(&text, '`', |word| word.starts_with("hydrant_")).into_iter().map(|(_, word)| word).collect();
    let stem = |word: &str| {
        let word = word.split('{').next().unwrap_or_default();
        let word = word.strip_suffix("_total").unwrap_or(word);
        ["_microseconds", "_seconds", "_bytes"]
            .iter()
            .find_map(|unit| word.strip_suffix(unit))
            .unwrap_or(word)
            .to_owned()
    };
    let documented: BTreeSet<String> = documented.into_iter().map(stem).collect();
    let missing: Vec<_> = metrics.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&metrics).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "docs/operate.md lacks {missing:?}, and names {unknown:?} in vain"
    );
}

#[test]
fn every_option_that_a_document_names_exists() {
    let defaults = read("src/config/default.toml");
    let (mut sections, mut options) = (BTreeSet::new(), BTreeSet::new());
    let mut section = "";
    for line in defaults.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
            sections.insert(name);
        } else if let Some((name, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            options.insert(format!("{section}.{name}"));
        }
    }
    let mut wrong = Vec::new();
    for (file, text) in documents() {
        let looks_like_one = |word: &str| {
            let letters =
                |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            word.split_once('.').is_some_and(|(section, option)| sections.contains(section) && letters(option))
        };
        let named = between(&text, '`', looks_like_one).into_iter().map(|(_, word)| word);
        let unknown = named.filter(|word| !options.contains(*word) && !top().join("src").join(word).exists());
        wrong.extend(unknown.map(|word| format!("{file}: {word}")));
    }
    assert!(wrong.is_empty(), "there are no such options:\n{}", wrong.join("\n"));
}

#[test]
fn every_command_and_every_field_of_a_definition_is_documented() {
    let all: String = documents().into_iter().map(|(_, text)| text).collect();
    let commands = read("src/cli/mod.rs");
    let commands = commands.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let shown = |command: &&str| all.contains(&format!("hydrant {}", command.replace('_', "-")));
    let missing: Vec<&str> = commands.filter(|command| !shown(command)).collect();
    assert!(missing.is_empty(), "no document shows the commands {missing:?}");

    let reference = read("docs/definitions.md");
    let reader = read("src/registry/documents.rs");
    let lists = reader.lines().filter(|line| line.contains(".fields(") || line.contains("let known = ["));
    let is_field = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphabetic());
    let fields: BTreeSet<&str> = lists.flat_map(|line| between(line, '"', is_field)).map(|(_, field)| field).collect();
    assert!(fields.len() > 20, "found only {} fields of definitions", fields.len());
    let missing: Vec<&&str> = fields.iter().filter(|field| !reference.contains(&format!("`{field}`"))).collect();
    assert!(missing.is_empty(), "docs/definitions.md lacks the fields {missing:?}");
}

#[test]
fn every_path_and_link_of_a_document_leads_somewhere() {
    let documents = documents();
    let mut wrong = Vec::new();
    for (file, text) in &documents {
        let is_path = |word: &str| {
            TOP_FOLDERS.iter().any(|folder| word.starts_with(folder)) && !word.contains(['*', '<', '{', ' ', '…'])
        };
        // Of `path::item`, the path.
        let paths = between(text, '`', is_path).into_iter().map(|(_, path)| path.split("::").next().unwrap_or(path));
        wrong.extend(paths.filter(|path| !top().join(path).exists()).map(|path| format!("{file}: `{path}`")));

        let folder = Path::new(file).parent().unwrap_or(Path::new(""));
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap_or_default();
            if target.starts_with("http") {
                continue;
            }
            let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
            let led_to = if path.is_empty() { top().join(file) } else { top().join(folder).join(path) };
            let found = led_to.exists() && anchor.is_none_or(|anchor| headings(&led_to).contains(anchor));
            if !found {
                wrong.push(format!("{file}: ({target})"));
            }
        }
    }
    assert!(documents.len() > 5, "found only {} documents", documents.len());
    assert!(wrong.is_empty(), "these lead nowhere:\n{}", wrong.join("\n"));
}

#[test]
fn the_figures_of_the_readme_are_those_of_the_benchmarks() {
    // Both are written by scripts/benchmarks.py from the same run: a figure that was changed by hand, or
    // in one of them only, is found here.
    let (readme, benchmarks) = (read("README.md"), read("BENCHMARKS.md"));
    let (_, marked) = readme.split_once("<!-- performance: written by make bench -->").expect("its beginning");
    let (marked, _) = marked.split_once("<!-- end of performance -->").expect("its end");
    let words: Vec<&str> = marked.split_whitespace().collect();
    let is_unit = |word: &str| ["µs", "s", "MiB"].contains(&word.trim_end_matches([',', ';']));
    let figures = words.windows(2).filter(|pair| is_unit(pair[1])).map(|pair| pair[0]).collect::<Vec<_>>();
    let told = figures.len() + marked.matches("not measured").count();
    assert_eq!(told, 13, "three lines with 5, 2 and 6 figures: {figures:?}");
    let unknown: Vec<_> = figures.iter().filter(|figure| !benchmarks.contains(&format!("| {figure} |"))).collect();
    assert!(unknown.is_empty(), "BENCHMARKS.md has no such figures: {unknown:?}; run scripts/benchmarks.py");
}

/// The anchors of a document's headings, as Markdown renderers make them.
fn headings(path: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(path).expect("a document is readable");
    let anchor = |heading: &str| {
        let kept = heading.trim_start_matches('#').trim().to_lowercase();
        let kept: String = kept.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter)).collect();
        kept.replace(' ', "-")
    };
    text.lines().filter(|line| line.starts_with('#')).map(anchor).collect()
}
