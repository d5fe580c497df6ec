//! Definitions between files, server and terminal: reads a folder of YAML, finds the line that a
//! refusal is about, and shows what a server has as the documents that owners write.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::builder::{PossibleValue, TypedValueParser};
use hydrant_proto::v1;
use hydrant_proto::v1::definition_status::BuildStep;
use serde_json::{Map, Value as Json, json};

use super::{Failure, Format, output, plan, time};
use crate::config::durations;
use crate::error::Violation;
use crate::registry::definition::{Definition, Kind};
use crate::registry::documents;
use crate::registry::node::Place;
use crate::registry::scenario;
use crate::registry::uses::TRAINING_SET;
use crate::registry::world::Unread;
use crate::registry::yaml::{self, FileProblem, Located};
use crate::rpc::wire::definitions::{decode_definitions, decode_kind};

/// Definitions and where they were written.
#[derive(Debug, Default)]
pub struct DefinitionFiles {
    /// As far as they can be read.
    located: Vec<Located>,
    problems: Vec<FileProblem>,
    unread: Unread,
}

impl DefinitionFiles {
    /// Reads every `*.yaml` and `*.yml` under the folders but tests, and the files named that are none. What is wrong in any
    /// of them is kept, to be told together with what is wrong between them. A file that defines
    /// nothing is warned about, and refused if none does.
    pub fn read(paths: &[PathBuf], format: Format) -> Result<Self, Failure> {
        let mut files = Vec::new();
        for path in paths {
            find_files(path, &is_definitions, &mut files)?;
        }
        let nothing = |told: &str| {
            let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            Failure::new("NO_DEFINITIONS", format!("{}: {told}", shown.join(", ")))
        };
        if files.is_empty() {
            return Err(nothing("there is no *.yaml file"));
        }
        let (mut all, mut without) = (Self::default(), Vec::new());
        for file in &files {
            let text = std::fs::read_to_string(file).map_err(|error| Failure::file(file, "be read", &error))?;
            match yaml::parse(&file.to_string_lossy(), &text) {
                Ok(parsed) if parsed.definitions.is_empty() => without.push(file),
                Ok(parsed) => all.located.extend(parsed.definitions),
                Err(bad) => {
                    all.located.extend(bad.definitions);
                    all.problems.extend(bad.problems);
                    all.unread.extend(bad.unread);
                }
            }
        }
        if all.are_good() && all.located.is_empty() {
            return Err(nothing("there is no definition; empty files and comments define nothing"));
        }
        for file in without {
            output::warn(&format!("{}: it holds no definition", file.display()), format);
        }
        Ok(all)
    }

    pub fn definitions(&self) -> Vec<Definition> {
        self.located.iter().map(|located| located.definition.clone()).collect()
    }

    pub fn unread(&self) -> &Unread {
        &self.unread
    }

    /// Nothing is wrong within any of them.
    pub fn are_good(&self) -> bool {
        self.problems.is_empty()
    }

    /// All that is wrong within the documents, and what a server has said of them, each problem in its
    /// file and line, in their order.
    pub fn failure(&self, of_server: Option<Failure>) -> Failure {
        let mut placed: Vec<Placed> = self.problems.iter().map(Placed::within).collect();
        let mut of_server = of_server.unwrap_or_else(|| Failure::new("INVALID_DEFINITION", String::new()));
        let violations = std::mem::take(&mut of_server.violations);
        let hint = match of_server.message.as_str() {
            message if violations.is_empty() && !message.is_empty() => {
                Some(format!("whether they fit together wasn't looked at: {message}"))
            }
            _ => of_server.hint.clone(),
        };
        let mut elsewhere = Vec::new();
        for violation in violations {
            let found = request_path(&violation.path).and_then(|(index, path)| Some((self.located.get(index)?, path)));
            match found {
                Some((located, path)) if located.has_gap_at(path) => {}
                Some((located, path)) => placed.push(Placed::between(located, path, &violation.message)),
                None => elsewhere.push(violation),
            }
        }
        placed.sort_by_key(|problem| (Arc::clone(&problem.file), problem.place));
        let violations: Vec<Violation> = placed.into_iter().map(Placed::into_violation).chain(elsewhere).collect();
        if self.are_good() {
            return of_server.violations(violations);
        }
        let number = u64::try_from(violations.len()).unwrap_or(u64::MAX);
        let message = format!("the definitions can't be applied: {}", output::counted(number, "problem"));
        let failure = Failure { hint, ..Failure::new("INVALID_DEFINITION", message) };
        failure.violations(violations)
    }
}

