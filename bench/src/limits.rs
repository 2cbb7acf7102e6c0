//! What the disk and Postgres can do by themselves, under the settings that Talaria gives its Postgres.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::task::{JoinSet, spawn_blocking};

use crate::database::{Session, counted, with_session};
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
    let session = talaria.connect().await?;
    book.limit(Limit::WalOfRow, wal_of_row(&session).await?);
    book.limit(Limit::Reads, reads(&session, &talaria.socket()).await?);
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

/// How many bytes a row of the last kind takes in the write-ahead log, committed a hundred at a time.
async fn wal_of_row(session: &Session) -> anyhow::Result<f64> {
    const ROWS: u32 = 10_000;
    const INSERT: &str = "
        -- bench_rows_insert_hundred
        INSERT INTO bench_rows (body)
        SELECT decode(repeat('07', $1), 'hex')
        FROM generate_series(1, 100)";
    session.checkpoint().await?;
    let before = session.written().await?;
    for _ in 0..ROWS / 100 {
        session
            .client
            .execute(INSERT, &[&i32::try_from(ROW_BYTES)?])
            .await
            .context("inserting rows")?;
    }
    let after = session.written().await?;
    Ok(counted(after.wal - before.wal) / f64::from(ROWS))
}

/// How many documents of 4 kB a second 32 connections read by their key.
async fn reads(session: &Session, socket: &Path) -> anyhow::Result<f64> {
    const TABLE: &str = "
        DROP TABLE IF EXISTS bench_documents;
        CREATE TABLE bench_documents (id BIGINT PRIMARY KEY, body BYTEA NOT NULL);
        ALTER TABLE bench_documents ALTER COLUMN body SET STORAGE EXTERNAL;
        INSERT INTO bench_documents (id, body)
        SELECT id, decode(repeat('07', 4096), 'hex')
        FROM generate_series(0, 1999) AS ids (id)";
    const CONNECTIONS: i64 = 32;
    let created = session.client.batch_execute(TABLE).await;
    created.context("creating documents")?;
    let vacuumed = session
        .client
        .batch_execute("VACUUM ANALYZE bench_documents");
    vacuumed.await.context("vacuuming documents")?;

    let mut workers = JoinSet::new();
    let start = Instant::now();
    for number in 0..CONNECTIONS {
        workers.spawn(read_for_a_while(socket.to_owned(), number * 61));
    }
    let mut count = 0.0;
    while let Some(ended) = workers.join_next().await {
        count += ended.context("reading")??;
    }
    Ok(count / start.elapsed().as_secs_f64())
}

async fn read_for_a_while(socket: PathBuf, first: i64) -> anyhow::Result<f64> {
    const SELECT: &str = "
        -- bench_documents_get
        SELECT body
        FROM bench_documents
        WHERE id = $1";
    with_session(&socket, async |client| {
        let statement = client.prepare(SELECT).await?;
        let start = Instant::now();
        let mut count = 0;
        while start.elapsed() < PERIOD {
            let id = (first + i64::from(count)) % 2000;
            let row = client.query_one(&statement, &[&id]).await?;
            ensure!(
                row.get::<_, &[u8]>(0).len() == 4096,
                "a document is cut off"
            );
            count += 1;
        }
        Ok(f64::from(count))
    })
    .await
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
