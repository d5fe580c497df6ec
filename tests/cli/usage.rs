//! `hydrant usage` and `hydrant search --unused`; and what plans and deletes tell of reads.

use serde_json::{Value as Json, json};

use crate::scene::{DEFINITIONS, Scene, text};

fn json_of(scene: &Scene, arguments: &[&str]) -> Json {
    let shown = scene.succeed(&[arguments, &["-o", "json"]].concat());
    serde_json::from_str(&shown).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_what_and_what_nobody_reads_is_told_by_command() {
    let scene = Scene::with_weather().await;
    let unused = scene.succeed(&["usage", "--unused", "30d"]);
    assert!(unused.contains("airport_weather:temp") && unused.contains("never"), "{unused}");
    let found = json_of(&scene, &["search", "--unused", "30d"]);
    let names: Vec<&str> =
        found["hits"].as_array().expect("hits").iter().filter_map(|hit| hit["name"].as_str()).collect();
    assert_eq!(names, ["airport_weather", "airport_weather:temp", "model"]);
    assert_eq!(found["hits"][0]["last_read"], Json::Null);
    assert!(scene.succeed(&["search", "--unused", "30d"]).starts_with("KIND"));

    for _ in 0..3 {
        scene.succeed(&["online", "get", "--service", "model", "--key", "origin=EWR"]);
    }
    let told = json_of(&scene, &["usage", "airport_weather:temp"]);
    let feature = &told["usage"][0];
    assert_eq!((&feature["name"], &feature["kind"]), (&json!("airport_weather:temp"), &json!("Feature")));
    assert_eq!(feature["resource"], "tenants/default/usage/airport_weather:temp");
    assert_eq!((&feature["days"][0]["online"], &feature["last_training"]), (&json!(3), &Json::Null));
    let reader = &feature["readers"][0];
    assert_eq!((&reader["caller"], &reader["online"]), (&json!("loopback"), &json!(3)));
    let table = scene.succeed(&["usage"]);
    let line = table.lines().find(|line| line.contains("model@1")).expect("a line of the service");
    assert!(line.contains(" ago") && line.contains("3.0") && line.contains("loopback"), "{table}");
    let readers = scene.succeed(&["usage", "model", "--by-caller"]);
    let words: Vec<&str> = readers.lines().nth(1).expect("a line").split_whitespace().collect();
    assert_eq!(words[..4], ["model@1", "loopback", "3", "0"]);
    assert_eq!(scene.succeed(&["usage", "--unused", "1h"]), "nothing is unused\n");
    assert!(scene.refused(&["usage", "nothing"]).contains("there is no view, feature or service 'nothing'"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_an_apply_and_a_delete_tell_how_much_is_read_what_they_touch() {
    let scene = Scene::with_weather().await;
    let with = |name: &str, from: &str, to: &str| {
        let changed = DEFINITIONS.replace(from, to);
        assert_ne!(changed, DEFINITIONS);
        scene.file(name, &changed).to_str().expect("UTF-8").to_owned()
    };
    let default = with("default.yaml", "- {name: temp}", "- {name: temp, default: 1.0}");
    let never = scene.succeed(&["plan", "-f", &default]);
    assert!(never.contains("    never read since ") && never.contains(", when counting began\n"), "{never}");
    for _ in 0..3 {
        scene.succeed(&["online", "get", "--service", "model", "--key", "origin=EWR"]);
    }
    let read = "read 3.0 times a day, last at ";
    let shown = scene.succeed(&["plan", "-f", &default]);
    let lines: Vec<&str> = shown.lines().collect();
    let line = lines.iter().position(|line| line.starts_with(&format!("    {read}"))).expect("a line of the reads");
    assert!(
        lines[line - 1].contains("touches FeatureService/model@1") && lines[line].ends_with("by 1 reader"),
        "{shown}"
    );
    let plan = json_of(&scene, &["plan", "-f", &default]);
    let changes = plan["changes"].as_array().expect("a list");
    let view = changes.iter().find(|change| change["definition"] == "FeatureView/airport_weather").expect("it changes");
    let reads = &view["differences"][0]["reads"];
    assert_eq!((&reads["a_day"], &reads["readers"], &reads["more_readers"]), (&json!(3.0), &json!(1), &json!(false)));
    assert!(reads["last_online"].is_string() && reads["last_training"].is_null(), "{reads}");

    // What can't be done tells it as well, and an apply as its plan.
    let breaking = with("breaking.yaml", "ttl: 3h\n", "ttl: 3h\n  online: false\n");
    let output = scene.run(&["plan", "-f", &breaking]);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(
        stdout.contains(&format!("    {read}")) && stderr.contains(&format!("; it was {read}")),
        "{stdout}{stderr}"
    );
    assert!(scene.refused(&["apply", "-f", &breaking]).contains(&format!("; it was {read}")));
    assert!(scene.succeed(&["apply", "-f", &default]).contains(&format!("    {read}")));
    let refused = scene.refused_json(&["delete", "view", "airport_weather", "-o", "json"]);
    assert_eq!(refused["reason"], "DEFINITION_IN_USE");
    assert!(refused["message"].as_str().is_some_and(|told| told.contains(&format!("; it was {read}"))), "{refused}");
    let metadata = &refused["metadata"];
    assert_eq!((&metadata["reads_a_day"], &metadata["readers"]), (&json!("3.0"), &json!("1")));
    assert!(metadata["last_read"].is_string(), "{refused}");

    // What goes is told with the reads that it had, and what is left keeps them.
    let (without, _) = DEFINITIONS.split_once("---\napiVersion: hydrant/v1\nkind: FeatureService").expect("the last");
    let other = "---\napiVersion: hydrant/v1\nkind: FeatureService\nmetadata: {name: other}\nspec: {features: [airport_weather]}\n";
    let without = without.replace("- {name: temp}", "- {name: temp, default: 1.0}");
    let pruning = scene.file("pruning.yaml", &format!("{without}{other}"));
    let pruning = pruning.to_str().expect("UTF-8");
    for command in ["plan", "apply"] {
        let shown = scene.succeed(&[command, "--prune", "-f", pruning]);
        assert!(shown.contains(&format!("- FeatureService/model\n    {read}")), "{shown}");
    }
    let deleted = scene.succeed(&["delete", "service", "other"]);
    assert!(deleted.contains("; it was never read since "), "{deleted}");
    let deleted = json_of(&scene, &["delete", "view", "airport_weather"]);
    assert_eq!((&deleted["deleted"], &deleted["reads"]["a_day"]), (&json!("FeatureView/airport_weather"), &json!(3.0)));
}
