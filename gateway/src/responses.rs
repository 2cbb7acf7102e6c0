//! TBD

pub mod query;
pub mod request;
