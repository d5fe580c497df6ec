//! Who calls: what the layer before the services has verified of a request's caller, from where it came,
//! and what the call leaves in the audit log. Handlers hand it to the use cases' gate and look at it no
//! further.

use std::net::SocketAddr;

use super::trail::Trail;
use crate::tenancy::Identity;

/// One request's caller. A clone is the same.
#[derive(Clone, Debug)]
pub struct Caller {
    pub identity: Identity,
    /// Where the connection came from, where that is known.
    pub peer: Option<SocketAddr>,
    pub(super) trail: Trail,
}
