//! A real Postgres for tests: a fresh database per test, or a server of one's own to kill.

mod cluster;
mod database;
mod private;
mod session;
mod shared;

pub use database::TestDatabase;
pub use private::PrivatePostgres;
pub use session::Session;
