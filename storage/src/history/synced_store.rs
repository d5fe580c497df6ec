//! An object store over [`Files`]: what is put is durable, content and name, before the put
//! returns, and appears whole or not at all. The table's log is written through it; object_store's
//! own local store syncs nothing.

use std::fmt;
use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyMode, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

use crate::files::{Files, remove_if_there};

/// The end of the names of files that aren't whole yet; one that a crash left may be removed.
pub(crate) const TEMPORARY_SUFFIX: &str = ".tmp";

/// An object store in one directory.
#[derive(Clone)]
pub struct SyncedStore {
    files: Arc<dyn Files>,
    root: Arc<FilePath>,
    sync_failed: Arc<AtomicBool>,
}

impl SyncedStore {
    pub fn new(files: Arc<dyn Files>, root: &FilePath) -> Self {
        Self { files, root: root.into(), sync_failed: Arc::default() }
    }

    /// The same store, of another directory; they share [`SyncedStore::has_failed_to_sync`].
    pub fn at(&self, root: &FilePath) -> Self {
        Self { files: self.files.clone(), root: root.into(), sync_failed: self.sync_failed.clone() }
    }

    /// Whether the name of an object that is already visible could not be made durable. Nothing
    /// that is read from the store since can be relied on to outlive a power cut.
    pub fn has_failed_to_sync(&self) -> bool {
        self.sync_failed.load(Ordering::Acquire)
    }

    /// Runs file operations where they may block.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> Result<T> + Send + 'static) -> Result<T> {
        let store = self.clone();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => runtime.spawn_blocking(move || work(&store)).await?,
            Err(_) => work(&store),
        }
    }

    fn path_of(&self, location: &Path) -> PathBuf {
        self.root.join(location.as_ref())
    }

    fn put_now(&self, location: &Path, payload: &PutPayload, mode: &PutMode) -> Result<()> {
        let replace = match mode {
            PutMode::Overwrite => true,
            PutMode::Create => false,
            PutMode::Update(_) => {
                return Err(Error::NotImplemented {
                    operation: "conditional put".into(),
                    implementer: self.to_string(),
                });
            }
        };
        let path = self.path_of(location);
        let parent = path.parent().unwrap_or(&self.root);
        self.files.create_dir_all(parent).map_err(|error| to_error(location, error))?;

        let temporary = path.with_added_extension(format!("{}{TEMPORARY_SUFFIX}", uuid::Uuid::new_v4().simple()));
        if let Err(error) = self.write_named(&temporary, payload, &path, replace) {
            // What is left only takes room, and goes when the table is opened again.
            let _ = remove_if_there(self.files.as_ref(), &temporary);
            return Err(to_error(location, error));
        }
        self.files.sync_dir(parent).map_err(|error| {
            self.sync_failed.store(true, Ordering::Release);
            to_error(location, error)
        })
    }

    fn write_named(
        &self,
        temporary: &FilePath,
        payload: &PutPayload,
        path: &FilePath,
        replace: bool,
    ) -> io::Result<()> {
        let mut file = self.files.create_new(temporary)?;
        for part in payload.iter() {
            file.write_all(part)?;
        }
        file.sync()?;
        drop(file);
        if replace { self.files.rename(temporary, path) } else { self.files.rename_no_replace(temporary, path) }
    }

    fn get_now(&self, location: &Path, options: &GetOptions) -> Result<GetResult> {
        let meta = self.meta_now(location)?;
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) => range
                .as_range(meta.size)
                .map_err(|error| Error::Generic { store: "SyncedStore", source: Box::new(error) })?,
            None => 0..meta.size,
        };
        let bytes = if options.head || range.is_empty() {
            Bytes::new()
        } else {
            let length = usize::try_from(range.end - range.start)
                .map_err(|error| Error::Generic { store: "SyncedStore", source: Box::new(error) })?;
            let read = self.files.read_range(&self.path_of(location), range.start, length);
            Bytes::from(read.map_err(|error| to_error(location, error))?)
        };
        let payload = GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed());
        Ok(GetResult { payload, meta, range, attributes: Attributes::default() })
    }

    fn meta_now(&self, location: &Path) -> Result<ObjectMeta> {
        let metadata = self.files.metadata(&self.path_of(location)).map_err(|error| to_error(location, error))?;
        if metadata.is_dir {
            return Err(to_error(location, io::ErrorKind::NotFound.into()));
        }
        Ok(ObjectMeta {
            location: location.clone(),
            last_modified: metadata.modified.into(),
            size: metadata.len,
            e_tag: None,
            version: None,
        })
    }

    /// The objects and directories directly in one.
    fn list_now(&self, prefix: &Path) -> Result<ListResult> {
        let mut listed = ListResult { common_prefixes: Vec::new(), objects: Vec::new() };
        let entries = match self.files.list(&self.path_of(prefix)) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(listed);
            }
            entries => entries.map_err(|error| to_error(prefix, error))?,
        };
        for entry in entries {
            let Some(name) = entry.name.to_str().filter(|name| !name.ends_with(TEMPORARY_SUFFIX)) else { continue };
            // A name that no object can have was not put here by a store.
            let Ok(location) = Path::parse(format!("{prefix}/{name}").trim_start_matches('/')) else { continue };
            if entry.metadata.is_dir {
                listed.common_prefixes.push(location);
            } else {
                listed.objects.push(ObjectMeta {
                    location,
                    last_modified: entry.metadata.modified.into(),
                    size: entry.metadata.len,
                    e_tag: None,
                    version: None,
                });
            }
        }
        Ok(listed)
    }

    fn list_all_now(&self, prefix: &Path) -> Result<Vec<ObjectMeta>> {
        let (mut objects, mut directories) = (Vec::new(), vec![prefix.clone()]);
        while let Some(directory) = directories.pop() {
            let listed = self.list_now(&directory)?;
            objects.extend(listed.objects);
            directories.extend(listed.common_prefixes);
        }
        objects.sort_by(|left, right| left.location.cmp(&right.location));
        Ok(objects)
    }
}

