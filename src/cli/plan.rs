//! `hydrant plan`: what applying a folder of definitions would change.

use std::path::PathBuf;

use hydrant_proto::v1;
use hydrant_proto::v1::change::Action;
use hydrant_proto::v1::difference::Class;
use serde_json::{Value as Json, json};

use super::definitions::{DefinitionFiles, reference};
use super::output::{self, ResultOutput, Tone};
use super::{Done, Failure, Server, confirm, historical, time};
use crate::config::durations;
use crate::rpc::client::{Client, Refusal, refused_changes};
use crate::rpc::wire::reads::reads_text;
use crate::rpc::wire::retention::{lines_of_what_goes, text_of_what_is_gone};

/// Show what applying definitions would change
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hydrant plan -f definitions --exit-code\n  hydrant plan -f definitions --prune -o json\n\n\
    Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 changes found (with --exit-code)."
)]
pub struct Args {
    /// Folder of YAML definitions, or a file; may be given again
    #[arg(short = 'f', long = "file", value_name = "DIR", required = true)]
    files: Vec<PathBuf>,

    /// Also show what is defined and not in the files, of the kinds that they hold, as to be deleted
    #[arg(long)]
    prune: bool,

    /// Exit with 3 where there are changes, with 0 where there are none
    #[arg(long)]
    exit_code: bool,

    #[command(flatten)]
    pub output: ResultOutput,
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let files = DefinitionFiles::read(&args.files, args.output.format)?;
    let (_, shown, refusal) = made(&files, args.prune, server).await?;
    output::print_as(args.output.format, &shown.json(), || {
        let mut text = shown.text();
        if shown.any() && refusal.is_none() {
            text.push_str("\n`hydrant apply` makes it so.");
        }
        text
    })?;
    if let Some(refusal) = refusal {
        return Err(files.failure(Some(refusal)));
    }
    Ok(if args.exit_code && shown.any() { Done::Changes } else { Done::Done })
}

/// A plan of definitions that are good, who made it, and why it can't be applied where it can't; or
/// everything that is wrong with the definitions, also where no server can be asked whether they fit
/// together.
pub(super) async fn made(
    files: &DefinitionFiles,
    prune: bool,
    server: &Server,
) -> Result<(Client, Changes, Option<Failure>), Failure> {
    let planned = async {
        let client = server.connect().await?;
        let plan = client.plan_with(&files.definitions(), files.unread(), prune).await?;
        Ok((client, plan))
    };
    match planned.await {
        Ok((client, plan)) if files.are_good() => {
            let refusal = refusal_of(plan.refusals).map(Failure::from);
            Ok((client, Changes::of(plan.changes, plan.registry_revision)?, refusal))
        }
        Ok(_) => Err(files.failure(None)),
        Err(failure) => Err(files.failure(Some(failure))),
    }
}

/// Why a plan can't be applied, with how much is read what each reason is about.
pub(super) fn refusal_of(mut refusals: Vec<v1::PlanRefusal>) -> Option<Refusal> {
    for refusal in &mut refusals {
        if let Some(reads) = &refusal.reads {
            refusal.message.push_str(&format!("; it was {}", reads_text(reads)));
        }
    }
    refused_changes(&refusals)
}

/// How much something is read, for programs.
pub(super) fn reads_json(reads: &v1::Reads) -> Json {
    json!({
        "last_online": reads.last_online_micros.map(time::show), "last_training": reads.last_training_micros.map(time::show),
        "a_day": reads.a_day, "readers": reads.readers, "more_readers": reads.more_readers,
        "counted_since": time::show(reads.counted_since_micros),
    })
}

/// What a plan would change, or an apply has changed.
pub(super) struct Changes {
    changes: Vec<Change>,
    revision: u64,
}

struct Change {
    reference: String,
    action: Action,
    differences: Vec<Difference>,
    touches: Touches,
    /// Of what is deleted, as far as it is told.
    reads: Option<v1::Reads>,
    affects: Vec<String>,
    coming_version: Option<u32>,
    apply_again: Vec<String>,
}

/// Who is downstream, and the number of those beyond who are not named.
#[derive(Default)]
struct Touches {
    named: Vec<String>,
    more: u32,
}

