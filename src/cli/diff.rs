//! `hydrant diff`: what two versions of a service answer to the same keys, feature by feature. Both are
//! asked for the same keys as of the same instant, in turns, so that neither is always the one that
//! finds warm caches. It reads and changes nothing.

mod comparison;
mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use arrow_array::{Array as _, ArrayRef};
use hydrant_proto::v1;
use hydrant_storage::order::Micros;
use hydrant_storage::row::value_at;

use self::comparison::{Column, Comparison};
use self::report::{Report, Side};
use super::catalog::Catalog;
use super::input::ParquetInput;
use super::key_file::KeyFile;
use super::keys::{self, KeyArgument};
use super::online::key_json;
use super::output::{self, ResultOutput};
use super::{Done, Failure, Server, progress, time};
use crate::error::Code;
use crate::rpc::client::Client;
use crate::rpc::wire::columns::{decode_column, encode_column};

/// Compare what two versions of a service answer to the same keys
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  hydrant diff delay_model@3 delay_model@4 --keys requests.parquet\n  \
    hydrant diff delay_model@3 delay_model --key origin=EWR,carrier=UA,tailnum=N64809,dest=SFO --tolerance 0.001 --exit-code")]
pub struct Args {
    /// The one that is known: NAME@N, or NAME for its current version
    #[arg(value_name = "SERVICE@A")]
    left: String,

    /// The one that is held against it
    #[arg(value_name = "SERVICE@B")]
    right: String,

    #[command(flatten)]
    keys: KeyArgs,

    /// Read both as of this instant (RFC 3339); if left out, the instant of the first answer holds for
    /// all rows of both
    #[arg(long, value_name = "TIME", value_parser = time::parse, conflicts_with = "unpinned")]
    at: Option<Micros>,

    /// Read the newest values in each piece, not all as of one instant: for views without history
    #[arg(long)]
    unpinned: bool,

    /// How far apart two numbers may be and still count as equal
    #[arg(long, value_name = "X", default_value = "0", value_parser = tolerance)]
    tolerance: f64,

    /// Rows of one read, 10,000 at most: of such reads the latency is told
    #[arg(long, value_name = "ROWS", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch_size: u32,

    /// Read all keys so many times, for latencies of more reads; values are compared each time
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repeat: u32,

    /// End with 3 where anything differs
    #[arg(long)]
    exit_code: bool,

    #[command(flatten)]
    pub output: ResultOutput,
}

/// The rows to read, in one of two ways.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct KeyArgs {
    /// The join keys of one row, such as origin=EWR,carrier=UA ('\,' for a comma in a value); once per row
    #[arg(long = "key", value_name = "KEY=VALUE,…", value_parser = keys::parse)]
    rows: Vec<KeyArgument>,

    /// A Parquet file whose columns hold the join keys of both, one row each; other columns are left out
    #[arg(long = "keys", value_name = "FILE.parquet")]
    file: Option<PathBuf>,
}

/// How long refusals that say when to try again are waited out, for one read.
const PATIENCE: Duration = Duration::from_secs(60);

fn tolerance(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    if number.is_finite() && number >= 0.0 { Ok(number) } else { Err("it is no distance: give 0 or more".to_owned()) }
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let client = server.connect().await?;
    let (left, right) = (Reader::of(&client, &args.left).await?, Reader::of(&client, &args.right).await?);
    let keys = Keys::of(&args, &left, &right)?;
    let mut comparing =
        Comparing { left, right, comparison: Comparison::new(args.tolerance), t: args.at, pinned: !args.unpinned };
    let bar = progress::rows("comparing", keys.rows() * u64::from(args.repeat));
    for _ in 0..args.repeat {
        let mut pieces = keys.pieces(args.batch_size as usize)?;
        while let Some([left, right]) = pieces.next(&keys)? {
            let rows = left.first().map_or(0, |(_, column)| column.len());
            comparing.compare(left, right).await?;
            bar.inc(rows as u64);
        }
    }
    bar.finish_and_clear();
    let report = comparing.report();
    output::print_as(args.output.format, &report.json(), || report.text())?;
    if let Some(warning) = report.warning() {
        output::warn(&warning, args.output.format);
    }
    Ok(if args.exit_code && report.differs() { Done::Changes } else { Done::Done })
}

/// Key columns of some rows.
type KeyColumns = Vec<(String, ArrayRef)>;

