//! `hydrant describe`: one definition, what it is made of, and what is made of it.

use hydrant_proto::v1;
use serde_json::{Value as Json, json};

use super::definitions::{KindParser, document, reference};
use super::output::{self, DocumentOutput, Tone};
use super::{Done, Failure, Server, yaml};
use crate::registry::definition::Kind;

/// Show a definition with its lineage
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  hydrant describe service delay_model\n  hydrant describe service delay_model@1")]
pub struct Args {
    /// What kind of definition; plurals will do
    #[arg(value_parser = KindParser)]
    kind: Kind,

    /// NAME, or NAME@N for one version of a service or view
    name: String,

    #[command(flatten)]
    pub output: DocumentOutput,
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let client = server.connect().await?;
    let mut shown = document(client.get_definition(args.kind, &args.name).await?)?;
    match client.get_lineage(args.kind, &args.name).await {
        Ok(lineage) => {
            shown["lineage"] = json!({"upstream": edges(lineage.upstream)?, "downstream": edges(lineage.downstream)?});
        }
        // A key that is limited reads the definitions that it names, and not what these hang together with.
        Err(refusal) if refusal.reason == "OUT_OF_REACH" => {}
        Err(refusal) => return Err(refusal.into()),
    }
    output::print_as(args.output.format, &shown, || text(&shown))?;
    Ok(Done::Done)
}

fn edges(edges: Vec<v1::LineageEdge>) -> Result<Vec<Json>, Failure> {
    let edge = |edge: v1::LineageEdge| {
        let (from, to) = (reference(edge.from_kind, &edge.from_name)?, reference(edge.to_kind, &edge.to_name)?);
        Ok(json!({"from": from, "to": to}))
    };
    edges.into_iter().map(edge).collect()
}

/// The document as its owner writes it, then what the server adds, part by part.
fn text(shown: &Json) -> String {
    let mut text = String::new();
    let mut part = |title: &str, body: &str| {
        text.push_str(&format!("{}\n", output::on_stdout(title, Tone::Strong)));
        body.lines().for_each(|line| text.push_str(&format!("  {line}\n")));
    };
    let mut document = shown.clone();
    let mut status = document.as_object_mut().and_then(|fields| {
        fields.shift_remove("lineage");
        fields.shift_remove("status")
    });
    let columns = status.as_mut().and_then(|status| status.as_object_mut()?.shift_remove("columns"));
    let subject = format!(
        "{}/{}",
        shown["kind"].as_str().unwrap_or_default(),
        shown["metadata"]["name"].as_str().unwrap_or_default()
    );
    part(&subject, &yaml::documents(&document));
    if let Some(status) = status {
        part("status", &yaml::documents(&status));
    }
    if let Some(columns) = columns {
        let cell = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let row = |column: &Json| {
            ["name", "type", "view", "feature", "ttl", "default"]
                .map(|field| column.get(field).map(cell).unwrap_or_default())
                .to_vec()
        };
        let mut rows: Vec<Vec<String>> = columns.as_array().into_iter().flatten().map(row).collect();
        rows.iter_mut().filter(|row| row[4].is_empty()).for_each(|row| row[4] = "for ever".to_owned());
        part("columns", &output::table(&["column", "type", "view", "feature", "ttl", "default"], &rows, &[]));
    }
    if shown.get("lineage").is_none() {
        part("lineage", "not told to a key that is limited to views and services");
        return text;
    }
    for (title, direction) in [("made of", "upstream"), ("used by", "downstream")] {
        let edges = shown["lineage"][direction].as_array().cloned().unwrap_or_default();
        let lines: Vec<String> = edges
            .iter()
            .map(|edge| {
                format!("{} -> {}", edge["from"].as_str().unwrap_or_default(), edge["to"].as_str().unwrap_or_default())
            })
            .collect();
        part(title, if lines.is_empty() { "nothing".to_owned() } else { lines.join("\n") }.as_str());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_tells_the_definition_and_what_depends_on_it() {
        let shown = json!({
            "kind": "Entity", "metadata": {"name": "airport"}, "spec": {"joinKeys": [{"name": "origin", "type": "string"}]},
            "status": {"version": 1, "columns": [
                {"name": "v__f", "type": "int64", "view": "v@1", "feature": "f", "ttl": "3h", "default": "7"},
                {"name": "w__g", "type": "float64", "view": "w@1", "feature": "g", "default": 0.5},
            ]},
            "lineage": {"upstream": [], "downstream": [{"from": "Entity/airport", "to": "FeatureView/airport_weather"}]},
        });
        let expected = "\
Entity/airport
  kind: Entity
  metadata:
    name: airport
  spec:
    joinKeys:
      - name: origin
        type: string
status
  version: 1
columns
  COLUMN  TYPE     VIEW  FEATURE  TTL       DEFAULT
  v__f    int64    v@1   f        3h        7
  w__g    float64  w@1   g        for ever  0.5
made of
  nothing
used by
  Entity/airport -> FeatureView/airport_weather
";
        assert_eq!(text(&shown), expected);
    }
}
