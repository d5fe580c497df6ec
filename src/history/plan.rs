//! What a training set will take: which columns of the spine are keys, which views are walked under
//! which of them, and which columns come out. A plan is a value: made by a pure function, printed
//! for people, executed elsewhere.

use std::fmt;
use std::sync::Arc;

use arrow_schema::{DataType as ArrowType, Field, Schema, SchemaRef};
use hydrant_storage::names::TenantId;
use hydrant_storage::order::Micros;
use hydrant_storage::value::{DataType, ScalarType, Value};

use super::asof::Mode;
use super::columns;
use super::made_of::made_of;
use crate::error::{Code, Error, Violation};
use crate::registry::catalog::{Lookup, View};
use crate::registry::reads::ReadsOf;
use crate::registry::selection::{SelectedService, Selection};
use crate::registry::table::Beside;
use crate::runs::MadeOf;

/// What a client asks of the join beside its services and features.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The spine's column of event times.
    pub event_time: String,
    pub mode: Mode,
    pub with_status: bool,
    pub with_event_time: bool,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub mode: Mode,
    pub spine: SchemaRef,
    /// The spine's column of event times.
    pub event_time: usize,
    /// The spine in history order, once for each distinct key.
    pub sorts: Vec<Sort>,
    /// The views walked, each beside one sort.
    pub joins: Vec<Join>,
    /// What is asked of the walked views: one for each distinct ttl.
    pub lookups: Vec<PlannedLookup>,
    pub columns: Vec<OutputColumn>,
    pub output: SchemaRef,
    pub with_status: bool,
    pub with_event_time: bool,
    /// Of the definitions.
    pub revision: u64,
    /// `name@N` of each service.
    pub services: Vec<String>,
    /// Where a training set of it is counted as read.
    pub reads: Arc<ReadsOf>,
    /// For those who are told of training sets.
    pub made_of: Arc<MadeOf>,
}

/// One order of the spine: by the slot and bytes of a key made of some of its columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sort {
    pub tenant: TenantId,
    pub slot_seed: u64,
    /// Columns of the spine, in the order of the key's parts, and the parts' types.
    pub keys: Vec<(usize, ScalarType)>,
}

#[derive(Clone, Debug)]
pub struct Join {
    pub view: Arc<View>,
    /// What the caller calls the view: `name`, or `owner/name` of another tenant's.
    pub name: String,
    /// Index into the sorts.
    pub sort: usize,
    /// The view's features that are read, ascending.
    pub features: Vec<usize>,
}

#[derive(Clone, Debug)]
pub struct PlannedLookup {
    /// Index into the joins.
    pub join: usize,
    pub ttl: Option<Micros>,
}

#[derive(Clone, Debug)]
pub struct OutputColumn {
    pub name: String,
    /// Index into the lookups; `None`: it is masked, and comes from nothing.
    pub lookup: Option<usize>,
    /// Index into the view's features.
    pub feature: usize,
    /// Index into the join's projected features.
    pub projected: usize,
    pub data_type: DataType,
    pub default: Option<Value>,
}

impl Plan {
    /// Lists everything that is wrong with the spine at once.
    pub fn new(selection: &Selection, spine: SchemaRef, shape: &Shape) -> Result<Self, Error> {
        let mut wrong = Vec::new();
        let event_time = event_time_column(&spine, &shape.event_time, &mut wrong);
        let mut plan = Self {
            mode: shape.mode,
            event_time: event_time.unwrap_or_default(),
            sorts: Vec::new(),
            joins: Vec::new(),
            lookups: Vec::new(),
            columns: Vec::new(),
            output: spine.clone(),
            spine,
            with_status: shape.with_status,
            with_event_time: shape.with_event_time,
            revision: selection.revision,
            services: selection.services.iter().map(SelectedService::reference).collect(),
            reads: selection.reads().clone(),
            made_of: Arc::new(made_of(selection)),
        };
        let planned: Vec<Option<usize>> = selection
            .lookups
            .iter()
            .enumerate()
            .map(|(number, lookup)| plan.add_lookup(lookup, selection, number, &mut wrong))
            .collect();
        for column in &selection.columns {
            let (name, data_type, feature) = (column.name.clone(), column.data_type, column.feature);
            let output = OutputColumn { name, lookup: None, feature, projected: 0, data_type, default: None };
            if column.is_masked {
                plan.columns.push(output);
            } else if let Some(lookup) = planned[column.lookup] {
                let join = plan.lookups[lookup].join;
                plan.joins[join].features.push(feature);
                plan.columns.push(OutputColumn { lookup: Some(lookup), default: column.default.clone(), ..output });
            }
        }
        for join in &mut plan.joins {
            join.features.sort_unstable();
            join.features.dedup();
        }
        for column in &mut plan.columns {
            let Some(lookup) = column.lookup else { continue };
            let join = &plan.joins[plan.lookups[lookup].join];
            column.projected = join.features.partition_point(|feature| *feature < column.feature);
        }
        plan.output = plan.output_schema();
        check_names(&plan, selection, &mut wrong);
        refuse(wrong)?;
        selection.lookups.iter().try_for_each(|lookup| refuse_without_history(&lookup.view))?;
        Ok(plan)
    }

