//! Where rows come from, as their sender says: names alone, which are told to lineage services and mean
//! nothing to the store. What might be a secret is refused, and not told on.

use crate::error::{Error, Result};

/// As many are told of one backfill at most.
pub const MAX_ORIGINS: usize = 200;
/// Of one origin: namespace, name and version together.
const MAX_BYTES: usize = 1_024;

/// Something that others keep, by the names of OpenLineage's naming: `file` and a path, `s3://bucket` and a
/// key. Never a credential or the query of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub namespace: String,
    pub name: String,
    /// Of a table that has versions.
    pub version: Option<String>,
}

impl Origin {
    /// Why it can't be told; without what it says, which might be a secret.
    pub fn problem(&self) -> Option<&'static str> {
        const NO_PLACE: &str = "its namespace is neither `file` nor `scheme://place`";
        let Self { namespace, name, version } = self;
        if namespace.len() + name.len() + version.as_ref().map_or(0, String::len) > MAX_BYTES {
            return Some("it is longer than may be");
        }
        let mut texts = [Some(namespace), Some(name), version.as_ref()].into_iter().flatten();
        if texts.any(|text| text.is_empty() || text.chars().any(char::is_control)) {
            return Some("a part of it is empty or not on one line");
        }
        if namespace == "file" {
            return None;
        }
        let Some((scheme, authority)) = namespace.split_once("://") else { return Some(NO_PLACE) };
        if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) || authority.is_empty() {
            return Some(NO_PLACE);
        }
        // Azure writes a container where others write a user.
        let is_azure = ["abfs", "abfss", "wasb", "wasbs"].contains(&scheme);
        let has_user = authority.rsplit_once('@').is_some_and(|(user, _)| !is_azure || user.contains(':'));
        if has_user || authority.contains(['/', '?', '#']) || name.contains('?') {
            return Some("it has a user, a path in its namespace, or a query");
        }
        None
    }
}

/// INVALID_ARGUMENT for what is no name of OpenLineage's naming, or more than may be.
pub fn check(origins: &[Origin]) -> Result<()> {
    if origins.len() > MAX_ORIGINS {
        let message = format!("a backfill names {MAX_ORIGINS} origins at most, not {}", origins.len());
        return Err(Error::invalid("BAD_BACKFILL", message).hint("name the folder that the files lie in"));
    }
    for (index, origin) in origins.iter().enumerate() {
        if let Some(problem) = origin.problem() {
            let message = format!("origins[{index}]: {problem}");
            return Err(Error::invalid("BAD_BACKFILL", message).hint(
                "name files as OpenLineage does, without credentials: `file` and a path, `s3://bucket` and a key",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(namespace: &str, name: &str) -> Origin {
        Origin { namespace: namespace.to_owned(), name: name.to_owned(), version: None }
    }

    #[test]
    fn files_are_named_without_secrets_and_as_many_as_may_be() {
        for (namespace, name) in [
            ("file", "/data/what?.parquet"),
            ("s3://lake", "clicks/2024.parquet"),
            ("gs://lake", "clicks"),
            ("abfss://lake@account.dfs.core.windows.net", "clicks"),
            ("hdfs://namenode:8020", "/clicks"),
        ] {
            check(&[origin(namespace, name)]).unwrap_or_else(|refused| panic!("{namespace} {name}: {refused}"));
        }
        for (namespace, name) in [
            ("s3://key:secret@lake", "clicks"),
            ("s3://secret@lake", "clicks"),
            ("abfss://lake:secret@account.dfs.core.windows.net", "clicks"),
            ("https://host?sig=secret", "clicks"),
            ("https://host", "clicks?sig=secret"),
            ("https://host/secret", "clicks"),
            ("lake", "secret"),
            ("://lake", "secret"),
            ("s3://", "secret"),
            ("file", ""),
            ("file", "two\nlines of a secret"),
        ] {
            let refused = check(&[origin(namespace, name)]).expect_err(namespace);
            assert_eq!(refused.reason, "BAD_BACKFILL");
            assert!(!refused.message.contains("secret"), "{refused}");
        }
        let longest = origin("file", &"a".repeat(MAX_BYTES - 4));
        check(&vec![longest.clone(); MAX_ORIGINS]).expect("so many of that size may be");
        check(&vec![longest; MAX_ORIGINS + 1]).expect_err("one too many");
        check(&[origin("file", &"a".repeat(MAX_BYTES))]).expect_err("too long");
    }
}
