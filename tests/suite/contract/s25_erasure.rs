//! Contract, section 25: an erased key is nowhere, and stays so.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, StringArray};
use hydrant::erasure::Erasure;
use hydrant::error::Code;
use hydrant::registry::definition::Kind;
use hydrant::tenancy::Action;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value as Json, json};

use crate::support::node::{AS_KNOWN, MINUTE, START, TestNode, patience};
use crate::support::sets::stored;
use crate::support::table::spine;

const KEY: &str = "erase-me-7d1f0c9a55b34e02";
const NOTE: &str = "what-nobody-may-know-c2b70e9d4f";
const NEIGHBOURS: usize = 40;

const VISITS: &str = "
apiVersion: hydrant/v1
kind: Entity
metadata: {name: customer}
spec: {joinKeys: [{name: name, type: string}]}
---
apiVersion: hydrant/v1
kind: Entity
metadata: {name: shop}
spec: {joinKeys: [{name: shop, type: string}]}
---
apiVersion: hydrant/v1
kind: Source
metadata: {name: visits}
spec:
  type: push
  eventTime: happened
  knownTime: event
  maxFuture: 2h
  columns:
    - {name: name, type: string}
    - {name: shop, type: string}
    - {name: happened, type: timestamp}
    - {name: note, type: string}
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: notes}
spec: {entities: [customer], source: visits, features: [{name: note}]}
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: shop_notes}
spec: {entities: [shop, customer], source: visits, features: [{name: note}]}
---
apiVersion: hydrant/v1
kind: FeatureService
metadata: {name: model}
spec:
  features:
    - notes
    - {view: notes, as: friend, keys: {name: friend}}
";

fn visit(name: &str, minutes: i64, note: &str) -> Json {
    json!({"name": name, "shop": "corner", "happened": START + minutes * MINUTE, "note": note})
}

/// A visit of everybody.
fn visits(minutes: i64, note: &str) -> Json {
    let others = (0..NEIGHBOURS).map(|number| visit(&format!("neighbour {number}"), minutes, &format!("n{minutes}")));
    others.chain([visit(KEY, minutes, note)]).collect()
}

fn name_of(key: &str) -> Vec<(String, ArrayRef)> {
    vec![("name".to_owned(), Arc::new(StringArray::from(vec![key])))]
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn array_holds(array: &ArrayRef, text: &str) -> bool {
    let is_in = |value: &[u8]| holds(value, text);
    array.as_string_opt::<i32>().is_some_and(|strings| strings.iter().flatten().any(|value| is_in(value.as_bytes())))
        || array.as_binary_opt::<i32>().is_some_and(|values| values.iter().flatten().any(is_in))
}

fn unless_gone<T>(read: std::io::Result<T>) -> Option<T> {
    match read {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        read => Some(read.expect("readable")),
    }
}

/// The files below a directory that hold a text, Parquet decoded.
fn files_with(directory: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
            continue;
        }
        // What is not needed any more is removed by the server meanwhile.
        let Some(bytes) = unless_gone(fs::read(&path)) else { continue };
        let mut is_in = holds(&bytes, text);
        if path.extension().is_some_and(|extension| extension == "parquet") {
            let Some(file) = unless_gone(fs::File::open(&path)) else { continue };
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build().expect("a reader");
            for batch in reader {
                let batch = batch.expect("rows");
                is_in |= batch.columns().iter().any(|column| array_holds(column, text));
            }
        }
        if is_in {
            found.push(path);
        }
    }
    found
}

fn assert_nowhere(node: &TestNode) {
    for text in [KEY, NOTE] {
        let found = files_with(&node.data_directory(), text);
        assert!(found.is_empty(), "'{text}' is still in {found:?}");
    }
}

async fn request(node: &TestNode, key: &str) -> Erasure {
    let permit = node.permit(Action::Erase);
    let customer = "customer".parse().expect("a name");
    node.use_cases().erasures.request(&permit, &customer, &name_of(key)).await.expect("it is taken")
}

async fn finished(node: &TestNode, id: u64) -> Erasure {
    let permit = node.permit(Action::Erase);
    let waiting = node.use_cases().erasures.finished(&permit, id);
    tokio::time::timeout_at(patience().into(), waiting).await.expect("in time").expect("it is there")
}

async fn flush(node: &TestNode) {
    for handle in node.use_cases().partitions.handles() {
        handle.flush(patience()).await.expect("flushed");
    }
}

