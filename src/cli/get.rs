//! `hydrant get`: definitions as a server has them.

use serde_json::Value as Json;

use super::definitions::{KindParser, document};
use super::output::{self, DocumentOutput};
use super::{Done, Failure, Format, Server};
use crate::registry::definition::Kind;

/// List definitions of a kind, or get one
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hydrant get views\n  hydrant get view airport_weather -o yaml\n  hydrant get service delay_model@1 -o yaml"
)]
pub struct Args {
    /// What kind of definition; plurals will do
    #[arg(value_parser = KindParser)]
    kind: Kind,

    /// NAME, or NAME@N for one version of a service or view
    name: Option<String>,

    #[command(flatten)]
    pub output: DocumentOutput,
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let client = server.connect().await?;
    let definitions = match &args.name {
        Some(name) => vec![client.get_definition(args.kind, name).await?],
        None => client.list_definitions(args.kind).await?,
    };
    let documents: Vec<Json> = definitions.into_iter().map(document).collect::<Result<_, _>>()?;
    if documents.is_empty() && args.output.format == Format::Table {
        output::note(&format!("there is no {} yet", args.kind.as_str()));
        return Ok(Done::Done);
    }
    let documents = Json::Array(documents);
    output::print_as(args.output.format, &documents, || table(&documents))?;
    Ok(Done::Done)
}

fn table(documents: &Json) -> String {
    let text = |document: &Json, path: &str| match document.pointer(path) {
        Some(Json::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let version = |document: &Json| {
        let status = &document["status"];
        let (version, served) = (&status["version"], &status["servedVersion"]);
        // The one that is being built is not among those that can be read.
        let is_read = status["versions"].as_array().is_none_or(|read| read.contains(version));
        match served.is_null() || is_read {
            true => text(document, "/status/version"),
            false => format!("{served} ({version} is being built)"),
        }
    };
    let row = |document: &Json| {
        vec![
            text(document, "/metadata/name"),
            version(document),
            text(document, "/status/revision"),
            text(document, "/status/updated"),
            text(document, "/metadata/owner"),
            text(document, "/metadata/description"),
        ]
    };
    let rows: Vec<Vec<String>> = documents.as_array().into_iter().flatten().map(row).collect();
    output::table(&["name", "version", "revision", "updated", "owner", "description"], &rows, &[1, 2])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_version_that_is_being_built_is_not_told_as_the_one_that_is_served() {
        for (version, told) in [(3, "2 (3 is being built)"), (2, " 2 "), (1, " 1 ")] {
            let status = json!({"version": version, "servedVersion": 2, "versions": [1, 2], "revision": 7});
            let shown = table(&json!([{"metadata": {"name": "weather"}, "status": status}]));
            assert!(shown.lines().nth(1).is_some_and(|line| line.contains(told)), "{shown}");
        }
    }

    #[test]
    fn a_table_has_a_line_for_each_definition() {
        let documents = json!([{
            "metadata": {"name": "airport", "description": "An airport"},
            "status": {"version": 1, "revision": 7, "updated": "2026-01-05T10:00:00Z"},
        }]);
        let shown = table(&documents);
        let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines,
            [
                vec!["NAME", "VERSION", "REVISION", "UPDATED", "OWNER", "DESCRIPTION"],
                vec!["airport", "1", "7", "2026-01-05T10:00:00Z", "An", "airport"],
            ]
        );
    }
}
