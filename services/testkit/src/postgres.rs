//! A real Postgres for tests: a fresh database per test, or a server of one's own to kill.

mod cluster;
mod database;
mod private;
mod proxy;
mod session;
mod shared;
mod small_disk;

pub use database::TestDatabase;
pub use private::PrivatePostgres;
pub use proxy::Proxy;
pub use session::Session;
pub use small_disk::SmallDisk;
