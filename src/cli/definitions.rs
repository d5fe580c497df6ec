//! Definitions between files, server and terminal: reads a folder of YAML, finds the line that a
//! refusal is about, and shows what a server has as the documents that owners write.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValue, TypedValueParser};
use hydrant_proto::v1;
use serde_json::{Map, Value as Json, json};

use super::{Failure, Format, output, time};
use crate::config::durations;
use crate::error::Violation;
use crate::registry::definition::{Definition, Kind};
use crate::registry::documents;
use crate::registry::yaml::{self, Located};
use crate::rpc::wire::definitions::{decode_definitions, decode_kind};

/// Definitions and where they were written.
#[derive(Debug)]
pub struct DefinitionFiles {
    located: Vec<Located>,
}

impl DefinitionFiles {
    /// Reads every `*.yaml` and `*.yml` under the folders, and the files named. All that is wrong
    /// in any of them is told at once. A file that defines nothing is warned about, and refused if
    /// none does.
    pub fn read(paths: &[PathBuf], format: Format) -> Result<Self, Failure> {
        let mut files = Vec::new();
        for path in paths {
            find_files(path, &mut files)?;
        }
        let nothing = |told: &str| {
            let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            Failure::new("NO_DEFINITIONS", format!("{}: {told}", shown.join(", ")))
        };
        if files.is_empty() {
            return Err(nothing("there is no *.yaml file"));
        }
        let (mut located, mut problems, mut without) = (Vec::new(), Vec::new(), Vec::new());
        for file in &files {
            let text = std::fs::read_to_string(file).map_err(|error| Failure::file(file, "be read", &error))?;
            match yaml::parse(&file.to_string_lossy(), &text) {
                Ok(parsed) if parsed.definitions.is_empty() => without.push(file),
                Ok(parsed) => located.extend(parsed.definitions),
                Err(found) => problems.extend(found),
            }
        }
        if problems.is_empty() && located.is_empty() {
            return Err(nothing("there is no definition; empty files and comments define nothing"));
        }
        for file in without {
            output::warn(&format!("{}: it holds no definition", file.display()), format);
        }
        if problems.is_empty() {
            return Ok(Self { located });
        }
        let number = u64::try_from(problems.len()).unwrap_or(u64::MAX);
        let message = format!("the definitions can't be read: {}", output::counted(number, "problem"));
        let violation = |problem: yaml::FileProblem| Violation {
            path: format!("{}:{}:{}", problem.file, problem.place.line, problem.place.column),
            message: match problem.path.as_str() {
                "" => problem.message,
                path => format!("{path}: {}", problem.message),
            },
        };
        Err(Failure::new("INVALID_DEFINITION", message).violations(problems.into_iter().map(violation).collect()))
    }

    pub fn definitions(&self) -> Vec<Definition> {
        self.located.iter().map(|located| located.definition.clone()).collect()
    }

    /// Says of each problem in which file and line it stands, where a server says in which
    /// definition of the request.
    pub fn locate(&self, mut failure: Failure) -> Failure {
        for violation in &mut failure.violations {
            let Some((index, path)) = request_path(&violation.path) else { continue };
            let Some(located) = self.located.get(index) else { continue };
            let place = located.place_of(path);
            let subject = subject(&located.definition);
            let at = if path.is_empty() { String::new() } else { format!(" {path}") };
            violation.message = format!("{subject}{at}: {}", violation.message);
            violation.path = format!("{}:{}:{}", located.file, place.line, place.column);
        }
        failure
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
        _ => Err(format!("there is no kind '{text}': use entity, source, view, service or tenant")),
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
        Some(Box::new(["entity", "source", "view", "service", "tenant"].into_iter().map(PossibleValue::new)))
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
    }
}

/// `FeatureView/airport_weather`.
pub fn reference(kind: i32, name: &str) -> Result<String, Failure> {
    Ok(format!("{}/{name}", decode_kind(kind)?.as_str()))
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

fn find_files(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let unreadable = |error: std::io::Error| Failure::file(path, "be read", &error);
    if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        files.push(path.to_owned());
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
            find_files(&entry, files)?;
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
        let folder = folder(&[("b.yml", ENTITY), ("a/x.yaml", &second), ("notes.txt", "no"), (".hidden.yaml", "no")]);
        let files = DefinitionFiles::read(&[folder.path().to_owned()], Format::Table).expect("valid");
        let names: Vec<String> = files.definitions().iter().map(subject).collect();
        assert_eq!(names, ["Entity/harbour", "Entity/airport"]);
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
        let failure = DefinitionFiles::read(&[folder.path().to_owned()], Format::Table).expect_err("refused");
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
        let located = files.locate(Failure::new("INVALID_DEFINITION", "refused").violations(violations));
        assert!(located.violations[0].path.ends_with("a.yaml:5:35"), "{:?}", located.violations[0]);
        assert_eq!(located.violations[0].message, "Entity/airport spec.joinKeys[0].type: is bad");
        assert_eq!(located.violations[1], problem(""));
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
        ] {
            assert_eq!(parse_kind(text), Ok(kind), "{text}");
        }
        assert!(parse_kind("table").is_err());
    }
}
