//! Everything that knows a transport: gRPC, Arrow Flight and HTTP in front of the use cases, and the
//! client of all of them. Handlers decode, call one use case and encode; they decide nothing.

pub mod client;
pub mod layers;
pub mod status;
pub mod wire;

/// The messages, for callers of the client.
pub use hydrant_proto::v1;
