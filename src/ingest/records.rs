//! From a request to the records of its frame: each row, packed once for every view whose key it
//! has, in the order in which partitions look for them. Pure: the catalog and the time are given.

use arrow_array::{Array, ArrayRef, BooleanArray};
use bytes::Bytes;
use hydrant_storage::cast::to_exact;
use hydrant_storage::keys::{KeyReader, slot_of};
use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use hydrant_storage::record::{ProducerStamp, RowRecord};
use hydrant_storage::row::RowPacker;
use hydrant_storage::value::{DataType, ScalarType};

use super::payload::{PayloadHash, stamp};
use super::{DeleteRequest, IngestRequest, IngestSettings, Prepared, ViewRows};
use crate::error::{Code, Error, Result, Violation};
use crate::registry::catalog::{Source, TenantCatalog, View};
use crate::registry::definition::KnownTimeRule;
use crate::rows::{BadRows, Latest, RowTimes, SourceColumns, TimeColumn, resolve, source_of};

/// Checks a request and packs its rows.
pub(super) fn prepare_rows(
    tenant: &TenantCatalog,
    request: &IngestRequest,
    now: Micros,
    settings: &IngestSettings,
) -> Result<Prepared> {
    let source = source_of(tenant, &request.source)?;
    if source.views.is_empty() {
        let message = format!("source '{}' has no views: its rows would go nowhere", source.name);
        return Err(Error::new(Code::FailedPrecondition, "SOURCE_WITHOUT_VIEWS", message)
            .hint("apply a FeatureView over the source first"));
    }
    let rule = request.known_time.as_ref().unwrap_or(&source.known_time);
    let rows = request.batch.num_rows();
    let mut bad_rows = BadRows::new(rows);
    let columns = SourceColumns::read(source, rule, &request.batch, request.ignore_extra, &mut bad_rows)?;
    let latest = Latest { store_time: now, max_future: source.max_future };
    let known_column = match rule {
        KnownTimeRule::Column(name) => Some(columns.times(name)?),
        _ => None,
    };
    let times = resolve(columns.times(&source.event_time)?, rule, known_column, latest, &mut bad_rows);
    let mut records = Records::new(rows, &times, columns.deleted.as_ref(), (now, settings));
    for view in &source.views {
        records.add_view(view, &columns, &mut bad_rows)?;
    }
    let views = records.finish_views(&mut bad_rows);
    bad_rows.refusal(&format!("source '{}'", source.name))?;
    let deletes = columns.deleted.as_ref().map_or(0, BooleanArray::true_count);
    let stamp = request.producer.as_ref().map(|producer| {
        let mut hash = PayloadHash::new("rows", &source.name, rule);
        hash.columns(columns_with_types(source, &columns), columns.deleted.as_ref(), rows)?;
        stamp(tenant.id, producer, hash.finish())
    });
    let stamp = stamp.transpose()?;
    Ok(Prepared { rows: records.into_sorted(), request_rows: rows, deletes, views, stamp })
}

/// Checks a request to delete and makes its tombstones.
pub(super) fn prepare_deletes(
    tenant: &TenantCatalog,
    request: &DeleteRequest,
    now: Micros,
    settings: &IngestSettings,
) -> Result<Prepared> {
    let view = tenant
        .views
        .get(request.view.as_str())
        .ok_or_else(|| Error::not_found("VIEW_NOT_FOUND", format!("there is no view '{}'", request.view)))?;
    let source = source_of(tenant, view.source.as_str())?;
    let rule = request.known_time.as_ref().unwrap_or(&source.known_time);
    if let KnownTimeRule::Column(column) = rule {
        let message = format!("a deletion has no column '{column}' to take its known time from");
        return Err(Error::invalid("KNOWN_TIME_NEEDED", message)
            .hint("give the known time with the request: arrival, or event plus a delay"));
    }
    // All versions of a view have the same join keys.
    let keys = delete_keys(view, &request.keys)?;
    let rows = keys.first().map_or(0, |column| column.len());
    let event = match request.event_times.as_slice() {
        [one] => vec![*one; rows],
        many if many.len() == rows => many.to_vec(),
        many => {
            let message = format!("{} event times for {rows} keys: give one for each, or one for all", many.len());
            return Err(Error::invalid("BAD_EVENT_TIMES", message));
        }
    };
    let mut bad_rows = BadRows::new(rows);
    let latest = Latest { store_time: now, max_future: source.max_future };
    let event_column = TimeColumn { name: "event_times", micros: &event, nulls: None };
    let times = resolve(event_column, rule, None, latest, &mut bad_rows);
    let all_deleted = BooleanArray::from(vec![true; rows]);
    let mut records = Records::new(rows, &times, Some(&all_deleted), (now, settings));
    for version in tenant.versions_of(&request.view) {
        records.add_keys(version, &keys, None, &mut bad_rows)?;
    }
    let views = records.finish_views(&mut bad_rows);
    bad_rows.refusal(&format!("view '{}'", view.name))?;
    let rows_of_keys = records.into_sorted();
    let served: Vec<&RowRecord> = rows_of_keys.iter().filter(|row| row.view == view.id).collect();
    let stamp = request.producer.as_ref().map(|producer| delete_stamp(tenant, view, rule, producer, served));
    let stamp = stamp.transpose()?;
    Ok(Prepared { rows: rows_of_keys, request_rows: rows, deletes: rows, views, stamp })
}

