//! Hydrant's wire format: the messages and services of package `hydrant.v1`, generated from the
//! .proto files beside this crate. Nothing here is written by hand, and nothing else lives here.

/// Package `hydrant.v1`.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod v1 {
    tonic::include_proto!("hydrant.v1");

    /// The descriptors of every file of the package, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hydrant.v1.descriptors.bin"));
}
