//! A Postgres from the net, for machines that have none.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use postgresql_embedded::{PostgreSQL, Settings, VersionReq};
use tracing::info;

/// What is downloaded when the cluster does not ask for another.
const MAJOR_VERSION: u32 = 17;

/// Downloads a Postgres into a subdirectory of `into` and returns where its programs are.
pub async fn download(into: &Path, made_by: Option<u32>) -> anyhow::Result<PathBuf> {
    let version = made_by.unwrap_or(MAJOR_VERSION);
    info!(
        version,
        "this machine has no suitable Postgres, downloading one"
    );
    install(into, version).await.with_context(|| {
        format!(
            "no PostgreSQL is installed here and none could be downloaded: install version {} (such as `apt-get install -y postgresql`) or set TALARIA_DATABASE_URL",
            made_by.map_or("14 or newer".to_owned(), |made_by| made_by.to_string())
        )
    })
}

async fn install(into: &Path, version: u32) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(into).with_context(|| format!("creating {}", into.display()))?;
    // `setup` also runs initdb, as us and in its way, unless it finds a cluster: so it finds one.
    let pretence = into.join("pretence");
    fs::create_dir_all(&pretence).context("preparing the download")?;
    fs::write(pretence.join("postgresql.conf"), "").context("preparing the download")?;

    let mut installer = PostgreSQL::new(Settings {
        version: VersionReq::parse(&format!("={version}")).context("naming the version")?,
        installation_dir: into.to_owned(),
        data_dir: pretence.clone(),
        password_file: pretence.join("password"),
        temporary: false,
        ..Settings::default()
    });
    installer.setup().await.context("downloading PostgreSQL")?;
    Ok(installer.settings().binary_dir())
}