impl fmt::Display for SyncedStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SyncedStore({})", self.root.display())
    }
}

impl fmt::Debug for SyncedStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[async_trait]
impl ObjectStore for SyncedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let location = location.clone();
        self.blocking(move |store| store.put_now(&location, &payload, &options.mode)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(GatheredUpload { store: self.clone(), location: location.clone(), parts: Vec::new() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let location = location.clone();
        self.blocking(move |store| store.get_now(&location, &options)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let delete = move |location: Result<Path>| {
            let store = store.clone();
            async move {
                let location = location?;
                let removed = location.clone();
                let remove = move |store: &Self| {
                    store.files.remove(&store.path_of(&removed)).map_err(|error| to_error(&removed, error))
                };
                store.blocking(remove).await?;
                Ok(location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned().unwrap_or_default());
        let listed = async move { store.blocking(move |store| store.list_all_now(&prefix)).await };
        let objects = listed.map(|objects| match objects {
            Ok(objects) => stream::iter(objects.into_iter().map(Ok)).boxed(),
            Err(error) => stream::once(async { Err(error) }).boxed(),
        });
        objects.flatten_stream().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.cloned().unwrap_or_default();
        self.blocking(move |store| store.list_now(&prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let mode = match options.mode {
            CopyMode::Overwrite => PutMode::Overwrite,
            CopyMode::Create => PutMode::Create,
        };
        let (from, to) = (from.clone(), to.clone());
        let copy = move |store: &Self| {
            let content = store.files.read(&store.path_of(&from)).map_err(|error| to_error(&from, error))?;
            store.put_now(&to, &content.into(), &mode)
        };
        self.blocking(copy).await
    }
}

/// An upload in parts. Only checkpoints of a table's log come this way, and these are small: the
/// parts are gathered and put at once.
#[derive(Debug)]
struct GatheredUpload {
    store: SyncedStore,
    location: Path,
    parts: Vec<Bytes>,
}

#[async_trait]
impl MultipartUpload for GatheredUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.parts.extend(data);
        async { Ok(()) }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let payload: PutPayload = std::mem::take(&mut self.parts).into_iter().collect();
        self.store.put_opts(&self.location, payload, PutOptions::default()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.parts.clear();
        Ok(())
    }
}

fn to_error(location: &Path, error: io::Error) -> Error {
    let path = location.to_string();
    match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound { path, source: error.into() },
        io::ErrorKind::AlreadyExists => Error::AlreadyExists { path, source: error.into() },
        io::ErrorKind::PermissionDenied => Error::PermissionDenied { path, source: error.into() },
        _ => Error::Generic { store: "SyncedStore", source: error.into() },
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use futures::executor::block_on;
    use object_store::ObjectStoreExt;

    use super::*;
    use crate::files::LossyFiles;
    use crate::files::lossy::Fault;

    fn store(seed: u64) -> (LossyFiles, SyncedStore) {
        let files = LossyFiles::new(seed);
        let store = SyncedStore::new(Arc::new(files.clone()), FilePath::new("/table"));
        (files, store)
    }

    fn create() -> PutOptions {
        PutOptions { mode: PutMode::Create, ..PutOptions::default() }
    }

    #[test]
    fn what_was_put_survives_a_power_cut_whole() {
        for seed in 0..100 {
            let (files, store) = store(seed);
            let location = Path::from("_delta_log/1.json");
            block_on(store.put_opts(&location, "one".into(), create())).expect("put");
            let survivor = SyncedStore::new(Arc::new(files.after_power_cut(seed)), FilePath::new("/table"));
            let found = block_on(async { survivor.get(&location).await?.bytes().await }).expect("get");
            assert_eq!(found, "one");
        }
    }

    #[test]
    fn a_put_cut_short_at_any_operation_leaves_nothing_or_all() {
        for seed in 0..200 {
            let (files, store) = store(seed);
            let location = Path::from("_delta_log/1.json");
            files.fail_on(seed % 8, Fault::Device);
            let put = block_on(store.put_opts(&location, "content".into(), create()));
            files.heal();
            files.crash();
            let found = block_on(async { store.get(&location).await?.bytes().await });
            match found {
                Ok(found) => assert_eq!(found, "content"),
                Err(Error::NotFound { .. }) => assert!(put.is_err(), "seed {seed}: a put that succeeded was lost"),
                Err(other) => panic!("seed {seed}: {other}"),
            }
        }
    }

    #[test]
    fn a_name_is_created_once_and_replaced_when_asked() {
        let (_, store) = store(1);
        let location = Path::from("a/b");
        block_on(store.put_opts(&location, "one".into(), create())).expect("put");
        let again = block_on(store.put_opts(&location, "two".into(), create()));
        assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
        block_on(store.put(&location, "three".into())).expect("replace");
        assert_eq!(block_on(store.get_range(&location, 1..4)).expect("get"), "hre");
        let names: Vec<String> =
            block_on(store.list(None).map_ok(|meta| meta.location.to_string()).try_collect()).expect("list");
        assert_eq!(names, ["a/b"], "no temporary file is left or listed");
        block_on(store.delete(&location)).expect("delete");
        assert!(matches!(block_on(store.head(&location)), Err(Error::NotFound { .. })));
    }

    #[test]
    fn a_visible_name_that_was_not_synced_is_remembered() {
        let (files, store) = store(1);
        block_on(store.put(&Path::from("first"), "makes the directory".into())).expect("put");
        // create, write, sync and link come before the directory is synced.
        let mut failed = false;
        for skipped in 0..20 {
            files.fail_once(skipped, Fault::Device);
            let put = block_on(store.put(&Path::from(format!("n{skipped}")), "x".into()));
            files.heal();
            let visible = files.exists(FilePath::new(&format!("/table/n{skipped}"))).expect("exists");
            failed |= put.is_err() && visible;
            assert_eq!(store.has_failed_to_sync(), failed, "after {skipped} operations");
        }
        assert!(failed && store.at(FilePath::new("/other")).has_failed_to_sync());
    }
}
