//! Measures Talaria against a mock upstream, beside what the machine itself can do.

mod cli;
mod curve;
mod database;
mod follow;
mod limits;
mod load;
mod machine;
mod mock;
mod overload;
mod points;
mod processes;
mod proxy;
mod report;
mod scale;
mod scenarios;
mod serve;
mod soak;
mod stage;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cli::{Cli, Command};
use crate::report::{Figures, comparison};

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let work = async {
        match &cli.command {
            Some(Command::Mock) => mock::serve().await.map(|never| match never {}),
            Some(Command::Proxy { upstream }) => {
                proxy::serve(*upstream).await.map(|never| match never {})
            }
            Some(Command::Follow { parent, program }) => {
                follow::become_program(*parent, program).map(|never| match never {})
            }
            Some(Command::Compare { old, new }) => compare(old, new),
            Some(Command::Curve(args)) => {
                open_files_as_allowed()?;
                curve::run(args).await
            }
            Some(Command::Overload(args)) => {
                open_files_as_allowed()?;
                overload::run(args).await
            }
            Some(Command::Soak(args)) => {
                open_files_as_allowed()?;
                soak::run(args).await
            }
            Some(Command::Scale(args)) => {
                open_files_as_allowed()?;
                scale::run(args).await
            }
            None => {
                open_files_as_allowed()?;
                scenarios::run(&cli.measurement).await
            }
        }
    };
    let result = tokio::select! {
        result = work => result,
        // Returning stops what was started; the default would leave temporary files behind.
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("talaria-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare(old: &Path, new: &Path) -> anyhow::Result<()> {
    let (old, new) = (Figures::read(old)?, Figures::read(new)?);
    print!("{}", comparison(&old, &new));
    Ok(())
}

/// Raises the soft limit of open files to the hard one, for this process and those it starts.
fn open_files_as_allowed() -> anyhow::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )
    .context("raising the limit of open files")
}
