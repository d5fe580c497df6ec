//! Callers by whatever they show: API keys, and tokens of the issuers that are configured. Which of the
//! two a credential is, its form says, and nothing is tried as both.

use futures::future::BoxFuture;

use super::oidc::Oidc;
use super::{Access, PREFIX};
use crate::error::Result;
use crate::tenancy::{Authenticates, Identity};

/// Knows callers by keys, and by tokens.
#[derive(Debug)]
pub struct Callers {
    keys: Access,
    tokens: Oidc,
}

impl Callers {
    pub fn new(keys: Access, tokens: Oidc) -> Self {
        Self { keys, tokens }
    }

    fn as_token<'a>(&self, credential: Option<&'a str>) -> Option<&'a str> {
        credential.filter(|text| !text.starts_with(PREFIX) && Oidc::is_token(text))
    }
}

impl Authenticates for Callers {
    fn authenticate(&self, credential: Option<&str>) -> Result<Identity> {
        match self.as_token(credential) {
            Some(token) => self.tokens.authenticate(token),
            None => self.keys.authenticate(credential),
        }
    }

    fn awaits(&self, credential: Option<&str>) -> Option<BoxFuture<'static, ()>> {
        self.tokens.awaits(self.as_token(credential)?)
    }
}
