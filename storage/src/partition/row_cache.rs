//! Verified rows in memory, over all partitions of a process: what is read again and again costs
//! neither RocksDB nor a checksum. A cached row is handed out only to views in which it is the row;
//! which ones those are is decided by versions, so that nothing has to be searched and removed when
//! a row changes.
//!
//! Versions are numbers given out in order. A published view has one, and so has every change of an
//! online row: greater than those of the views published before it, smaller than those published
//! after. A row that was read through view `read`, and whose key last changed at `changed`, is
//! `view`'s row if `changed` is before both; the row that the change itself made is too, and is kept
//! in the place of the one before it. Changes are remembered by key hash in a table of fixed
//! size, so two keys may share a place; then a row is read once more than it had to be. A store that
//! is opened again may have lost rows that were not flushed, so each opening has a number too, and no
//! view takes a row that was read through another opening.

use std::cell::Cell;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{Equivalent, Weighter};

use crate::keys::{ONLINE_PREFIX_LENGTH, OnlineKey};
use crate::prefetch::prefetch;
use crate::row::OwnedRow;

/// Of each so many bytes of rows, one place remembers when a key last changed: a tenth of them, and more places than
/// rows.
const BYTES_PER_PLACE: usize = 256;
const MIN_PLACES: usize = 1 << 12;
/// Keys that are looked up together: what is fetched for them fits into the processor's nearest cache.
const TOGETHER: usize = 32;
/// What an entry takes beside its name and body, about: the cache's own bookkeeping, the row's
/// header, counts and allocator overhead.
const ENTRY_BYTES: u64 = 240;
/// For the cache's first guess at the number of its entries.
const TYPICAL_ROW_BYTES: usize = 512;

/// Of all partitions that share it.
pub(super) struct RowCache {
    /// `None`: of size 0, nothing is kept.
    rows: Option<Rows>,
    /// Of this process.
    seed: u64,
    places: Box<[Place]>,
    versions: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What is remembered of the keys whose hashes lead here.
#[derive(Default)]
struct Place {
    /// The version at which one of them last changed.
    changed: AtomicU64,
    /// Where the row lies that was last to be kept or asked for of them, and where the cache has its key: for the
    /// processor to fetch, and never read, for they may be gone.
    row: AtomicPtr<OwnedRow>,
    key: AtomicPtr<CacheKey>,
}

/// What is known of a key: its row, or that it has none.
pub(super) type Known = Option<Arc<OwnedRow>>;

type Rows = Cache<CacheKey, CachedRow, ByBytes, HashAsIs>;

#[derive(Clone)]
struct CachedRow {
    row: Known,
    /// The view that it was read through.
    read: ViewVersion,
}

/// A view, as the cache knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ViewVersion {
    pub version: u64,
    /// The version that was given out when its store was opened.
    pub opened: u64,
}

#[derive(Clone)]
struct CacheKey {
    hash: u64,
    name: StoredName,
}

/// An encoded name. Most are so short that they lie in the entry itself, which spares a wait for memory.
#[derive(Clone)]
enum StoredName {
    Short { length: u8, bytes: [u8; StoredName::SHORT] },
    Long(Box<[u8]>),
}

/// A key that is looked for.
struct Probe<'a> {
    hash: u64,
    prefix: [u8; ONLINE_PREFIX_LENGTH],
    key: &'a [u8],
    /// Where the cache was found to have it.
    found: Cell<*const CacheKey>,
}

#[derive(Clone)]
struct ByBytes;

/// Keys bring their hash along.
#[derive(Clone, Default)]
struct HashAsIs(u64);

