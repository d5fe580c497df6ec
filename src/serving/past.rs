//! Reads of the past that only history can answer. A view whose history is damaged or can't be read
//! now leaves its own cells without a value, and no others.

use std::sync::Arc;

use hydrant_storage::order::Micros;

use super::keys::{DistinctKeys, RequestKeys};
use super::pinned::needs_history;
use super::read::{Found, Limits};
use super::{Serving, in_bulk};
use crate::error::{Code, Error, Result};
use crate::registry::catalog::View;
use crate::registry::selection::Selection;
use crate::tenancy::Permit;

/// What came of asking history.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Keys that it answered.
    pub answered: usize,
    /// Why it did not answer others.
    pub not_ready: Option<String>,
}

/// An answer of history to some keys of one view.
enum Told {
    Rows(Vec<Found>),
    /// It met damage, of one of them or of several.
    Damaged,
    NotReady(String),
}

/// Keys of one view to ask for.
struct Question<'a> {
    view: &'a Arc<View>,
    keys: &'a DistinctKeys,
    t: Micros,
}

impl Serving {
    /// Replaces online rows that can't answer at `t` by history's.
    pub(super) async fn ask_history(
        &self,
        permit: &Permit,
        selection: &Selection,
        keys: &RequestKeys,
        rows: &mut [Vec<Found>],
        t: Micros,
        limits: Limits,
    ) -> Result<Past> {
        let mut past = Past::default();
        for (view, (of_view, found)) in selection.views.iter().zip(rows).enumerate() {
            let unanswered = |found: &Found| match found {
                Found::Row(row) => needs_history(row, t, of_view.longest_ttl),
                _ => false,
            };
            let wanted: Vec<usize> = (0..found.len()).filter(|key| unanswered(&found[*key])).collect();
            if wanted.is_empty() {
                continue;
            }
            let question = Question { view: &of_view.view, keys: keys.of_view(selection, view), t };
            let answers = match self.ask_together(permit, &question, &wanted, limits).await? {
                Told::Rows(rows) => rows,
                Told::Damaged if wanted.len() > 1 => {
                    self.ask_one_by_one(permit, &question, &wanted, limits, &mut past).await?
                }
                Told::Damaged => vec![Found::Damaged],
                Told::NotReady(why) => past.without(why, wanted.len()),
            };
            for (key, answer) in wanted.into_iter().zip(answers) {
                match answer {
                    Found::Row(_) | Found::Absent => past.answered += 1,
                    Found::Damaged => self.metrics.damaged_rows.add(1),
                    Found::NotReady => {}
                }
                found[key] = answer;
            }
        }
        if past.answered > 0 {
            self.metrics.keys_from_history.add_for(permit.tenant(), past.answered as u64);
        }
        Ok(past)
    }

    /// Something of what was read is damaged: which keys it belongs to shows one by one.
    async fn ask_one_by_one(
        &self,
        permit: &Permit,
        question: &Question<'_>,
        wanted: &[usize],
        limits: Limits,
        past: &mut Past,
    ) -> Result<Vec<Found>> {
        let mut each = Vec::with_capacity(wanted.len());
        for key in wanted {
            each.extend(match self.ask_together(permit, question, &[*key], limits).await? {
                Told::Rows(rows) => rows,
                Told::Damaged => vec![Found::Damaged],
                Told::NotReady(why) => past.without(why, 1),
            });
        }
        Ok(each)
    }

    async fn ask_together(
        &self,
        permit: &Permit,
        question: &Question<'_>,
        wanted: &[usize],
        limits: Limits,
    ) -> Result<Told> {
        let Question { view, keys, t } = question;
        let bytes = wanted.iter().map(|key| keys.bytes(*key).to_vec()).collect();
        let answer = async {
            // Reads in bulk ask one at a time, so that there is a place for others.
            let _turn = match in_bulk(permit) {
                true => self.bulk_history.acquire().await.ok(),
                false => None,
            };
            self.history.rows_at(permit, view, bytes, *t).await
        };
        let Ok(answered) = tokio::time::timeout_at(limits.wait_until().into(), answer).await else {
            limits.check("history was read")?;
            let why = format!("history did not answer for view '{}' within the latency budget", view.name);
            return Ok(Told::NotReady(why));
        };
        match answered {
            Ok(answered) if answered.len() != wanted.len() => {
                Err(Error::internal("history answered another number of keys than it was asked for"))
            }
            Ok(answered) => {
                let found = |row: Option<_>| row.map_or(Found::Absent, |row| Found::Row(Arc::new(row)));
                Ok(Told::Rows(answered.into_iter().map(found).collect()))
            }
            Err(error) if error.code == Code::DataLoss => {
                tracing::error!(view = %view.name, keys = wanted.len(), %error, "history is damaged");
                Ok(Told::Damaged)
            }
            Err(error) if error.code == Code::Unavailable => {
                tracing::warn!(view = %view.name, keys = wanted.len(), %error, "history can't be read now");
                Ok(Told::NotReady(error.to_string()))
            }
            Err(error) => Err(error),
        }
    }
}

impl Past {
    /// So many keys without an answer, and why.
    fn without(&mut self, why: String, keys: usize) -> Vec<Found> {
        self.not_ready.get_or_insert(why);
        vec![Found::NotReady; keys]
    }
}
