//! `hydrant search`: definitions and features by name, tag, owner, type, entity and words.

use std::collections::BTreeMap;

use hydrant_proto::v1;
use hydrant_storage::order::Micros;
use serde_json::{Value as Json, json};

use super::lineage::{kind_name, parse_node_kind};
use super::output::{self, ResultOutput};
use super::usage::parse_span;
use super::{Done, Failure, Format, Server, time};

/// Find definitions and features
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  hydrant search delay\n  hydrant search \"air temperature\" --kind feature\n  \
    hydrant search --tag tier=1 --owner ops --entity airport\n  hydrant search --type float64 --kind column -o json")]
pub struct Args {
    /// Words to look for in names, tags, owners, types and descriptions; all of them have to be found
    #[arg(value_name = "TEXT", required_unless_present_any = ["kind", "tags", "owner", "data_type", "entity", "unused"])]
    text: Vec<String>,

    /// Only of this kind; columns of sources are found only with `--kind column`
    #[arg(long, value_parser = parse_node_kind)]
    kind: Option<v1::Kind>,

    /// Only with this tag, NAME=VALUE or NAME; may be given again
    #[arg(long = "tag", value_name = "NAME[=VALUE]", value_parser = parse_tag)]
    tags: Vec<(String, String)>,

    /// Only of owners with this in their name
    #[arg(long)]
    owner: Option<String>,

    /// Only features, columns and join keys of this type
    #[arg(long = "type", value_name = "TYPE")]
    data_type: Option<String>,

    /// Only what is about this entity
    #[arg(long)]
    entity: Option<String>,

    /// Only features that were not read for so long, or never, such as 30d, and views and services of which nothing was
    #[arg(long, value_name = "DURATION", value_parser = parse_span)]
    unused: Option<Micros>,

    /// At most so many
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,

    #[command(flatten)]
    pub output: ResultOutput,
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let client = server.connect().await?;
    let mut request = v1::SearchRequest {
        text: args.text.join(" "),
        kind: args.kind.unwrap_or(v1::Kind::Unspecified).into(),
        tags: args.tags.into_iter().collect::<BTreeMap<_, _>>(),
        owner: args.owner.unwrap_or_default(),
        r#type: args.data_type.unwrap_or_default(),
        entity: args.entity.unwrap_or_default(),
        page_size: args.limit,
        page_token: String::new(),
        unused_micros: args.unused.unwrap_or_default().unsigned_abs(),
    };
    let limit = args.limit as usize;
    let mut hits = Vec::new();
    let (total, revision) = loop {
        let page = client.search(request.clone()).await?;
        hits.extend(page.hits);
        if page.next_page_token.is_empty() || hits.len() >= limit {
            break (page.total, page.registry_revision);
        }
        request.page_size = u32::try_from(limit - hits.len()).unwrap_or(args.limit);
        request.page_token = page.next_page_token;
    };
    let told: Vec<Json> = hits.iter().map(|hit| hit_json(hit, args.unused.is_some())).collect();
    let shown = json!({"hits": told, "total": total, "registry_revision": revision});
    let is_table = args.output.format == Format::Table;
    if is_table && hits.is_empty() {
        output::note("nothing was found; columns of sources are found with --kind column");
        return Ok(Done::Done);
    }
    output::print_as(args.output.format, &shown, || table(&hits, args.unused.is_some()))?;
    if is_table && total > hits.len() as u64 {
        output::note(&format!("{} of {}: --limit N shows more", hits.len(), output::count(total)));
    }
    Ok(Done::Done)
}

fn hit_json(hit: &v1::Hit, tells_reads: bool) -> Json {
    let mut json = json!({"kind": kind_name(hit.kind()).unwrap_or_default(), "name": hit.name, "matched": hit.matched});
    for (field, text) in [("type", &hit.r#type), ("owner", &hit.owner), ("description", &hit.description)] {
        if !text.is_empty() {
            json[field] = json!(text);
        }
    }
    if !hit.shares.is_empty() {
        let share = |share: &v1::HitShare| json!({"name": share.name, "to": share.to, "ends": share.ends_micros.map(time::show)});
        json["shares"] = hit.shares.iter().map(share).collect();
    }
    if tells_reads {
        json["last_read"] = json!(hit.last_read_micros.map(time::show));
    }
    json
}

/// `tells_reads`: what is unused was asked for.
fn table(hits: &[v1::Hit], tells_reads: bool) -> String {
    let row = |hit: &v1::Hit| {
        let description = hit.description.split_whitespace().collect::<Vec<_>>().join(" ");
        let kind = kind_name(hit.kind()).unwrap_or_default().to_owned();
        let share = |share: &v1::HitShare| match share.ends_micros {
            None => share.to.clone(),
            Some(ends) => format!("{} until {}", share.to, time::show(ends)),
        };
        let shares: Vec<String> = hit.shares.iter().map(share).collect();
        let mut row =
            vec![kind, hit.name.clone(), hit.r#type.clone(), hit.owner.clone(), shares.join(", "), description];
        if tells_reads {
            row.insert(3, hit.last_read_micros.map_or_else(|| "never".to_owned(), time::show));
        }
        row
    };
    let rows: Vec<Vec<String>> = hits.iter().map(row).collect();
    let mut names = vec!["kind", "name", "type", "owner", "shared with", "description"];
    if tells_reads {
        names.insert(3, "last read");
    }
    output::table(&names, &rows, &[])
}

fn parse_tag(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if name.is_empty() {
        return Err("a tag needs a name: NAME=VALUE, or NAME for any value".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_a_name_perhaps_with_a_value() {
        let pair = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(parse_tag("tier=1"), pair("tier", "1"));
        assert_eq!(parse_tag("tier=a=b"), pair("tier", "a=b"));
        assert_eq!(parse_tag("tier"), pair("tier", ""));
        assert!(parse_tag("=1").is_err());
    }

    #[test]
    fn what_was_found_is_a_table_with_a_line_each() {
        let hit = v1::Hit {
            kind: v1::Kind::Feature.into(),
            name: "airport_weather:temp".to_owned(),
            description: "Air\n temperature".to_owned(),
            owner: "ops".to_owned(),
            r#type: "float64".to_owned(),
            matched: vec!["name".to_owned()],
            shares: vec![v1::HitShare {
                name: "tenants/acme/shares/1".to_owned(),
                to: "lab".to_owned(),
                ends_micros: None,
            }],
            last_read_micros: None,
        };
        let shown = table(&[hit], false);
        let words: Vec<&str> = shown.lines().nth(1).expect("a line").split_whitespace().collect();
        assert_eq!(words, ["Feature", "airport_weather:temp", "float64", "ops", "lab", "Air", "temperature"]);
    }
}