/// One thing that differs.
struct Difference {
    text: String,
    class: Class,
    why: String,
    touches: Touches,
    /// Of what it is about, as far as it is told.
    reads: Option<v1::Reads>,
    rows_that_go: Option<v1::RowsThatGo>,
    rows_gone: Option<v1::RowsGone>,
}

impl Changes {
    pub fn of(changes: Vec<v1::Change>, revision: u64) -> Result<Self, Failure> {
        let difference = |difference: v1::Difference| {
            Ok(Difference {
                class: difference.class(),
                touches: touched(&difference.touches, difference.touches_more)?,
                text: difference.text,
                why: difference.why,
                reads: difference.reads,
                rows_that_go: difference.rows_that_go,
                rows_gone: difference.rows_gone,
            })
        };
        let change = |change: v1::Change| {
            Ok(Change {
                reference: reference(change.kind, &change.name)?,
                action: change.action(),
                differences: change.differences.into_iter().map(difference).collect::<Result<_, Failure>>()?,
                touches: touched(&change.touches, change.touches_more)?,
                reads: change.reads,
                affects: change.affects,
                coming_version: change.coming_version,
                apply_again: change.apply_again,
            })
        };
        Ok(Self { changes: changes.into_iter().map(change).collect::<Result<_, Failure>>()?, revision })
    }

    pub fn any(&self) -> bool {
        self.changes.iter().any(|change| change.action != Action::Unchanged)
    }

    /// Asks where a retention takes rows for good, unless that was said to be meant; at which revision the change is
    /// to be made then: what is made is what was planned, so that nothing goes that nobody was asked about.
    pub fn confirm(&self, is_meant: bool, revision: Option<u64>, look: &str) -> Result<Option<u64>, Failure> {
        let mut about = String::new();
        for change in &self.changes {
            for difference in &change.differences {
                if let Some(rows) = &difference.rows_that_go {
                    about.push_str(&format!("~ {}\n    {}\n", change.reference, difference.text));
                    lines_of_what_goes(rows).iter().for_each(|line| about.push_str(&format!("        {line}\n")));
                }
            }
        }
        if is_meant {
            return Ok(revision);
        }
        if !about.is_empty() {
            let hint = format!("look with {look}, then give --yes --revision {}", self.revision);
            confirm::ask(&about, "takes rows", "have these rows go for good", &hint)?;
        }
        Ok(Some(revision.unwrap_or(self.revision)))
    }

    /// Whether a change that was refused may be planned again: only because others changed something meanwhile.
    pub fn is_outdated(refusal: &Refusal, revision: Option<u64>, tries: u32) -> bool {
        /// Others change definitions, and builds end, but hardly so often within the time of one plan.
        const MOST_TRIES: u32 = 5;
        revision.is_none() && tries < MOST_TRIES && refusal.reason == "REVISION_MISMATCH"
    }

    pub fn json(&self) -> Json {
        self.json_of(|_| true)
    }

    /// As [`json`](Self::json), of changes that were made: what is as it was is only counted.
    pub fn done_json(&self) -> Json {
        let mut json = self.json_of(|change| change.action != Action::Unchanged);
        json["unchanged"] = json!(self.count(Action::Unchanged));
        json
    }

    fn json_of(&self, is_shown: impl Fn(&Change) -> bool) -> Json {
        let difference = |difference: &Difference| {
            let mut json = json!({
                "text": difference.text, "class": difference.class.as_str_name(), "touches": difference.touches.list(),
            });
            if !difference.why.is_empty() {
                json["why"] = json!(difference.why);
            }
            if let Some(reads) = &difference.reads {
                json["reads"] = reads_json(reads);
            }
            if let Some(rows) = &difference.rows_that_go {
                json["rows_that_go"] = what_goes_json(rows);
            }
            if let Some(gone) = &difference.rows_gone {
                json["rows_gone"] = json!({
                    "before": time::show(gone.before_micros),
                    "lacks_before": historical::lacks_before(gone.lacks_before_micros),
                });
            }
            json
        };
        let change = |change: &Change| {
            let mut json = json!({
                "definition": change.reference, "action": change.action.as_str_name(),
                "details": change.differences.iter().map(|difference| &difference.text).collect::<Vec<_>>(),
                "differences": change.differences.iter().map(difference).collect::<Vec<_>>(),
                "touches": change.touches.list(), "affects": change.affects,
            });
            if let Some(reads) = &change.reads {
                json["reads"] = reads_json(reads);
            }
            if let Some(version) = change.coming_version {
                (json["coming_version"], json["apply_again"]) = (json!(version), json!(change.apply_again));
            }
            json
        };
        let changes: Vec<Json> = self.changes.iter().filter(|one| is_shown(one)).map(change).collect();
        json!({"changes": changes, "registry_revision": self.revision})
    }

