//! A Postgres that is slow, full, read-only, silent, replaced, or loses its answers while the product runs.

mod admission;
mod failover;
mod gone;
mod lost_answers;
mod refusing;
mod slow;
mod support;