impl RowCache {
    /// One that holds about so many bytes.
    pub fn new(bytes: usize) -> Self {
        let make = || {
            let (lifecycle, items) = (DefaultLifecycle::default(), (bytes / TYPICAL_ROW_BYTES).max(16));
            Cache::with(items, bytes as u64, ByBytes, HashAsIs::default(), lifecycle)
        };
        let places = (bytes / BYTES_PER_PLACE).max(MIN_PLACES);
        let places = std::iter::repeat_with(Place::default).take(places).collect();
        Self {
            rows: (bytes > 0).then(make),
            seed: RandomState::new().hash_one(0),
            places,
            versions: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// A version greater than all given out before.
    pub fn next_version(&self) -> u64 {
        self.versions.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Says that the online rows of these names are about to change, to be seen by views published
    /// from now on only. Gives the change's version.
    pub fn change<'a>(&self, names: impl Iterator<Item = OnlineKey<'a>>) -> u64 {
        let version = self.next_version();
        if self.rows.is_some() {
            for name in names {
                self.place_of(name.hash(self.seed)).changed.fetch_max(version, Ordering::AcqRel);
            }
        }
        version
    }

    /// Once a change is written: keeps the row that it made of a name, if the one before it was kept.
    /// So who is asked for again and again stays in memory, and who is only written doesn't come in.
    pub fn replace(&self, name: &OnlineKey<'_>, change: ViewVersion, row: impl FnOnce() -> OwnedRow) {
        let Some(rows) = &self.rows else { return };
        let probe = Probe::of(name, name.hash(self.seed));
        if !rows.contains_key(&probe) || self.has_changed_since(probe.hash, change) {
            return;
        }
        let kept = CachedRow { row: Some(Arc::new(row())), read: change };
        self.place_of(probe.hash).note_row(&kept.row);
        // Who is written is not asked for, and goes as soon as before; who has gone meanwhile stays gone.
        let _gone = rows.replace(CacheKey::of(name, probe.hash), kept, true);
    }

    /// What is known of the row of each key in a view, with the key's index. What is asked for together is waited for
    /// together: while one is looked up, memory brings what the next ones need.
    pub fn get_each(&self, names: &[OnlineKey<'_>], view: ViewVersion, mut tell: impl FnMut(usize, Option<Known>)) {
        let Some(rows) = &self.rows else { return (0..names.len()).for_each(|index| tell(index, None)) };
        let mut index = 0;
        for names in names.chunks(TOGETHER) {
            let mut hashes = [0; TOGETHER];
            for (hash, name) in hashes.iter_mut().zip(names) {
                *hash = name.hash(self.seed);
                self.place_of(*hash).soon_asked();
            }
            // Of a lone one it would be waited for just the same.
            if names.len() > 1 {
                hashes[..names.len()].iter().for_each(|hash| self.place_of(*hash).soon_read());
            }
            for (name, hash) in names.iter().zip(hashes) {
                tell(index, self.get_hashed(rows, name, hash, view));
                index += 1;
            }
        }
    }

    fn get_hashed(&self, rows: &Rows, name: &OnlineKey<'_>, hash: u64, view: ViewVersion) -> Option<Known> {
        let probe = Probe::of(name, hash);
        let cached = rows.get(&probe)?;
        let place = self.place_of(hash);
        place.note_row(&cached.row);
        place.note_key(probe.found.get());
        // After the entry, whose reader saw every change up to its version.
        let changed = place.changed.load(Ordering::Acquire);
        let holds = cached.read.opened == view.opened && changed <= cached.read.version.min(view.version);
        holds.then_some(cached.row)
    }

    #[cfg(test)]
    fn get(&self, name: &OnlineKey<'_>, view: ViewVersion) -> Option<Known> {
        let mut known = None;
        self.get_each(&[*name], view, |_, told| known = told);
        known
    }

    /// Keeps a row that was read through a view.
    pub fn put(&self, name: &OnlineKey<'_>, row: &Known, view: ViewVersion) {
        let Some(rows) = &self.rows else { return };
        let hash = name.hash(self.seed);
        if !self.has_changed_since(hash, view) {
            self.place_of(hash).note_row(row);
            rows.insert(CacheKey::of(name, hash), CachedRow { row: row.clone(), read: view });
        }
    }

    /// Then no later view would take what is known as of this version.
    fn has_changed_since(&self, hash: u64, known: ViewVersion) -> bool {
        self.place_of(hash).changed.load(Ordering::Acquire) > known.version
    }

    pub fn count(&self, hits: usize, misses: usize) {
        self.hits.fetch_add(hits as u64, Ordering::Relaxed);
        self.misses.fetch_add(misses as u64, Ordering::Relaxed);
    }

    /// Bytes in use, as far as they are counted.
    pub fn used_bytes(&self) -> usize {
        self.rows.as_ref().map_or(0, |rows| usize::try_from(rows.weight()).unwrap_or(usize::MAX))
    }

    /// Keys found, and not found, since the start.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }

    fn place_of(&self, hash: u64) -> &Place {
        // A fraction of them, by bits that the cache doesn't choose its own places by.
        let fraction = u128::from(hash.rotate_left(8));
        &self.places[((fraction * self.places.len() as u128) >> 64) as usize]
    }
}

impl Place {
    fn note_row(&self, row: &Known) {
        if let Some(row) = row {
            note(&self.row, Arc::as_ptr(row));
        }
    }

    fn note_key(&self, key: *const CacheKey) {
        note(&self.key, key);
    }

    /// Has the processor fetch this place.
    fn soon_asked(&self) {
        prefetch_all(ptr::from_ref(self));
    }

    /// Has the processor fetch the row that was last kept here, and its entry in the cache.
    fn soon_read(&self) {
        let row = self.row.load(Ordering::Relaxed).cast_const();
        // Its counts, which whoever takes it changes, lie before it.
        prefetch(row.cast::<usize>().wrapping_sub(2));
        prefetch(row.wrapping_add(1).cast::<u8>().wrapping_sub(1));
        // What the entry says of the key probably lies beside it.
        let key = self.key.load(Ordering::Relaxed).cast_const();
        prefetch_all(key.cast::<(CacheKey, CachedRow)>());
    }
}

/// Writes only what is new: what is read by all is seldom written.
fn note<T>(place: &AtomicPtr<T>, at: *const T) {
    if place.load(Ordering::Relaxed).cast_const() != at {
        place.store(at.cast_mut(), Ordering::Relaxed);
    }
}

/// Its first and its last byte, which may lie in two of the lines that memory is fetched by.
fn prefetch_all<T>(at: *const T) {
    prefetch(at);
    prefetch(at.wrapping_add(1).cast::<u8>().wrapping_sub(1));
}

impl<'a> Probe<'a> {
    fn of(name: &OnlineKey<'a>, hash: u64) -> Self {
        Self { hash, prefix: name.prefix(), key: name.key, found: Cell::new(ptr::null()) }
    }
}

impl fmt::Debug for RowCache {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RowCache").field("used_bytes", &self.used_bytes()).finish_non_exhaustive()
    }
}

impl CacheKey {
    fn of(name: &OnlineKey<'_>, hash: u64) -> Self {
        Self { hash, name: StoredName::of(name) }
    }
}

impl StoredName {
    /// The prefix and a key of one number, or of a few letters. An entry with it is as large as one with the
    /// place of a long one.
    const SHORT: usize = 22;

    fn of(name: &OnlineKey<'_>) -> Self {
        let length = ONLINE_PREFIX_LENGTH + name.key.len();
        let mut bytes = [0; Self::SHORT];
        match bytes.get_mut(..length) {
            Some(short) => {
                short[..ONLINE_PREFIX_LENGTH].copy_from_slice(&name.prefix());
                short[ONLINE_PREFIX_LENGTH..].copy_from_slice(name.key);
                Self::Short { length: length as u8, bytes }
            }
            None => {
                let mut bytes = Vec::with_capacity(length);
                name.encode(&mut bytes);
                Self::Long(bytes.into())
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Short { length, bytes } => &bytes[..usize::from(*length)],
            Self::Long(bytes) => bytes,
        }
    }
}

impl Equivalent<CacheKey> for Probe<'_> {
    fn equivalent(&self, stored: &CacheKey) -> bool {
        if self.hash != stored.hash {
            return false;
        }
        let (prefix, key) = stored.name.bytes().split_at(ONLINE_PREFIX_LENGTH);
        self.found.set(stored);
        prefix == self.prefix && key == self.key
    }
}

impl PartialEq for CacheKey {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.name.bytes() == other.name.bytes()
    }
}

impl Eq for CacheKey {}

impl Hash for CacheKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Hash for Probe<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Weighter<CacheKey, CachedRow> for ByBytes {
    fn weight(&self, key: &CacheKey, cached: &CachedRow) -> u64 {
        let body = cached.row.as_ref().map_or(0, |row| row.body().len());
        ENTRY_BYTES + (key.name.bytes().len() + body) as u64
    }
}

impl BuildHasher for HashAsIs {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

impl Hasher for HashAsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        unreachable!("{} bytes to hash: keys bring their hash along", bytes.len());
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{TenantId, ViewId};
    use crate::order::{Position, RowVersion};
    use crate::row::{RowHeader, RowKind};

