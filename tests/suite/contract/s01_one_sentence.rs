//! Contract, section 1: one log, one comparator, one expiry rule. That online answers and training
//! sets agree is held by `one_sentence`; here, that there is nothing to disagree.

use std::fs;
use std::path::{Path, PathBuf};

/// What `storage/src/order.rs` alone may define.
const RULES: [&str; 6] = [
    "fn is_expired(",
    "fn row_status(",
    "fn missing_cell_status(",
    "fn is_visible_at(",
    "fn takes_default(",
    "Ord for RowVersion",
];

/// Arithmetic with a ttl is an expiry rule.
const EXPIRY: [&str; 6] = ["add(ttl", "sub(ttl", "+ ttl", "- ttl", "+ *ttl", "- *ttl"];

#[test]
fn which_row_counts_and_when_it_expires_is_decided_in_one_place() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for path in [top.join("src"), top.join("storage/src")].iter().flat_map(|folder| rust_files(folder)) {
        let text = fs::read_to_string(&path).expect("a source file is readable");
        let name = path.strip_prefix(top).expect("it lies under the top").to_string_lossy().into_owned();
        let breaks = |pattern: &&str| text.contains(*pattern);
        found.extend(RULES.iter().chain(&EXPIRY).filter(|pattern| breaks(pattern)).map(|rule| (name.clone(), *rule)));
    }
    let elsewhere: Vec<_> = found.iter().filter(|(name, _)| name != "storage/src/order.rs").collect();
    assert!(elsewhere.is_empty(), "a second implementation: {elsewhere:?}");
    assert!(found.len() > 4, "the rules are not where they were: {found:?}");
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a readable folder");
    let of_entry = |path: PathBuf| match path {
        path if path.is_dir() => rust_files(&path),
        path if path.extension().is_some_and(|extension| extension == "rs") => vec![path],
        _ => Vec::new(),
    };
    entries.flat_map(|entry| of_entry(entry.expect("a readable entry").path())).collect()
}