/// A problem and where it stands.
struct Placed {
    file: Arc<str>,
    place: Place,
    message: String,
}

impl Placed {
    /// Within a document.
    fn within(problem: &FileProblem) -> Self {
        let message = match problem.path.as_str() {
            "" => problem.message.clone(),
            path => format!("{path}: {}", problem.message),
        };
        Self { file: Arc::clone(&problem.file), place: problem.place, message }
    }

    /// Between a definition and others.
    fn between(located: &Located, path: &str, message: &str) -> Self {
        let at = if path.is_empty() { String::new() } else { format!(" {}", located.as_written(path)) };
        let message = format!("{}{at}: {message}", subject(&located.definition));
        Self { file: Arc::clone(&located.file), place: located.place_of(path), message }
    }

    fn into_violation(self) -> Violation {
        Violation { path: format!("{}:{}:{}", self.file, self.place.line, self.place.column), message: self.message }
    }
}

/// Reads `view`, `views`, `FeatureView`, `feature_view`, …
pub fn parse_kind(text: &str) -> Result<Kind, String> {
    let lower: String = text.chars().filter(|letter| !"-_".contains(*letter)).collect::<String>().to_lowercase();
    match lower.trim_end_matches('s') {
        "entity" | "entitie" => Ok(Kind::Entity),
        "source" => Ok(Kind::Source),
        "featureview" | "view" => Ok(Kind::FeatureView),
        "featureservice" | "service" => Ok(Kind::FeatureService),
        "tenant" => Ok(Kind::Tenant),
        "consumer" => Ok(Kind::Consumer),
        _ => Err(format!("there is no kind '{text}': use entity, source, view, service, consumer or tenant")),
    }
}

/// Reads kinds as [`parse_kind`] does, and tells shells what there is.
#[derive(Clone, Debug)]
pub struct KindParser;

impl TypedValueParser for KindParser {
    type Value = Kind;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Kind, clap::Error> {
        parse_kind.parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(
            ["entity", "source", "view", "service", "consumer", "tenant"].into_iter().map(PossibleValue::new),
        ))
    }
}

/// A kind as `hydrant get` takes it for a list.
pub fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Entity => "entities",
        Kind::Source => "sources",
        Kind::FeatureView => "views",
        Kind::FeatureService => "services",
        Kind::Tenant => "tenants",
        Kind::Consumer => "consumers",
    }
}

/// `FeatureView/airport_weather`.
pub fn reference(kind: i32, name: &str) -> Result<String, Failure> {
    // What is downstream of definitions without being one.
    match v1::Kind::try_from(kind) {
        Ok(v1::Kind::TrainingSet) => Ok(format!("{TRAINING_SET}/{name}")),
        Ok(v1::Kind::Share) => Ok(format!("Share/{name}")),
        _ => Ok(format!("{}/{name}", decode_kind(kind)?.as_str())),
    }
}

/// Definitions as a server sent them.
pub fn decode(definitions: Vec<v1::Definition>) -> Result<Vec<Definition>, Failure> {
    decode_definitions(definitions).map_err(|error| Failure::from(error).hint("is the server of another version?"))
}

/// A definition as its document, with what the server knows of it under `status`.
pub fn document(definition: v1::Definition) -> Result<Json, Failure> {
    let status = definition.status.clone();
    let decoded = decode(vec![definition])?;
    let mut document = documents::to_json(&decoded[0]);
    if let Some(status) = status {
        document["status"] = status_json(status);
    }
    Ok(document)
}

