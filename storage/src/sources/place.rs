//! Where something lies, as somebody wrote it down: a path of this machine, or a URL of an object store.
//! Credentials come from the environment alone, and none is ever told.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as ObjectPath;
use url::Url;

use super::SourceError;

/// What is said to stores before their paths; more are told from local names by `://`.
const SCHEMES: &str = "s3://, gs://, az:// and abfss://";

const FROM_ENVIRONMENT: &str =
    "credentials come from the environment: AWS_*, GOOGLE_* or AZURE_* variables, as docs/backfill.md says";

#[derive(Clone, Debug)]
pub(super) enum Place {
    Local(PathBuf),
    Store(StorePlace),
}

/// A path in an object store.
#[derive(Clone, Debug)]
pub(super) struct StorePlace {
    pub store: Arc<dyn ObjectStore>,
    /// The bucket's URL, ending in a slash.
    pub bucket: String,
    pub path: ObjectPath,
    /// Written with a slash at its end: a folder, and no object.
    pub is_folder: bool,
}

impl StorePlace {
    /// How another path of the same store is written.
    pub fn name_of(&self, path: &ObjectPath) -> String {
        format!("{}{path}", self.bucket)
    }
}

pub(super) fn parse(written: &str) -> Result<Place, SourceError> {
    let Some((scheme, _)) = written.split_once("://") else { return Ok(Place::Local(PathBuf::from(written))) };
    // Whatever stands there may be meant as a secret, so a refusal tells no more than this of it.
    let told = written.split(['?', '#']).next().unwrap_or_default();
    let is_azure = matches!(scheme, "az" | "azure" | "adl" | "abfs" | "abfss");
    let told = match told.split_once('@') {
        // Of Azure's, that is a container; of others, a user.
        Some((before, after)) if !is_azure || before.matches(':').count() > 1 => format!("{scheme}://…@{after}"),
        _ => told.to_owned(),
    };
    let unsupported = |why: &str, hint| SourceError::unsupported(&told, why, hint);
    let url = Url::parse(written).map_err(|error| SourceError::unreadable(&told, &error))?;
    if url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(unsupported("a URL names a bucket and a path, and nothing else", FROM_ENVIRONMENT));
    }
    if !url.username().is_empty() && !is_azure {
        return Err(unsupported("a URL names a bucket and a path, and nobody", FROM_ENVIRONMENT));
    }
    if scheme == "file" {
        let path = url.to_file_path().map_err(|()| unsupported("it names no path of this machine", ""))?;
        return Ok(Place::Local(path));
    }
    let failed = |error: object_store::Error| SourceError::unreadable(&told, &error);
    let store: Arc<dyn ObjectStore> = match scheme {
        "s3" | "s3a" => {
            let mut builder = AmazonS3Builder::from_env().with_url(written);
            // Who names an endpoint without TLS wants to go without it.
            let endpoints = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
            let endpoint = endpoints.iter().find_map(|key| builder.get_config_value(key));
            if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) {
                builder = builder.with_allow_http(true);
            }
            Arc::new(builder.build().map_err(failed)?)
        }
        "gs" => Arc::new(GoogleCloudStorageBuilder::from_env().with_url(written).build().map_err(failed)?),
        _ if is_azure => Arc::new(MicrosoftAzureBuilder::from_env().with_url(written).build().map_err(failed)?),
        _ => {
            let why = format!("there are local paths, {SCHEMES}, and not {scheme}://");
            return Err(unsupported(&why, "copy it to where it can be read from"));
        }
    };
    let path = ObjectPath::from_url_path(url.path()).map_err(|error| SourceError::unreadable(&told, &error))?;
    let bucket = format!("{}/", &url[..url::Position::BeforePath]);
    Ok(Place::Store(StorePlace { store, bucket, path, is_folder: url.path().ends_with('/') }))
}

/// How lineage services call what lies at a path or URL, by the naming of OpenLineage
/// (<https://openlineage.io/docs/spec/naming>): `file` and the whole path, or what leads to the bucket and the
/// path in it. Nothing is looked for there.
pub fn dataset(written: &str) -> Result<(String, String), SourceError> {
    let place = match parse(written)? {
        Place::Local(path) => {
            let whole = std::path::absolute(&path).map_err(|error| SourceError::unreadable(written, &error))?;
            let whole = whole.display().to_string();
            // A folder is called the same however it is written.
            let name = if whole == "/" { whole.as_str() } else { whole.trim_end_matches('/') };
            return Ok(("file".to_owned(), name.to_owned()));
        }
        Place::Store(place) => place,
    };
    let bucket = place.bucket.trim_end_matches('/');
    let (scheme, authority) = bucket.split_once("://").unwrap_or(("", bucket));
    let namespace = match scheme {
        "s3a" => format!("s3://{authority}"),
        "s3" | "gs" => bucket.to_owned(),
        // Some write the account, others leave it to the environment.
        _ if authority.contains('@') => format!("abfss://{authority}"),
        _ => match MicrosoftAzureBuilder::from_env().get_config_value(&AzureConfigKey::AccountName) {
            Some(account) => format!("abfss://{authority}@{account}.dfs.core.windows.net"),
            None => format!("az://{authority}"),
        },
    };
    let name = place.path.to_string();
    Ok((namespace, if name.is_empty() { "/".to_owned() } else { name }))
}

/// What a store's client says, without what URLs carry behind their paths, such as signatures.
pub(super) fn without_secrets(told: &str) -> String {
    let mut clean = String::with_capacity(told.len());
    let mut rest = told;
    while let Some(at) = rest.find("://") {
        let end = at
            + rest[at..]
                .find(|c: char| c.is_whitespace() || matches!(c, ')' | '"' | '\'' | '>'))
                .unwrap_or(rest.len() - at);
        let url = &rest[..end];
        match url[at..].find('?') {
            Some(query) => clean.push_str(&format!("{}?…", &url[..at + query])),
            None => clean.push_str(url),
        }
        rest = &rest[end..];
    }
    clean.push_str(rest);
    clean
}
