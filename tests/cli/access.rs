//! `hydrant key`, `hydrant whoami` and tenants, against a server that asks for keys; and what commands say
//! where there is no key or a bad one, in which a key never stands.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value as Json, json};

use crate::process::{ServerProcess, Setup};
use crate::scene::{DEFINITIONS, START, text, weather_columns, write_parquet};

const TENANT: &str = "apiVersion: hydrant/v1\nkind: Tenant\nmetadata: {name: acme, owner: shop}\nspec: {}\n";

struct Guarded {
    server: ServerProcess,
    folder: tempfile::TempDir,
    /// The file of the first key.
    first: PathBuf,
}

impl Guarded {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let setup = Setup::new(folder.path()).config("[auth]\nenabled = true\n[storage]\npartitions = 1\n");
        let server = setup.start().await;
        let first = setup.data().join("first-key");
        Self { server, folder, first }
    }

    fn run(&self, key: &Path, arguments: &[&str]) -> Output {
        hydrant(self.server.grpc(), &[arguments, &["--token-file", key.to_str().expect("UTF-8")]].concat())
    }

    #[track_caller]
    fn succeed(&self, key: &Path, arguments: &[&str]) -> String {
        let output = self.run(key, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    #[track_caller]
    fn refused(&self, key: &Path, arguments: &[&str]) -> Json {
        refused(&self.run(key, &[arguments, &["-o", "json"]].concat()))
    }

    /// With definitions, and a reader: the file of its key, and the key's id.
    async fn with_reader() -> (Self, PathBuf, String) {
        let guarded = Self::start().await;
        let first = guarded.first.clone();
        let definitions = guarded.file("all.yaml", DEFINITIONS);
        guarded.succeed(&first, &["apply", "-f", definitions.to_str().expect("UTF-8")]);
        let reader = guarded.give(&first, "reader", &["--role", "reader"]);
        let id = std::fs::read_to_string(&reader).expect("a key")[4..14].to_owned();
        (guarded, reader, id)
    }

    /// Makes a key, and the file that holds it.
    #[track_caller]
    fn give(&self, by: &Path, name: &str, arguments: &[&str]) -> PathBuf {
        let made = self.run(by, &[&["key", "create"], arguments].concat());
        assert!(made.status.success(), "{arguments:?}: {}", text(&made.stderr));
        let token = text(&made.stdout);
        assert!(token.starts_with("hyd_") && token.lines().count() == 1, "the key alone is on stdout: {token}");
        assert!(!text(&made.stderr).contains(token.trim()), "and nowhere else");
        self.file(name, &token)
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).expect("written");
        path
    }
}

fn hydrant(server: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydrant"));
    command.args(arguments).env("HYDRANT_SERVER", server).output().expect("it runs")
}

