//! `hydrant lineage`: what something is made of and what is made of it, column by column.

mod drawing;
mod tree;

use clap::ValueEnum;
use hydrant_proto::v1;
use hydrant_proto::v1::get_lineage_graph_request::Direction;
use serde_json::{Value as Json, json};

use super::definitions::parse_kind;
use super::{Done, Failure, Format, Server, output};
use crate::rpc::wire::definitions::encode_kind;

/// Show what something is made of and what is made of it, column by column
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  hydrant lineage weather.temp --down\n  hydrant lineage airport_weather:temp\n  \
    hydrant lineage delay_model@1 --up -o mermaid\n  hydrant lineage flights@2\n  hydrant lineage airport --kind entity -o dot | dot -Tsvg > lineage.svg")]
pub struct Args {
    /// NAME of an entity, source, view, service, training set or consumer, SOURCE.COLUMN, VIEW:FEATURE,
    /// NAME@N for one version, OWNER/NAME of another tenant's service, or the id of a spine
    name: String,

    /// Which kind is meant, where a name is one of several
    #[arg(long, value_parser = parse_node_kind)]
    kind: Option<v1::Kind>,

    /// Only what it is made of
    #[arg(long, conflicts_with = "down")]
    up: bool,

    /// Only what is made of it
    #[arg(long)]
    down: bool,

    /// How to print
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "tree")]
    output: Drawing,
}

/// How a graph is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Drawing {
    /// For people
    Tree,
    Json,
    /// Of Graphviz
    Dot,
    Mermaid,
}

impl Args {
    /// How failures are printed.
    pub fn format(&self) -> Format {
        if self.output == Drawing::Json { Format::Json } else { Format::Table }
    }
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let direction = match (args.up, args.down) {
        (true, _) => Direction::Up,
        (_, true) => Direction::Down,
        _ => Direction::Both,
    };
    let request = v1::GetLineageGraphRequest {
        name: args.name,
        kind: args.kind.unwrap_or(v1::Kind::Unspecified).into(),
        direction: direction.into(),
    };
    let answer = server.connect().await?.lineage_graph(request).await?;
    let graph = Graph::read(&answer)?;
    match args.output {
        Drawing::Tree => output::print(&tree::text(&graph, direction))?,
        Drawing::Json => output::print_json(&graph.json())?,
        Drawing::Dot => output::print(&drawing::dot(&graph))?,
        Drawing::Mermaid => output::print(&drawing::mermaid(&graph))?,
    }
    Ok(Done::Done)
}

/// A graph as it is drawn.
struct Graph {
    nodes: Vec<Node>,
    arrows: Vec<Arrow>,
    starts: Vec<usize>,
    revision: u64,
}

struct Node {
    kind: &'static str,
    name: String,
    owner: String,
    about: String,
}

struct Arrow {
    from: usize,
    to: usize,
    role: &'static str,
    label: String,
}

impl Graph {
    fn read(answer: &v1::LineageGraph) -> Result<Self, Failure> {
        let unreadable = || {
            Failure::new("UNREADABLE_ANSWER", "the server's answer names what it doesn't hold")
                .hint("is the server of another version?")
        };
        let index = |index: u32| {
            let index = usize::try_from(index).ok().filter(|index| *index < answer.nodes.len());
            index.ok_or_else(unreadable)
        };
        let node = |node: &v1::LineageNode| {
            Ok(Node {
                kind: kind_name(node.kind()).ok_or_else(unreadable)?,
                name: node.name.clone(),
                owner: node.owner.clone(),
                about: node.about.clone(),
            })
        };
        let arrow = |arrow: &v1::LineageArrow| {
            Ok(Arrow {
                from: index(arrow.from)?,
                to: index(arrow.to)?,
                role: role_name(arrow.role()),
                label: arrow.label.clone(),
            })
        };
        Ok(Self {
            nodes: answer.nodes.iter().map(node).collect::<Result<_, Failure>>()?,
            arrows: answer.arrows.iter().map(arrow).collect::<Result<_, Failure>>()?,
            starts: answer.starts.iter().map(|start| index(*start)).collect::<Result<_, Failure>>()?,
            revision: answer.registry_revision,
        })
    }

    fn json(&self) -> Json {
        let node = |node: &Node| {
            let mut json = json!({"kind": node.kind, "name": node.name});
            for (field, text) in [("owner", &node.owner), ("about", &node.about)] {
                if !text.is_empty() {
                    json[field] = json!(text);
                }
            }
            json
        };
        let reference = |index: usize| format!("{}/{}", self.nodes[index].kind, self.nodes[index].name);
        let edge = |arrow: &Arrow| {
            let mut json = json!({"from": reference(arrow.from), "to": reference(arrow.to), "role": arrow.role});
            if !arrow.label.is_empty() {
                json["columns"] = arrow.label.split(", ").collect();
            }
            json
        };
        json!({
            "of": self.starts.iter().map(|start| reference(*start)).collect::<Vec<_>>(),
            "nodes": self.nodes.iter().map(node).collect::<Vec<_>>(),
            "edges": self.arrows.iter().map(edge).collect::<Vec<_>>(),
            "registry_revision": self.revision,
        })
    }
}

