//! What goes by itself: responses that are too old or too many, turns that nothing needs, old days of the event log.
//!
//! Each step does a bounded amount of work and says how much it did, and is safe to run in every replica at once.

mod partitions;
mod responses;
mod turns;

pub use partitions::{event_partitions_create, event_partitions_drop};
pub use responses::{responses_evict, responses_expire};
pub use turns::{Sweep, turns_sweep};