#[track_caller]
fn refused(output: &Output) -> Json {
    assert_eq!(output.status.code(), Some(1), "{}{}", text(&output.stdout), text(&output.stderr));
    let told: Json = serde_json::from_slice(&output.stderr).expect("one JSON object on stderr");
    told["error"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_and_its_keys_are_made_used_rotated_and_revoked_by_command() {
    let guarded = Guarded::start().await;
    let first = guarded.first.clone();
    assert!(guarded.succeed(&first, &["whoami"]).contains("in tenant default: admin, platform"));
    let platform = guarded.give(&first, "platform", &["--role", "platform", "--description", "operators"]);
    let tenant = guarded.file("acme.yaml", TENANT);
    let apply = |file: &Path| ["apply".to_owned(), "-f".to_owned(), file.to_str().expect("UTF-8").to_owned()];
    let applied = apply(&tenant);
    let applied: Vec<&str> = applied.iter().map(String::as_str).collect();
    assert!(guarded.succeed(&platform, &["plan", "-f", applied[2]]).contains("+ Tenant/acme"));
    guarded.succeed(&platform, &applied);
    let tenants = guarded.succeed(&platform, &["get", "tenants"]);
    assert!(tenants.contains("acme") && tenants.contains("default"), "{tenants}");

    let admin = guarded.give(&platform, "admin", &["--tenant", "acme", "--role", "admin"]);
    let who: Json = serde_json::from_str(&guarded.succeed(&admin, &["whoami", "-o", "json"])).expect("JSON");
    assert_eq!((&who["tenant"], &who["roles"]), (&json!("acme"), &json!(["admin"])));
    let definitions = guarded.file("all.yaml", DEFINITIONS);
    guarded.succeed(&admin, &["apply", "-f", definitions.to_str().expect("UTF-8")]);
    assert!(guarded.succeed(&admin, &["get", "views"]).contains("airport_weather"));
    let none = guarded.run(&first, &["get", "views"]);
    assert!(!text(&none.stdout).contains("airport_weather"), "another tenant's is not shown");
    let mixed = guarded.file("mixed.yaml", &format!("{TENANT}---\n{DEFINITIONS}"));
    let told = guarded.refused(&first, &["apply", "-f", mixed.to_str().expect("UTF-8")]);
    assert_eq!(told["reason"], "TENANTS_APART");
    assert_eq!(guarded.refused(&platform, &["delete", "tenant", "acme"])["reason"], "TENANT_IN_USE");

    let reader = guarded.give(&admin, "reader", &["--role", "reader", "--service", "model", "--expires", "90d"]);
    let any = guarded.give(&admin, "any", &["--role", "reader"]);
    let told = guarded.refused(&any, &["apply", "-f", definitions.to_str().expect("UTF-8")]);
    assert_eq!(told["reason"], "PERMISSION_DENIED");
    assert!(told["hint"].as_str().is_some_and(|hint| hint.contains("role owner") && hint.contains("admin")), "{told}");
    assert_eq!(guarded.refused(&reader, &["get", "views"])["reason"], "OUT_OF_REACH");
    assert!(guarded.succeed(&reader, &["whoami"]).contains("limited to model"));
    // What it names it may look at and read.
    let described = guarded.succeed(&reader, &["describe", "service", "model"]);
    assert!(described.contains("airport_weather__temp") && described.contains("not told to a key"), "{described}");
    guarded.succeed(&reader, &["online", "get", "--service", "model", "--key", "origin=EWR"]);
    assert_eq!(guarded.refused(&reader, &["describe", "view", "airport_weather"])["reason"], "OUT_OF_REACH");

    let id = std::fs::read_to_string(&reader).expect("a key")[4..14].to_owned();
    let rotated = guarded.succeed(&admin, &["key", "rotate", &id, "--overlap", "1h"]);
    let rotated = guarded.file("rotated", &rotated);
    guarded.succeed(&reader, &["whoami"]);
    guarded.succeed(&rotated, &["whoami"]);
    let listed: Json = serde_json::from_str(&guarded.succeed(&admin, &["key", "list", "-o", "json"])).expect("JSON");
    let keys = listed["keys"].as_array().expect("a list");
    let of_id = keys.iter().find(|key| key["id"] == id.as_str()).expect("it is listed");
    assert!(of_id["previous_until"].is_string() && of_id["last_used"].is_string(), "{of_id}");
    assert!(!listed.to_string().contains("hyd_"), "no key is shown again");
    let of_key = ["quota", "set", "acme", "--key", &id];
    let set = guarded.succeed(&admin, &[&of_key[..], &["requests_per_second=0"]].concat());
    assert!(set.contains(&format!("key {id} of tenant acme")) && !set.contains("storage_bytes"), "{set}");
    assert_eq!(guarded.refused(&rotated, &["get", "views"])["reason"], "QUOTA_EXCEEDED");
    for keys in [&["quota", "get", "acme", "--keys"][..], &["quota", "get", "--keys"]] {
        assert!(guarded.succeed(&admin, keys).contains(&id), "{keys:?}");
    }
    guarded.succeed(&admin, &[&of_key[..], &["--unset", "requests_per_second"]].concat());
    assert_eq!(guarded.refused(&rotated, &["get", "views"])["reason"], "OUT_OF_REACH");
    guarded.succeed(&admin, &["key", "revoke", &id]);
    for key in [&reader, &rotated] {
        assert_eq!(guarded.refused(key, &["whoami"])["reason"], "KEY_REVOKED");
    }
    assert!(guarded.succeed(&admin, &["key", "get", &id]).contains("revoked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_a_key_s_quota_or_its_tenant_s_says_what_is_in_use_and_when_to_try_again() {
    let (guarded, reader, id) = Guarded::with_reader().await;
    let first = guarded.first.clone();
    // A minute's worth at once, and it is owed for a minute.
    let keys: Vec<String> = (0..60).map(|number| format!("--key=origin={number}")).collect();
    let mut get = vec!["online", "get", "--service", "model"];
    get.extend(keys.iter().map(String::as_str));
    let of_key = ["quota", "set", "default", "--key", &id];
    for (set, subject) in
        [(&of_key[..], format!("tenants/default/keys/{id}")), (&of_key[..3], "tenants/default".into())]
    {
        guarded.succeed(&first, &[set, &["keys_per_second=1"]].concat());
        guarded.succeed(&reader, &get);
        let told = guarded.refused(&reader, &get);
        assert_eq!(
            (&told["reason"], &told["metadata"]["subject"]),
            (&json!("QUOTA_EXCEEDED"), &json!(subject)),
            "{told}"
        );
        assert_eq!((&told["metadata"]["quota"], &told["metadata"]["limit"]), (&json!("keys_per_second"), &json!("1")));
        let usage = told["metadata"]["usage"].as_str().and_then(|usage| usage.parse::<u64>().ok());
        assert!(usage.is_some_and(|usage| (1..=60).contains(&usage)), "{told}");
        assert!(told["retry_after_ms"].as_u64().is_some_and(|delay| (1..=60_000).contains(&delay)), "{told}");
        let shown = text(&guarded.run(&reader, &get).stderr);
        assert!(shown.contains(" of 1 are in use") && shown.contains("hint: try again in "), "{shown}");
        guarded.succeed(&first, &[set, &["--unset", "keys_per_second"]].concat());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_online_read_by_command_is_two_requests() {
    let (guarded, reader, id) = Guarded::with_reader().await;
    let first = guarded.first.clone();
    guarded.succeed(&first, &["quota", "set", "default", "--key", &id, "requests_per_second=2"]);
    guarded.succeed(&reader, &["online", "get", "--service", "model", "--key", "origin=EWR"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_tell_how_to_give_a_key_and_never_show_one() {
    let guarded = Guarded::start().await;
    let server = guarded.server.grpc();
    let told = refused(&hydrant(server, &["get", "views", "-o", "json"]));
    assert_eq!(told["reason"], "NO_CREDENTIAL");
    assert!(told["hint"].as_str().is_some_and(|hint| hint.contains("--token-file")), "{told}");

    let key = std::fs::read_to_string(&guarded.first).expect("a key").trim().to_owned();
    let by_variable = |server: &str, key: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hydrant"));
        command.args(["whoami", "-o", "json"]).env("HYDRANT_SERVER", server).env("HYDRANT_TOKEN", key);
        command.output().expect("it runs")
    };
    assert!(by_variable(server, &key).status.success());
    assert!(hydrant(server, &["whoami", "--token", &key]).status.success());

    // A mistyped key goes nowhere, not even to a server that isn't there.
    let mistyped = format!("{}0", &key[..key.len() - 1]);
    let mistyped = if mistyped == key { format!("{}1", &key[..key.len() - 1]) } else { mistyped };
    let output = by_variable("127.0.0.1:1", &mistyped);
    assert_eq!(refused(&output)["reason"], "BAD_CREDENTIAL");
    // Nor does a good one, in the clear, to another machine; 192.0.2.1 is nobody's.
    let abroad = by_variable("192.0.2.1:7600", &key);
    assert_eq!(refused(&abroad)["reason"], "INSECURE_TOKEN");
    let help = hydrant(server, &["whoami", "--help", "--token", &key]);
    for output in [&output, &abroad, &help, &hydrant(server, &["frobnicate", "--token", &key])] {
        let shown = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert!(!shown.contains(&key[15..40]), "a key is shown: {shown}");
    }
    let log = std::fs::read_to_string(guarded.folder.path().join("server.log")).expect("a log");
    assert!(log.contains("first-key") && !log.contains(&key[15..40]), "the log names the file and not the key: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_tenant_shares_is_listed_read_and_gone_by_command() {
    let guarded = Guarded::start().await;
    let owner = guarded.first.clone();
    let tenant = guarded.file("acme.yaml", TENANT);
    guarded.succeed(&owner, &["apply", "-f", tenant.to_str().expect("UTF-8")]);
    let definitions = guarded.file("all.yaml", DEFINITIONS);
    guarded.succeed(&owner, &["apply", "-f", definitions.to_str().expect("UTF-8")]);
    let admin = guarded.give(&owner, "admin", &["--tenant", "acme", "--role", "admin"]);
    let read = ["online", "get", "--service", "default/model", "--key", "origin=EWR"];
    let told = guarded.refused(&admin, &read);
    assert_eq!(told["reason"], "SERVICE_NOT_FOUND");
    assert!(told["hint"].as_str().is_some_and(|hint| hint.contains("share list --with-me")), "{told}");

    let create = ["share", "create", "--service", "model", "--to", "acme"];
    let checked = guarded.succeed(&owner, &[&create[..], &["--dry-run"]].concat());
    assert!(checked.contains("nothing was changed"), "{checked}");
    assert!(guarded.succeed(&owner, &["share", "list"]).contains("there are no shares"));
    assert!(guarded.succeed(&owner, &create).contains("default/1"));
    assert_eq!(guarded.refused(&owner, &create)["reason"], "SHARE_EXISTS");
    let listed = guarded.succeed(&admin, &["share", "list", "--with-me"]);
    assert!(listed.contains("default/model") && listed.contains("read"), "{listed}");
    let shown = guarded.succeed(&admin, &["share", "get", "default/1"]);
    assert!(shown.contains("origin") && shown.contains("default__airport_weather__"), "{shown}");
    let answer: Json =
        serde_json::from_str(&guarded.succeed(&admin, &[&read[..], &["-o", "json"]].concat())).expect("JSON");
    assert_eq!(answer["service"], "default/model@1");
    // What is said of a name that isn't right leads somewhere.
    let hint = |arguments: &[&str]| {
        let told = guarded.refused(&admin, arguments);
        told["hint"].as_str().unwrap_or_else(|| panic!("no hint: {told}")).to_owned()
    };
    let of = |service: &'static str| ["online", "get", "--service", service, "--key", "origin=EWR"];
    assert_eq!(hint(&of("default/model@9")), "the versions that are shared, the newest first: 1");
    for command in ["get", "describe", "delete"] {
        assert!(hint(&[command, "service", "default/model"]).contains("`hydrant share get OWNER/NAME`"), "{command}");
    }
    assert!(hint(&["lineage", "default/model"]).contains("`hydrant share list --with-me`"));
    assert!(hint(&["usage", "default/model"]).contains("is told to that tenant"));
    assert!(hint(&["materialize", "default/airport_weather"]).contains("by that tenant"));
    assert_eq!(
        hint(&["materialize", "airport_weather"]),
        "there is none yet: `hydrant apply -f DIR` makes what DIR defines"
    );
    assert_eq!(
        guarded.succeed(&admin, &["share", "get", "default/model"]),
        shown,
        "by the name that requests have for it"
    );
    assert!(hint(&["share", "get", "default/modell"]).contains("`hydrant share list --with-me`"));
    let columns = weather_columns(&[Some("EWR")], &[Some(START)]);
    let spine = write_parquet(&guarded.folder.path().join("spine.parquet"), columns);
    let train = ["training-set", "create", "set", "--service", "default/modell", "--spine", &spine];
    let told = hint(&[&train[..], &["--event-time", "event_timestamp"]].concat());
    assert_eq!(told, "is it 'default/model'? `hydrant share list --with-me` lists all");
    let found = guarded.succeed(&admin, &["search", "airport_weather", "--kind", "service"]);
    assert!(!found.contains("default/airport_weather"), "only the service is shared: {found}");
    assert!(guarded.succeed(&admin, &["search", "model"]).contains("default/model"));
    assert!(guarded.succeed(&owner, &["lineage", "model@1", "--down"]).contains("tenant acme"));

    assert!(guarded.succeed(&owner, &["share", "withdraw", "1", "--notice", "14d"]).contains("until 20"));
    guarded.succeed(&admin, &read);
    assert!(guarded.succeed(&admin, &["share", "list", "--with-me"]).contains("until 20"));
    let ended: Json =
        serde_json::from_str(&guarded.succeed(&owner, &["share", "withdraw", "1", "-o", "json"])).expect("JSON");
    assert_eq!((&ended["ended"], &ended["dry_run"]), (&json!(true), &json!(false)));
    assert_eq!(guarded.refused(&admin, &read)["reason"], "SERVICE_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_would_show_what_is_personal_is_refused_as_applying_it_is() {
    let guarded = Guarded::start().await;
    let first = guarded.first.clone();
    let tagged =
        guarded.file("tagged.yaml", &DEFINITIONS.replace("{name: temp}", "{name: temp, tags: {pii: \"true\"}}"));
    guarded.succeed(&first, &["apply", "-f", tagged.to_str().expect("UTF-8")]);
    let untagged = guarded.file("untagged.yaml", DEFINITIONS);
    let told =
        ["plan", "apply"].map(|command| guarded.refused(&first, &[command, "-f", untagged.to_str().expect("UTF-8")]));
    assert_eq!((&told[0], &told[0]["reason"]), (&told[1], &json!("PII_NOT_GRANTED")));
    // Records of what is refused are written within a second of the first.
    let mut attempts = Json::Null;
    for _ in 0..200 {
        let listed = guarded.succeed(&first, &["audit", "list", "--outcome", "refused", "-o", "json"]);
        attempts = serde_json::from_str(&listed).expect("JSON");
        if attempts["records"][0].is_object() {
            break;
        }
    }
    let record = &attempts["records"][0];
    assert_eq!((&record["action"], &record["reason"]), (&json!("RegistryService/Plan"), &json!("PII_NOT_GRANTED")));
}

#[test]
fn beyond_this_machine_nobody_is_listened_to_without_keys_and_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    let serve = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hydrant"));
        command.args(["serve", "--grpc-addr", "0.0.0.0:0", "--data-dir"]).arg(folder.path().join("data"));
        text(&command.args(arguments).output().expect("it runs").stderr)
    };
    let told = serve(&[]);
    assert!(told.contains("server.grpc_addr") && told.contains("auth.enabled"), "{told}");
    let config = folder.path().join("auth.toml");
    std::fs::write(&config, "[auth]\nenabled = true\n").expect("written");
    let told = serve(&["--config", config.to_str().expect("UTF-8")]);
    assert!(told.contains("tls.certificate") && told.contains("--insecure"), "{told}");
}
