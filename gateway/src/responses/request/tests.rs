//! What the create request takes and refuses.

mod bad;
mod good;
mod laws;
