//! Who calls: what the layer before the services has verified of a request's caller, and from where it
//! came. Handlers hand it to the use cases' gate and look at it no further.

use std::net::SocketAddr;

use tonic::codegen::http::Extensions;
use tonic::transport::server::TcpConnectInfo;

use crate::tenancy::Identity;

/// One request's caller. A clone is the same.
#[derive(Clone, Debug)]
pub struct Caller {
    pub identity: Identity,
    /// Where the connection came from, where that is known.
    pub peer: Option<SocketAddr>,
}

impl Caller {
    pub(super) fn new(identity: Identity, extensions: &Extensions) -> Self {
        let peer = extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
        Self { identity, peer }
    }
}
