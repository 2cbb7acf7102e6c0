//! What the mock upstream and the proxy share: listening, and ending with the process that started them.

use std::convert::Infallible;

use anyhow::Context;
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What a process says on stderr before the address it listens on.
pub const LISTENS_ON: &str = "listens on http://";

/// Serves every connection to a free port of this machine until the parent process ends.
pub async fn connections<F>(
    what: &str,
    serve: impl Fn(TcpStream) -> F,
) -> anyhow::Result<Infallible>
where
    F: Future<Output = ()> + Send + 'static,
{
    set_parent_process_death_signal(Some(Signal::TERM)).context("following the parent")?;
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .context("listening")?;
    let address = listener.local_addr().context("reading the bound address")?;
    eprintln!("{what} {LISTENS_ON}{address}");

    let mut open = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.context("accepting")?;
        stream.set_nodelay(true).context("setting TCP_NODELAY")?;
        open.spawn(serve(stream));
        while open.try_join_next().is_some() {}
    }
}