fn status_json(status: v1::DefinitionStatus) -> Json {
    let mut json = Map::new();
    json.insert("version".to_owned(), json!(status.version));
    json.insert("revision".to_owned(), json!(status.revision));
    json.insert("created".to_owned(), json!(time::show(status.created_micros)));
    json.insert("updated".to_owned(), json!(time::show(status.updated_micros)));
    json.insert("updatedBy".to_owned(), json!(status.updated_by));
    json.insert("etag".to_owned(), json!(status.etag));
    if let Some(ttl) = status.refilling_from_micros {
        json.insert("ttlInEffect".to_owned(), json!(durations::format(ttl)));
    }
    if let Some(served) = status.served_version {
        json.insert("servedVersion".to_owned(), json!(served));
    }
    if let (Some(rows), Some(all)) = (status.built_rows, status.rows_to_build) {
        let step = match status.build_step() {
            BuildStep::BuildOnline => "online",
            BuildStep::Unspecified | BuildStep::BuildHistory => "history",
        };
        json.insert("built".to_owned(), json!({"step": step, "rows": rows, "of": all}));
    }
    if !status.held_back.is_empty() {
        json.insert("heldBack".to_owned(), plan::held_back_json(&status.held_back));
    }
    if let Some(before) = status.rows_gone_before_micros {
        json.insert("rowsGoneBefore".to_owned(), json!(time::show(before)));
    }
    if status.columns.is_empty() && !status.versions.is_empty() {
        json.insert("versions".to_owned(), json!(status.versions));
    }
    if !status.columns.is_empty() {
        let column = |column: v1::FrozenColumn| {
            let mut json = json!({
                "name": column.name, "type": column.r#type,
                "view": format!("{}@{}", column.view, column.view_version), "feature": column.feature,
            });
            if let Some(ttl) = column.ttl_micros.and_then(|ttl| i64::try_from(ttl).ok()) {
                json["ttl"] = json!(durations::format(ttl));
            }
            if let Some(default) = column.default_json.and_then(|text| serde_json::from_str::<Json>(&text).ok()) {
                json["default"] = default;
            }
            json
        };
        json.insert("versions".to_owned(), json!(status.versions));
        json.insert("columns".to_owned(), status.columns.into_iter().map(column).collect());
        json.insert("shapeHash".to_owned(), json!(status.shape_hash));
    }
    Json::Object(json)
}

fn subject(definition: &Definition) -> String {
    format!("{}/{}", definition.spec.kind().as_str(), definition.metadata.name)
}

/// `definitions[2].spec.ttl` -> `(2, "spec.ttl")`.
fn request_path(path: &str) -> Option<(usize, &str)> {
    let (index, rest) = path.strip_prefix("definitions[")?.split_once(']')?;
    Some((index.parse().ok()?, rest.trim_start_matches('.')))
}

/// The files of tests under the folders, and those named that are such.
pub fn find_scenarios(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        find_files(path, &is_scenarios, &mut files)?;
    }
    Ok(files)
}

fn is_scenarios(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    scenario::ENDINGS.iter().any(|ending| name.ends_with(ending))
}

fn is_definitions(path: &Path) -> bool {
    !is_scenarios(path)
}