/// The keys of all rows, as either side takes them.
enum Keys {
    Given([KeyColumns; 2]),
    File(Box<[KeyFile; 2]>),
}

/// Goes through the keys, some at a time.
enum Pieces {
    Given { next: usize, rows: usize },
    File { batches: Box<dyn Iterator<Item = Result<arrow_array::RecordBatch, Failure>> + Send>, row: u64 },
}

impl Keys {
    fn of(args: &Args, left: &Reader, right: &Reader) -> Result<Self, Failure> {
        let keys = match &args.keys.file {
            Some(path) => {
                let input = ParquetInput::open(path)?;
                Self::File(Box::new([KeyFile::of(input.clone(), &left.catalog)?, KeyFile::of(input, &right.catalog)?]))
            }
            None => {
                let columns =
                    left.catalog.key_types().clone().and(right.catalog.key_types()).columns(&args.keys.rows)?;
                Self::Given([left.keys_of(&columns)?, right.keys_of(&columns)?])
            }
        };
        if keys.rows() == 0 {
            return Err(Failure::new("TOO_MANY_KEYS", "there are no rows to compare").hint("give at least one key"));
        }
        Ok(keys)
    }

    fn rows(&self) -> u64 {
        match self {
            Self::Given([left, _]) => left.first().map_or(0, |(_, column)| column.len() as u64),
            Self::File(files) => files[0].input.rows(),
        }
    }

    fn pieces(&self, rows: usize) -> Result<Pieces, Failure> {
        match self {
            Self::Given(_) => Ok(Pieces::Given { next: 0, rows }),
            Self::File(files) => {
                let names: Vec<String> = [files[0].names(), files[1].names()].concat();
                Ok(Pieces::File { batches: Box::new(files[0].input.batches(rows, Some(&names))?), row: 0 })
            }
        }
    }
}

impl Pieces {
    /// The next keys, of both sides.
    fn next(&mut self, keys: &Keys) -> Result<Option<[KeyColumns; 2]>, Failure> {
        match (self, keys) {
            (Self::Given { next, rows }, Keys::Given(sides)) => {
                let (from, all) = (*next, usize::try_from(keys.rows()).unwrap_or(usize::MAX));
                if from >= all {
                    return Ok(None);
                }
                let count = (*rows).min(all - from);
                *next = from + count;
                let cut = |columns: &KeyColumns| {
                    columns.iter().map(|(name, column)| (name.clone(), column.slice(from, count))).collect()
                };
                Ok(Some([cut(&sides[0]), cut(&sides[1])]))
            }
            (Self::File { batches, row }, Keys::File(files)) => {
                let Some(batch) = batches.next().transpose()? else { return Ok(None) };
                let sides = [files[0].keys_of(&batch, *row)?, files[1].keys_of(&batch, *row)?];
                *row += batch.num_rows() as u64;
                Ok(Some(sides))
            }
            _ => Ok(None),
        }
    }
}

/// One of the two services.
struct Reader {
    client: Client,
    catalog: Catalog,
    /// As it was asked for, and with its version once that is known.
    service: String,
    latencies: Vec<Duration>,
    masked: u64,
}

/// An answer to one read.
struct Answer {
    columns: Vec<Column>,
    t: Micros,
}

impl Reader {
    async fn of(client: &Client, service: &str) -> Result<Self, Failure> {
        let catalog = Catalog::load(client, service).await?;
        Ok(Self { client: client.clone(), catalog, service: service.to_owned(), latencies: Vec::new(), masked: 0 })
    }

    /// The key columns that this service takes.
    fn keys_of(&self, given: &[(String, ArrayRef)]) -> Result<KeyColumns, Failure> {
        let missing = self.catalog.missing_keys(|name| given.iter().any(|(known, _)| known == name));
        if let Some(first) = missing.first() {
            let message = format!("{} needs the join key '{first}', and no --key gives it", self.service);
            return Err(Failure::new("NO_KEYS", message).hint(self.catalog.keyed_by()).with("key", first));
        }
        let wanted = self.catalog.keys();
        Ok(given.iter().filter(|(name, _)| wanted.contains(name.as_str())).cloned().collect())
    }

