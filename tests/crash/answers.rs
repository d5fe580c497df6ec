//! Reads of every key, and what they answer.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, StringArray};
use hydrant::rpc::client::{Client, Refusal};
use hydrant::rpc::v1;
use hydrant::rpc::v1::column::Values;
use hydrant::rpc::wire::columns::encode_column;

use crate::ledger::Key;
use crate::rows::{DEVICES, SERVICE, SITES, device_name, note};

/// What stands under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    NotFound,
    /// The row of this number.
    Tick(i64),
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub t: i64,
    pub revision: u64,
    pub cells: Vec<(Key, Seen)>,
}

/// Reads every key of both views at one instant; `at_least` a frame.
pub async fn read_all(client: &Client, at_least: Option<v1::Position>) -> Result<Answer, Refusal> {
    let devices: ArrayRef = Arc::new((0..DEVICES).map(|device| Some(device_name(device))).collect::<StringArray>());
    // Each site several times: a read takes each key once.
    let site_of = |row: usize| i64::try_from(row).expect("few rows") % SITES;
    let sites: ArrayRef = Arc::new((0..DEVICES).map(site_of).collect::<Int64Array>());
    let request = v1::GetOnlineFeaturesRequest {
        services: vec![SERVICE.to_owned()],
        entities: vec![
            encode_column("device", &devices).expect("strings"),
            encode_column("site", &sites).expect("int64s"),
        ],
        at_least,
        strict: true,
        ..Default::default()
    };
    let answer = client.get_online_features(request).await?;
    let mut cells = Vec::new();
    for row in 0..DEVICES {
        cells.push((Key::Device(row), seen(&answer, "by_device", row)));
        cells.push((Key::Site(site_of(row)), seen(&answer, "by_site", row)));
    }
    let provenance = answer.provenance.expect("it is always told");
    Ok(Answer { t: provenance.t, revision: provenance.registry_revision, cells })
}

/// The cell of a row, whose features have to be those of one row that was written.
fn seen(answer: &v1::GetOnlineFeaturesResponse, view: &str, row: usize) -> Seen {
    let (value_status, value) = cell(answer, &format!("{view}__value"), row);
    let (note_status, text) = cell(answer, &format!("{view}__note"), row);
    assert_eq!(value_status, note_status, "the features of one row");
    match (value_status, value, text) {
        (v1::CellStatus::NotFound, ..) => Seen::NotFound,
        (v1::CellStatus::Present, Cell::Number(tick), Cell::Text(text)) => {
            assert_eq!(text, note(tick), "no such row was ever written");
            Seen::Tick(tick)
        }
        other => panic!("{view}: {other:?}"),
    }
}

#[derive(Debug)]
enum Cell {
    Number(i64),
    Text(String),
}

fn cell(answer: &v1::GetOnlineFeaturesResponse, name: &str, row: usize) -> (v1::CellStatus, Cell) {
    let named = |column: &&v1::FeatureColumn| column.column.as_ref().is_some_and(|column| column.name == name);
    let column = answer.columns.iter().find(named).expect("every feature has its column");
    let status = match column.statuses.as_slice() {
        [one] => *one,
        each => each[row],
    };
    let status = v1::CellStatus::try_from(status).expect("a status");
    let value = match column.column.as_ref().and_then(|column| column.values.as_ref()) {
        Some(Values::Int64s(numbers)) => Cell::Number(numbers.values[row]),
        Some(Values::Strings(texts)) => Cell::Text(texts.values[row].clone()),
        other => panic!("{name}: {other:?}"),
    };
    (status, value)
}