fn find_files(path: &Path, wanted: &impl Fn(&Path) -> bool, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let unreadable = |error: std::io::Error| Failure::file(path, "be read", &error);
    if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        if wanted(path) {
            files.push(path.to_owned());
        }
        return Ok(());
    }
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        entries.push(entry.map_err(unreadable)?.path());
    }
    entries.sort();
    for entry in entries {
        let hidden = entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let is_yaml = entry.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if !hidden && (is_yaml || entry.is_dir()) {
            find_files(&entry, wanted, files)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTITY: &str = "apiVersion: hydrant/v1\nkind: Entity\nmetadata: {name: airport}\nspec:\n  joinKeys: [{name: origin, type: string}]\n";

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        folder
    }

    #[test]
    fn every_yaml_file_under_a_folder_is_read_in_order() {
        let second = ENTITY.replace("airport", "harbour");
        let folder = folder(&[
            ("b.yml", ENTITY),
            ("a/x.yaml", &second),
            ("a/x.test.yaml", "no"),
            ("notes.txt", "no"),
            (".hidden.yaml", "no"),
        ]);
        let files = DefinitionFiles::read(&[folder.path().to_owned()], Format::Table).expect("valid");
        let names: Vec<String> = files.definitions().iter().map(subject).collect();
        assert_eq!(names, ["Entity/harbour", "Entity/airport"]);
        let tests = find_scenarios(&[folder.path().to_owned()]).expect("readable");
        assert!(tests.len() == 1 && tests[0].ends_with("a/x.test.yaml"), "{tests:?}");
    }

    #[test]
    fn a_folder_without_definitions_and_an_absent_one_are_refused() {
        let folder = folder(&[("notes.txt", "no")]);
        for path in [folder.path().to_owned(), folder.path().join("absent")] {
            let failure = DefinitionFiles::read(std::slice::from_ref(&path), Format::Table).expect_err("refused");
            assert!(failure.message.contains(&*path.to_string_lossy()), "{}", failure.message);
        }
    }

    #[test]
    fn problems_of_all_files_are_told_at_once_with_file_and_line() {
        let folder = folder(&[
            ("a.yaml", &ENTITY.replace("type: string", "type: text")),
            ("b.yaml", &ENTITY.replace("joinKeys", "keys")),
        ]);
        let failure = DefinitionFiles::read(&[folder.path().to_owned()], Format::Table).expect("there are some");
        let failure = failure.failure(None);
        let paths: Vec<&str> = failure.violations.iter().map(|violation| violation.path.as_str()).collect();
        assert!(paths.iter().any(|path| path.contains("a.yaml:5:")), "{paths:?}");
        assert!(paths.iter().any(|path| path.contains("b.yaml:")), "{paths:?}");
    }

    #[test]
    fn a_servers_problem_is_shown_at_its_line() {
        let folder = folder(&[("a.yaml", ENTITY)]);
        let files = DefinitionFiles::read(&[folder.path().to_owned()], Format::Table).expect("valid");
        let problem = |path: &str| Violation { path: path.to_owned(), message: "is bad".to_owned() };
        let violations = vec![problem("definitions[0].spec.joinKeys[0].type"), problem("")];
        let located = files.failure(Some(Failure::new("INVALID_DEFINITION", "refused").violations(violations)));
        assert!(located.violations[0].path.ends_with("a.yaml:5:35"), "{:?}", located.violations[0]);
        assert_eq!(located.violations[0].message, "Entity/airport spec.joinKeys[0].type: is bad");
        assert_eq!(located.violations[1], problem(""));
    }

    #[test]
    fn a_servers_problem_is_shown_under_its_path_in_the_file_where_something_before_it_is_unreadable() {
        let two = ENTITY
            .replace("[{name: origin, type: string}]", "[{name: origin, type: text}, {name: dest, type: float64}]");
        let folder = folder(&[("a.yaml", &two)]);
        let files = DefinitionFiles::read(&[folder.path().to_owned()], Format::Table).expect("there are some");
        let path = "definitions[0].spec.joinKeys[0].type".to_owned();
        let violations = vec![Violation { path, message: "a join key can't be float64".to_owned() }];
        let shown = files.failure(Some(Failure::new("INVALID_DEFINITION", "refused").violations(violations)));
        assert_eq!(shown.violations.len(), 2, "{shown:?}");
        assert!(shown.violations[1].message.contains("spec.joinKeys[1].type"), "{shown:?}");
    }

    #[test]
    fn kinds_are_understood_as_people_say_them() {
        for (text, kind) in [
            ("entities", Kind::Entity),
            ("Entity", Kind::Entity),
            ("sources", Kind::Source),
            ("FeatureView", Kind::FeatureView),
            ("views", Kind::FeatureView),
            ("feature-services", Kind::FeatureService),
            ("tenant", Kind::Tenant),
            ("consumers", Kind::Consumer),
        ] {
            assert_eq!(parse_kind(text), Ok(kind), "{text}");
        }
        assert!(parse_kind("table").is_err());
    }
}
