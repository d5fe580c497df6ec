//! Which rows an erasure is about: those of one entity key in the views that have it, up to a frame. It
//! is asked wherever rows lie, and never tells what it was given.

use std::fmt;

use crate::keys::{OnlineKey, decode_key, encode_values};
use crate::names::{TenantId, ViewId};
use crate::value::{ScalarType, Value};

/// The rows of a view to be erased, of frames up to one.
#[derive(Clone, PartialEq, Eq)]
pub struct ErasedKey {
    pub tenant: TenantId,
    pub view: ViewId,
    /// Of the view's join keys, in order.
    pub types: Vec<ScalarType>,
    /// The value that each join key must have, encoded as a key by itself; `None`: any. At least one is given.
    pub values: Vec<Option<Vec<u8>>>,
    /// Slot and bytes, where every join key is given.
    pub whole: Option<(u16, Vec<u8>)>,
    /// Rows of later frames stay.
    pub through: u64,
}

impl ErasedKey {
    /// Whether a row's key is meant. What can't be read as a key of the view is none of its keys.
    pub fn is_key(&self, slot: u16, key: &[u8]) -> bool {
        if let Some((own_slot, own)) = &self.whole {
            return *own_slot == slot && own == key;
        }
        let Ok(values) = decode_key(key, &self.types) else { return false };
        let is_wanted = |((value, kind), wanted): ((&Value, &ScalarType), &Option<Vec<u8>>)| {
            let Some(wanted) = wanted else { return true };
            let mut encoded = Vec::new();
            let is_some = encode_values(std::slice::from_ref(value), &[*kind], &mut encoded);
            matches!(is_some, Ok(true)) && encoded == *wanted
        };
        values.len() == self.values.len() && values.iter().zip(&self.types).zip(&self.values).all(is_wanted)
    }

    /// Whether a row of this name and frame is meant.
    pub fn is_row(&self, name: &OnlineKey<'_>, frame: u64) -> bool {
        frame <= self.through && self.is_name(name)
    }

    pub fn is_name(&self, name: &OnlineKey<'_>) -> bool {
        (name.tenant, name.view) == (self.tenant, self.view) && self.is_key(name.slot, name.key)
    }
}

impl fmt::Debug for ErasedKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither logs nor panics repeat what is to be erased.
        formatter.debug_struct("ErasedKey").field("view", &self.view).field("through", &self.through).finish()
    }
}
