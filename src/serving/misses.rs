//! Rows that are not in memory: read on threads that may wait for a disk, a bounded number at a time that tenants
//! share by weight, and each row by one request of a tenant only, however many ask for it at once. What has not
//! arrived when time runs out is NOT_READY; what has is in the answer.

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use hydrant_storage::keys::OnlineKey;
use hydrant_storage::names::Name;
use hydrant_storage::partition::{Lookup, ReadMode, ReadView};
use tokio::sync::{Semaphore, watch};

use super::Serving;
use super::read::{Found, Limits, Place};
use crate::error::{Error, Result};
use crate::tenancy::Permit;

/// Rows that one thread reads at a time; what has been read by then is in the answer.
const READ_TOGETHER: usize = 64;
/// Of one request, about so many such pieces wait for their turns at once: more than there are threads as a rule, and no
/// backlog that somebody would have to clear away.
const PIECES_AT_A_TIME: usize = 32;

/// Keys of one partition whose rows are not in memory.
pub(super) struct Missing {
    partition: usize,
    view: Arc<ReadView>,
    keys: Vec<MissingKey>,
}

struct MissingKey {
    place: Place,
    /// The row's name, encoded.
    name: Vec<u8>,
}

/// A key whose row is being read by another request, and what tells that it has been.
type Waiting = (MissingKey, watch::Receiver<()>);

/// The rows that are being read from disk, by the tenant that reads them, which takes its own turns at the disk, and
/// their names. Who finds its row here waits until it has been read, and then finds it in memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Flights(Arc<DashMap<FlightName, watch::Receiver<()>>>);

type FlightName = (Name, Vec<u8>);

/// What was found, and where it goes.
type ReadRows = Result<Vec<(Place, Found)>>;

/// Rows being read: they leave the table when this is dropped, and whoever waits for them goes on.
struct Flight {
    flights: Flights,
    names: Vec<FlightName>,
    _landing: watch::Sender<()>,
}

impl Missing {
    pub fn new(partition: usize, view: &Arc<ReadView>) -> Self {
        Self { partition, view: view.clone(), keys: Vec::new() }
    }

    pub fn push(&mut self, place: Place, name: &OnlineKey<'_>) {
        let mut encoded = Vec::new();
        name.encode(&mut encoded);
        self.keys.push(MissingKey { place, name: encoded });
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn of_same_view(&self, keys: Vec<MissingKey>) -> Self {
        Self { partition: self.partition, view: self.view.clone(), keys }
    }

    /// Looks the rows up, in the order of the keys.
    fn look_up(&self, mode: ReadMode) -> Vec<Lookup> {
        self.view.lookup(&self.names(), mode)
    }

    /// The same, without keeping them in memory.
    fn look_up_in_passing(&self) -> Vec<Lookup> {
        self.view.lookup_in_passing(&self.names(), ReadMode::MayBlock)
    }

    fn names(&self) -> Vec<OnlineKey<'_>> {
        self.keys.iter().filter_map(|key| OnlineKey::decode(&key.name)).collect()
    }
}

impl Serving {
    /// Reads rows and puts them into their places; why it wasn't all of them, where time ran out.
    pub(super) async fn read_missing(
        &self,
        permit: &Permit,
        missing: Vec<Missing>,
        rows: &mut [Vec<Found>],
        limits: Limits,
    ) -> Result<Option<String>> {
        let mut pieces = self.pieces(missing).into_iter();
        let mut reads = FuturesUnordered::new();
        loop {
            while reads.len() < PIECES_AT_A_TIME
                && let Some(piece) = pieces.next()
            {
                self.begin_to_read(permit, piece, &reads);
            }
            match tokio::time::timeout_at(limits.wait_until().into(), reads.next()).await {
                Ok(None) => return Ok(None),
                Ok(Some(read)) => {
                    for (place, found) in read? {
                        rows[place.view][place.key] = found;
                    }
                }
                Err(_) => return too_late(limits).map(Some),
            }
        }
    }

    /// The same for a read in bulk: on one thread, of all such reads of a tenant together, so that others are left for
    /// its inference; nobody waits for its rows, and none stays in memory.
    pub(super) async fn read_missing_in_passing(
        &self,
        permit: &Permit,
        missing: Vec<Missing>,
        rows: &mut [Vec<Found>],
        limits: Limits,
    ) -> Result<Option<String>> {
        for piece in self.pieces(missing) {
            let read = self.read_from_disk(permit, piece, None);
            match tokio::time::timeout_at(limits.wait_until().into(), read).await {
                Ok(read) => read?.into_iter().for_each(|(place, found)| rows[place.view][place.key] = found),
                Err(_) => return too_late(limits).map(Some),
            }
        }
        Ok(None)
    }

