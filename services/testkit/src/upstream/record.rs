//! What the server was asked, and how that ended.

use http::{HeaderMap, Method};
use serde_json::Value;
use tokio::sync::watch;

use crate::deadline::within;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its method.
    pub method: Method,
    /// Its path with the query, such as `/v1/responses`.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body; `null` when it is not JSON.
    pub body: Value,
    ending: watch::Receiver<Option<Ending>>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The script came to its end.
    Completed,
    /// The script cut the connection.
    Cut,
    /// The client closed the connection first (or the server was dropped).
    ClientGone,
}

impl Request {
    /// How the request ended; waits until it has.
    pub async fn closed(&self) -> anyhow::Result<Ending> {
        let mut ending = self.ending.clone();
        let ended = ending.wait_for(Option::is_some);
        // A sender that is gone without a word went with its connection.
        let ended = within("the end of a request to the upstream", ended).await?;
        Ok(ended
            .ok()
            .and_then(|ending| *ending)
            .unwrap_or(Ending::ClientGone))
    }

    /// How the request has ended, if it has.
    pub fn ending(&self) -> Option<Ending> {
        *self.ending.borrow()
    }
}

/// Tells the record how the request ends: as said, or `ClientGone` when it is dropped before.
pub(super) struct EndingTeller(watch::Sender<Option<Ending>>);

impl EndingTeller {
    pub(super) fn tell(&self, ending: Ending) {
        self.0.send_replace(Some(ending));
    }
}

impl Drop for EndingTeller {
    fn drop(&mut self) {
        self.0.send_if_modified(|ending| {
            let untold = ending.is_none();
            ending.get_or_insert(Ending::ClientGone);
            untold
        });
    }
}

/// A record and the hand that ends it.
pub(super) fn record(parts: &http::request::Parts, body: &[u8]) -> (Request, EndingTeller) {
    let (teller, ending) = watch::channel(None);
    let request = Request {
        method: parts.method.clone(),
        path: parts.uri.to_string(),
        headers: parts.headers.clone(),
        body: serde_json::from_slice(body).unwrap_or(Value::Null),
        ending,
    };
    (request, EndingTeller(teller))
}
