//! What the services say to each other: `talaria.v1`, generated from the `.proto` files beside this crate.

mod chunk;
mod codec;

pub use chunk::EventChunk;
pub use codec::ThriftyCodec;

/// The `talaria.v1` package.
#[expect(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes,
    reason = "generated code"
)]
pub mod v1 {
    pub use crate::EventChunk;

    tonic::include_proto!("talaria.v1");

    /// The package's descriptors, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/talaria.v1.bin"));
}