    /// A line for each change, what it is about under it, and the sum.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for change in &self.changes {
            let (sign, tone) = match change.action {
                Action::Create => ("+", Tone::Good),
                Action::Update => ("~", Tone::Changed),
                Action::Delete => ("-", Tone::Bad),
                Action::Unchanged | Action::Unspecified => continue,
            };
            text.push_str(&output::on_stdout(&format!("{sign} {}\n", change.reference), tone));
            text.push_str(&change.differs());
            if !change.affects.is_empty() {
                text.push_str(&format!("    affects {}\n", change.affects.join(", ")));
            }
            text.push_str(&change.goes_on());
        }
        let [created, updated, deleted, unchanged] =
            [Action::Create, Action::Update, Action::Delete, Action::Unchanged].map(|action| self.count(action));
        let deleted = if deleted == 0 { String::new() } else { format!("{deleted} to delete, ") };
        text.push_str(&format!(
            "{created} to create, {updated} to update, {deleted}{unchanged} unchanged (registry revision {})",
            self.revision
        ));
        text
    }

    /// As [`text`](Self::text), of changes that were made.
    pub fn done_text(&self) -> String {
        let text = self.text();
        text.replace(" to create", " created").replace(" to update", " updated").replace(" to delete", " deleted")
    }

    fn count(&self, action: Action) -> usize {
        self.changes.iter().filter(|change| change.action == action).count()
    }
}

impl Change {
    /// A line for each thing that differs; under them, once, what they ask for unless it is made in place, whom
    /// they touch, and how much is read what they are about.
    fn differs(&self) -> String {
        // What a new definition says stands in its file.
        let differences = if self.action == Action::Create { &[][..] } else { &self.differences };
        let mut text: String = differences.iter().map(Difference::shown).collect();
        for (class, asks) in [
            (Class::NewServiceVersion, "a new version of the service"),
            (Class::NewViewVersion, "a new version of the view"),
        ] {
            // Which version of a view is built is told by itself.
            let is_told = class == Class::NewViewVersion && self.coming_version.is_some();
            if !is_told && differences.iter().any(|one| one.class == class && one.why.is_empty()) {
                text.push_str(&output::on_stdout(&format!("    asks for {asks}\n"), Tone::Faint));
            }
        }
        let mut touches = Touches::default();
        for one in differences.iter().map(|one| &one.touches).chain([&self.touches]) {
            touches.add(one);
        }
        if !touches.named.is_empty() || touches.more > 0 {
            text.push_str(&format!("    touches {}\n", touches.list().join(", ")));
        }
        let reads: Vec<&v1::Reads> =
            differences.iter().filter_map(|one| one.reads.as_ref()).chain(&self.reads).collect();
        if let Some(most) = reads.iter().max_by(|one, other| one.a_day.total_cmp(&other.a_day)) {
            let is_one = reads.iter().all(|reads| reads == most);
            let whose = if is_one { "" } else { "what is read most of it is " };
            text.push_str(&format!("    {whose}{}\n", reads_text(most)));
        }
        text
    }

    /// What goes on once it is applied, and what is to be done then.
    fn goes_on(&self) -> String {
        let Some(version) = self.coming_version else { return String::new() };
        let name = self.reference.split_once('/').map_or("", |(_, name)| name);
        let mut text = format!(
            "    version {version} is built in the background and served once all of it is there: \
             `hydrant describe view {name}` tells how far it is\n"
        );
        if !self.apply_again.is_empty() {
            let services = self.apply_again.join(", ");
            text.push_str(&format!("    apply again then, to have them read it: {services}\n"));
        }
        text
    }
}