fn delete_stamp(
    tenant: &TenantCatalog,
    view: &View,
    rule: &KnownTimeRule,
    producer: &super::Producer,
    mut in_order: Vec<&RowRecord>,
) -> Result<ProducerStamp> {
    in_order.sort_by_key(|row| row.ordinal);
    let mut hash = PayloadHash::new("deletes", &view.name, rule);
    for row in in_order {
        hash.piece(&row.key);
        hash.piece(&row.event_time.to_le_bytes());
    }
    stamp(tenant.id, producer, hash.finish())
}

fn columns_with_types<'a>(
    source: &'a Source,
    columns: &'a SourceColumns,
) -> impl Iterator<Item = (&'a Name, &'a ArrayRef, DataType)> {
    columns.iter().filter_map(|(name, array)| {
        let declared = source.columns.iter().find(|declared| declared.name == *name)?;
        Some((name, array, declared.data_type))
    })
}

/// The key columns of a deletion in the view's order, each of the exact type.
fn delete_keys(view: &View, given: &[(String, ArrayRef)]) -> Result<Vec<ArrayRef>> {
    let mut wrong = Vec::new();
    let mut keys = Vec::with_capacity(view.join_keys.len());
    let mut note = |column: &str, message: String| {
        wrong.push(Violation { path: format!("keys.{column}"), message });
    };
    for (index, (name, _)) in given.iter().enumerate() {
        if !view.join_keys.iter().any(|key| key.name.as_str() == name) {
            note(name, "the view has no such join key".to_owned());
        }
        if given[..index].iter().any(|(earlier, _)| earlier == name) {
            note(name, "the column is given twice".to_owned());
        }
    }
    let rows = given.first().map_or(0, |(_, array)| array.len());
    for key in &view.join_keys {
        let Some((_, array)) = given.iter().find(|(name, _)| name == key.name.as_str()) else {
            note(key.name.as_str(), "the column is missing".to_owned());
            continue;
        };
        if array.len() != rows {
            note(key.name.as_str(), format!("{} values where the first column has {rows}", array.len()));
        }
        match to_exact(array, DataType::Scalar(key.key_type)) {
            Ok(exact) if exact.misfits.is_empty() => keys.push(exact.array),
            Ok(exact) => note(key.name.as_str(), exact.misfits[0].reason.clone()),
            Err(lossy) => note(key.name.as_str(), lossy.to_string()),
        }
    }
    if wrong.is_empty() {
        return Ok(keys);
    }
    Err(Error::wrong_places("BAD_COLUMNS", format!("the keys don't fit view '{}'", view.name), wrong))
}

/// Collects the records of all views. Keys and bodies go into one buffer, which the records share.
struct Records<'a> {
    rows: usize,
    times: &'a RowTimes,
    deleted: Option<&'a BooleanArray>,
    settings: &'a IngestSettings,
    now: Micros,
    buffer: Vec<u8>,
    drafts: Vec<Draft>,
    views: Vec<ViewRows>,
    is_part_of_a_view: Vec<bool>,
}

/// A record whose bytes are still in the common buffer.
struct Draft {
    record: RowRecord,
    key_at: usize,
    body_at: usize,
    end: usize,
}

