//! What commands need to know of a service to make requests of their own: which request columns carry
//! its keys. It is told by the registry, in one request, never guessed from a file; so a key that is
//! limited to the service can ask for it too.

use std::collections::{BTreeMap, BTreeSet};

use hydrant_proto::v1;

use super::keys::KeyTypes;
use super::{Failure, share};
use crate::registry::definition::Kind;
use crate::registry::selection::is_of_another;
use crate::rpc::client::Client;

/// The keys of a service.
pub struct Catalog {
    key_types: KeyTypes,
    mappings: BTreeMap<String, Mapping>,
}

/// What stands before the feature's name in a column's: which row it comes from.
pub fn prefix_of(column: &str) -> &str {
    column.rsplit_once("__").map_or(column, |(prefix, _)| prefix)
}

/// Which row a column comes from: a view under request columns.
pub type Mapping = (String, Vec<String>);

impl Catalog {
    /// `service` is `NAME`, or `NAME@N` for the features of that version; `OWNER/NAME` is what another
    /// tenant shares.
    pub async fn load(client: &Client, service: &str) -> Result<Self, Failure> {
        if is_of_another(service) {
            return Self::load_shared(client, service).await;
        }
        let found = client.get_definition(Kind::FeatureService, service).await.map_err(|refusal| {
            if refusal.reason == "DEFINITION_NOT_FOUND" {
                let message = format!("there is no feature service '{service}'");
                return Failure::new("SERVICE_NOT_FOUND", message).with("service", service);
            }
            refusal.into()
        })?;
        let columns = found.status.map(|status| status.columns).unwrap_or_default();
        if columns.is_empty() || columns.iter().any(|column| column.keys.is_empty()) {
            let message = format!("the server doesn't tell the join keys of '{service}'");
            return Err(Failure::new("UNREADABLE_ANSWER", message).hint("is the server of another version?"));
        }
        let names = |keys: &[v1::TypedName]| keys.iter().map(|key| key.name.clone()).collect();
        let mapping = |column: &v1::FrozenColumn| {
            (prefix_of(&column.name).to_owned(), (column.view.clone(), names(&column.keys)))
        };
        let keys = columns.iter().flat_map(|column| &column.keys);
        Ok(Self {
            key_types: KeyTypes::of_service(keys.map(|key| (key.name.as_str(), key.r#type.as_str()))),
            mappings: columns.iter().map(mapping).collect(),
        })
    }

    async fn load_shared(client: &Client, service: &str) -> Result<Self, Failure> {
        let wanted = service.split_once('@').map_or(service, |(name, _)| name);
        let shares = client.list_shares(true).await?;
        let is_wanted = |share: &&v1::Share| {
            let is_service = matches!(share.of, Some(v1::share::Of::Service(_)));
            is_service && !share.ended && share::named(share) == wanted
        };
        let Some(found) = shares.iter().find(is_wanted) else {
            let message = format!("there is no feature service '{service}'");
            return Err(Failure::new("SERVICE_NOT_FOUND", message)
                .with("service", service)
                .hint("`hydrant share list --with-me` shows what other tenants share with yours"));
        };
        let share = client.get_share(&found.name).await?;
        let mapping = |column: &v1::SharedColumn| {
            (prefix_of(&column.name).to_owned(), (column.view.clone(), column.keys.clone()))
        };
        Ok(Self {
            key_types: KeyTypes::of_service(share.keys.iter().map(|key| (key.name.as_str(), key.r#type.as_str()))),
            mappings: share.columns.iter().map(mapping).collect(),
        })
    }

    /// The types of the request columns.
    pub fn key_types(&self) -> &KeyTypes {
        &self.key_types
    }

    /// For each prefix of the service's columns, the row that they come from.
    pub fn mappings(&self) -> &BTreeMap<String, Mapping> {
        &self.mappings
    }

    /// The join keys of the service, as the request columns that carry them.
    pub fn keys(&self) -> BTreeSet<&str> {
        self.mappings.values().flat_map(|(_, keys)| keys).map(String::as_str).collect()
    }

    /// Those that are not given.
    pub fn missing_keys(&self, is_given: impl Fn(&str) -> bool) -> Vec<String> {
        self.keys().into_iter().filter(|name| !is_given(name)).map(str::to_owned).collect()
    }

    /// What a request has to give, for hints.
    pub fn keyed_by(&self) -> String {
        format!("the service's join keys are: {}", self.keys().into_iter().collect::<Vec<_>>().join(", "))
    }
}