impl Difference {
    /// The line, and under it why it can't be made, and which rows go or are gone.
    fn shown(&self) -> String {
        let refused = match self.class {
            Class::NewViewVersion if !self.why.is_empty() => {
                Some(format!("needs a new version of the view, which can't be built: {}", self.why))
            }
            Class::Refused => Some(format!("refused: {}", self.why)),
            _ => None,
        };
        let goes = self.rows_that_go.iter().flat_map(lines_of_what_goes);
        let gone = self.rows_gone.as_ref().map(text_of_what_is_gone);
        let mut text = format!("    {}\n", self.text);
        for line in refused.into_iter().chain(goes).chain(gone) {
            text.push_str(&output::on_stdout(&format!("        {line}\n"), Tone::Bad));
        }
        text
    }
}

/// What a retention takes, for programs.
fn what_goes_json(rows: &v1::RowsThatGo) -> Json {
    let mut json = json!({
        "before": rows.before_micros.map(time::show), "declared_before": time::show(rows.declared_before_micros),
        "held_back": held_back_json(&rows.held_back), "training_sets": rows.training_sets,
        "training_sets_more": rows.training_sets_more,
    });
    if let Some(about) = rows.rows_about {
        (json["rows_about"], json["of_rows"]) = (json!(about), json!(rows.of_rows));
    }
    json
}

/// What keeps rows for longer than their retention, for programs.
pub(super) fn held_back_json(held_back: &[v1::HeldBack]) -> Json {
    let one = |held: &v1::HeldBack| {
        let ttl = held.ttl_micros.and_then(|ttl| i64::try_from(ttl).ok()).map(durations::format);
        json!({"service": held.service, "version": held.view_version, "ttl": ttl})
    };
    held_back.iter().map(one).collect()
}

impl Touches {
    /// With the names of others too. How many of those beyond are the same isn't known.
    fn add(&mut self, other: &Self) {
        for name in &other.named {
            if !self.named.contains(name) {
                self.named.push(name.clone());
            }
        }
        self.more = self.more.max(other.more);
    }

    fn list(&self) -> Vec<String> {
        let more = (self.more > 0).then(|| format!("{} more", self.more));
        self.named.iter().cloned().chain(more).collect()
    }
}

