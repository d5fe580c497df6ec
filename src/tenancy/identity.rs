//! Who is calling. An identity is what the transport has verified about a caller, and never what a
//! request claims about itself; it grants nothing.

use std::sync::{Arc, LazyLock};

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

    /// As written into records of who changed what.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn shared_name(&self) -> Arc<str> {
        self.name.clone()
    }
}
