//! What tests stand on: real databases, real processes, a model server that does as it is told, and a judge.
//!
//! Nothing here knows the product's own crates. Everything goes through SQL, HTTP and the outside of processes, so
//! that the product can be judged by it. Functions return `anyhow::Result`, so a test ends with `?`; every wait ends
//! after [`deadline::DEADLINE`] with an error that says what was waited for.
//!
//! # A database per test
//! [`postgres::TestDatabase`] clones a template on a server that all tests of the workspace share. The server starts
//! with the first test that wants it, is found again by the next run, and goes away when nobody wanted it for ten
//! minutes. It needs a Postgres installation; as root, the server runs as `postgres` or `nobody`. What the shared
//! server commits does not survive a crash: tests about crashes take a [`postgres::PrivatePostgres`] and kill it.
//!
//! ```no_run
//! # async fn run_migrations(url: &str) -> anyhow::Result<()> { Ok(()) }
//! # async fn example() -> anyhow::Result<()> {
//! use talaria_testkit::postgres::TestDatabase;
//!
//! let checksum_of_migrations = "5f2a";
//! let database = TestDatabase::from_template(checksum_of_migrations, run_migrations).await?;
//! let session = database.connect().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # A model server
//! [`upstream::Upstream`] answers each request with the next [`upstream::Script`]: [`upstream::ResponsesStream`] and
//! [`upstream::ChatStream`] build the usual ones, with gates that the test opens, pauses, and cuts. It records what it
//! was asked and whether the client went away.
//!
//! # The product as a process
//! [`process::Process`] runs a binary, reads its lines and kills it, also when the test itself is killed.
//!
//! # Reading and judging streams
//! [`sse::Reader`] reads frames byte for byte; [`check::stream`] says which rule of the Responses API they break.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use talaria_testkit::{check, process::Process, sse};
//!
//! # let binary = "";
//! // In a test of the product, `binary` is env!("CARGO_BIN_EXE_talaria").
//! let mut talaria = Process::start(binary, &["serve", "--listen", "127.0.0.1:0"], &[])?;
//! let address = talaria.wait_for_address("listening").await?;
//!
//! let url = format!("http://{address}/v1/responses?stream=true");
//! let response = reqwest::Client::new().post(url).send().await?;
//! let frames = sse::Reader::new(response).await?.collect().await?;
//! let summary = check::stream(&frames).map_err(anyhow::Error::msg)?;
//! assert_eq!(summary.text, "Hello!");
//!
//! talaria.kill9().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Programs of other languages
//! [`foreign::Python`] and [`foreign::Node`] are interpreters with the packages that a test pins.

pub mod check;
pub mod deadline;
pub mod foreign;
mod guard;
pub mod postgres;
pub mod process;
pub mod sse;
pub mod stack;
pub mod upstream;
