//! The definitions of a server as far as commands need them to make requests of their own: which
//! request columns carry the keys of a service. What a service has is told by the registry, never
//! guessed from a file.

use std::collections::{BTreeMap, BTreeSet};

use hydrant_proto::v1;
use hydrant_storage::names::Name;

use super::keys::KeyTypes;
use super::{Failure, definitions, share};
use crate::registry::definition::{Definition, Kind, ServiceFeature, Spec};
use crate::registry::selection::is_of_another;
use crate::rpc::client::Client;

/// The definitions that tell which keys there are, the service's own last.
pub struct Catalog {
    definitions: Vec<Definition>,
    /// Of what another tenant shares, whose definitions aren't told.
    share: Option<v1::Share>,
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
        let mut definitions = Vec::new();
        for kind in [Kind::Entity, Kind::FeatureView] {
            definitions.extend(definitions::decode(client.list_definitions(kind).await?)?);
        }
        let found = client.get_definition(Kind::FeatureService, service).await.map_err(|refusal| {
            if refusal.reason == "DEFINITION_NOT_FOUND" {
                let message = format!("there is no feature service '{service}'");
                return Failure::new("SERVICE_NOT_FOUND", message).with("service", service);
            }
            refusal.into()
        })?;
        definitions.extend(definitions::decode(vec![found])?);
        Ok(Self { definitions, share: None })
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
        Ok(Self { definitions: Vec::new(), share: Some(client.get_share(&found.name).await?) })
    }

    /// The types of the request columns.
    pub fn key_types(&self) -> KeyTypes {
        match &self.share {
            None => KeyTypes::of(&self.definitions),
            Some(share) => KeyTypes::named(share.keys.iter().map(|key| (key.name.as_str(), key.r#type.as_str()))),
        }
    }

    /// For each prefix of the service's columns, the row that they come from.
    pub fn mappings(&self) -> BTreeMap<String, Mapping> {
        if let Some(share) = &self.share {
            let mapping = |column: &v1::SharedColumn| {
                (prefix_of(&column.name).to_owned(), (column.view.clone(), column.keys.clone()))
            };
            return share.columns.iter().map(mapping).collect();
        }
        let spec = self.definitions.last().and_then(|definition| match &definition.spec {
            Spec::FeatureService(spec) => Some(spec),
            _ => None,
        });
        let features = spec.into_iter().flat_map(|spec| &spec.features);
        let mapping = |feature: &ServiceFeature| {
            let prefix = feature.alias.as_ref().unwrap_or(&feature.view).to_string();
            let request_column = |join_key: &Name| feature.keys.get(join_key).unwrap_or(join_key).to_string();
            let keys = self.join_keys(feature.view.as_str()).map(request_column).collect();
            (prefix, (feature.view.to_string(), keys))
        };
        features.map(mapping).collect()
    }

    /// The join keys of the service, as the request columns that carry them.
    pub fn keys(&self) -> BTreeSet<String> {
        self.mappings().into_values().flat_map(|(_, keys)| keys).collect()
    }

    /// Those that are not given.
    pub fn missing_keys(&self, is_given: impl Fn(&str) -> bool) -> Vec<String> {
        self.keys().into_iter().filter(|name| !is_given(name)).collect()
    }

    /// What a request has to give, for hints.
    pub fn keyed_by(&self) -> String {
        format!("the service's join keys are: {}", self.keys().into_iter().collect::<Vec<_>>().join(", "))
    }

    /// The join keys of a view, in its order.
    fn join_keys(&self, view: &str) -> impl Iterator<Item = &Name> {
        let entities = self.definitions.iter().find_map(|definition| match &definition.spec {
            Spec::FeatureView(spec) if definition.metadata.name.as_str() == view => Some(&spec.entities),
            _ => None,
        });
        let of_entity = |name: &Name| {
            self.definitions.iter().find_map(|definition| match &definition.spec {
                Spec::Entity(spec) if definition.metadata.name == *name => Some(&spec.join_keys),
                _ => None,
            })
        };
        entities.into_iter().flatten().filter_map(of_entity).flatten().map(|key| &key.name)
    }
}
