//! Bearers whose tokens have been verified, by a digest of the token, so that a signature is looked at
//! once and not by every request. It is bounded: what was not asked for lately goes first.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

use super::claims::Bearer;

/// Several, so that requests at a time seldom meet.
const SHARDS: usize = 16;

/// Names a token without keeping it.
pub type TokenDigest = [u8; SHA256_OUTPUT_LEN];

/// Verified bearers.
#[derive(Debug)]
pub struct Known {
    shards: [Mutex<Generations>; SHARDS],
    /// Of one generation of a shard.
    capacity: usize,
}

/// Whoever is asked for is young; when the young are many, they are the old, and the old are forgotten.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<TokenDigest, Entry>,
    old: HashMap<TokenDigest, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    bearer: Bearer,
    /// Of the key set that verified it.
    version: u64,
}

impl Known {
    /// For `bearers` at most.
    pub fn new(bearers: usize) -> Self {
        let capacity = (bearers / SHARDS / 2).max(1);
        Self { shards: std::array::from_fn(|_| Mutex::default()), capacity }
    }

    /// Whose token it is, if that was found out by the key set of this version.
    pub fn get(&self, token: &TokenDigest, version: u64) -> Option<Bearer> {
        let mut shard = self.shard(token).lock().unwrap_or_else(PoisonError::into_inner);
        let entry = match shard.young.get(token) {
            Some(entry) => entry.clone(),
            None => {
                let entry = shard.old.remove(token)?;
                shard.put(*token, entry.clone(), self.capacity);
                entry
            }
        };
        (entry.version == version).then_some(entry.bearer)
    }

    pub fn put(&self, token: TokenDigest, bearer: Bearer, version: u64) {
        let mut shard = self.shard(&token).lock().unwrap_or_else(PoisonError::into_inner);
        shard.put(token, Entry { bearer, version }, self.capacity);
    }

    pub fn len(&self) -> usize {
        let of = |shard: &Mutex<Generations>| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.young.len() + shard.old.len()
        };
        self.shards.iter().map(of).sum()
    }

    fn shard(&self, token: &TokenDigest) -> &Mutex<Generations> {
        &self.shards[usize::from(token[0]) % SHARDS]
    }
}

impl Generations {
    fn put(&mut self, token: TokenDigest, entry: Entry, capacity: usize) {
        if self.young.len() >= capacity && !self.young.contains_key(&token) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(token, entry);
    }
}

pub fn digest_of(token: &str) -> TokenDigest {
    let digest = digest(&SHA256, token.as_bytes());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