    const NAME: OnlineKey<'_> = OnlineKey { slot: 7, tenant: TenantId(1), view: ViewId(3), key: b"key" };

    fn row(event_time: i64) -> Known {
        let position = Position { frame: 1, ordinal: 0 };
        let version = RowVersion { event_time, known_time: 0, position };
        let header = RowHeader { kind: RowKind::Tombstone, version, ingest_time: 0, revision: 1, feature_count: 0 };
        Some(Arc::new(OwnedRow::new(header, bytes::Bytes::new())))
    }

    /// A view of the first opening.
    fn publish(cache: &RowCache) -> ViewVersion {
        ViewVersion { version: cache.next_version(), opened: 1 }
    }

    #[test]
    fn a_row_is_handed_out_until_its_key_changes_and_to_no_view_that_has_another() {
        let cache = RowCache::new(1 << 20);
        let before = publish(&cache);
        cache.put(&NAME, &row(1), before);
        assert_eq!(cache.get(&NAME, before), Some(row(1)));
        let between = publish(&cache);
        assert_eq!(cache.get(&NAME, between), Some(row(1)), "a later view in which nothing changed");
        cache.change([NAME].into_iter());
        let after = publish(&cache);
        assert_eq!(cache.get(&NAME, after), None);
        cache.put(&NAME, &row(2), after);
        assert_eq!(cache.get(&NAME, after), Some(row(2)));
        assert_eq!(cache.get(&NAME, between), None, "an older view doesn't get what came after it");
    }

