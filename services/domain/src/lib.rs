//! What is true whatever the wires and disks: ids, items, events, the run's state machine, the fold.
//!
//! No async, no clock, no randomness, no I/O.

pub mod context;
pub mod echo;
pub mod ids;
pub mod item;
pub mod json;
pub mod link;
mod marker;
pub mod model;
pub mod rebuild;
pub mod run;
pub mod snapshot;
