//! How a join reads its views: by seeks, where a spine asks for few rows of a long history, or by a
//! merge of all that its keys' slots hold. A pure, printable value: the one that is executed is the one
//! that `hydrant historical explain` shows. It reads nothing itself.

use std::fmt;

use hydrant_storage::history::PAGE_ROWS;
use hydrant_storage::order::Micros;

use super::plan::Plan;
use super::spine::Budget;

/// Pages of a run that a spine row costs: that of the row that counts, and one beside it where it lies
/// near an end or was known late.
const SEEK_PAGES: u64 = 2;
/// A row of a page that is sought costs less than so many that are walked: pages lie apart.
const SEEK_COST: u64 = 2;
/// What is sought is held in memory beside the sorted spine.
pub const MOST_SOUGHT: u64 = 100_000;

/// How one view is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Of each key the pages that may hold the row that counts, by the page index.
    Seek,
    /// All rows of the slots that the spine's keys fall into, beside the sorted spine.
    Merge,
}

/// What is known of a spine before history is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpineFacts {
    pub rows: u64,
    /// The least and the greatest event time, if they are known.
    pub times: Option<(Micros, Micros)>,
    /// Its sorted keys lie on disk in part.
    pub is_spilled: bool,
}

/// What a view's history holds at the cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableFacts {
    /// `None`: nothing has landed.
    pub delta_version: Option<u64>,
    /// The rows of each run.
    pub runs: Vec<u64>,
    pub files: u64,
    pub bytes: u64,
    /// Rows that have not landed.
    pub tail_rows: u64,
}

/// How one view will be read, and what that takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewReading {
    /// Index into the plan's joins.
    pub join: usize,
    pub access: Access,
    pub reason: String,
    pub table: TableFacts,
    /// Rows that will be read at most, about; those that have not landed are beside them.
    pub rows: u64,
    /// The bytes of files that they take, about.
    pub bytes: u64,
}

/// How a join will be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    pub spine: SpineFacts,
    /// In the order of the plan's joins.
    pub views: Vec<ViewReading>,
    /// Threads of the walks.
    pub threads: usize,
    /// Parts that each sort of the spine is cut into.
    pub parts: usize,
    /// Bytes that the join may take.
    pub memory: u64,
    /// Bytes that the spine takes, and its sorted keys.
    pub spine_bytes: u64,
    /// Bytes that go to disk, about: of the spine, of its sorted keys and of the rows found.
    pub spilled: u64,
}

impl TableFacts {
    pub fn rows(&self) -> u64 {
        self.runs.iter().sum()
    }
}

impl Reading {
    /// `tables` are those of the plan's joins.
    pub fn new(plan: &Plan, spine: SpineFacts, tables: &[TableFacts], budget: &Budget) -> Self {
        let views = tables.iter().enumerate().map(|(join, table)| view_reading(plan, join, spine, table.clone()));
        let parts = if spine.rows as usize / budget.threads.max(1) < budget.part_rows { 1 } else { budget.threads };
        let needs = budget.needs(plan, spine.rows);
        Self {
            spine,
            views: views.collect(),
            threads: budget.threads.min(parts * plan.sorts.len()).max(1),
            parts,
            memory: budget.memory as u64,
            spine_bytes: needs.spine,
            spilled: needs.spilled,
        }
    }

    pub fn access(&self, join: usize) -> Access {
        self.views[join].access
    }

    /// The plan and how it will be carried out, for people.
    pub fn shown<'a>(&'a self, plan: &'a Plan) -> impl fmt::Display + 'a {
        Shown { reading: self, plan }
    }
}

fn view_reading(plan: &Plan, join: usize, spine: SpineFacts, table: TableFacts) -> ViewReading {
    let (all, of_run) = (table.rows(), spine.rows.saturating_mul(SEEK_PAGES * PAGE_ROWS as u64));
    let sought = table.runs.iter().fold(0u64, |sum, rows| sum.saturating_add(of_run.min(*rows)));
    let (access, rows, reason) = if all == 0 {
        (Access::Merge, 0, "nothing has landed".to_owned())
    } else if spine.rows > MOST_SOUGHT {
        (Access::Merge, all, format!("the spine has more than {MOST_SOUGHT} rows"))
    } else if spine.is_spilled {
        (Access::Merge, all, "the spine's sorted keys don't fit in memory".to_owned())
    } else if sought.saturating_mul(SEEK_COST) <= all {
        (Access::Seek, sought, format!("seeks touch pages of about {sought} of {all} rows"))
    } else {
        (Access::Merge, all, format!("seeks would touch pages of about {sought} of {all} rows"))
    };
    // Features that aren't asked for are not read.
    let view = &plan.joins[join].view;
    let (read, there) =
        (plan.joins[join].features.len() as u64 + ROW_COLUMNS, view.features.len() as u64 + ROW_COLUMNS);
    let of_rows = u128::from(table.bytes) * u128::from(rows) / u128::from(all.max(1));
    let bytes = u64::try_from(of_rows * u128::from(read) / u128::from(there)).unwrap_or(u64::MAX);
    ViewReading { join, access, reason, table, rows, bytes }
}

/// Of what every row has beside its features, so many columns take room.
const ROW_COLUMNS: u64 = 6;

impl Access {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Seek => "seek",
            Self::Merge => "merge",
        }
    }
}

struct Shown<'a> {
    reading: &'a Reading,
    plan: &'a Plan,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reading, plan } = self;
        write!(formatter, "{plan}")?;
        for view in &reading.views {
            let join = &plan.joins[view.join];
            let (access, reason) = (view.access.as_str(), &view.reason);
            writeln!(formatter, "  {access} {} beside sort {}: {reason}", join.name, join.sort)?;
        }
        Ok(())
    }
}
