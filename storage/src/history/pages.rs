//! Which pages of a data file may hold what is looked for, told from the page index alone. A page that
//! is left out holds no row that could count at any instant that is asked for; what that means is said
//! by [`crate::order`], and this only draws conclusions from bounds.

use std::ops::Range;

use parquet::file::metadata::ParquetMetaData;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::page_index::offset_index::PageLocation;
use parquet::file::statistics::Statistics;

use crate::history::schema;
use crate::history::sought::{Sought, SoughtKeys};
use crate::order::{Micros, Position, RowVersion};

/// What is known of a stretch of rows: a page of the column of slots.
#[derive(Clone, Debug)]
pub(super) struct PageBounds<'a> {
    pub rows: Range<usize>,
    pub slots: (u16, u16),
    /// No key is less than the first, or greater than the second.
    keys: Option<(&'a [u8], &'a [u8])>,
    events: Option<(Micros, Micros)>,
    known: Option<(Micros, Micros)>,
    ingested: Option<(Micros, Micros)>,
}

/// Where the columns lie that pages are told by.
#[derive(Clone, Copy, Debug)]
pub(super) struct BoundColumns {
    slot: usize,
    key: Option<usize>,
    event: Option<usize>,
    known: Option<usize>,
    ingest: Option<usize>,
}

impl BoundColumns {
    /// `None` if the file has no slots.
    pub fn of(parquet: &ParquetMetaData) -> Option<Self> {
        let columns = parquet.file_metadata().schema_descr().columns();
        let place = |name: &str| columns.iter().position(|column| column.path().parts() == [name]);
        Some(Self {
            slot: place(schema::SLOT)?,
            key: place(schema::KEY),
            event: place(schema::EVENT_TIME),
            known: place(schema::KNOWN_TIME),
            ingest: place(schema::INGEST_TIME),
        })
    }
}

/// The pages of each row group; of one with none of the sought slots none, since looking at all pages of
/// a large file would take longer than reading some.
pub(super) fn pages_of<'a>(
    parquet: &'a ParquetMetaData,
    columns: &BoundColumns,
    sought: &Sought,
) -> Vec<Vec<PageBounds<'a>>> {
    let pages = |group: usize| {
        let (first, last) = slot_bounds(parquet.row_group(group).column(columns.slot).statistics());
        match sought.slots.as_ref().is_none_or(|slots| slots.intersects(first, last)) {
            true => pages_of_group(parquet, group, columns),
            false => Vec::new(),
        }
    };
    (0..parquet.num_row_groups()).map(pages).collect()
}

