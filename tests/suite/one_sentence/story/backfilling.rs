//! The backfills of a story: rows as others are written, in several batches and sometimes a range of
//! them, straight into history; and then brought online, before anybody asks.

use hydrant::backfill::Outcome;
use hydrant::registry::definition::KnownTimeRule;
use hydrant_storage::value::Value;

use super::Story;
use super::writing::{Columns, value_of_feature};
use crate::one_sentence::world::{EVENT_TIME, TICK, WorldFeature};
use crate::support::oracle::SentRow;

impl Story {
    pub(super) async fn backfill(&mut self) {
        let source = self.random.below(self.world.sources.len());
        let views: Vec<usize> =
            self.views_of(source).into_iter().filter(|view| self.world.views[*view].offline).collect();
        let known_time = self.override_of(source);
        let rule = known_time.clone().unwrap_or_else(|| self.world.sources[source].known_time.clone());
        let columns = self.columns(source, &rule);
        let count = columns.0[0].2.len();
        let key_of = |story: &Self, view: usize, row: usize| -> Option<Vec<Value>> {
            let part =
                |(name, _): &(String, _)| columns.get(name, row).cloned().filter(|part| !matches!(part, Value::Null));
            story.world.views[view].keys.iter().map(part).collect()
        };
        // A row that is part of no view with history would be refused.
        if (0..count).any(|row| views.iter().all(|view| key_of(self, *view, row).is_none())) {
            return self.write().await;
        }
        let (mut from, mut to) = (None, None);
        if self.random.chance(30) {
            let middle = columns.micros(EVENT_TIME, self.random.below(count));
            (from, to) =
                (Some(middle - self.random.between(0, 8) * TICK), Some(middle + self.random.between(1, 8) * TICK));
        }
        let whole = columns.batch();
        let cut = self.random.below(count + 1);
        let batches = [whole.slice(0, cut), whole.slice(cut, count - cut)];
        let name = self.world.sources[source].name.clone();
        let id = format!("backfill {}", self.tally.backfilled);
        let mut request = self.node.backfill_of(&name, &id, &batches);
        (request.known_time, request.from, request.to) = (known_time, from, to);
        let report = self.node.backfill(request, &batches).await.expect("the rows are good");
        assert_eq!(report.outcome, Outcome::Applied);
        let ingest_time = report.ingest_time.expect("it was taken in");
        let told = format!(
            "backfilled {count} rows of s{source}, {rule:?}, {from:?} to {to:?}, at {ingest_time}: {:?}",
            columns.0
        );
        self.note(told);
        assert!(ingest_time > self.given_out, "stamped {ingest_time}, and {} was given out before", self.given_out);
        self.given_out = ingest_time;
        self.requests += 1;
        self.tally.backfilled += 1;
        let is_wanted = |row: &usize| {
            let time = columns.micros(EVENT_TIME, *row);
            from.is_none_or(|from| time >= from) && to.is_none_or(|to| time < to)
        };
        for view in views {
            let mut rows = 0;
            for row in (0..count).filter(is_wanted) {
                let Some(key) = key_of(self, view, row) else { continue };
                rows += 1;
                let sent = self.backfilled_row(view, key, &columns, row, &rule, ingest_time);
                self.rows[view].push(sent);
            }
            let defined = self.world.views[view].name.clone();
            let told = report.views.iter().find(|told| told.view.as_str() == defined).expect("every view is told");
            assert_eq!(told.rows, rows, "{defined}");
            let since = if self.random.chance(70) { report.frame } else { None };
            let online = self.node.materialize(&defined, since).await.expect("it is brought online");
            self.note(format!("brought {} rows of {defined} online", online.written));
            self.tally.brought_online += online.written;
        }
    }

    fn backfilled_row(
        &self,
        view: usize,
        key: Vec<Value>,
        columns: &Columns,
        row: usize,
        rule: &KnownTimeRule,
        ingest_time: i64,
    ) -> SentRow {
        let event_time = columns.micros(EVENT_TIME, row);
        let known_time = match rule {
            KnownTimeRule::Arrival => ingest_time,
            KnownTimeRule::Event { delay } => event_time + delay,
            KnownTimeRule::Column(name) => columns.micros(name.as_str(), row),
        };
        let feature = |feature: &WorldFeature| value_of_feature(columns.get(&feature.column, row), feature);
        let features = &self.world.views[view].features;
        let features = (!columns.is_deleted(row)).then(|| features.iter().map(feature).collect());
        SentRow { key, event_time, known_time, ingest_time, place: (self.requests, row), features }
    }
}