impl<'a> Records<'a> {
    fn new(
        rows: usize,
        times: &'a RowTimes,
        deleted: Option<&'a BooleanArray>,
        (now, settings): (Micros, &'a IngestSettings),
    ) -> Self {
        let is_part_of_a_view = vec![false; rows];
        Self {
            rows,
            times,
            deleted,
            settings,
            now,
            buffer: Vec::new(),
            drafts: Vec::with_capacity(rows),
            views: Vec::new(),
            is_part_of_a_view,
        }
    }

    /// Adds the rows that have a key of `view`.
    fn add_view(&mut self, view: &View, columns: &SourceColumns, bad_rows: &mut BadRows) -> Result<()> {
        let mut keys = Vec::with_capacity(view.join_keys.len());
        for key in &view.join_keys {
            let column = columns.get_as(&key.name, DataType::Scalar(key.key_type), bad_rows)?;
            keys.push(column.ok_or_else(|| Error::internal(format!("key '{}' was checked and is gone", key.name)))?);
        }
        let features = view.features.iter().map(|feature| columns.get_as(&feature.column, feature.data_type, bad_rows));
        let packer = RowPacker::new(&view.layout, features.collect::<Result<_>>()?)
            .map_err(|error| Error::internal(format!("columns of exact types could not be packed: {error}")))?;
        self.add_keys(view, &keys, Some(&packer), bad_rows)
    }

    /// Adds a record for each row that has a key; without a packer all are tombstones.
    fn add_keys(
        &mut self,
        view: &View,
        keys: &[ArrayRef],
        packer: Option<&RowPacker<'_>>,
        bad_rows: &mut BadRows,
    ) -> Result<()> {
        let types: Vec<ScalarType> = view.join_keys.iter().map(|key| key.key_type).collect();
        let reader = KeyReader::new(keys, &types)
            .map_err(|error| Error::internal(format!("key columns of exact types could not be read: {error}")))?;
        let mut counts = ViewRows { view: view.name.clone(), rows: 0, null_keys: 0, too_old: 0 };
        let kept_since = view.kept_since(self.now);
        for row in 0..self.rows {
            let key_at = self.buffer.len();
            if !reader.encode(row, &mut self.buffer) {
                counts.null_keys += 1;
                continue;
            }
            self.is_part_of_a_view[row] = true;
            let body_at = self.buffer.len();
            let key_bytes = body_at - key_at;
            if key_bytes > self.settings.max_key_bytes {
                let limit = self.settings.max_key_bytes;
                let column = view.join_keys.first().map_or("", |key| key.name.as_str());
                bad_rows.add(row, column, || format!("the key has {key_bytes} bytes; 'ingest.max_key' allows {limit}"));
            }
            if bad_rows.contains(row) {
                self.buffer.truncate(key_at);
                continue;
            }
            let tombstone = self.deleted.is_some_and(|deleted| deleted.is_valid(row) && deleted.value(row));
            let mut feature_count = 0;
            if let Some(packer) = packer.filter(|_| !tombstone) {
                if let Err(error) = packer.pack(row, &mut self.buffer) {
                    bad_rows.add(row, view.name.as_str(), || error.to_string());
                    self.buffer.truncate(key_at);
                    continue;
                }
                feature_count = packer.feature_count();
            }
            let slot = slot_of(view.slot_seed, &self.buffer[key_at..body_at]);
            let record = RowRecord {
                tenant: view.tenant,
                view: view.id,
                slot,
                ordinal: u32::try_from(row).map_err(|_| Error::internal("a request of more than 2^32 rows"))?,
                key: Bytes::new(),
                event_time: self.times.event[row],
                known_time: self.times.known.as_ref().map(|known| known[row]),
                tombstone,
                revision: view.applied.revision,
                feature_count,
                body: Bytes::new(),
                origin: None,
            };
            self.drafts.push(Draft { record, key_at, body_at, end: self.buffer.len() });
            counts.rows += 1;
            counts.too_old += usize::from(kept_since.is_some_and(|since| self.times.event[row] < since));
        }
        // What is told is told of the version that the view's name stands for.
        if view.is_served() {
            self.views.push(counts);
        }
        Ok(())
    }

    /// A row that is part of no view is bad.
    fn finish_views(&mut self, bad_rows: &mut BadRows) -> Vec<ViewRows> {
        for (row, is_part) in self.is_part_of_a_view.iter().enumerate() {
            if !is_part {
                let views: Vec<&str> = self.views.iter().map(|view| view.view.as_str()).collect();
                bad_rows.add(row, "key", || format!("its key is null for every view ({})", views.join(", ")));
            }
        }
        std::mem::take(&mut self.views)
    }

    fn into_sorted(self) -> Vec<RowRecord> {
        let bytes = Bytes::from(self.buffer);
        let finish = |draft: Draft| RowRecord {
            key: bytes.slice(draft.key_at..draft.body_at),
            body: bytes.slice(draft.body_at..draft.end),
            ..draft.record
        };
        let mut rows: Vec<RowRecord> = self.drafts.into_iter().map(finish).collect();
        rows.sort_by_key(|row| (row.slot, row.ordinal));
        rows
    }
}