    /// The names of the columns that are masked.
    pub fn masked(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().filter(|column| column.lookup.is_none()).map(|column| column.name.as_str())
    }

    /// About how many bytes an output row takes, for cutting batches.
    pub fn output_row_bytes(&self) -> usize {
        self.output.fields().iter().map(|field| type_bytes(field.data_type())).sum::<usize>().max(1)
    }

    /// About how many bytes a row of the spine takes, its time in microseconds beside it.
    pub fn spine_row_bytes(&self) -> usize {
        8 + self.spine.fields().iter().map(|field| type_bytes(field.data_type())).sum::<usize>()
    }

    /// About how many bytes the rows found for one spine row take.
    pub fn hit_row_bytes(&self) -> usize {
        let of_join = |join: &Join| {
            let features =
                join.features.iter().map(|feature| type_bytes(&join.view.features[*feature].data_type.to_arrow()));
            32 + features.sum::<usize>()
        };
        self.joins.iter().map(of_join).sum::<usize>().max(1)
    }

    /// `None` where the spine doesn't fit, or where the lookup is not read.
    fn add_lookup(
        &mut self,
        lookup: &Lookup,
        selection: &Selection,
        number: usize,
        wrong: &mut Vec<Violation>,
    ) -> Option<usize> {
        let Lookup { view, keys, ttl } = lookup;
        let mut parts = Vec::with_capacity(keys.len());
        for (column, join_key) in keys.iter().zip(&view.join_keys) {
            match key_column(&self.spine, column.as_str(), join_key.key_type, view) {
                Ok(index) => parts.push((index, join_key.key_type)),
                Err(violation) => {
                    if !wrong.contains(&violation) {
                        wrong.push(violation);
                    }
                }
            }
        }
        if parts.len() < view.join_keys.len() || !selection.is_read(number) {
            return None;
        }
        let sort = position_or_push(
            &mut self.sorts,
            Sort { tenant: view.tenant, slot_seed: view.slot_seed, keys: parts },
            |a, b| a == b,
        );
        let join = Join { view: view.clone(), name: selection.name_of(view), sort, features: Vec::new() };
        let join = position_or_push(&mut self.joins, join, |a, b| a.view.id == b.view.id && a.sort == b.sort);
        let lookup = PlannedLookup { join, ttl: *ttl };
        Some(position_or_push(&mut self.lookups, lookup, |a, b| a.join == b.join && a.ttl == b.ttl))
    }

    fn output_schema(&self) -> SchemaRef {
        let mut fields: Vec<Arc<Field>> = self.spine.fields().iter().cloned().collect();
        for column in &self.columns {
            fields.extend(self.beside().fields(&column.name, column.data_type).into_iter().map(Arc::new));
        }
        Arc::new(Schema::new_with_metadata(fields, self.spine.metadata().clone()))
    }

    fn beside(&self) -> Beside {
        Beside { status: self.with_status, event_time: self.with_event_time }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            Mode::AsKnown => "as_known",
            Mode::Final => "final",
        };
        let spine = |index: usize| self.spine.field(index).name();
        writeln!(
            formatter,
            "{mode} join of a spine with {} columns at its '{}', definitions at revision {}",
            self.spine.fields().len(),
            spine(self.event_time),
            self.revision
        )?;
        for (number, sort) in self.sorts.iter().enumerate() {
            let keys: Vec<&str> = sort.keys.iter().map(|(column, _)| spine(*column).as_str()).collect();
            writeln!(formatter, "  sort {number}: the spine by ({})", keys.join(", "))?;
            for (index, join) in self.joins.iter().enumerate().filter(|(_, join)| join.sort == number) {
                let names: Vec<&str> =
                    join.features.iter().map(|feature| join.view.features[*feature].name.as_str()).collect();
                writeln!(formatter, "    walk {}@v{}, reading {}", join.name, join.view.version, names.join(", "))?;
                for (lookup, planned) in self.lookups.iter().enumerate().filter(|(_, lookup)| lookup.join == index) {
                    let ttl = planned.ttl.map_or("no ttl".to_owned(), |ttl| format!("ttl {ttl} µs"));
                    let columns: Vec<&str> = self
                        .columns
                        .iter()
                        .filter(|column| column.lookup == Some(lookup))
                        .map(|column| column.name.as_str())
                        .collect();
                    writeln!(formatter, "      {ttl}: {}", columns.join(", "))?;
                }
            }
        }
        let masked: Vec<&str> = self.masked().collect();
        if !masked.is_empty() {
            writeln!(formatter, "  masked: {}", masked.join(", "))?;
        }
        Ok(())
    }
}

