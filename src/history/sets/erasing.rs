//! Erasing rows from stored spines, and so from saved training sets, which are made of them: a spine that
//! names the key is replaced by one without these rows, under the name of its content as every spine is;
//! the sets that had it say from then on what they have lost. First the new spine is durable, then the
//! list of sets, and then the old spine goes, so that a crash leaves each set whole, before or after.

use std::sync::{Arc, PoisonError};

use arrow_array::{ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::Schema;
use arrow_select::filter::filter_record_batch;
use hydrant_storage::cast::to_exact;
use hydrant_storage::keys::KeyReader;
use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use hydrant_storage::spines::SpineId;
use hydrant_storage::value::{DataType, ScalarType};

use super::super::failure::JoinError;
use super::super::work::blocking;
use super::saved::LostRows;
use super::spines::StoredSpine;
use super::{Needs, TrainingSets};
use crate::error::{Error, Result};
use crate::registry::catalog::Lookup;

/// Columns of a spine that together name an entity, and the key that is looked for in them.
#[derive(Clone, PartialEq, Eq)]
pub struct SpineKey {
    pub entity: Name,
    pub columns: Vec<String>,
    pub types: Vec<ScalarType>,
    /// Encoded, of these types.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for SpineKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("SpineKey").field("columns", &self.columns).finish_non_exhaustive()
    }
}

/// What was erased, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErasedFromSets {
    pub rows: u64,
    pub spines: u64,
    /// Saved training sets that have lost rows, every version counted.
    pub sets: u64,
}

impl TrainingSets {
    /// How many rows of a tenant's stored spines name one of the keys; nothing is changed.
    pub async fn count_erasable(&self, tenant: &Name, keys: Vec<SpineKey>) -> Result<ErasedFromSets> {
        let (sets, tenant) = (self.clone(), tenant.clone());
        blocking(move |_| {
            let mut found = ErasedFromSets::default();
            for spine in sets.inner.spines.of(&tenant) {
                let rows = rows_with(&spine, &sets.keys_in(&spine, &keys))?;
                if rows > 0 {
                    found.rows += rows;
                    found.spines += 1;
                    let catalog = sets.inner.catalog.load();
                    found.sets += catalog.of(&tenant).filter(|set| set.spine == spine.id).count() as u64;
                }
            }
            Ok(found)
        })
        .await
    }

    /// Erases rows from a tenant's stored spines, and lets go of all that walks have found.
    ///
    /// # Errors
    /// The same call goes on where this one ended.
    pub async fn erase(
        &self,
        tenant: &Name,
        keys: Vec<SpineKey>,
        erasure: &str,
        now: Micros,
    ) -> Result<ErasedFromSets> {
        // No set is saved meanwhile; one that is being made of a spine that goes is refused then.
        let mut persisted = self.inner.writer.lock().await;
        let mut done = ErasedFromSets::default();
        for spine in self.inner.spines.of(tenant) {
            let (sets, wanted, old) = (self.clone(), keys.clone(), spine.clone());
            let replaced = blocking(move |_| sets.replacement(&old, &wanted)).await?;
            let Some((new, rows)) = replaced else { continue };
            let lost = LostRows { erasure: erasure.to_owned(), at: now, rows };
            let about = new.about()?;
            let catalog = self.inner.catalog.load_full();
            let (next, changed) = catalog.with_fewer_rows(tenant, spine.id, (new.id, &about.spine_hash), &lost);
            if changed > 0 {
                self.persist(&mut persisted, next).await?;
                self.hold_instead(tenant, spine.id, &new);
            }
            let (sets, old) = (self.clone(), spine);
            blocking(move |_| Ok(sets.inner.spines.erase(&old)?)).await?;
            done.rows += rows;
            done.spines += 1;
            done.sets += changed;
        }
        let sets = self.clone();
        blocking(move |_| {
            sets.forget_found();
            Ok(())
        })
        .await?;
        Ok(done)
    }

    /// A spine without the rows that name one of the keys, stored, and how many those are; `None`: there are
    /// none. Blocks.
    fn replacement(
        &self,
        spine: &StoredSpine,
        keys: &[SpineKey],
    ) -> Result<Option<(Arc<StoredSpine>, u64)>, JoinError> {
        let keys = self.keys_in(spine, keys);
        let rows = rows_with(spine, &keys)?;
        if rows == 0 {
            return Ok(None);
        }
        let kept = spine.batches()?.map(|batch| {
            let batch = batch?;
            let keep: BooleanArray = named_rows(&batch, &keys)?.into_iter().map(|named| Some(!named)).collect();
            Ok(filter_record_batch(&batch, &keep)?)
        });
        let new = self.inner.spines.store_rewritten(spine, kept)?;
        Ok(Some((new, rows)))
    }

