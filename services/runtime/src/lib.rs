//! What every process does: ids and clocks, gRPC plumbing, starting and stopping.

pub mod clock;
pub mod dial;
pub mod error;
pub mod failpoint;
pub mod ids;
pub mod link;
pub mod machine;
pub mod server;
