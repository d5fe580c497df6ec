//! Who is calling. An identity is what the transport has verified about a caller, and never what a
//! request claims about itself; it grants nothing.

use std::fmt;
use std::sync::{Arc, LazyLock};

use crate::error::Result;

/// Who knows callers by what they show.
pub trait Authenticates: fmt::Debug + Send + Sync {
    /// Whose the credential is. UNAUTHENTICATED where it is missing or no good; which of the two is told,
    /// and nothing of the credential. Called for every request: it takes microseconds at most.
    fn authenticate(&self, token: Option<&str>) -> Result<Identity>;
}

/// Where no credential is asked for: every caller is the operator on this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoopbackOnly;

impl Authenticates for LoopbackOnly {
    fn authenticate(&self, _: Option<&str>) -> Result<Identity> {
        Ok(Identity::loopback())
    }
}

/// A verified caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    name: Arc<str>,
}

impl Identity {
    /// A caller on this machine's loopback interface: the operator. Listeners bind to nothing else
    /// until credentials are served.
    pub fn loopback() -> Self {
        static NAME: LazyLock<Arc<str>> = LazyLock::new(|| "loopback".into());
        Self { name: NAME.clone() }
    }

    /// A caller of what is everybody's. Nothing is granted to it.
    pub fn nobody() -> Self {
        static NAME: LazyLock<Arc<str>> = LazyLock::new(|| "nobody".into());
        Self { name: NAME.clone() }
    }

    /// As written into records of who changed what.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn shared_name(&self) -> Arc<str> {
        self.name.clone()
    }
}