/// Kinds of definitions, and what lineage and search know besides.
pub(super) fn parse_node_kind(text: &str) -> Result<v1::Kind, String> {
    match text.to_ascii_lowercase().trim_end_matches('s') {
        "column" => Ok(v1::Kind::Column),
        "feature" => Ok(v1::Kind::Feature),
        "trainingset" | "training-set" | "training_set" => Ok(v1::Kind::TrainingSet),
        "share" => Ok(v1::Kind::Share),
        "spine" => Ok(v1::Kind::Spine),
        "tenant" => Err("tenants have no lineage".to_owned()),
        _ => parse_kind(text).map(encode_kind).map_err(|_| {
            let shown: String = text.chars().take(80).collect();
            format!("there is no kind '{shown}': use entity, source, column, view, feature, service, spine, training-set, consumer or share")
        }),
    }
}

/// A kind as it is written in front of a name.
pub(super) fn kind_name(kind: v1::Kind) -> Option<&'static str> {
    match kind {
        v1::Kind::Unspecified => None,
        v1::Kind::Entity => Some("Entity"),
        v1::Kind::Source => Some("Source"),
        v1::Kind::FeatureView => Some("FeatureView"),
        v1::Kind::FeatureService => Some("FeatureService"),
        v1::Kind::Tenant => Some("Tenant"),
        v1::Kind::TrainingSet => Some("TrainingSet"),
        v1::Kind::Consumer => Some("Consumer"),
        v1::Kind::Column => Some("Column"),
        v1::Kind::Feature => Some("Feature"),
        v1::Kind::Share => Some("Share"),
        v1::Kind::Spine => Some("Spine"),
    }
}

/// Completes "FROM … TO".
fn role_name(role: v1::lineage_arrow::Role) -> &'static str {
    use v1::lineage_arrow::Role;
    match role {
        Role::Unspecified => "leads to",
        Role::Has => "has",
        Role::Feeds => "feeds",
        Role::Key => "is a join key of",
        Role::EventTime => "is the event time of",
        Role::KnownTime => "is the known time of",
        Role::Identifies => "identifies rows of",
        Role::PartOf => "is part of",
        Role::Taken => "is taken by",
        Role::LookedUp => "is looked up by",
        Role::Trains => "is trained on in",
        Role::SpineOf => "is the spine of",
        Role::MayTrain => "may train",
        Role::UsedBy => "is used by",
        Role::SharedBy => "is shared by",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A column that feeds a feature which a service takes, whose owner is no friend of parsers.
    pub(super) fn sample() -> Graph {
        use v1::lineage_arrow::Role;
        let node = |kind: v1::Kind, name: &str, owner: &str, about: &str| v1::LineageNode {
            kind: kind.into(),
            name: name.to_owned(),
            owner: owner.to_owned(),
            about: about.to_owned(),
        };
        let arrow = |from, to, role: Role, label: &str| v1::LineageArrow {
            from,
            to,
            role: role.into(),
            label: label.to_owned(),
        };
        let answer = v1::LineageGraph {
            nodes: vec![
                node(v1::Kind::Source, "weather", "", ""),
                node(v1::Kind::Column, "weather.temp", "", "float64"),
                node(v1::Kind::FeatureView, "airport_weather", "ops@example.com", ""),
                node(v1::Kind::Feature, "airport_weather:temp", "ops@example.com", "float64"),
                node(v1::Kind::FeatureService, "end@1", "", ""),
                node(v1::Kind::Consumer, "delay_predictor", "\"]; a -> b <b>\\\n`x` #quot; (é)", "v\"2"),
            ],
            arrows: vec![
                arrow(0, 1, Role::Has, ""),
                arrow(1, 3, Role::Feeds, ""),
                arrow(3, 2, Role::PartOf, ""),
                arrow(3, 4, Role::Taken, "airport_weather__temp, dest__temp"),
                arrow(4, 5, Role::UsedBy, ""),
            ],
            starts: vec![3],
            registry_revision: 7,
        };
        Graph::read(&answer).expect("it holds together")
    }

    #[test]
    fn a_graph_for_programs_names_nodes_and_what_leads_where() {
        let shown = sample().json();
        assert_eq!(shown["of"], json!(["Feature/airport_weather:temp"]));
        assert_eq!(shown["nodes"].as_array().map(Vec::len), Some(6));
        let edge = json!({
            "from": "Feature/airport_weather:temp", "to": "FeatureService/end@1", "role": "is taken by",
            "columns": ["airport_weather__temp", "dest__temp"],
        });
        assert!(shown["edges"].as_array().is_some_and(|edges| edges.contains(&edge)), "{shown:#}");
    }

    #[test]
    fn an_answer_that_names_what_it_does_not_hold_is_no_answer() {
        let arrow = v1::LineageArrow { from: 0, to: 3, ..v1::LineageArrow::default() };
        assert!(Graph::read(&v1::LineageGraph { arrows: vec![arrow], ..v1::LineageGraph::default() }).is_err());
    }

    #[test]
    fn kinds_of_lineage_are_those_of_definitions_and_more() {
        for (text, kind) in [
            ("views", v1::Kind::FeatureView),
            ("Feature", v1::Kind::Feature),
            ("features", v1::Kind::Feature),
            ("column", v1::Kind::Column),
            ("TrainingSet", v1::Kind::TrainingSet),
            ("consumer", v1::Kind::Consumer),
        ] {
            assert_eq!(parse_node_kind(text), Ok(kind), "{text}");
        }
        assert!(parse_node_kind("table").is_err_and(|told| told.contains("training-set")));
    }
}
