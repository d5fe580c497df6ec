//! Files of folders and stores, found, read and told apart; and what is refused of Delta tables.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use super::object::Object;
use super::parquet_file::Bytewise;
use super::place::{self, Place};
use super::{Format, ParquetFile, SourceError, Wanted, dataset, open};

/// A file of one column, `id`, and a longer one, in row groups of so many rows.
fn parquet(ids: Range<i64>, group_rows: usize) -> Vec<u8> {
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(ids.clone().map(|id| format!("name {id:0>80}"))));
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(ids));
    let batch = RecordBatch::try_from_iter([("id", ids), ("name", names)]).expect("two columns");
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group_rows)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).expect("a writer");
    writer.write(&batch).expect("written");
    writer.into_inner().expect("finished")
}

async fn object(store: &Arc<dyn ObjectStore>, path: &str) -> Result<ParquetFile, SourceError> {
    let looked = Object::look(store.clone(), ObjectPath::from(path), format!("s3://b/{path}")).await?;
    let bytes = Bytewise::Object(looked.expect("there is an object"));
    let path = format!("s3://b/{path}");
    tokio::task::spawn_blocking(move || ParquetFile::open(path, bytes, None)).await.expect("no panic")
}

/// The ids of a file's rows from one on.
async fn ids(file: &ParquetFile, first: u64) -> Result<Vec<i64>, SourceError> {
    let file = file.clone();
    let read = tokio::task::spawn_blocking(move || {
        let mut ids = Vec::new();
        for batch in file.batches_from(1_000, first, None)? {
            ids.extend(batch?.column(0).as_primitive::<Int64Type>().values());
        }
        Ok(ids)
    });
    read.await.expect("no panic")
}

fn in_memory() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}

