//! What is remembered of API keys, as a value: each change makes another, which is persisted whole. It
//! holds hashes and never a secret.

use std::collections::BTreeMap;

use hydrant_storage::names::{Name, SharedName, TenantId};
use hydrant_storage::order::Micros;
use serde::{Deserialize, Serialize};

use super::token::KeyId;
use crate::tenancy::{Reach, Role, Roles};

/// The version of the persisted form.
const FORMAT: u32 = 1;

/// Every key there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Records {
    format: u32,
    pub keys: BTreeMap<KeyId, KeyRecord>,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyRecord {
    pub tenant: Name,
    /// A tenant of the same name that was made later is another.
    pub tenant_id: TenantId,
    pub roles: Vec<String>,
    /// All four empty: not limited.
    pub views: Vec<Name>,
    pub services: Vec<Name>,
    /// Of other tenants, where they share them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared_views: Vec<SharedName>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared_services: Vec<SharedName>,
    pub description: String,
    pub created: Micros,
    pub created_by: String,
    pub expires: Option<Micros>,
    pub revoked: Option<Micros>,
    /// Of the secret, hexadecimal.
    pub hash: String,
    /// Of the secret before, and until when it holds.
    pub previous: Option<(String, Micros)>,
}

/// When keys were used last; persisted by itself, now and then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Uses {
    pub format: u32,
    pub last: BTreeMap<KeyId, Micros>,
}

impl Default for Records {
    fn default() -> Self {
        Self { format: FORMAT, keys: BTreeMap::new() }
    }
}

impl Records {
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("records have text keys and no way to fail")
    }

    /// Reads what [`Self::encode`] wrote; the error says what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let records: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if records.format != FORMAT {
            return Err(format!("it has format {}, and this version reads format {FORMAT}", records.format));
        }
        Ok(records)
    }
}

impl Uses {
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("uses have text keys and no way to fail")
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }
}

impl KeyRecord {
    /// A role that this version doesn't know is an error: to leave it out could give more than was meant.
    pub fn roles(&self) -> Result<Roles, String> {
        self.roles.iter().map(|role| role.parse::<Role>()).collect()
    }

    pub fn reach(&self) -> Option<Reach> {
        let reach = Reach {
            views: self.views.iter().cloned().collect(),
            services: self.services.iter().cloned().collect(),
            shared_views: self.shared_views.iter().cloned().collect(),
            shared_services: self.shared_services.iter().cloned().collect(),
        };
        Some(reach).filter(|reach| *reach != Reach::default())
    }

    /// Neither revoked nor expired.
    pub fn is_live(&self, now: Micros) -> bool {
        self.revoked.is_none() && self.expires.is_none_or(|expires| expires > now)
    }
}
