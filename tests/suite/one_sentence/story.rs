//! One random history of a node: what is written, when the clock moves, what is asked meanwhile, when
//! rows land and when the node is restarted. Every answer is compared at once with the oracle, and
//! those of unpinned reads are kept for the end, when training sets have to repeat them.

mod asking;
mod backfilling;
mod writing;

use std::collections::BTreeMap;
use std::ops::AddAssign;

use arrow_array::RecordBatch;
use hydrant::clock::Clock as _;
use hydrant::registry::definition::Kind;
use hydrant_storage::value::Value;

use super::shape::Shape;
use super::world::{TICK, World};
use crate::support::node::{Ask, TestNode};
use crate::support::oracle::{Cell, SentRow};
use crate::support::random::Random;
use writing::Sending;

pub struct Story {
    random: Random,
    node: TestNode,
    world: World,
    shapes: Vec<Shape>,
    /// By view, in the order of the log.
    rows: Vec<Vec<SentRow>>,
    /// Event times used so far, to be met again.
    used_times: Vec<i64>,
    /// Requests taken so far.
    requests: usize,
    sending: Option<Sending>,
    records: Vec<Record>,
    kept: Vec<Kept>,
    /// No later write may be stamped at or before it.
    given_out: i64,
    has_evolved: bool,
    /// Names and ttls stay from here on.
    has_settled: bool,
    tally: Tally,
    trace: Trace,
}

/// What an unpinned read answered for one row of keys.
struct Record {
    shape: usize,
    t: i64,
    keys: Keys,
    cells: Vec<Cell>,
}

/// A value for each request column.
type Keys = BTreeMap<String, Value>;

/// A training set that has to come out the same whenever it is asked for again.
struct Kept {
    shape: usize,
    spine: RecordBatch,
    ask: Ask,
    content_hash: String,
}

/// How much was compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub rows: usize,
    pub refused: usize,
    pub unpinned_cells: usize,
    pub pinned_cells: usize,
    pub from_history: usize,
    pub recorded_cells: usize,
    pub training_cells: usize,
    pub explained_cells: usize,
    pub explained_losers: usize,
    pub present: usize,
    pub expired: usize,
    pub landings: usize,
    pub backfilled: usize,
    pub brought_online: u64,
    pub merges: u64,
    pub restarts: usize,
    pub restores: usize,
    pub refills: usize,
    pub renamed: usize,
}

/// What was done, printed if the test fails.
#[derive(Default)]
struct Trace(Vec<String>);

impl Drop for Trace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what was done:\n{}", self.0.join("\n"));
        }
    }
}

impl Story {
    pub async fn begin(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let world = World::random(&mut random);
        let node = TestNode::start("").await;
        node.apply_all(world.definitions()).await.expect("the definitions fit together");
        let mut story = Self {
            random,
            node,
            rows: world.views.iter().map(|_| Vec::new()).collect(),
            world,
            shapes: Vec::new(),
            used_times: Vec::new(),
            requests: 0,
            sending: None,
            records: Vec::new(),
            kept: Vec::new(),
            given_out: i64::MIN,
            has_evolved: false,
            has_settled: false,
            tally: Tally::default(),
            trace: Trace::default(),
        };
        story.trace.0.push(format!("{:#?}", story.world));
        story.add_shapes();
        story
    }

    pub async fn step(&mut self) {
        match self.random.below(100) {
            0..=27 => self.write().await,
            28..=29 => self.backfill().await,
            30..=34 => self.delete().await,
            35..=37 => self.write_bad_rows().await,
            38..=40 => self.write_again().await,
            41..=57 => self.move_clock().await,
            58..=83 => self.read_unpinned().await,
            84..=89 => self.read_pinned().await,
            90..=91 => self.explain().await,
            92..=94 => self.train().await,
            95 => self.land().await,
            96 => {
                self.land().await;
                self.compact().await;
            }
            97 if self.random.chance(50) => self.restore().await,
            97 => self.restart().await,
            98 => self.flush().await,
            _ => self.evolve().await,
        }
    }

    /// Asks for everything again that was answered, before and after the last landing,
    /// and when its files are merged.
    pub async fn end(mut self) -> Tally {
        if self.random.chance(50) {
            self.restart().await;
        }
        self.train_records().await;
        self.land().await;
        self.train_records().await;
        self.repeat_kept().await;
        self.compact().await;
        self.train_records().await;
        self.repeat_kept().await;
        assert!(self.tally.recorded_cells > 0, "nothing was recorded");
        self.tally
    }

    fn note(&mut self, what: String) {
        self.trace.0.push(what);
    }

    async fn move_clock(&mut self) {
        let by = match self.random.below(10) {
            0..=4 => self.random.between(1, 6) * TICK,
            5..=6 => self.random.between(6, 50) * TICK,
            7..=8 => self.random.between(1, 3),
            // A step of the wall clock, which store time doesn't follow.
            _ => -self.random.between(1, 20) * TICK,
        };
        // On the grid again, so that times meet.
        let now = self.node.clock.now().max(self.node.now());
        let by = if by > 3 { by - now.rem_euclid(TICK) } else { by };
        self.node.clock.set(now + by);
        if self.random.chance(70) {
            let sealed = self.node.node().log().seal().await.expect("the log works");
            self.given_out = self.given_out.max(sealed.time);
        }
        self.note(format!("clock {} ({by:+}), store time {}", now + by, self.node.now()));
    }

