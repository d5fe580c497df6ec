//! Tokens that were verified a moment ago, by their hash, so that the next request with one costs what an
//! API key costs. Bounded: of too many the ones that nobody has shown for longest go. A token that was
//! refused is never here, so nobody without a good one can fill it.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

/// SHA-256 of a token.
pub type TokenHash = [u8; 32];

/// In two halves: what is used moves to the young one, and when that is full, the old one goes.
#[derive(Debug)]
pub struct Verified<T> {
    capacity: usize,
    halves: RwLock<Halves<T>>,
}

#[derive(Debug)]
struct Halves<T> {
    young: HashMap<TokenHash, T>,
    old: HashMap<TokenHash, T>,
}

impl<T: Clone> Verified<T> {
    /// At most `capacity`, rounded down to an even number.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, halves: RwLock::new(Halves { young: HashMap::new(), old: HashMap::new() }) }
    }

    pub fn get(&self, hash: &TokenHash) -> Option<T> {
        let halves = self.halves.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = halves.young.get(hash) {
            return Some(found.clone());
        }
        let found = halves.old.get(hash).cloned()?;
        drop(halves);
        self.put(*hash, found.clone());
        Some(found)
    }

    pub fn put(&self, hash: TokenHash, verified: T) {
        let mut halves = self.halves.write().unwrap_or_else(PoisonError::into_inner);
        if halves.young.len() >= self.capacity / 2 && !halves.young.contains_key(&hash) {
            halves.old = std::mem::take(&mut halves.young);
        }
        halves.old.remove(&hash);
        halves.young.insert(hash, verified);
    }

    pub fn remove(&self, hash: &TokenHash) {
        let mut halves = self.halves.write().unwrap_or_else(PoisonError::into_inner);
        halves.young.remove(hash);
        halves.old.remove(hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_than_have_room_and_what_is_used_stays() {
        let verified = Verified::new(8);
        let hash = |number: u64| {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&number.to_le_bytes());
            hash
        };
        verified.put(hash(0), 0);
        for number in 1..1_000_u64 {
            verified.put(hash(number), number);
            assert_eq!(verified.get(&hash(0)), Some(0), "it is used again and again");
            let halves = verified.halves.read().expect("nobody panicked");
            assert!(halves.young.len() + halves.old.len() <= 8);
        }
        assert_eq!(verified.get(&hash(1)), None);
        verified.remove(&hash(0));
        assert_eq!(verified.get(&hash(0)), None);
    }
}