    #[test]
    fn the_row_that_a_change_made_takes_the_place_of_one_that_is_kept_and_no_other_comes_in() {
        let cache = RowCache::new(1 << 20);
        let before = publish(&cache);
        cache.put(&NAME, &row(1), before);
        let other = OnlineKey { view: ViewId(4), ..NAME };
        let change = ViewVersion { version: cache.change([NAME, other].into_iter()), opened: 1 };
        for name in [NAME, other] {
            cache.replace(&name, change, || OwnedRow::clone(&row(2).expect("a row")));
        }
        let after = publish(&cache);
        assert_eq!((cache.get(&NAME, before), cache.get(&NAME, after)), (None, Some(row(2))));
        assert_eq!(cache.get(&other, after), None, "it is written, and nobody has read it");
        cache.change([NAME].into_iter());
        cache.replace(&NAME, change, || OwnedRow::clone(&row(2).expect("a row")));
        assert_eq!(cache.get(&NAME, publish(&cache)), None, "it has changed again since");
    }

    #[test]
    fn rows_are_found_by_names_of_any_length_and_by_no_other_name() {
        let cache = RowCache::new(1 << 20);
        let view = publish(&cache);
        assert_eq!(size_of::<CacheKey>(), size_of::<(u64, Box<[u8]>, u64)>());
        let keys: Vec<Vec<u8>> = (0..40u8).map(|length| vec![7; usize::from(length)]).collect();
        for (event_time, key) in (0..).zip(&keys) {
            cache.put(&OnlineKey { key, ..NAME }, &row(event_time), view);
        }
        for (event_time, key) in (0..).zip(&keys) {
            let name = OnlineKey { key, ..NAME };
            let mut encoded = Vec::new();
            name.encode(&mut encoded);
            assert_eq!(StoredName::of(&name).bytes(), encoded);
            assert_eq!(cache.get(&name, view), Some(row(event_time)));
            let other = [key.as_slice(), &[8]].concat();
            assert_eq!(cache.get(&OnlineKey { key: &other, ..NAME }, view), None);
        }
        // More than are looked up together.
        let names: Vec<OnlineKey<'_>> = keys.iter().map(|key| OnlineKey { key, ..NAME }).collect();
        let mut told = Vec::new();
        cache.get_each(&names, view, |index, known| told.push((index, known)));
        let expected: Vec<_> = (0..).zip(0..40).map(|(event_time, index)| (index, Some(row(event_time)))).collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn where_the_cache_has_a_key_is_noted_as_it_is_found() {
        let cache = RowCache::new(1 << 20);
        let view = publish(&cache);
        cache.put(&NAME, &row(1), view);
        let noted = || cache.place_of(NAME.hash(cache.seed)).key.load(Ordering::Relaxed).cast_const();
        assert_eq!(noted(), ptr::null());
        cache.get(&NAME, view);
        let first = noted();
        cache.get(&NAME, view);
        assert!(!first.is_null() && noted() == first, "the entry itself has not moved");
    }

    #[test]
    fn keys_share_places_evenly_whatever_their_number() {
        for bytes in [0, 1 << 20, (3 << 20) + 1_000, (100 << 20) - 1] {
            let cache = RowCache::new(bytes);
            let first = cache.places.as_ptr();
            let mut counts = vec![0_u32; 10];
            for number in 0..10_000_u32 {
                let hash = OnlineKey { key: &number.to_le_bytes(), ..NAME }.hash(cache.seed);
                let place = (ptr::from_ref(cache.place_of(hash)).addr() - first.addr()) / size_of::<Place>();
                counts[place * 10 / cache.places.len()] += 1;
            }
            assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{bytes}: {counts:?}");
        }
    }

    #[test]
    fn a_row_read_before_a_change_is_not_kept_after_it() {
        let cache = RowCache::new(1 << 20);
        let view = publish(&cache);
        cache.change([NAME].into_iter());
        cache.put(&NAME, &row(1), view);
        assert_eq!(cache.get(&NAME, view), None);
        assert_eq!(cache.get(&NAME, publish(&cache)), None);
    }

    #[test]
    fn that_a_key_has_no_row_is_kept_too_but_for_no_other_opening() {
        let cache = RowCache::new(1 << 20);
        let view = publish(&cache);
        cache.put(&NAME, &None, view);
        assert_eq!(cache.get(&NAME, view), Some(None));
        let other_view = OnlineKey { view: ViewId(4), ..NAME };
        assert_eq!(cache.get(&other_view, view), None);
        let opened_again = ViewVersion { opened: 2, ..publish(&cache) };
        assert_eq!(cache.get(&NAME, opened_again), None, "what was not flushed is lost");
        cache.put(&NAME, &row(1), opened_again);
        assert_eq!((cache.get(&NAME, opened_again), cache.get(&NAME, view)), (Some(row(1)), None));
    }

    #[test]
    fn it_stays_within_its_bytes_and_one_of_no_size_keeps_nothing() {
        let cache = RowCache::new(64 << 10);
        let view = publish(&cache);
        for number in 0..10_000_u32 {
            cache.put(&OnlineKey { key: &number.to_le_bytes(), ..NAME }, &row(1), view);
        }
        assert!(cache.used_bytes() <= 64 << 10 && cache.used_bytes() > 16 << 10, "{}", cache.used_bytes());
        let none = RowCache::new(0);
        none.put(&NAME, &row(1), view);
        assert_eq!((none.get(&NAME, view), none.used_bytes()), (None, 0));
    }
}