fn event_time_column(spine: &Schema, name: &str, wrong: &mut Vec<Violation>) -> Option<usize> {
    match only_column(spine, name) {
        Ok(index) if columns::is_instant(spine.field(index).data_type()) => Some(index),
        Ok(index) => {
            let message =
                format!("holds the event times and must be a timestamp, not {}", spine.field(index).data_type());
            wrong.push(Violation { path: format!("spine.{name}"), message });
            None
        }
        Err(message) => {
            wrong.push(Violation { path: format!("spine.{name}"), message: format!("{message}: the event times") });
            None
        }
    }
}

fn check_names(plan: &Plan, selection: &Selection, wrong: &mut Vec<Violation>) {
    for column in &selection.columns {
        for added in plan.beside().fields(&column.name, column.data_type) {
            if plan.spine.fields().iter().any(|field| field.name() == added.name()) {
                let message = "is the name of an output column too; rename it in the spine".to_owned();
                wrong.push(Violation { path: format!("spine.{}", added.name()), message });
            }
        }
    }
}

fn key_column(spine: &Schema, name: &str, key_type: ScalarType, view: &View) -> Result<usize, Violation> {
    let violation = |message: String| Violation { path: format!("spine.{name}"), message };
    let index = only_column(spine, name)
        .map_err(|message| violation(format!("{message}: a join key of view '{}'", view.name)))?;
    let data_type = spine.field(index).data_type();
    if !columns::can_be_key(data_type, key_type) {
        return Err(violation(format!("is {data_type}, and view '{}' is keyed by {}", view.name, key_type.as_str())));
    }
    Ok(index)
}

fn only_column(spine: &Schema, name: &str) -> Result<usize, String> {
    let mut found = spine.fields().iter().enumerate().filter(|(_, field)| field.name() == name);
    match (found.next(), found.next()) {
        (Some((index, _)), None) => Ok(index),
        (None, _) => Err("the spine lacks this column".to_owned()),
        (Some(_), Some(_)) => Err("the spine has several columns of this name".to_owned()),
    }
}

fn refuse(wrong: Vec<Violation>) -> Result<(), Error> {
    let Some(first) = wrong.first() else { return Ok(()) };
    let column = first.path.strip_prefix("spine.").unwrap_or(&first.path);
    let more = if wrong.len() > 1 { format!(" (and {} more problems)", wrong.len() - 1) } else { String::new() };
    let message = format!("the spine doesn't fit: column '{column}': {}{more}", first.message);
    Err(Error::invalid("SPINE_MISMATCH", message).with("column", column.to_owned()).violations(wrong))
}

/// FAILED_PRECONDITION for a view that keeps no history.
pub(super) fn refuse_without_history(view: &View) -> Result<(), Error> {
    if view.offline {
        return Ok(());
    }
    let message = format!("view '{}' keeps no history (offline: false)", view.name);
    let error = Error::new(Code::FailedPrecondition, "VIEW_WITHOUT_HISTORY", message);
    Err(error.with("view", &view.name).hint("it can't be changed later: define another view over the source"))
}

fn position_or_push<T>(items: &mut Vec<T>, item: T, same: impl Fn(&T, &T) -> bool) -> usize {
    items.iter().position(|other| same(other, &item)).unwrap_or_else(|| {
        items.push(item);
        items.len() - 1
    })
}

/// A guess for types of any length.
fn type_bytes(data_type: &ArrowType) -> usize {
    match data_type {
        ArrowType::Boolean | ArrowType::Null => 1,
        ArrowType::FixedSizeList(child, length) => type_bytes(child.data_type()) * (*length).max(0) as usize,
        ArrowType::FixedSizeBinary(length) => (*length).max(0) as usize,
        ArrowType::Struct(fields) => fields.iter().map(|field| type_bytes(field.data_type())).sum(),
        ArrowType::List(child) | ArrowType::LargeList(child) | ArrowType::Map(child, _) => {
            8 + 8 * type_bytes(child.data_type())
        }
        other => other.primitive_width().unwrap_or(24),
    }
}