    async fn land(&mut self) {
        let rows = self.node.land().await;
        self.tally.landings += 1;
        self.note(format!("landed {rows} rows"));
    }

    async fn compact(&mut self) {
        let merges = self.node.compact().await;
        self.tally.merges += merges;
        self.note(format!("compacted: {merges} merges"));
    }

    async fn restart(&mut self) {
        let before = self.node.now();
        self.node.restart().await;
        assert!(self.node.now() >= before, "store time ran backwards over a restart");
        self.tally.restarts += 1;
        self.note(format!("restarted; store time {}", self.node.now()));
    }

    /// Goes on with a backup in the place of the node.
    async fn restore(&mut self) {
        let before = self.node.now();
        let name = format!("backup_{}", self.tally.restores);
        let made = self.node.back_up(&name).await.expect("the backup is made");
        let mut restored = self.node.restored(&name).await;
        std::mem::swap(&mut self.node, &mut restored);
        restored.close().await;
        assert!(self.node.now() >= before, "store time ran backwards over a restore");
        assert_eq!(self.node.frames(), made.frame);
        self.tally.restores += 1;
        self.note(format!("restored {made:?}; store time {}", self.node.now()));
    }

    async fn flush(&mut self) {
        for handle in self.node.use_cases().partitions.handles() {
            handle.flush(crate::support::node::patience()).await.expect("flushed");
        }
        self.note("flushed".to_owned());
    }

    async fn evolve(&mut self) {
        if self.has_evolved {
            return self.read_unpinned().await;
        }
        self.has_evolved = true;
        self.world.evolve(&mut self.random);
        let definitions = self.world.definitions();
        self.node.apply_all(definitions).await.expect("the changes are compatible");
        self.note(format!("evolved to {:#?}", self.world));
        let before = self.node.catalog().views.values().filter(|view| view.refill.is_some()).count();
        if self.random.chance(40) {
            self.restart().await;
        }
        self.node.refilled().await;
        self.tally.refills += before;
        // Services freeze a raised ttl once it is in effect.
        let definitions = self.world.definitions();
        self.node.apply_all(definitions).await.expect("nothing else has changed");
        self.note("refilled".to_owned());
        self.add_shapes();
        self.rename().await;
    }

    /// New versions of views are built beside the old ones while rows come and are read; services go over
    /// once they are served.
    async fn rename(&mut self) {
        let renamed = self.world.rename(&mut self.random);
        let mut definitions = self.world.definitions();
        definitions.retain(|definition| definition.kind() != Kind::FeatureService);
        self.node.apply_all(definitions).await.expect("new versions can be built");
        self.note(format!("renamed {renamed} features: {:#?}", self.world.views));
        for _ in 0..self.random.below(4) {
            match self.random.below(5) {
                0 | 1 => self.write().await,
                2 => self.delete().await,
                3 => self.land().await,
                _ => self.restart().await,
            }
        }
        self.node.built().await;
        self.tally.renamed += renamed;
        self.node.apply_all(self.world.definitions()).await.expect("what is new is served");
        self.note("built".to_owned());
        self.has_settled = true;
        self.add_shapes();
    }

    /// The services as they are now, beside those that were frozen before, and some single features.
    fn add_shapes(&mut self) {
        let catalog = self.node.catalog();
        for service in 0..self.world.services.len() {
            let name = self.world.services[service].name.as_str();
            let version = catalog.services[name].versions.last().expect("it has a version").number;
            let shape = Shape::of_service(&self.world, service, version);
            if !self.shapes.iter().any(|known| known.what == shape.what) {
                self.shapes.push(shape);
            }
        }
        // Single features follow their view's ttl and names: what was recorded of them holds only once those
        // are not changed any more.
        if self.has_settled {
            for _ in 0..2 {
                let view = self.random.below(self.world.views.len());
                let other = self.random.below(self.world.views.len());
                let mut features = vec![(view, self.random.below(self.world.views[view].features.len()))];
                if other != view && self.world.views[other].offline == self.world.views[view].offline {
                    features.push((other, 0));
                }
                self.shapes.push(Shape::of_features(&self.world, &features));
            }
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.refused += other.refused;
        self.unpinned_cells += other.unpinned_cells;
        self.pinned_cells += other.pinned_cells;
        self.from_history += other.from_history;
        self.recorded_cells += other.recorded_cells;
        self.training_cells += other.training_cells;
        self.explained_cells += other.explained_cells;
        self.explained_losers += other.explained_losers;
        self.present += other.present;
        self.expired += other.expired;
        self.landings += other.landings;
        self.backfilled += other.backfilled;
        self.brought_online += other.brought_online;
        self.merges += other.merges;
        self.restarts += other.restarts;
        self.restores += other.restores;
        self.refills += other.refills;
        self.renamed += other.renamed;
    }
}
