//! `hydrant plan`: what applying a folder of definitions would change.

use std::path::PathBuf;

use hydrant_proto::v1::{self, change::Action};
use serde_json::{Value as Json, json};

use super::definitions::{DefinitionFiles, reference};
use super::output::{self, ResultOutput, Tone};
use super::{Done, Failure, Server};
use crate::rpc::client::Client;

/// Show what applying definitions would change
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  hydrant plan -f definitions --exit-code\n\n\
    Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 changes found (with --exit-code).")]
pub struct Args {
    /// Folder of YAML definitions, or a file; may be given again
    #[arg(short = 'f', long = "file", value_name = "DIR", required = true)]
    files: Vec<PathBuf>,

    /// Exit with 3 where there are changes, with 0 where there are none
    #[arg(long)]
    exit_code: bool,

    #[command(flatten)]
    pub output: ResultOutput,
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let files = DefinitionFiles::read(&args.files, args.output.format)?;
    let (_, shown) = made(&files, server).await?;
    output::print_as(args.output.format, &shown.json(), || {
        let mut text = shown.text();
        if shown.any() {
            text.push_str("\n`hydrant apply` makes it so.");
        }
        text
    })?;
    Ok(if args.exit_code && shown.any() { Done::Changes } else { Done::Done })
}

/// A plan of definitions that can be applied, and who made it; or everything that is wrong with the
/// definitions, also where no server can be asked whether they fit together.
pub(super) async fn made(files: &DefinitionFiles, server: &Server) -> Result<(Client, Changes), Failure> {
    let planned = async {
        let client = server.connect().await?;
        let plan = client.plan(&files.definitions(), files.unread()).await?;
        Ok((client, plan))
    };
    match planned.await {
        Ok((client, plan)) if files.are_good() => Ok((client, Changes::of(plan.changes, plan.registry_revision)?)),
        Ok(_) => Err(files.failure(None)),
        Err(failure) => Err(files.failure(Some(failure))),
    }
}

/// What a plan would change, or an apply has changed.
pub(super) struct Changes {
    changes: Vec<Change>,
    revision: u64,
}

struct Change {
    reference: String,
    action: Action,
    details: Vec<String>,
    affects: Vec<String>,
}

impl Changes {
    pub fn of(changes: Vec<v1::Change>, revision: u64) -> Result<Self, Failure> {
        let change = |change: v1::Change| {
            Ok(Change {
                reference: reference(change.kind, &change.name)?,
                action: change.action(),
                details: change.details,
                affects: change.affects,
            })
        };
        Ok(Self { changes: changes.into_iter().map(change).collect::<Result<_, Failure>>()?, revision })
    }

    pub fn any(&self) -> bool {
        self.count(Action::Create) + self.count(Action::Update) > 0
    }

    pub fn json(&self) -> Json {
        let change = |change: &Change| {
            json!({
                "definition": change.reference, "action": change.action.as_str_name(),
                "details": change.details, "affects": change.affects,
            })
        };
        json!({"changes": self.changes.iter().map(change).collect::<Vec<_>>(), "registry_revision": self.revision})
    }

    /// A line for each change, what it is about under it, and the sum.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for change in &self.changes {
            let (sign, tone) = match change.action {
                Action::Create => ("+", Tone::Good),
                Action::Update => ("~", Tone::Changed),
                Action::Unchanged | Action::Unspecified => continue,
            };
            text.push_str(&output::on_stdout(&format!("{sign} {}\n", change.reference), tone));
            // What a new definition says stands in its file.
            let details = if change.action == Action::Create { &[][..] } else { &change.details };
            for detail in details {
                text.push_str(&format!("    {detail}\n"));
            }
            if !change.affects.is_empty() {
                text.push_str(&format!("    affects {}\n", change.affects.join(", ")));
            }
        }
        let [created, updated, unchanged] =
            [Action::Create, Action::Update, Action::Unchanged].map(|action| self.count(action));
        text.push_str(&format!(
            "{created} to create, {updated} to update, {unchanged} unchanged (registry revision {})",
            self.revision
        ));
        text
    }

    fn count(&self, action: Action) -> usize {
        self.changes.iter().filter(|change| change.action == action).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(actions: &[Action]) -> Changes {
        let change = |(index, action): (usize, &Action)| v1::Change {
            kind: v1::Kind::FeatureView.into(),
            name: format!("view_{index}"),
            action: (*action).into(),
            details: vec!["ttl: 3h -> 2h".to_owned()],
            affects: vec!["FeatureService/delay_model".to_owned()],
        };
        Changes::of(actions.iter().enumerate().map(change).collect(), 7).expect("known kinds")
    }

    #[test]
    fn a_plan_shows_what_changes_and_counts_what_does_not() {
        let shown = changes(&[Action::Create, Action::Update, Action::Unchanged]);
        let expected = "+ FeatureView/view_0\n    affects FeatureService/delay_model\n\
            ~ FeatureView/view_1\n    ttl: 3h -> 2h\n    affects FeatureService/delay_model\n\
            1 to create, 1 to update, 1 unchanged (registry revision 7)";
        assert_eq!(shown.text(), expected);
        assert!(shown.any());
        assert_eq!(shown.json()["changes"][1]["action"], "UPDATE");
    }

    #[test]
    fn unchanged_definitions_are_no_changes() {
        assert!(!changes(&[Action::Unchanged]).any());
        assert!(!changes(&[]).any());
    }
}