    /// The keys that are to be looked for in a spine: all but those by whose columns its saved sets look up
    /// other entities, and never this one. Without a saved set it can't be told, and all are looked for.
    fn keys_in(&self, spine: &StoredSpine, keys: &[SpineKey]) -> Vec<SpineKey> {
        let catalog = self.inner.catalog.load();
        let snapshot = self.inner.registry.snapshot();
        let mut lookups: Vec<Lookup> = Vec::new();
        for set in catalog.of(&spine.tenant).filter(|set| set.spine == spine.id) {
            let tenant = snapshot.tenant(&spine.tenant);
            // What a set reads that can't be found out, such as by a share that has ended, might be by any column.
            let Ok(selection) = tenant.and_then(|tenant| snapshot.select(tenant, &set.services, &[])) else {
                return keys.to_vec();
            };
            let own = snapshot.tenant(&spine.tenant).map(|tenant| tenant.id);
            lookups.extend(selection.lookups.into_iter().filter(|lookup| own.as_ref() == Ok(&lookup.view.tenant)));
        }
        keys.iter().filter(|key| !is_of_others(key, &lookups)).cloned().collect()
    }

    fn hold_instead(&self, tenant: &Name, old: SpineId, new: &Arc<StoredSpine>) {
        let mut needs = self.inner.needs.lock().unwrap_or_else(PoisonError::into_inner);
        let catalog = self.inner.catalog.load();
        for ((of, name, version), needs) in needs.iter_mut().filter(|(_, needs)| needs.spine_id == old) {
            if of == tenant
                && let Ok(set) = catalog.find(tenant, name, Some(*version))
            {
                *needs = Needs::of(&self.inner.registry, tenant, set, Some(new.clone()));
            }
        }
    }
}

/// Whether lookups take a key's columns for keys, of other entities alone.
fn is_of_others(key: &SpineKey, lookups: &[Lookup]) -> bool {
    let takes = |lookup: &&Lookup| {
        key.columns.iter().all(|column| lookup.keys.iter().any(|taken| taken.as_str() == column.as_str()))
    };
    let (own, others): (Vec<&Lookup>, Vec<&Lookup>) =
        lookups.iter().filter(takes).partition(|lookup| lookup.view.entities().contains(&key.entity));
    own.is_empty() && !others.is_empty()
}

/// How many of a spine's rows name one of the keys. Blocks.
fn rows_with(spine: &StoredSpine, keys: &[SpineKey]) -> Result<u64, JoinError> {
    let schema = spine.schema()?;
    if !keys.iter().any(|key| has_columns(&schema, key)) {
        return Ok(0);
    }
    let mut rows = 0;
    for batch in spine.batches()? {
        rows += named_rows(&batch?, keys)?.into_iter().filter(|named| *named).count() as u64;
    }
    Ok(rows)
}

fn has_columns(schema: &Schema, key: &SpineKey) -> bool {
    key.columns.iter().all(|column| schema.column_with_name(column).is_some())
}

/// For each row whether it names one of the keys.
fn named_rows(batch: &RecordBatch, keys: &[SpineKey]) -> Result<Vec<bool>, JoinError> {
    let mut named = vec![false; batch.num_rows()];
    for key in keys.iter().filter(|key| has_columns(batch.schema_ref(), key)) {
        let columns = key.columns.iter().zip(&key.types).map(|(column, kind)| {
            let array = batch.column_by_name(column)?;
            // A column of a type that can't be a key's names no key: no training set was made by it.
            Some(to_exact(array, DataType::Scalar(*kind)).ok()?.array)
        });
        let Some(columns) = columns.collect::<Option<Vec<ArrayRef>>>() else { continue };
        let reader = KeyReader::new(&columns, &key.types);
        let reader = reader.map_err(|error| Error::internal(format!("a spine's keys can't be read: {error}")))?;
        let mut encoded = Vec::new();
        for (row, named) in named.iter_mut().enumerate() {
            encoded.clear();
            *named |= reader.encode(row, &mut encoded) && encoded == key.key;
        }
    }
    Ok(named)
}
