//! Features that are personal (`pii: "true"`): which these are, and what of a selection a caller may
//! not see. A masked column comes from nothing: its rows are not looked up unless another column needs
//! them, so that nothing can be told of them. Whose grants these are is said by `tenancy`.

use std::collections::{BTreeMap, BTreeSet};

use hydrant_storage::names::{Name, TenantId};

use super::catalog::{Feature, ServiceColumn, Snapshot, View};
use super::selection::Selection;
use crate::error::{Code, Error, Result};

/// The tag, of a feature or of a whole view.
pub const PII: &str = "pii";
pub(super) const YES: &str = "true";
const NO: &str = "false";

/// Which columns of a selection are masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masking<'a> {
    /// Those that the caller has no grant for.
    AsGranted,
    /// These and no others, as in the training set that is made again. Who has no grant for another of
    /// them is refused.
    Exactly(&'a [String]),
}

impl View {
    /// Whether a feature, by its index, is personal. A feature's own tag goes before its view's.
    pub fn is_pii(&self, feature: usize) -> bool {
        self.features.get(feature).is_some_and(|feature| is_pii(&self.applied.definition.metadata.tags, feature))
    }
}

fn is_pii(of_view: &BTreeMap<String, String>, feature: &Feature) -> bool {
    // What is neither was taken before the tag meant anything, and is masked until somebody says so.
    feature.tags.get(PII).or_else(|| of_view.get(PII)).is_some_and(|value| value != NO)
}

/// What is wrong with the value of a tag called `pii`.
pub(super) fn problem_of(value: &str) -> Option<String> {
    let is_known = value == YES || value == NO;
    (!is_known).then(|| format!("'{PII}' is \"{YES}\" or \"{NO}\", which decides whether values are masked"))
}

impl Selection {
    /// Masks what a caller may not see, who has the grant for personal features or hasn't.
    /// PERMISSION_DENIED for a set that was made with it, INVALID_ARGUMENT for one that can't have been.
    pub fn mask(&mut self, masking: Masking<'_>, may_see_pii: bool) -> Result<()> {
        match masking {
            Masking::AsGranted if may_see_pii && !self.columns.iter().any(|column| column.withholds_pii) => Ok(()),
            Masking::AsGranted => {
                self.mask_where(|column, is_pii| is_pii && (!may_see_pii || column.withholds_pii));
                Ok(())
            }
            Masking::Exactly(names) => {
                let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
                self.mask_where(|column, _| names.contains(column.name.as_str()));
                let masked = self.columns.iter().filter(|column| column.is_masked).count();
                if masked != names.len() {
                    let message = "columns are to be masked that the request doesn't have";
                    return Err(Error::invalid("BAD_TICKET", message).hint("use a ticket as GetFlightInfo gave it"));
                }
                let may_see = |column: &ServiceColumn| may_see_pii && !column.withholds_pii;
                let is_unseen = |column: &&ServiceColumn| !column.is_masked && !may_see(column) && self.is_pii(column);
                match self.columns.iter().find(is_unseen) {
                    None => Ok(()),
                    Some(column) => Err(ungranted(&column.name)),
                }
            }
        }
    }

    /// The names of what is masked, in the order of the columns.
    pub fn masked(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().filter(|column| column.is_masked).map(|column| column.name.as_str())
    }

    fn mask_where(&mut self, is_hidden: impl Fn(&ServiceColumn, bool) -> bool) {
        for index in 0..self.columns.len() {
            let column = &self.columns[index];
            let is_masked = is_hidden(column, self.is_pii(column));
            self.columns[index].is_masked = is_masked;
        }
        self.note_unread();
    }

    fn is_pii(&self, column: &ServiceColumn) -> bool {
        self.lookups[column.lookup].view.is_pii(column.feature)
    }
}

fn ungranted(column: &str) -> Error {
    let message = format!("column '{column}' was made for callers who may see personal data (pii), and you may not");
    Error::new(Code::PermissionDenied, "PII_NOT_GRANTED", message)
        .hint("make a training set of your own, in which it is masked; or ask an admin of the tenant for the grant")
        .with("column", column)
}

/// PERMISSION_DENIED for a change after which something personal would be shown that is masked now: a
/// tag taken away, another feature of the same column of a source without it, or a view that is keyed by
/// that column, since a key is given by whoever reads and is masked for nobody. For whoever may not see it.
pub(super) fn refuse_unmasking(before: &Snapshot, after: &Snapshot) -> Result<()> {
    let (personal, shown): (Vec<Column<'_>>, Vec<Column<'_>>) = each_column(before).partition(|column| column.is_pii);
    let personal: BTreeMap<SourceColumn<'_>, Column<'_>> =
        personal.into_iter().map(|column| (column.source, column)).collect();
    if personal.is_empty() {
        return Ok(());
    }
    let shown: BTreeSet<(SourceColumn<'_>, &Name, &Name)> = shown.iter().map(Column::key).collect();
    let is_unmasked =
        |column: &Column<'_>| !column.is_pii && personal.contains_key(&column.source) && !shown.contains(&column.key());
    if let Some(Column { view, feature, .. }) = each_column(after).find(is_unmasked) {
        let message =
            format!("feature '{feature}' of view '{view}' would show what is personal (pii), which you may not see");
        return Err(Error::new(Code::PermissionDenied, "PII_NOT_GRANTED", message)
            .hint("tag the feature `pii: \"true\"`, or ask somebody with the grant to make the change")
            .with("view", view)
            .with("feature", feature));
    }
    let keyed: BTreeSet<(SourceColumn<'_>, &Name)> = each_key(before).collect();
    for (source, view) in each_key(after).filter(|key| !keyed.contains(key)) {
        let Some(Column { view: other, feature, .. }) = personal.get(&source) else { continue };
        let key = source.2;
        let message = format!(
            "view '{view}' would be keyed by '{key}', which is personal (pii) as feature '{feature}' of view '{other}' \
             and which you may not see; a key is not masked"
        );
        return Err(Error::new(Code::PermissionDenied, "PII_NOT_GRANTED", message)
            .hint("key the view by something else, or ask somebody with the grant to make the change")
            .with("view", view)
            .with("key", key));
    }
    Ok(())
}

/// The tenant, the source and its column.
type SourceColumn<'a> = (TenantId, &'a Name, &'a Name);

/// A feature, and what it is taken from.
struct Column<'a> {
    source: SourceColumn<'a>,
    view: &'a Name,
    feature: &'a Name,
    is_pii: bool,
}

impl<'a> Column<'a> {
    fn key(&self) -> (SourceColumn<'a>, &'a Name, &'a Name) {
        (self.source, self.view, self.feature)
    }
}

fn each_view(snapshot: &Snapshot) -> impl Iterator<Item = &View> {
    snapshot.tenants.values().flat_map(|tenant| tenant.all_views()).map(AsRef::as_ref)
}

fn each_column(snapshot: &Snapshot) -> impl Iterator<Item = Column<'_>> {
    each_view(snapshot).flat_map(|view| {
        let tags = &view.applied.definition.metadata.tags;
        view.features.iter().map(move |feature| Column {
            source: (view.tenant, &view.source, &feature.column),
            view: &view.name,
            feature: &feature.name,
            is_pii: is_pii(tags, feature),
        })
    })
}

/// The columns that views are keyed by, each with its view: a join key is the column of its name.
fn each_key(snapshot: &Snapshot) -> impl Iterator<Item = (SourceColumn<'_>, &Name)> {
    each_view(snapshot)
        .flat_map(|view| view.join_keys.iter().map(move |key| ((view.tenant, &view.source, &key.name), &view.name)))
}