/// A node that has the key in every place: history that was merged, tails, rows to come, a spine.
async fn lived_in() -> TestNode {
    let node = TestNode::start(VISITS).await;
    for minutes in 1..4 {
        node.put("visits", visits(minutes - 10, NOTE)).await;
        node.land().await;
    }
    node.compact().await;
    node.put("visits", visits(-2, NOTE)).await;
    node.put("visits", json!([visit(KEY, 60, NOTE), visit("neighbour 1", 60, "to come")])).await;
    flush(&node).await;
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_key_is_in_no_file_and_its_neighbours_stay() {
    let mut node = lived_in().await;
    let rows = json!([
        {"name": KEY, "friend": "neighbour 1", "at": START},
        {"name": "neighbour 2", "friend": KEY, "at": START},
        {"name": "neighbour 3", "friend": "neighbour 4", "at": START},
    ]);
    let saved = node.save("set", stored(node.store(&spine(&rows)).await, &["model"], AS_KNOWN)).await;
    let names: Vec<String> = (0..NEIGHBOURS).map(|number| format!("neighbour {number}")).collect();
    let of_neighbours = json!({ "name": names });
    let before = node.read(&["notes:note"], of_neighbours.clone()).await.column("notes__note");
    assert_eq!(node.one("notes:note", json!({"name": KEY})).await, NOTE);
    for place in ["log", "partitions", "history", "spines"] {
        let found = files_with(&node.data_directory().join(place), KEY);
        assert!(!found.is_empty(), "the test is about nothing: {place} never had the key");
    }

    let permit = node.permit(Action::Erase);
    let customer = "customer".parse().expect("a name");
    let (views, would) = node.use_cases().erasures.find(&permit, &customer, &name_of(KEY)).await.expect("looked");
    assert_eq!(views.iter().map(ToString::to_string).collect::<Vec<_>>(), ["notes", "shop_notes"]);
    let done = finished(&node, request(&node, KEY).await.id).await;
    assert_eq!(done.left.map(|left| left.has_rows()), Some(false));
    let (erased, found) = (done.erased, would);
    assert_eq!(
        (erased.online_rows, erased.tail_rows, erased.log_rows, erased.history_rows, erased.spine_rows),
        (found.online_rows, found.tail_rows, found.log_rows, found.history_rows, found.spine_rows)
    );
    // Two views: a row that reads find and one to come; two that had not landed; five in the log.
    assert_eq!((erased.online_rows, erased.tail_rows, erased.log_rows, erased.history_rows), (4, 4, 10, 6));
    assert_eq!((erased.spine_rows, erased.training_sets), (2, 1));
    assert_nowhere(&node);

    for _ in 0..2 {
        assert_eq!(node.one("notes:note", json!({"name": KEY})).await, "NOT_FOUND");
        assert_eq!(node.read(&["notes:note"], of_neighbours.clone()).await.column("notes__note"), before);
        let trained =
            node.one_trained("notes:note", json!({"name": "neighbour 5"}), &[START - 8 * MINUTE], AS_KNOWN).await;
        assert_eq!(trained, ["n-8"]);
        let pulled = node.pull_saved("set", 1, 0).await;
        assert_eq!(pulled.num_rows(), 1);
        let verified = node.verify("set", 1).await;
        assert!(!verified.is_same && verified.rows == 1);
        let set = node.sets().get(&node.permit(Action::ReadHistory), &saved.name, Some(1)).expect("it is kept");
        assert_eq!((set.lost[0].rows, set.lost[0].erasure.as_str()), (2, done.id.to_string().as_str()));
        assert_eq!((set.content_hash, set.statistics.len()), (saved.content_hash.clone(), 0));
        node.restart().await;
        assert_nowhere(&node);
    }
    // From the log alone nothing comes back either.
    let revived = node.revive_from_log().await;
    assert_eq!(revived.one("notes:note", json!({"name": KEY})).await, "NOT_FOUND");
    // And what is written later is a row like any other.
    node.put("visits", json!([visit(KEY, -9, "new")])).await;
    assert_eq!(node.one("notes:note", json!({"name": KEY})).await, "new");
    node.land().await;
    assert_eq!(node.one_trained("notes:note", json!({ "name": KEY }), &[START], AS_KNOWN).await, ["new"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_that_a_restart_cuts_off_is_finished_and_keeps_no_key() {
    let mut node = lived_in().await;
    // A backfill of the view holds it up, and is given up by it.
    let rows = node.batch("visits", &visits(-100, NOTE));
    let wanted = node.backfill_of("visits", "another", std::slice::from_ref(&rows));
    let mut intake = node.use_cases().backfills.begin(&node.permit(Action::Write), wanted).await.expect("it begins");
    let asked = request(&node, KEY).await;
    assert_eq!(request(&node, KEY).await.id, asked.id, "asked for again it is the same one");
    let given_up = loop {
        match intake.push(rows.slice(0, 0)).await {
            Ok(()) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert_eq!((given_up.code, given_up.reason), (Code::Aborted, "BACKFILL_GIVEN_UP"));
    let known = node.use_cases().erasures.get(&node.permit(Action::Erase), asked.id).expect("it is known");
    assert!(!known.is_done(), "the backfill still has its place");
    drop(intake);
    node.restart().await;
    let done = finished(&node, asked.id).await;
    assert!(done.is_done() && done.problem.is_none());
    assert_nowhere(&node);
    assert_eq!(node.one("notes:note", json!({"name": KEY})).await, "NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_key_of_the_entity_is_refused_and_a_value_is_never_repeated() {
    let node = TestNode::start(VISITS).await;
    let permit = node.permit(Action::Erase);
    let (customer, nobody) = ("customer".parse().expect("a name"), "nobody".parse().expect("a name"));
    let erasures = &node.use_cases().erasures;
    let unknown = erasures.request(&permit, &nobody, &name_of(KEY)).await.expect_err("no such entity");
    assert_eq!((unknown.code, unknown.reason), (Code::NotFound, "ENTITY_NOT_FOUND"));
    let other = vec![("shop".to_owned(), name_of(KEY)[0].1.clone())];
    let wrong = erasures.request(&permit, &customer, &other).await.expect_err("another key");
    assert_eq!((wrong.code, wrong.reason), (Code::InvalidArgument, "BAD_ENTITY_COLUMNS"));
    assert!(!format!("{wrong:?}").contains(KEY));
    let reader = node.permit(Action::ReadHistory);
    assert_eq!(erasures.get(&permit, 7).expect_err("none").reason, "ERASURE_NOT_FOUND");
    assert!(erasures.list(&reader, None, 9).is_err(), "another action's permit does not do");
}

const SHELVES: &str = "
apiVersion: hydrant/v1
kind: Entity
metadata: {name: user}
spec: {joinKeys: [{name: id, type: int64}]}
---
apiVersion: hydrant/v1
kind: Entity
metadata: {name: item}
spec: {joinKeys: [{name: id, type: int64}]}
---
apiVersion: hydrant/v1
kind: Source
metadata: {name: events}
spec:
  type: push
  eventTime: happened
  columns: [{name: id, type: int64}, {name: happened, type: timestamp}, {name: level, type: int64}]
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: profile}
spec: {entities: [user], source: events, features: [{name: level}]}
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: stock}
spec: {entities: [item], source: events, features: [{name: level}]}
---
{apiVersion: hydrant/v1, kind: FeatureService, metadata: {name: of_users}, spec: {features: [profile]}}
---
{apiVersion: hydrant/v1, kind: FeatureService, metadata: {name: of_items}, spec: {features: [stock]}}
---
{apiVersion: hydrant/v1, kind: FeatureService, metadata: {name: of_both}, spec: {features: [profile, {view: stock, keys: {id: item_id}}]}}
";

#[tokio::test(flavor = "multi_thread")]
async fn another_entity_with_a_join_key_of_the_same_name_keeps_its_rows() {
    let node = TestNode::start(SHELVES).await;
    // Spines of different columns, so that none is another's.
    let save = async |name: &str, services: &[&str], rows: Json| {
        let id = node.store(&spine(&rows)).await;
        node.save(name, stored(id, services, AS_KNOWN)).await;
    };
    save("users", &["of_users"], json!([{"id": 42, "u": 1, "at": START}, {"id": 7, "u": 1, "at": START}])).await;
    save("items", &["of_items"], json!([{"id": 42, "i": 1, "at": START}, {"id": 7, "i": 1, "at": START}])).await;
    let pairs = json!([{"id": 42, "item_id": 7, "at": START}, {"id": 7, "item_id": 42, "at": START}, {"id": 8, "item_id": 8, "at": START}]);
    save("pairs", &["of_both"], pairs).await;
    // Nobody says of whom this one is.
    node.store(&spine(&json!([{"id": 42, "nobody": 1, "at": START}]))).await;
    let permit = node.permit(Action::Erase);
    let of_user = vec![("id".to_owned(), Arc::new(Int64Array::from(vec![42])) as ArrayRef)];
    let user = "user".parse().expect("a name");
    let (views, found) = node.use_cases().erasures.find(&permit, &user, &of_user).await.expect("looked");
    assert_eq!(views.iter().map(ToString::to_string).collect::<Vec<_>>(), ["profile"]);
    assert_eq!((found.spine_rows, found.spines, found.training_sets), (3, 3, 2));
    let asked = node.use_cases().erasures.request(&permit, &user, &of_user).await.expect("it is taken");
    let done = finished(&node, asked.id).await;
    assert_eq!((done.erased.spine_rows, done.erased.spines, done.erased.training_sets), (3, 3, 2));
    for (set, column, left) in
        [("users", "id", vec![7]), ("items", "id", vec![42, 7]), ("pairs", "item_id", vec![42, 8])]
    {
        let pulled = node.pull_saved(set, 1, 0).await;
        let column = pulled.column_by_name(column).expect("a spine's column").as_primitive::<Int64Type>().values();
        assert_eq!(column.to_vec(), left, "{set}");
    }
}

/// The definitions with the feature of `notes` called otherwise.
fn called(feature: &str) -> String {
    let (views, _) = VISITS.split_once("---\napiVersion: hydrant/v1\nkind: FeatureService").expect("it is last");
    let notes = "metadata: {name: notes}\nspec: {entities: [customer], source: visits, features: [{name: note}]}";
    assert!(views.contains(notes));
    views.replace(notes, &notes.replace("{name: note}]", &format!("{{name: {feature}, column: note}}]")))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_views_left_that_were_deleted_or_given_up_is_erased_too() {
    let mut node = lived_in().await;
    let registry = node.use_cases().registry.clone();
    node.apply(&called("remark")).await;
    node.built().await;
    node.put("visits", visits(-1, NOTE)).await;
    flush(&node).await;
    node.land().await;
    // Back to the first version; the second, which was kept, is deleted, and a third given up.
    node.apply(&called("note")).await;
    let notes = "notes".parse().expect("a name");
    let change = node.permit(Action::ChangeDefinitions);
    registry.delete_view_version(&change, &notes, 2, String::new()).await.expect("nothing reads it");
    node.apply(&called("memo")).await;
    node.apply(&called("note")).await;
    let view = "shop_notes".parse().expect("a name");
    registry.delete(&change, Kind::FeatureView, &view, String::new()).await.expect("nothing reads it");
    drop((registry, change));
    node.restart().await;
    let history = node.data_directory().join("history/default");
    for table in ["notes/v2", "shop_notes/v1"] {
        assert!(!files_with(&history.join(table), KEY).is_empty(), "the test is about nothing: {table}");
    }
    let permit = node.permit(Action::Erase);
    let customer = "customer".parse().expect("a name");
    let (views, _) = node.use_cases().erasures.find(&permit, &customer, &name_of(KEY)).await.expect("looked");
    assert_eq!(views.iter().map(ToString::to_string).collect::<Vec<_>>(), ["notes", "shop_notes"]);
    drop(permit);
    let done = finished(&node, request(&node, KEY).await.id).await;
    assert_eq!(done.left.map(|left| left.has_rows()), Some(false));
    assert_nowhere(&node);
    node.restart().await;
    assert_nowhere(&node);
    assert_eq!(node.one("notes:note", json!({"name": "neighbour 1"})).await, "n-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_and_goes_while_an_erasure_waits_is_erased_too() {
    let node = lived_in().await;
    let rows = node.batch("visits", &visits(-100, "held up"));
    let wanted = node.backfill_of("visits", "another", std::slice::from_ref(&rows));
    let intake = node.use_cases().backfills.begin(&node.permit(Action::Write), wanted).await.expect("it begins");
    let asked = request(&node, KEY).await;
    // A view that has the entity, with rows; a service that calls its key otherwise, with a spine; and one goes.
    node.apply(
        "
{apiVersion: hydrant/v1, kind: FeatureView, metadata: {name: later}, spec: {entities: [customer], source: visits, features: [{name: note}]}}
---
{apiVersion: hydrant/v1, kind: FeatureService, metadata: {name: of_pals}, spec: {features: [{view: later, keys: {name: pal}}]}}
",
    )
    .await;
    node.put("visits", visits(-1, NOTE)).await;
    node.land().await;
    assert_eq!(node.one("later:note", json!({"name": KEY})).await, NOTE);
    let pals = json!([{"pal": KEY, "at": START}, {"pal": "neighbour 1", "at": START}]);
    node.save("pals", stored(node.store(&spine(&pals)).await, &["of_pals"], AS_KNOWN)).await;
    let view = "shop_notes".parse().expect("a name");
    let change = node.permit(Action::ChangeDefinitions);
    let deleted = node.use_cases().registry.delete(&change, Kind::FeatureView, &view, String::new()).await;
    deleted.expect("nothing reads it");
    assert_eq!(request(&node, KEY).await.id, asked.id, "it is the same key, whatever was defined since");
    let known = node.use_cases().erasures.get(&node.permit(Action::Erase), asked.id).expect("it is known");
    assert_eq!((known.is_done(), known.through), (false, None), "the backfill still has its place");
    drop(intake);
    let done = finished(&node, asked.id).await;
    assert_eq!(done.left.map(|left| left.has_rows()), Some(false));
    assert_nowhere(&node);
    assert_eq!(node.one("later:note", json!({"name": KEY})).await, "NOT_FOUND");
    assert_eq!(node.one("later:note", json!({"name": "neighbour 1"})).await, "n-1");
    assert_eq!(node.pull_saved("pals", 1, 0).await.num_rows(), 1);
}