    /// Reads some keys. How long it took counts unless it is to warm up.
    async fn read(&mut self, keys: &KeyColumns, at: Option<Micros>, counts: bool) -> Result<Answer, Failure> {
        let entities = keys.iter().map(|(name, column)| encode_column(name, column)).collect::<Result<_, _>>()?;
        let request = v1::GetOnlineFeaturesRequest {
            services: vec![self.service.clone()],
            entities,
            at,
            ..v1::GetOnlineFeaturesRequest::default()
        };
        let since = Instant::now();
        let (response, took) = loop {
            let sent = Instant::now();
            match self.client.get_online_features(request.clone()).await {
                Ok(response) => break (response, sent.elapsed()),
                Err(refusal) => {
                    let passes = matches!(refusal.code, Code::ResourceExhausted | Code::Unavailable);
                    match refusal.retry_after.filter(|delay| passes && since.elapsed() + *delay < PATIENCE) {
                        Some(delay) => tokio::time::sleep(delay).await,
                        None => return Err(refusal.into()),
                    }
                }
            }
        };
        if counts {
            self.latencies.push(took);
        }
        let rows = response.rows as usize;
        let columns =
            response.columns.into_iter().map(|column| decoded(column, rows)).collect::<Result<Vec<_>, _>>()?;
        if counts {
            let masked = columns.iter().flat_map(|column: &Column| &column.cells);
            self.masked += masked.filter(|cell| cell.status == v1::CellStatus::Masked).count() as u64;
        }
        if let Some(service) = response.services.into_iter().next() {
            // All reads are of the same version, whatever is applied meanwhile.
            self.service = service.service;
        }
        Ok(Answer { columns, t: response.provenance.unwrap_or_default().t })
    }

    fn side(self) -> Side {
        Side { service: self.service, latencies: self.latencies, masked: self.masked }
    }
}

/// Both services, and what came out so far.
struct Comparing {
    left: Reader,
    right: Reader,
    comparison: Comparison,
    /// The instant of all reads, once it is known.
    t: Option<Micros>,
    pinned: bool,
}

impl Comparing {
    async fn compare(&mut self, left: KeyColumns, right: KeyColumns) -> Result<(), Failure> {
        let at = |comparing: &Self| comparing.t.filter(|_| comparing.pinned);
        if self.left.latencies.is_empty() {
            // The first reads make connections and fill caches; they are for neither's latency.
            let first = self.left.read(&left, at(self), false).await?;
            self.t = Some(self.t.unwrap_or(first.t));
            self.right.read(&right, at(self), false).await?;
        }
        let instant = at(self);
        let left_first = self.left.latencies.len().is_multiple_of(2);
        let (left_answer, right_answer) = if left_first {
            let left = self.left.read(&left, instant, true).await?;
            (left, self.right.read(&right, instant, true).await?)
        } else {
            let right = self.right.read(&right, instant, true).await?;
            (self.left.read(&left, instant, true).await?, right)
        };
        let mut named: KeyColumns = left;
        named.extend(
            right.into_iter().filter(|(name, _)| !named.iter().any(|(known, _)| known == name)).collect::<Vec<_>>(),
        );
        let rows = named.first().map_or(0, |(_, column)| column.len());
        let key = |row: usize| named.iter().map(|(name, column)| (name.clone(), key_json(column, row))).collect();
        self.comparison.add(rows, key, left_answer.columns, right_answer.columns);
        Ok(())
    }

    fn report(self) -> Report {
        let t = self.t.filter(|_| self.pinned);
        Report { left: self.left.side(), right: self.right.side(), t, comparison: self.comparison }
    }
}

/// A column of an answer, cell by cell: a column or list of length 1 stands for all rows.
fn decoded(column: v1::FeatureColumn, rows: usize) -> Result<Column, Failure> {
    let statuses: Vec<v1::CellStatus> = column.statuses().collect();
    let decoded = decode_column(column.column.unwrap_or_default())?;
    let unreadable = || {
        let message = format!("the server's answer can't be read: column '{}' is cut short", decoded.name);
        Failure::new("UNREADABLE_ANSWER", message)
    };
    let at = |length: usize, row: usize| if length == 1 { 0 } else { row };
    let cell = |row: usize| {
        let status = *statuses.get(at(statuses.len(), row)).ok_or_else(unreadable)?;
        let index = at(decoded.values.len(), row);
        if index >= decoded.values.len() {
            return Err(unreadable());
        }
        let value = value_at(&*decoded.values, decoded.data_type, index).map_err(|_| unreadable())?;
        Ok(comparison::Cell { value, status })
    };
    let cells = (0..rows).map(cell).collect::<Result<_, Failure>>()?;
    Ok(Column { name: decoded.name.clone(), data_type: decoded.data_type, cells })
}