async fn put(store: &Arc<dyn ObjectStore>, path: &str, bytes: Vec<u8>) {
    store.put(&ObjectPath::from(path), bytes.into()).await.expect("put");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_read_from_any_row_on_as_a_local_file_is() {
    let (store, bytes) = (in_memory(), parquet(0..20_000, 3_000));
    put(&store, "a.parquet", bytes.clone()).await;
    let file = object(&store, "a.parquet").await.expect("opened");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.parquet");
    std::fs::write(&path, bytes).expect("written");
    let local = ParquetFile::open_local(&path).expect("opened");
    assert_eq!((file.rows(), file.schema()), (local.rows(), local.schema()));
    for first in [0, 1, 2_999, 3_000, 7_777, 19_999, 20_000] {
        let expected: Vec<i64> = (first as i64..20_000).collect();
        assert_eq!(ids(&file, first).await.expect("readable"), expected, "from row {first}");
        assert_eq!(ids(&local, first).await.expect("readable"), expected, "from row {first}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_changed_is_refused_and_has_another_identity() {
    let store = in_memory();
    put(&store, "a.parquet", parquet(0..5_000, 1_000)).await;
    let before = object(&store, "a.parquet").await.expect("opened");
    let again = object(&store, "a.parquet").await.expect("opened");
    let hash = |file: &ParquetFile| file.content_hash().expect("a hash");
    assert_eq!(hash(&before), hash(&again));

    // As long as before, and its footer says nothing else either.
    put(&store, "a.parquet", parquet(0..5_000, 1_000)).await;
    let refused = ids(&before, 0).await.expect_err("another object");
    assert!(matches!(&refused, SourceError::Changed { location } if location == "s3://b/a.parquet"), "{refused}");
    let after = object(&store, "a.parquet").await.expect("opened");
    assert_ne!(hash(&before), hash(&after));

    // In the middle: the footer and the first group were read before it changed.
    let file = after.clone();
    let (read, go_on) = (tokio::sync::oneshot::channel(), std::sync::mpsc::sync_channel::<()>(1));
    let reading = tokio::task::spawn_blocking(move || {
        // What is read ahead is as large as such a file, so the reader begins only now.
        let mut batches = file.batches_from(100, 0, None).expect("opened");
        read.0.send(()).expect("awaited");
        go_on.1.recv().expect("told");
        batches.find_map(Result::err)
    });
    read.1.await.expect("begun");
    put(&store, "a.parquet", parquet(1..5_001, 1_000)).await;
    go_on.0.send(()).expect("awaited");
    let refused = reading.await.expect("no panic").expect("another object");
    assert!(matches!(refused, SourceError::Changed { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_parquet_is_refused_whatever_its_end_claims() {
    let store = in_memory();
    let sound = parquet(0..100, 100);
    let mut longer = sound.clone();
    let at = longer.len() - 8;
    longer[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut beyond = sound.clone();
    beyond[at..at + 4].copy_from_slice(&(sound.len() as u32 + 9).to_le_bytes());
    for bytes in [Vec::new(), b"PAR1".to_vec(), vec![7; 5_000], longer, beyond, sound[..sound.len() - 1].to_vec()] {
        put(&store, "bad.parquet", bytes).await;
        let refused = object(&store, "bad.parquet").await.expect_err("no Parquet");
        assert!(matches!(refused, SourceError::NotParquet { .. }), "{refused}");
    }
    put(&store, "rows.csv", b"origin,carrier\nEWR,UA\n".to_vec()).await;
    let refused = object(&store, "rows.csv").await.expect_err("no Parquet").to_string();
    assert!(refused.ends_with("it doesn't end as Parquet files do"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_its_parquet_files_in_the_order_of_their_paths() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    for (name, first) in [("b.parquet", 2), ("a/z.parquet", 1), ("c/d/e.parquet", 3), ("_temporary/x.parquet", 9)] {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, parquet(first..first + 1, 10)).expect("written");
    }
    std::fs::write(root.join("_SUCCESS"), "").expect("written");
    std::fs::write(root.join("notes.txt"), "none").expect("written");
    std::fs::write(root.join(".a.parquet.crc"), "none").expect("written");
    let files = open(&root.display().to_string(), Wanted::default()).await.expect("opened");
    let mut all = Vec::new();
    for file in &files {
        all.extend(ids(file, 0).await.expect("readable"));
    }
    assert_eq!(all, [1, 2, 3]);

    let version = Wanted { delta_version: Some(1), ..Wanted::default() };
    let refused = open(&root.display().to_string(), version).await.expect_err("no table");
    assert!(matches!(refused, SourceError::Unsupported { .. }), "{refused}");
    let delta = Wanted { format: Format::Delta, ..Wanted::default() };
    assert!(open(&root.display().to_string(), delta).await.is_err());
    let empty = root.join("empty");
    std::fs::create_dir(&empty).expect("made");
    let refused = open(&empty.display().to_string(), Wanted::default()).await.expect_err("nothing");
    assert!(matches!(refused, SourceError::Nothing { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_only_the_folders_names_hold_is_not_left_out() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, refused) in [("id=7", false), ("day=2024-01-01", true)] {
        let root = folder.path().join(format!("of {name}"));
        std::fs::create_dir_all(root.join(name)).expect("made");
        std::fs::write(root.join(name).join("a.parquet"), parquet(7..8, 10)).expect("written");
        let opened = open(&root.display().to_string(), Wanted::default()).await;
        assert_eq!(opened.is_err(), refused, "{name}");
        if let Err(error) = opened {
            assert!(error.to_string().contains("'day'"), "{error}");
        }
    }
}

#[test]
fn urls_name_a_bucket_and_a_path_and_no_secret() {
    for (written, is_store) in [
        ("s3://bucket/a/b.parquet", true),
        ("gs://bucket/a", true),
        ("abfss://container@account.dfs.core.windows.net/a", true),
        ("rows.parquet", false),
        ("folder/a=b", false),
    ] {
        let place = place::parse(written).unwrap_or_else(|error| panic!("{written}: {error}"));
        assert_eq!(matches!(place, Place::Store(_)), is_store, "{written}");
    }
    for written in [
        "s3://key:hunter2@bucket/a",
        "s3://hunter2@bucket/a",
        "s3://bucket/a?X-Amz-Signature=hunter2",
        "az://container/a?sig=hunter2",
        "https://example.com/a.parquet?token=hunter2",
        "hdfs://host/a",
        "s3://",
    ] {
        let refused = place::parse(written).expect_err(written).to_string();
        assert!(!refused.contains("hunter2"), "{refused}");
    }
}

#[test]
fn lineage_services_are_told_the_names_that_others_have_for_it() {
    for (written, namespace, name) in [
        ("s3://bucket/a/b.parquet", "s3://bucket", "a/b.parquet"),
        ("s3a://bucket/a/", "s3://bucket", "a"),
        ("gs://bucket", "gs://bucket", "/"),
        ("abfss://lake@account.dfs.core.windows.net/a/b", "abfss://lake@account.dfs.core.windows.net", "a/b"),
        ("/data/rows.parquet", "file", "/data/rows.parquet"),
        ("/data/./rows/", "file", "/data/rows"),
        ("file:///data/rows.parquet", "file", "/data/rows.parquet"),
    ] {
        let told = dataset(written).unwrap_or_else(|error| panic!("{written}: {error}"));
        assert_eq!(told, (namespace.to_owned(), name.to_owned()), "{written}");
    }
    let (namespace, name) = dataset("rows.parquet").expect("a path");
    assert!(namespace == "file" && name.starts_with('/') && name.ends_with("/rows.parquet"), "{name}");
    assert!(dataset("s3://bucket/a?X-Amz-Signature=hunter2").is_err());
}

#[test]
fn what_a_store_says_is_told_without_signatures() {
    let told = "GET https://a.blob.core.windows.net/c/x?sv=1&sig=hunter2 in 3s: (http://h/p?q=hunter2) failed";
    let told = place::without_secrets(told);
    assert!(!told.contains("hunter2") && told.contains("core.windows.net/c/x?… in 3s"), "{told}");
    assert_eq!(place::without_secrets("no URL: a?b"), "no URL: a?b");
}
