//! `hydrant history`: who changed which definitions and when.

use hydrant_proto::v1;
use hydrant_proto::v1::revision::Cause;
use hydrant_proto::v1::revision_change::What;
use serde_json::{Value as Json, json};

use super::definitions::{KindParser, reference};
use super::output::{self, ResultOutput, Tone};
use super::{Done, Failure, Format, Server, time};
use crate::registry::definition::Kind;
use crate::rpc::wire::definitions::encode_kind;

/// Show who changed which definitions and when, newest first
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hydrant history\n  hydrant history view airport_weather\n  hydrant history service --limit 5 -o json"
)]
pub struct Args {
    /// Only changes of this kind of definition; plurals will do
    #[arg(value_parser = KindParser)]
    kind: Option<Kind>,

    /// Only changes of this definition
    name: Option<String>,

    /// At most so many revisions
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,

    #[command(flatten)]
    pub output: ResultOutput,
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let client = server.connect().await?;
    let mut request = v1::ListRevisionsRequest {
        kind: args.kind.map_or(v1::Kind::Unspecified, encode_kind).into(),
        name: args.name.clone().unwrap_or_default(),
        page_size: args.limit,
        page_token: String::new(),
    };
    let mut revisions = Vec::new();
    let (more, last) = loop {
        let page = client.list_revisions(request.clone()).await?;
        revisions.extend(page.revisions.iter().cloned());
        let wanted = args.limit as usize - revisions.len().min(args.limit as usize);
        if page.next_page_token.is_empty() || wanted == 0 {
            break (!page.next_page_token.is_empty(), page);
        }
        request.page_size = u32::try_from(wanted).unwrap_or(args.limit);
        request.page_token = page.next_page_token;
    };
    if let (true, Some(kind), Some(name)) = (revisions.is_empty(), args.kind, &args.name) {
        // Of what there is, changes may be too long ago to be recorded still.
        client.get_definition(kind, name).await?;
    }
    let told: Vec<Json> = revisions.iter().map(revision_json).collect::<Result<_, _>>()?;
    let shown = json!({
        "revisions": told, "oldest_revision": last.oldest_revision, "registry_revision": last.registry_revision,
    });
    output::print_as(args.output.format, &shown, || text(&told))?;
    if args.output.format == Format::Table {
        if more {
            output::note("there are more: --limit N shows them");
        }
        output::note(&format!(
            "`hydrant rollback --to-revision N` goes back to one of {} to {}",
            last.oldest_revision, last.registry_revision
        ));
    }
    Ok(Done::Done)
}

fn revision_json(revision: &v1::Revision) -> Result<Json, Failure> {
    let mut json = json!({
        "revision": revision.revision, "at": time::show(revision.at_micros), "by": revision.by,
        "cause": revision.cause().as_str_name(),
    });
    if revision.cause() == Cause::Rollback {
        json["rolled_back_to"] = json!(revision.rolled_back_to);
    }
    let change = |change: &v1::RevisionChange| {
        let mut json = json!({
            "definition": reference(change.kind, &change.name)?, "what": change.what().as_str_name(),
            "details": change.details,
        });
        if change.version > 0 {
            json["version"] = json!(change.version);
        }
        Ok(json)
    };
    json["changes"] = Json::Array(revision.changes.iter().map(change).collect::<Result<_, Failure>>()?);
    Ok(json)
}

/// A line for each revision, under it one for each definition, and under that what differs.
fn text(revisions: &[Json]) -> String {
    let mut text = String::new();
    let word = |json: &Json| json.as_str().unwrap_or_default().to_owned();
    for revision in revisions {
        let why = match word(&revision["cause"]).as_str() {
            "ROLLBACK" => format!(", a rollback to {}", revision["rolled_back_to"]),
            "FOUND" => ", not recorded when it was made".to_owned(),
            _ => String::new(),
        };
        let line =
            format!("revision {}, {} by {}{why}", revision["revision"], word(&revision["at"]), word(&revision["by"]));
        text.push_str(&format!("{}\n", output::on_stdout(&line, Tone::Strong)));
        for change in revision["changes"].as_array().into_iter().flatten() {
            let what = word(&change["what"]);
            let sign = match What::from_str_name(&what) {
                Some(What::Created) => "+",
                Some(What::Deleted | What::VersionDeleted) => "-",
                _ => "~",
            };
            let version = match (&change["version"], What::from_str_name(&what)) {
                (Json::Null, _) => String::new(),
                (version, Some(What::VersionDeleted)) => format!("@{version}"),
                (version, Some(What::VersionServed)) => format!("@{version} is served"),
                (version, _) => format!(" (version {version})"),
            };
            text.push_str(&format!("  {sign} {}{version}\n", word(&change["definition"])));
            // What a new definition says is what `get` shows.
            for detail in change["details"].as_array().into_iter().flatten().filter(|_| sign == "~") {
                text.push_str(&format!("      {}\n", word(detail)));
            }
        }
    }
    if text.is_empty() { "no change is recorded".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_tells_who_made_which_change_and_when() {
        let change = |what: What, version, details: &[&str]| v1::RevisionChange {
            kind: v1::Kind::FeatureService.into(),
            name: "model".to_owned(),
            what: what.into(),
            version,
            details: details.iter().map(|line| (*line).to_owned()).collect(),
        };
        let revision = |revision, cause: Cause, changes| v1::Revision {
            revision,
            at_micros: 1_704_067_200_000_000,
            by: "ana".to_owned(),
            cause: cause.into(),
            rolled_back_to: 2,
            changes,
        };
        let of_view = v1::RevisionChange {
            kind: v1::Kind::FeatureView.into(),
            name: "weather".to_owned(),
            ..change(What::VersionServed, 2, &[])
        };
        let revisions = [
            revision(5, Cause::Change, vec![of_view]),
            revision(4, Cause::Rollback, vec![change(What::Updated, 2, &["latencyBudget: none -> 8ms"])]),
            revision(3, Cause::Change, vec![change(What::VersionDeleted, 1, &[])]),
            revision(2, Cause::Change, vec![change(What::Created, 1, &["features: a"])]),
        ];
        let told: Vec<Json> = revisions.iter().map(|one| revision_json(one).expect("known kinds")).collect();
        let expected = "\
revision 5, 2024-01-01T00:00:00Z by ana
  ~ FeatureView/weather@2 is served
revision 4, 2024-01-01T00:00:00Z by ana, a rollback to 2
  ~ FeatureService/model (version 2)
      latencyBudget: none -> 8ms
revision 3, 2024-01-01T00:00:00Z by ana
  - FeatureService/model@1
revision 2, 2024-01-01T00:00:00Z by ana
  + FeatureService/model (version 1)
";
        assert_eq!(text(&told), expected);
    }
}