/// For each page of each row group whether it may hold something that is looked for.
pub(super) fn wanted_pages(groups: &[Vec<PageBounds<'_>>], sought: &Sought) -> Vec<Vec<bool>> {
    let pages: Vec<&PageBounds<'_>> = groups.iter().flatten().collect();
    let mut wanted: Vec<bool> = pages.iter().map(|page| may_hold(page, sought)).collect();
    if let Some(keys) = &sought.keys {
        narrow_to_keys(&pages, keys, sought.cutoff, &mut wanted);
    }
    let mut wanted = wanted.into_iter();
    groups.iter().map(|group| wanted.by_ref().take(group.len()).collect()).collect()
}

fn may_hold(page: &PageBounds<'_>, sought: &Sought) -> bool {
    let in_slots = sought.slots.as_ref().is_none_or(|slots| slots.intersects(page.slots.0, page.slots.1));
    let is_after = |bounds: Option<(Micros, Micros)>, end: Option<Micros>| {
        bounds.zip(end).is_some_and(|((first, _), end)| first > end)
    };
    in_slots && !is_after(page.events, sought.until) && !is_after(page.ingested, sought.cutoff)
}

/// Takes back the pages that hold no row which counts for a sought key at one of its instants.
fn narrow_to_keys(pages: &[&PageBounds<'_>], keys: &SoughtKeys, cutoff: Option<Micros>, wanted: &mut [bool]) {
    let mut first = 0;
    while first < pages.len() {
        let page = pages[first];
        let of_page = keys.within(page.slots, page.keys);
        let end = match page.only_key() {
            Some(only) => {
                let others = pages[first + 1..].iter().take_while(|other| other.only_key() == Some(only));
                first + 1 + others.count()
            }
            None => first + 1,
        };
        let mut counts = vec![false; end - first];
        if page.only_key().is_some() {
            for number in of_page {
                mark_pages_of_key(&pages[first..end], keys.times(number), cutoff, &mut counts);
            }
        } else {
            let begins = page.events.map_or(Micros::MIN, |(first, _)| first);
            counts[0] = of_page.into_iter().any(|number| keys.times(number).last().is_some_and(|last| *last >= begins));
        }
        for (wanted, counts) in wanted[first..end].iter_mut().zip(counts) {
            *wanted &= counts;
        }
        first = end;
    }
}

/// Of pages that hold rows of one key, those with a row that may count at one of the ascending
/// instants. A page all of whose rows are visible at an instant hides all pages before it, in both
/// modes: its last row is greater than theirs.
fn mark_pages_of_key(pages: &[&PageBounds<'_>], times: &[Micros], cutoff: Option<Micros>, counts: &mut [bool]) {
    // Pages before this one are marked, or hidden at every later instant.
    let mut settled = 0;
    for time in times {
        let has_begun = |page: &&PageBounds<'_>| page.events.is_none_or(|(first, _)| first <= *time);
        let begun = pages.partition_point(has_begun);
        for page in (settled..begun).rev() {
            counts[page] = true;
            if pages[page].hides_earlier_rows(*time, cutoff) {
                break;
            }
        }
        settled = settled.max(begun);
    }
}

impl PageBounds<'_> {
    /// The slot and key of all its rows, if they have the same.
    fn only_key(&self) -> Option<(u16, &[u8])> {
        let (least, greatest) = self.keys?;
        (self.slots.0 == self.slots.1 && least == greatest).then_some((self.slots.0, least))
    }

    /// Whether all its rows count at an instant unless greater ones do, in both modes and before the
    /// cut-off: then no row before them is ever of use again.
    fn hides_earlier_rows(&self, time: Micros, cutoff: Option<Micros>) -> bool {
        let Some(((_, event_time), (_, known_time))) = self.events.zip(self.known) else { return false };
        let latest = RowVersion { event_time, known_time, position: Position::default() };
        let in_time = |cutoff: Micros| self.ingested.is_some_and(|(_, last)| last <= cutoff);
        latest.is_visible_at(time) && cutoff.is_none_or(in_time)
    }
}

/// The pages of the column of slots, each with the bounds of what other columns hold in its rows: theirs
/// may be cut at other rows, and then the bounds are those of all pages that share rows with it.
fn pages_of_group<'a>(parquet: &'a ParquetMetaData, index: usize, columns: &BoundColumns) -> Vec<PageBounds<'a>> {
    let group = parquet.row_group(index);
    let total = usize::try_from(group.num_rows()).unwrap_or_default();
    let column = |column: usize| ColumnPages::of(parquet, index, column, total);
    let times = |place: Option<usize>| place.map(column);
    let (key, event, known, ingest) =
        (columns.key.map(column), times(columns.event), times(columns.known), times(columns.ingest));
    let slots = column(columns.slot);
    let rows_of_pages = match slots.index {
        Some(ColumnIndexMetaData::INT32(_)) => slots.rows(),
        _ => std::iter::once(0..total).collect(),
    };
    let bounds = |(number, rows): (usize, Range<usize>)| PageBounds {
        slots: slots.slots(number),
        keys: key.as_ref().and_then(|key| key.keys(&rows)),
        events: event.as_ref().and_then(|times| times.times(&rows)),
        known: known.as_ref().and_then(|times| times.times(&rows)),
        ingested: ingest.as_ref().and_then(|times| times.times(&rows)),
        rows,
    };
    rows_of_pages.into_iter().enumerate().map(bounds).collect()
}