/// Each as `Consumer/delay_predictor (ml@example.com)`.
fn touched(touched: &[v1::Touched], more: u32) -> Result<Touches, Failure> {
    let shown = |one: &v1::Touched| {
        let reference = reference(one.kind, &one.name)?;
        Ok(if one.owner.is_empty() { reference } else { format!("{reference} ({})", one.owner) })
    };
    Ok(Touches { named: touched.iter().map(shown).collect::<Result<_, Failure>>()?, more })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(actions: &[Action]) -> Changes {
        let change = |(index, action): (usize, &Action)| v1::Change {
            kind: v1::Kind::FeatureView.into(),
            name: format!("view_{index}"),
            action: (*action).into(),
            affects: vec!["FeatureService/delay_model".to_owned()],
            differences: vec![v1::Difference {
                text: "ttl: 3h -> 2h".to_owned(),
                class: Class::Refused.into(),
                why: "not now".to_owned(),
                touches: vec![v1::Touched {
                    kind: v1::Kind::Consumer.into(),
                    name: "predictor".to_owned(),
                    owner: "ml@example.com".to_owned(),
                }],
                touches_more: 3,
                reads: Some(v1::Reads {
                    last_online_micros: Some(1_388_444_400_000_000),
                    a_day: 2.5,
                    readers: 2,
                    ..Default::default()
                }),
                ..v1::Difference::default()
            }],
            ..v1::Change::default()
        };
        Changes::of(actions.iter().enumerate().map(change).collect(), 7).expect("known kinds")
    }

    #[test]
    fn a_plan_shows_what_changes_and_counts_what_does_not() {
        let shown = changes(&[Action::Create, Action::Update, Action::Unchanged]);
        let expected = "\
+ FeatureView/view_0
    affects FeatureService/delay_model
~ FeatureView/view_1
    ttl: 3h -> 2h
        refused: not now
    touches Consumer/predictor (ml@example.com), 3 more
    read 2.5 times a day, last at 2013-12-30T23:00:00Z, by 2 readers
    affects FeatureService/delay_model
1 to create, 1 to update, 1 unchanged (registry revision 7)";
        assert_eq!(shown.text(), expected);
        assert!(shown.any());
        let json = shown.json();
        assert_eq!(json["changes"][1]["action"], "UPDATE");
        assert_eq!(json["changes"][1]["details"], json!(["ttl: 3h -> 2h"]));
        assert_eq!(json["changes"][1]["differences"][0]["class"], "REFUSED");
        assert_eq!(
            json["changes"][1]["differences"][0]["touches"],
            json!(["Consumer/predictor (ml@example.com)", "3 more"])
        );
        let reads = &json["changes"][1]["differences"][0]["reads"];
        assert_eq!((&reads["a_day"], &reads["last_online"]), (&json!(2.5), &json!("2013-12-30T23:00:00Z")));
    }

    #[test]
    fn what_several_differences_say_alike_is_told_once() {
        let read = |a_day| {
            let last_online_micros = Some(1_388_444_400_000_000);
            v1::Reads { last_online_micros, a_day, readers: 1, ..Default::default() }
        };
        let difference = |column: &str, a_day: f64| v1::Difference {
            text: format!("+ columns.{column}: float64"),
            class: Class::NewServiceVersion.into(),
            touches: vec![v1::Touched {
                kind: v1::Kind::Consumer.into(),
                name: "predictor".to_owned(),
                owner: String::new(),
            }],
            reads: Some(read(a_day)),
            ..v1::Difference::default()
        };
        let text = |differences: Vec<v1::Difference>| {
            let kind = v1::Kind::FeatureService.into();
            let (name, action) = ("model".to_owned(), Action::Update.into());
            let change = v1::Change { kind, name, action, differences, ..v1::Change::default() };
            Changes::of(vec![change], 7).expect("a known kind").text()
        };
        let shown = text(vec![difference("one", 2.0), difference("two", 2.0)]);
        let reads = reads_text(&read(2.0));
        let expected = format!(
            "~ FeatureService/model\n    + columns.one: float64\n    + columns.two: float64\n    asks for a new version of \
             the service\n    touches Consumer/predictor\n    {reads}\n0 to create, 1 to update, 0 unchanged (registry \
             revision 7)"
        );
        assert_eq!(shown, expected);
        let shown = text(vec![difference("one", 2.0), difference("two", 1.0)]);
        assert!(shown.contains(&format!("    what is read most of it is {reads}\n")), "{shown}");
    }

    #[test]
    fn what_is_as_it_was_is_only_counted_where_changes_were_made() {
        let json = changes(&[Action::Create, Action::Unchanged]).done_json();
        assert_eq!((json["changes"].as_array().map(Vec::len), &json["unchanged"]), (Some(1), &json!(1)));
    }

    #[test]
    fn what_goes_on_in_the_background_is_told_with_what_is_to_be_done_then() {
        let change = v1::Change {
            kind: v1::Kind::FeatureView.into(),
            name: "weather".to_owned(),
            action: Action::Update.into(),
            coming_version: Some(2),
            apply_again: vec!["FeatureService/model".to_owned()],
            ..v1::Change::default()
        };
        let shown = Changes::of(vec![change], 7).expect("a known kind");
        let expected = "\
~ FeatureView/weather
    version 2 is built in the background and served once all of it is there: `hydrant describe view weather` tells how far it is
    apply again then, to have them read it: FeatureService/model
0 created, 1 updated, 0 unchanged (registry revision 7)";
        assert_eq!(shown.done_text(), expected);
        let json = shown.json();
        let told = (&json["changes"][0]["coming_version"], &json["changes"][0]["apply_again"]);
        assert_eq!(told, (&json!(2), &json!(["FeatureService/model"])));
    }

    #[test]
    fn unchanged_definitions_are_no_changes() {
        assert!(!changes(&[Action::Unchanged]).any());
        assert!(!changes(&[]).any());
    }
}
