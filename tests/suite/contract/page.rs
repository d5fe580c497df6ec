//! docs/contract.md names a test for every promise. Here: that the page names no test that isn't
//! there, leaves no promise without one, and that every test of this folder holds a promise.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A list item of the page, and the tests that it names.
struct Promise {
    line: usize,
    text: String,
    /// Module or path, and function.
    tests: Vec<(String, String)>,
}

const NOT_SERVED: &str = "*Not yet served.*";

#[test]
fn every_promise_of_the_page_names_a_test_that_exists() {
    let promises = promises();
    assert!(promises.len() > 60, "only {} promises", promises.len());
    let mut wrong = Vec::new();
    for Promise { line, text, tests } in &promises {
        if tests.is_empty() && !text.contains(NOT_SERVED) {
            wrong.push(format!("line {line} names no test: {text}"));
        }
        for (place, test) in tests {
            if !tests_in(&file_of(place)).contains(test) {
                wrong.push(format!("line {line}: there is no test `{test}` in {}", file_of(place).display()));
            }
        }
    }
    assert!(wrong.is_empty(), "docs/contract.md:\n{}", wrong.join("\n"));
}

#[test]
fn every_test_of_the_contract_is_named_by_the_page() {
    let named: BTreeSet<(String, String)> = promises().into_iter().flat_map(|promise| promise.tests).collect();
    let mut forgotten = Vec::new();
    for entry in fs::read_dir(top().join("tests/suite/contract")).expect("a folder") {
        let path = entry.expect("an entry").path();
        let module = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if module.starts_with('s') {
            let tests = tests_in(&path).into_iter().map(|test| (module.clone(), test));
            forgotten.extend(tests.filter(|test| !named.contains(test)));
        }
    }
    assert!(forgotten.is_empty(), "docs/contract.md doesn't name {forgotten:?}");
}

fn promises() -> Vec<Promise> {
    let text = fs::read_to_string(top().join("docs/contract.md")).expect("the page is there");
    let mut promises: Vec<Promise> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let is_item = line.starts_with("- ");
        if is_item {
            promises.push(Promise { line: index + 1, text: String::new(), tests: Vec::new() });
        }
        let continues = line.starts_with("  ");
        if let Some(promise) = promises.last_mut().filter(|_| is_item || continues) {
            promise.text.push_str(line);
            promise.tests.extend(tests_named(line));
        }
    }
    promises
}

/// `module::test`, `path/to/file.rs::test` and `path/to/file.py::test`, in backquotes.
fn tests_named(line: &str) -> Vec<(String, String)> {
    let quoted = line.split('`').skip(1).step_by(2);
    let named = quoted.filter_map(|text| text.rsplit_once("::"));
    let is_file = |place: &str| place.ends_with(".rs") || place.ends_with(".py");
    let is_test = |(place, _): &(&str, &str)| is_file(place) || place.starts_with('s') || *place == "one_sentence";
    named.filter(is_test).map(|(place, test)| (place.to_owned(), test.to_owned())).collect()
}

fn file_of(place: &str) -> PathBuf {
    match place {
        place if place.ends_with(".rs") || place.ends_with(".py") => top().join(place),
        "one_sentence" => top().join("tests/suite/one_sentence/mod.rs"),
        module => top().join(format!("tests/suite/contract/{module}.rs")),
    }
}

/// The functions of a file that are tests.
fn tests_in(path: &Path) -> BTreeSet<String> {
    let Ok(text) = fs::read_to_string(path) else { return BTreeSet::new() };
    if path.extension().is_some_and(|extension| extension == "py") {
        let named = text.lines().filter_map(|line| line.strip_prefix("def ")?.split_once('('));
        return named.filter(|(name, _)| name.starts_with("test_")).map(|(name, _)| name.to_owned()).collect();
    }
    let mut tests = BTreeSet::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some((_, function)) = line.split_once("fn ").filter(|_| is_test) {
            tests.extend(function.split_once('(').map(|(name, _)| name.to_owned()));
            is_test = false;
        }
    }
    tests
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
