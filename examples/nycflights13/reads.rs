//! Online reads, timed from the client's call to its typed answer.

use std::fs::File;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use arrow_array::cast::AsArray as _;
use hdrhistogram::Histogram;
use hydrant::rpc::client::Client;
use hydrant_proto::v1;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

const READS: usize = 20_000;
const WARM_UP: usize = 1_000;
const KEYS: [&str; 4] = ["origin", "carrier", "tailnum", "dest"];

/// Reads the features of flights spread over the year and prints how long that took.
pub async fn time(server: &str, requests: &str) -> Result<()> {
    let client = Client::connect(server).await?;
    let requests = flights(requests)?;
    let every = (requests.len() / READS).max(1);
    let spread = |count: usize| requests.iter().step_by(every).cycle().take(count);
    for request in spread(WARM_UP) {
        client.get_online_features(request.clone()).await?;
    }
    let mut nanoseconds = Histogram::<u64>::new(3)?;
    let (mut cells, mut present) = (0, 0);
    let started = Instant::now();
    for request in spread(READS) {
        let request = request.clone();
        let begun = Instant::now();
        let answer = client.get_online_features(request).await?;
        nanoseconds.record(u64::try_from(begun.elapsed().as_nanos())?)?;
        cells += answer.columns.len();
        present += answer
            .columns
            .iter()
            .filter(|column| column.statuses().any(|status| status == v1::CellStatus::Present))
            .count();
    }
    let seconds = started.elapsed().as_secs_f64();
    ensure!(present > 0, "none of the cells read holds a value");
    let micros = |quantile: f64| nanoseconds.value_at_quantile(quantile) as f64 / 1_000.0;
    println!(
        "p50 {:.0} µs   p99 {:.0} µs   p99.9 {:.0} µs   (round trips of one client)",
        micros(0.5),
        micros(0.99),
        micros(0.999)
    );
    println!(
        "{READS} reads in {seconds:.1} s, {:.0} a second; {cells} cells, {:.0} % of them present",
        READS as f64 / seconds,
        100.0 * present as f64 / cells as f64,
    );
    Ok(())
}

/// One request for each flight that has a tail number.
fn flights(path: &str) -> Result<Vec<v1::GetOnlineFeaturesRequest>> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).with_context(|| path.to_owned())?)?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), KEYS);
    let mut requests = Vec::new();
    for batch in builder.with_projection(mask).build()? {
        let batch = batch?;
        let columns = KEYS.map(|name| batch.column_by_name(name).map(|column| column.as_string::<i32>()));
        let [Some(origin), Some(carrier), Some(tailnum), Some(dest)] = columns else {
            anyhow::bail!("{path} lacks one of {KEYS:?}");
        };
        let rows = origin.iter().zip(carrier).zip(tailnum).zip(dest);
        for (((origin, carrier), tailnum), dest) in rows {
            if let (Some(origin), Some(carrier), Some(tailnum), Some(dest)) = (origin, carrier, tailnum, dest) {
                requests.push(request([origin, carrier, tailnum, dest]));
            }
        }
    }
    Ok(requests)
}

fn request(values: [&str; 4]) -> v1::GetOnlineFeaturesRequest {
    let column = |(name, value): (&str, &str)| v1::Column {
        name: name.to_owned(),
        values: Some(v1::column::Values::Strings(v1::StringValues { values: vec![value.to_owned()] })),
        nulls: Vec::new(),
    };
    v1::GetOnlineFeaturesRequest {
        services: vec!["delay_model".to_owned()],
        entities: KEYS.into_iter().zip(values).map(column).collect(),
        ..v1::GetOnlineFeaturesRequest::default()
    }
}
