//! What is true whatever the wires and disks: ids, items, events, the run's state machine, the fold.
//!
//! No async, no clock, no randomness, no I/O.

pub mod ids;
pub mod model;
