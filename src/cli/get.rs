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

    /// NAME, or NAME@N for one version of a service
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
    let row = |document: &Json| {
        let columns = [
            "/metadata/name",
            "/status/version",
            "/status/revision",
            "/status/updated",
            "/metadata/owner",
            "/metadata/description",
        ];
        columns.iter().map(|path| text(document, path)).collect()
    };
    let rows: Vec<Vec<String>> = documents.as_array().into_iter().flatten().map(row).collect();
    output::table(&["name", "version", "revision", "updated", "owner", "description"], &rows, &[1, 2])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