/// One column of one row group: its statistics, and its pages where they are told apart.
struct ColumnPages<'a> {
    index: Option<&'a ColumnIndexMetaData>,
    locations: &'a [PageLocation],
    statistics: Option<&'a Statistics>,
    total: usize,
}

impl<'a> ColumnPages<'a> {
    fn of(parquet: &'a ParquetMetaData, group: usize, column: usize, total: usize) -> Self {
        let locations: &[PageLocation] =
            parquet.offset_index().map_or(&[], |groups| groups[group][column].page_locations().as_slice());
        let is_whole = |index: &&ColumnIndexMetaData| {
            !matches!(index, ColumnIndexMetaData::NONE) && index.num_pages() == locations.len() as u64
        };
        let index = parquet.column_index().map(|groups| &groups[group][column]).filter(is_whole);
        Self { index, locations, statistics: parquet.row_group(group).column(column).statistics(), total }
    }

    fn first_row(&self, page: usize) -> usize {
        let location = self.locations.get(page);
        location.map_or(self.total, |page| usize::try_from(page.first_row_index).unwrap_or(self.total))
    }

    fn rows(&self) -> Vec<Range<usize>> {
        (0..self.locations.len()).map(|page| self.first_row(page)..self.first_row(page + 1)).collect()
    }

    /// Its pages that hold one of the rows.
    fn sharing(&self, rows: &Range<usize>) -> Range<usize> {
        let starts_by = |row: usize| {
            move |page: &PageLocation| usize::try_from(page.first_row_index).is_ok_and(|first| first <= row)
        };
        let first = self.locations.partition_point(starts_by(rows.start)).saturating_sub(1);
        let end = self.locations.partition_point(starts_by(rows.end.saturating_sub(1)));
        first..end.max(first + 1).min(self.locations.len())
    }

    /// Of a page of the column of slots, or of all rows where its pages aren't told apart.
    fn slots(&self, page: usize) -> (u16, u16) {
        match self.index {
            Some(ColumnIndexMetaData::INT32(pages)) => {
                (to_slot(pages.min_value(page), 0), to_slot(pages.max_value(page), u16::MAX))
            }
            _ => slot_bounds(self.statistics),
        }
    }

    fn keys(&self, rows: &Range<usize>) -> Option<(&'a [u8], &'a [u8])> {
        let Some(ColumnIndexMetaData::BYTE_ARRAY(pages)) = self.index else { return None };
        let of_page = |page: usize| Some((pages.min_value(page)?, pages.max_value(page)?));
        widest(self.sharing(rows).map(of_page))
    }

    fn times(&self, rows: &Range<usize>) -> Option<(Micros, Micros)> {
        match (self.index, self.statistics) {
            (Some(ColumnIndexMetaData::INT64(pages)), _) => {
                let of_page = |page: usize| Some((*pages.min_value(page)?, *pages.max_value(page)?));
                widest(self.sharing(rows).map(of_page))
            }
            (_, Some(Statistics::Int64(times))) => Some((*times.min_opt()?, *times.max_opt()?)),
            _ => None,
        }
    }
}

/// The least and the greatest slot of a row group.
fn slot_bounds(statistics: Option<&Statistics>) -> (u16, u16) {
    match statistics {
        Some(Statistics::Int32(slots)) => (to_slot(slots.min_opt(), 0), to_slot(slots.max_opt(), u16::MAX)),
        _ => (0, u16::MAX),
    }
}

fn to_slot(value: Option<&i32>, otherwise: u16) -> u16 {
    value.and_then(|value| u16::try_from(*value).ok()).unwrap_or(otherwise)
}

/// The least first and the greatest second; `None` if one isn't known.
fn widest<T: Ord + Copy>(bounds: impl Iterator<Item = Option<(T, T)>>) -> Option<(T, T)> {
    let mut widest: Option<(T, T)> = None;
    for bounds in bounds {
        let (first, last) = bounds?;
        widest = Some(widest.map_or((first, last), |(least, greatest)| (least.min(first), greatest.max(last))));
    }
    widest
}
