//! A connection together with the task that drives it.

use std::ops::{Deref, DerefMut};

use anyhow::Context;
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};

use crate::deadline::within;

/// A Postgres client whose connection lives as long as it does.
#[derive(Debug)]
pub struct Session {
    client: Client,
    _driver: JoinSet<()>,
}

impl Session {
    /// Connects to `url`.
    pub async fn open(url: &str) -> anyhow::Result<Self> {
        // Boxed, because connecting is a large state machine that would be a part of every caller's.
        let connecting = Box::pin(tokio_postgres::connect(url, NoTls));
        let (client, connection) = within("a Postgres connection", connecting)
            .await?
            .with_context(|| format!("connecting to {url}"))?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // What ends the connection shows as the error of the query that it ends.
            let _ = connection.await;
        });
        Ok(Self {
            client,
            _driver: driver,
        })
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}
