//! Why values are what they are: the row that is said to count is the one that a training set, a pinned
//! read and the oracle go by, and of each row that is said to have lost the rule holds.

use hydrant::history::{Lost, Rule, ToldRow, WhyRequest};
use hydrant::tenancy::Action;

use super::*;
use crate::support::oracle::SentRow;

impl Story {
    pub(in crate::one_sentence::story) async fn explain(&mut self) {
        let Some(shape) = self.offline_shape() else { return };
        let keys = self.keys(shape);
        let ahead = self.random.chance(10);
        let at = if ahead { self.node.now() + 100 * TICK } else { self.past_instant() };
        let ask = self.any_ask();
        let entities: Vec<(String, ArrayRef)> = self.shapes[shape]
            .request_columns()
            .into_iter()
            .map(|(name, key_type)| {
                let column = table::column(DataType::Scalar(key_type), &[keys[&name].clone()]);
                (name, column)
            })
            .collect();
        let (features, services) = self.shapes[shape].what.iter().cloned().partition(|name| name.contains(':'));
        let losers = self.random.below(6);
        self.note(format!("explained {:?} at {at}, {ask:?}, for {keys:?}", self.shapes[shape].what));
        let request = WhyRequest {
            services,
            features,
            columns: Vec::new(),
            entities: entities.clone(),
            at,
            mode: ask.mode,
            cutoff: ask.cutoff,
            losers,
        };
        let permit = self.node.permit(Action::ReadOnline);
        let why = self.node.use_cases().history.why(&permit, request).await.expect("it is explained");
        drop(permit);
        self.given_out = self.given_out.max(why.cutoff);

        let mode = if ask.mode == history::Mode::Final { Mode::Final } else { Mode::AsKnown };
        let question = |column: &ShapeColumn| (key_of(column, &keys), column.ttl);
        for cell in &why.cells {
            let column = self.column_of(shape, &cell.name);
            let (key, ttl) = question(column);
            let asked = Question { key: key.as_deref(), t: at, mode, cutoff: Some(why.cutoff), ttl };
            let rows = &self.rows[column.view];
            let expected = oracle::cell(rows, asked, column.feature, column.default.as_ref());
            assert!(expected.same(&cell.value, cell.status.as_str()), "{cell:?}, and {expected:?} was expected");
            let lookup = &why.lookups[cell.lookup];
            let of_key: Vec<&SentRow> =
                rows.iter().filter(|row| key.as_deref().is_some_and(|key| same_key(&row.key, key))).collect();
            assert_eq!(lookup.rows, of_key.len() as u64);
            let winner = oracle::row_that_counts(rows, asked);
            match (&lookup.winner, winner) {
                (None, None) => {}
                (Some(told), Some(sent)) => assert!(is_told(told, sent), "{told:?} was told for {sent:?}"),
                (told, sent) => panic!("{told:?} was told for {sent:?}"),
            }
            check_losers(&lookup.losers, &of_key, winner, asked, losers);
            self.tally.explained_cells += 1;
            self.tally.explained_losers += lookup.losers.len();
        }

        // What is explained is what is trained on,
        let spine = self.spine(shape, &[(at, keys.clone())]);
        let trained = self.trained(shape, &spine, ask.up_to(why.cutoff)).await;
        for cell in &why.cells {
            let value = value_in(trained.array(&cell.name), self.column_of(shape, &cell.name), 0);
            assert!(cell.value.same_bits(&value), "{cell:?}, and {value:?} in a training set");
            assert_eq!(trained.statuses(&cell.name), [cell.status.as_str()], "{cell:?}");
        }
        // and what is served.
        if ask.mode == history::Mode::AsKnown && ask.cutoff.is_none() && !ahead {
            let columns = keys.iter().map(|(name, value)| (name.clone(), vec![value.clone()])).collect();
            let asked = Asked { columns, rows: vec![keys.clone()], entities };
            let served = self.node.get(self.online_request(shape, &asked, Some(at))).await.expect("it is read");
            for cell in &why.cells {
                let value = value_in(&served.find(&cell.name).values, self.column_of(shape, &cell.name), 0);
                assert!(cell.value.same_bits(&value), "{cell:?}, and {value:?} is served");
                assert_eq!(served.statuses(&cell.name)[0], cell.status, "{cell:?}");
            }
        }
    }

    fn column_of(&self, shape: usize, name: &str) -> &ShapeColumn {
        self.shapes[shape].columns.iter().find(|column| column.name == name).expect("a column of the shape")
    }
}

fn same_key(sent: &[Value], key: &[Value]) -> bool {
    sent.len() == key.len() && sent.iter().zip(key).all(|(a, b)| a.same_bits(b))
}

fn is_told(told: &ToldRow, sent: &SentRow) -> bool {
    (told.version.event_time, told.version.known_time, told.ingest_time, told.deleted)
        == (sent.event_time, sent.known_time, sent.ingest_time, sent.features.is_none())
        && told.version.position.ordinal as usize == sent.place.1
}

/// They are the nearest of the key's other rows, and each lost by its rule.
fn check_losers(told: &[Lost], of_key: &[&SentRow], winner: Option<&SentRow>, asked: Question<'_>, most: usize) {
    let rank = |row: &SentRow| (row.event_time, row.known_time, row.place);
    let mut others: Vec<&&SentRow> =
        of_key.iter().filter(|row| winner.is_none_or(|winner| rank(winner) != rank(row))).collect();
    others.sort_by_key(|row| (row.event_time.abs_diff(asked.t), std::cmp::Reverse(rank(row))));
    others.truncate(most);
    assert_eq!(told.len(), others.len());
    for (lost, sent) in told.iter().zip(others) {
        assert!(is_told(&lost.row, sent), "{lost:?} was told for {sent:?}");
        let in_time = asked.cutoff.is_none_or(|cutoff| sent.ingest_time <= cutoff);
        let happened = sent.event_time <= asked.t;
        let known = asked.mode == Mode::Final || sent.known_time <= asked.t;
        let beaten = |holds: &dyn Fn(&SentRow) -> bool| in_time && happened && known && winner.is_some_and(holds);
        let holds = match lost.rule {
            Rule::AfterCutoff => !in_time,
            Rule::LaterThanInstant => in_time && !happened,
            Rule::NotYetKnown => in_time && happened && !known,
            Rule::SmallerEventTime => beaten(&|winner| sent.event_time < winner.event_time),
            Rule::SmallerKnownTime => {
                beaten(&|winner| sent.event_time == winner.event_time && sent.known_time < winner.known_time)
            }
            Rule::EarlierPosition => beaten(&|winner| {
                (sent.event_time, sent.known_time) == (winner.event_time, winner.known_time)
                    && sent.place < winner.place
            }),
        };
        assert!(holds, "{sent:?} lost by {:?} to {winner:?}, at {asked:?}", lost.rule);
    }
}
