//! What is kept of reads across restarts, as JSON under one key of the metadata. Names are written once and
//! numbered. A value of another format, or one that can't be read, stops the start: what was read is not
//! forgotten in silence, since what looks unused is deleted.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use hydrant_storage::names::{Name, TenantId};
use hydrant_storage::order::Micros;
use serde::{Deserialize, Serialize};

use super::kept::{Kept, OfReader, ReadsOfThing, Record};
use crate::error::{Code, Error, Result};
use crate::registry::reads::{Counts, Readable, Reader, Thing};

pub const USAGE: &str = "usage";

const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    since: Micros,
    uncounted: u64,
    /// Of views, features, services and callers.
    names: Vec<String>,
    records: Vec<StoredRecord>,
}

#[derive(Serialize, Deserialize)]
struct StoredRecord {
    owner: u32,
    #[serde(flatten)]
    of: StoredOf,
    created: Micros,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    online: Option<Micros>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    training: Option<Micros>,
    /// Day, online, training.
    days: Vec<(i64, u64, u64)>,
    readers: Vec<(u32, usize, StoredRead)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    others: Option<StoredRead>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    features: Vec<(usize, usize)>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoredOf {
    Feature(usize, usize),
    Service(usize, u32),
}

/// Online, training, first, last.
type StoredRead = (u64, u64, Micros, Micros);

#[derive(Default)]
struct Names {
    all: Vec<String>,
    numbers: HashMap<String, usize>,
}

impl Names {
    fn number(&mut self, name: &str) -> usize {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        self.all.push(name.to_owned());
        self.numbers.insert(name.to_owned(), self.all.len() - 1);
        self.all.len() - 1
    }
}

pub fn write(kept: &Kept) -> Bytes {
    let mut names = Names::default();
    let read = |read: &OfReader| (read.counts.online, read.counts.training, read.first, read.last);
    let mut records = Vec::with_capacity(kept.records.len());
    for (thing, record) in &kept.records {
        let of = match &thing.of {
            Readable::Feature(view, feature) => {
                StoredOf::Feature(names.number(view.as_str()), names.number(feature.as_str()))
            }
            Readable::Service(service, number) => StoredOf::Service(names.number(service.as_str()), *number),
        };
        let reads = &record.reads;
        records.push(StoredRecord {
            owner: thing.owner.0,
            of,
            created: record.created,
            online: reads.last_online,
            training: reads.last_training,
            days: reads.days.iter().map(|(day, counts)| (*day, counts.online, counts.training)).collect(),
            readers: reads
                .readers
                .iter()
                .map(|(reader, of)| (reader.tenant.0, names.number(&reader.caller), read(of)))
                .collect(),
            others: reads.others.as_ref().map(read),
            features: record
                .features
                .iter()
                .map(|(view, feature)| (names.number(view.as_str()), names.number(feature.as_str())))
                .collect(),
        });
    }
    let stored = Stored { format: FORMAT, since: kept.since, uncounted: kept.uncounted, names: names.all, records };
    serde_json::to_vec(&stored).expect("names, texts and numbers are JSON").into()
}

pub fn read(value: &[u8]) -> Result<Kept> {
    let Stored { format, since, uncounted, names, records } =
        serde_json::from_slice(value).map_err(|error| damaged(&error.to_string()))?;
    if format != FORMAT {
        return Err(damaged(&format!("format {format}, and {FORMAT} is known")));
    }
    let records = records.into_iter().map(|record| record.read(&names)).collect::<Result<_, String>>();
    Ok(Kept { since, uncounted, records: records.map_err(|problem| damaged(&problem))? })
}

impl StoredRecord {
    fn read(self, names: &[String]) -> Result<(Thing, Record), String> {
        let text = |number: usize| names.get(number).ok_or_else(|| format!("there is no name {number}"));
        let name = |number: usize| text(number)?.parse::<Name>().map_err(|error| error.to_string());
        let read =
            |(online, training, first, last): StoredRead| OfReader { counts: Counts { online, training }, first, last };
        let of = match self.of {
            StoredOf::Feature(view, feature) => Readable::Feature(name(view)?, name(feature)?),
            StoredOf::Service(service, number) => Readable::Service(name(service)?, number),
        };
        let mut readers = BTreeMap::new();
        for (tenant, caller, of) in self.readers {
            let reader = Reader { tenant: TenantId(tenant), caller: text(caller)?.as_str().into() };
            readers.insert(reader, read(of));
        }
        let features = self.features.into_iter().map(|(view, feature)| Ok((name(view)?, name(feature)?)));
        let days = self.days.into_iter().map(|(day, online, training)| (day, Counts { online, training })).collect();
        let reads = ReadsOfThing {
            last_online: self.online,
            last_training: self.training,
            days,
            readers,
            others: self.others.map(read),
        };
        let features = features.collect::<Result<_, String>>()?;
        Ok((Thing { owner: TenantId(self.owner), of }, Record { created: self.created, features, reads }))
    }
}

fn damaged(problem: &str) -> Error {
    let message = format!("what is kept of reads can't be read: '{USAGE}' in registry: {problem}");
    Error::new(Code::DataLoss, "USAGE_DAMAGED", message).hint(
        "use the version of Hydrant that wrote it, or a later one, or restore that file from a backup; without it \
         reads are counted anew",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back() {
        let name = |text: &str| text.parse::<Name>().expect("a name");
        let read = OfReader { counts: Counts { online: 3, training: 1 }, first: 4, last: 9 };
        let reader = Reader { tenant: TenantId(2), caller: "key/a".into() };
        let reads = ReadsOfThing {
            last_online: Some(9),
            last_training: None,
            days: BTreeMap::from([(19_000, read.counts)]),
            readers: BTreeMap::from([(reader, read)]),
            others: Some(read),
        };
        let record = |features| Record { created: 7, features, reads: reads.clone() };
        let thing = |of| Thing { owner: TenantId(1), of };
        let mut kept = Kept::new(5);
        kept.uncounted = 2;
        kept.records.insert(thing(Readable::Feature(name("v"), name("f"))), record(Vec::new()));
        kept.records.insert(thing(Readable::Service(name("s"), 3)), record(vec![(name("v"), name("f"))]));
        assert_eq!(super::read(&write(&kept)).expect("as written"), kept);
    }

    #[test]
    fn what_is_not_as_it_was_written_is_told_and_not_taken_for_nothing() {
        let record = r#"{"format":1,"since":0,"uncounted":0,"names":["v"],"records":[{"owner":1,"feature":[0,1],
            "created":0,"days":[],"readers":[]}]}"#;
        for value in ["", "{}", r#"{"format":2,"since":0,"uncounted":0,"names":[],"records":[]}"#, record] {
            assert_eq!(read(value.as_bytes()).expect_err(value).reason, "USAGE_DAMAGED");
        }
    }
}
