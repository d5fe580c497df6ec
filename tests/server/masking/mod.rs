//! What is personal never leaves, by whatever way, where the caller has no grant for it: random values of every
//! type are written, and the bytes of each answer, refusal and file are searched for all of them. Somebody with
//! the grant finds them in the same places, so that the search is known to see.

#[expect(dead_code, reason = "shared with other test programs")]
#[path = "../../support/random.rs"]
mod random;
mod secrets;
mod ways;

use hydrant::registry::definition::Definition;
use hydrant::registry::documents;
use hydrant::rpc::v1;
use hydrant::rpc::v1::Role;
use serde_json::json;

use self::random::{Random, seeds};
use self::secrets::{ALL, DIMENSION, NUMBERS, Person, Secrets, rows};
use self::ways::Caller;
use super::access::{Guarded, key};
use super::support::{HOUR, NOON, ingest_request};

const CASES: u64 = 2;

/// People with everything about them tagged, and a view that is tagged as a whole.
fn definitions() -> Vec<Definition> {
    let embedding = format!("vector<{DIMENSION}>");
    let columns = [
        ("user_id", "int64"),
        ("happened", "timestamp"),
        ("name", "string"),
        ("token", "bytes"),
        ("number", "int64"),
        ("income", "float64"),
        ("born", "timestamp"),
        ("embedding", embedding.as_str()),
        ("codes", "list<int64>"),
        ("words", "list<string>"),
        ("visits", "int64"),
    ];
    let columns: Vec<_> = columns.iter().map(|(name, kind)| json!({"name": name, "type": kind})).collect();
    let mut features: Vec<_> = ALL.iter().map(|name| json!({"name": name, "tags": {"pii": "true"}})).collect();
    features.push(json!({"name": "visits"}));
    let document = |kind: &str, metadata: serde_json::Value, spec: serde_json::Value| {
        let document = json!({"apiVersion": "hydrant/v1", "kind": kind, "metadata": metadata, "spec": spec});
        documents::from_json(&document).expect("a definition")
    };
    let numbers: Vec<&str> = NUMBERS.into_iter().chain(["visits"]).collect();
    vec![
        document("Entity", json!({"name": "user"}), json!({"joinKeys": [{"name": "user_id", "type": "int64"}]})),
        document(
            "Source",
            json!({"name": "profiles"}),
            json!({"type": "push", "eventTime": "happened", "knownTime": "event", "columns": columns}),
        ),
        document(
            "FeatureView",
            json!({"name": "profile"}),
            json!({"entities": ["user"], "source": "profiles", "features": features}),
        ),
        document(
            "FeatureView",
            json!({"name": "secret", "tags": {"pii": "true"}}),
            json!({"entities": ["user"], "source": "profiles", "features": [{"name": "name"}]}),
        ),
        document("FeatureService", json!({"name": "model"}), json!({"features": ["profile"]})),
        document("FeatureService", json!({"name": "newest"}), json!({"features": ["profile", "secret"]})),
        document(
            "FeatureService",
            json!({"name": "numbers"}),
            json!({"features": [{"view": "profile", "features": numbers}]}),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_what_is_personal_leaves_by_any_way_without_the_grant() {
    for seed in seeds(CASES) {
        println!("{}={seed}", random::SEED_VARIABLE);
        search(&mut Random::new(seed)).await;
    }
}

async fn search(random: &mut Random) {
    let guarded = Guarded::start().await;
    guarded.first.apply(&definitions(), None).await.expect("they fit together");
    let users: Vec<i64> = (1..=5 + random.below(10) as i64).collect();
    let times = [NOON, NOON + HOUR];
    let mut people = Vec::new();
    for happened in times {
        let of_time: Vec<Person> = users.iter().map(|_| Person::random(random)).collect();
        let request =
            v1::IngestRequest { source: "profiles".to_owned(), ..ingest_request(&rows(&of_time, &users, happened)) };
        guarded.first.ingest(request).await.expect("good rows");
        people.extend(of_time);
    }
    let (secrets, folder) = (Secrets::of(&people), tempfile::tempdir().expect("a folder"));

    let (mut others, mut tickets, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    for (name, roles) in [
        ("granted", &[Role::Reader, Role::Trainer, Role::Pii][..]),
        ("reader", &[Role::Reader, Role::Trainer]),
        // Being an admin is no grant.
        ("admin", &[Role::Admin]),
    ] {
        let token = guarded.give(&guarded.first, key("", roles)).await;
        let caller = Caller::new(&guarded, folder.path(), (name, &token), &users, times).await;
        for out in caller.ways_out(&others, &tickets).await {
            let (bytes, found) = (&out.came.bytes, secrets.found_in(&out.came.bytes));
            let is_right = match name == "granted" && !out.shows.is_empty() {
                true => out.shows.iter().all(|feature| found.contains(feature)),
                false => found.is_empty(),
            };
            // Masked is not refused: what is not personal is there for whoever may read.
            if !is_right || (out.came.is_refused && !out.shows.is_empty()) {
                let begin = bytes[..bytes.len().min(300)].escape_ascii();
                wrong.push(format!(
                    "{name} by {}: {found:?} is there, with the grant {:?}: {begin}",
                    out.way, out.shows
                ));
            }
        }
        if name == "granted" {
            tickets = caller.tickets().await;
        }
        others.push(name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
