//! What the disk and Postgres can do by themselves, under the settings that Talaria gives its Postgres.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::task::{JoinSet, spawn_blocking};

use crate::database::with_session;
use crate::report::{Book, Limit};
use crate::stage::Talaria;

const PERIOD: Duration = Duration::from_secs(2);
const ROW_BYTES: usize = 300;
const PAGE: [u8; 8192] = [7; 8192];

/// Measures everything once.
pub async fn round(talaria: &Talaria, book: &mut Book) -> anyhow::Result<()> {
    let directory = talaria.data().to_owned();
    let sync = spawn_blocking(move || fdatasync(&directory))
        .await
        .context("measuring the disk")??;
    book.limit(Limit::Fdatasync, sync.as_secs_f64() * 1e6);

    for (limit, connections, rows) in [
        (Limit::InsertsByOne, 1, 1),
        (Limit::InsertsByMany, 32, 1),
        (Limit::RowsInHundreds, 1, 100),
        (Limit::RowsInThousands, 1, 1000),
    ] {
        let rate = inserts(&talaria.socket(), connections, rows).await?;
        book.limit(limit, rate);
    }
    Ok(())
}

/// How long it takes until a written page is on the disk.
fn fdatasync(directory: &Path) -> anyhow::Result<Duration> {
    let path = directory.join("fdatasync");
    let mut file = File::create(&path).context("creating a file")?;
    file.write_all(&PAGE).context("writing a page")?;
    file.sync_all().context("syncing the file")?;

    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < PERIOD {
        file.seek(SeekFrom::Start(0)).context("seeking")?;
        file.write_all(&PAGE).context("writing a page")?;
        file.sync_data().context("syncing a page")?;
        count += 1;
    }
    let each = start.elapsed() / count;
    std::fs::remove_file(&path).context("removing the file")?;
    Ok(each)
}

/// How many rows a second are committed by so many connections, with so many rows in a statement.
async fn inserts(socket: &Path, connections: usize, rows: usize) -> anyhow::Result<f64> {
    const TABLE: &str = "
        DROP TABLE IF EXISTS bench_rows;
        CREATE TABLE bench_rows (
            id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            body BYTEA NOT NULL
        )";
    with_session(socket, async |client| {
        Ok(client.batch_execute(TABLE).await?)
    })
    .await
    .context("creating the table")?;

    let mut workers = JoinSet::new();
    let start = Instant::now();
    for _ in 0..connections {
        workers.spawn(insert_for_a_while(socket.to_owned(), rows));
    }
    let mut count = 0.0;
    while let Some(ended) = workers.join_next().await {
        count += ended.context("inserting")??;
    }
    Ok(count / start.elapsed().as_secs_f64())
}

async fn insert_for_a_while(socket: PathBuf, rows: usize) -> anyhow::Result<f64> {
    const INSERT: &str = "
        -- bench_rows_insert
        INSERT INTO bench_rows (body)
        SELECT body
        FROM unnest($1::bytea[]) AS bodies (body)";
    with_session(&socket, async |client| {
        let statement = client.prepare(INSERT).await?;
        let bodies = vec![vec![7_u8; ROW_BYTES]; rows];
        let start = Instant::now();
        let mut count = 0.0;
        while start.elapsed() < PERIOD {
            let inserted = client.execute(&statement, &[&bodies]).await?;
            ensure!(inserted == rows as u64, "{inserted} rows were inserted");
            count += f64::from(u32::try_from(rows)?);
        }
        Ok(count)
    })
    .await
}