    /// What one thread reads at a time, each.
    fn pieces(&self, missing: Vec<Missing>) -> Vec<Missing> {
        let mut pieces = Vec::new();
        for mut missing in missing {
            self.metrics.keys_not_cached.add(missing.keys.len() as u64);
            while !missing.keys.is_empty() {
                let keys = missing.keys.drain(..missing.keys.len().min(READ_TOGETHER)).collect();
                pieces.push(missing.of_same_view(keys));
            }
        }
        pieces
    }

    /// Those of its rows that nobody reads yet, and those that another request of the tenant reads.
    fn begin_to_read<'a>(
        &'a self,
        permit: &'a Permit,
        piece: Missing,
        reads: &FuturesUnordered<BoxFuture<'a, ReadRows>>,
    ) {
        let shared = piece.of_same_view(Vec::new());
        let (flight, own, others) = self.flights.board(permit.tenant(), piece.keys);
        if !own.is_empty() {
            reads.push(self.read_from_disk(permit, shared.of_same_view(own), Some(flight)).boxed());
        }
        if !others.is_empty() {
            reads.push(self.wait_and_read(permit, shared, others).boxed());
        }
    }

    /// Waits until others have read the rows, which then are in memory. Where they gave up, the rows
    /// are read here, again by one request only.
    async fn wait_and_read(&self, permit: &Permit, shared: Missing, mut others: Vec<Waiting>) -> ReadRows {
        let mut found = Vec::with_capacity(others.len());
        while !others.is_empty() {
            let mut waiting = Vec::with_capacity(others.len());
            for (key, mut landed) in others {
                // An error says that the reader is gone, which is what is waited for.
                let _: Result<(), watch::error::RecvError> = landed.changed().await;
                waiting.push(key);
            }
            let waiting = shared.of_same_view(waiting);
            let mut again = Vec::new();
            let looked_up = waiting.look_up(ReadMode::CachedOnly);
            for (key, lookup) in waiting.keys.into_iter().zip(looked_up) {
                match self.found(lookup) {
                    Some(row) => found.push((key.place, row)),
                    None => again.push(key),
                }
            }
            let (flight, own, still_others) = self.flights.board(permit.tenant(), again);
            if !own.is_empty() {
                found.extend(self.read_from_disk(permit, shared.of_same_view(own), Some(flight)).await?);
            }
            others = still_others;
        }
        Ok(found)
    }

    /// Of one tenant's reads in bulk one at a time reads from disk.
    pub(super) fn bulk_turns(&self, tenant: &Name) -> Arc<Semaphore> {
        self.bulk_disk.entry(tenant.clone()).or_insert_with(|| Arc::new(Semaphore::new(1))).clone()
    }

    /// Without a flight: in passing.
    async fn read_from_disk(&self, permit: &Permit, missing: Missing, flight: Option<Flight>) -> ReadRows {
        let partition = missing.partition;
        let ended = || Error::internal(format!("a read of partition {partition} ended early"));
        // The turn goes with the thread: it is not over where the reader has given up.
        let turn = match &flight {
            Some(_) => None,
            None => Some(self.bulk_turns(permit.tenant()).acquire_owned().await.map_err(|_| ended())?),
        };
        let at_disk = permit.turn_at_disk(missing.keys.len()).await?;
        let reading = tokio::task::spawn_blocking(move || {
            let looked_up = match &flight {
                Some(_) => missing.look_up(ReadMode::MayBlock),
                None => missing.look_up_in_passing(),
            };
            drop((flight, at_disk, turn));
            (missing.keys, looked_up)
        });
        let (keys, looked_up) = reading.await.map_err(|_| ended())?;
        let found = looked_up.into_iter().map(|lookup| self.found(lookup).unwrap_or(Found::NotReady));
        Ok(keys.into_iter().map(|key| key.place).zip(found).collect())
    }
}

/// Why rows are missing, within the deadline.
fn too_late(limits: Limits) -> Result<String> {
    limits.check("reading rows that were not in memory")?;
    Ok("rows that were not in memory did not arrive within the latency budget".to_owned())
}

impl Flights {
    /// Divides keys into those to be read now, and those that are being read already.
    fn board(&self, tenant: &Name, keys: Vec<MissingKey>) -> (Flight, Vec<MissingKey>, Vec<Waiting>) {
        let (landing, landed) = watch::channel(());
        let mut flight = Flight { flights: self.clone(), names: Vec::with_capacity(keys.len()), _landing: landing };
        let (mut own, mut others) = (Vec::with_capacity(keys.len()), Vec::new());
        for key in keys {
            let name = (tenant.clone(), key.name.clone());
            match self.0.entry(name.clone()) {
                Entry::Occupied(flying) => others.push((key, flying.get().clone())),
                Entry::Vacant(free) => {
                    free.insert(landed.clone());
                    flight.names.push(name);
                    own.push(key);
                }
            }
        }
        (flight, own, others)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        for name in &self.names {
            self.flights.0.remove(name);
        }
    }
}
