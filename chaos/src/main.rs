//! Kills everything, at any moment, and shows that nothing was lost: `docs/reliability.md`.

mod check;
mod client;
mod cluster;
mod episode;
mod history;
mod model;
mod nemesis;
mod plan;
mod proxy;
mod random;
mod recovery;
mod report;
mod sampler;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Parser, ValueEnum as _};
use tokio::task::JoinSet;

use crate::cluster::{Cluster, Options};
use crate::episode::Settings;
use crate::nemesis::FaultKind;
use crate::random::Random;
use crate::report::Report;

/// Violations of one episode that are printed.
const PRINTED: usize = 12;

#[derive(Debug, Parser)]
#[command(about = "Kills everything, at any moment, and shows that nothing was lost")]
struct Cli {
    #[command(flatten)]
    flags: Flags,
}

#[derive(Args, Clone, Debug)]
struct Flags {
    /// The product [default: the `talaria` beside this program]
    #[arg(long, value_name = "PATH")]
    binary: Option<String>,
    /// Decides everything that is decided; episode N has the seed's Nth number
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs just the episode of this seed, as a failure names it
    #[arg(long, value_name = "SEED")]
    replay: Option<u64>,
    #[arg(long, default_value_t = 10)]
    episodes: usize,
    /// Begins no more episodes after this many seconds
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Clusters at one time
    #[arg(long, default_value_t = 1)]
    parallel: usize,
    #[arg(long, default_value_t = 40)]
    clients: usize,
    /// Kinds of faults [default: all of them]; `none` for none
    #[arg(long, value_delimiter = ',')]
    faults: Option<Vec<String>>,
    /// Seconds in which faults begin
    #[arg(long, default_value_t = 15)]
    fault_seconds: u64,
    /// Answers of the model in 100 that something goes wrong with
    #[arg(long, default_value_t = 3)]
    trouble_percent: u64,
    /// Failpoints, as in `append.after_commit_before_reply=2:crash;tool.after_intent=1:sleep 3000`
    #[arg(long, default_value = "")]
    failpoints: String,
    /// Where failed episodes are kept
    #[arg(long, default_value = "target/chaos")]
    directory: PathBuf,
    /// Keeps all episodes
    #[arg(long)]
    keep: bool,
    /// Variables for all processes: NAME=VALUE
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let report = run(&cli.flags).await?;
    println!("\n{}", report.table());
    std::fs::create_dir_all(&cli.flags.directory)?;
    let json = cli.flags.directory.join("report.json");
    std::fs::write(&json, serde_json::to_string_pretty(&report.json())?)?;
    println!("\n{} passed, {} failed", report.passed, report.failed);
    Ok(if report.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs all episodes, on as many clusters as were asked for.
async fn run(flags: &Flags) -> anyhow::Result<Report> {
    let settings = settings(flags)?;
    let options = options(flags)?;
    let mut random = Random::of(flags.seed, "episodes");
    let seeds = (0..flags.episodes).map(|_| random.next() >> 32);
    let seeds = flags
        .replay
        .map_or_else(|| seeds.collect(), |seed| vec![seed]);
    let next = Arc::new(AtomicUsize::new(0));
    let report = Arc::new(Mutex::new(Report::default()));
    let until = flags
        .seconds
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut workers = JoinSet::new();
    for worker in 0..flags.parallel.max(1) {
        let (next, report) = (Arc::clone(&next), Arc::clone(&report));
        let (settings, options, seeds) = (settings.clone(), options.clone(), seeds.clone());
        let cluster_seed = flags.seed.wrapping_mul(1000) + worker as u64;
        workers.spawn(async move {
            let epoch = Instant::now();
            let mut cluster: Option<Arc<Cluster>> = None;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let is_late = until.is_some_and(|until| Instant::now() > until);
                let Some(seed) = seeds.get(number).filter(|_| !is_late) else {
                    return Ok(());
                };
                let running = match cluster.take() {
                    Some(cluster) => cluster,
                    None => Cluster::start(options.clone(), epoch, cluster_seed)
                        .await
                        .context("starting the product")?,
                };
                let outcome = match episode::run(&running, &settings, *seed, epoch).await {
                    Ok(outcome) => outcome,
                    Err(error) => {
                        println!("episode {number} seed {seed}: could not be judged: {error:#}");
                        let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                        report.failed += 1;
                        report.failed_seeds.push(*seed);
                        continue;
                    }
                };
                say(number, &outcome);
                report
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .add(&outcome);
                // What follows a failure would only tell of that failure.
                if outcome.violations.is_empty() {
                    cluster = Some(running);
                }
            }
        });
    }
    while let Some(worker) = workers.join_next().await {
        let worked: anyhow::Result<()> = worker?;
        worked?;
    }
    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *report))
}

fn say(number: usize, outcome: &episode::Outcome) {
    let counts = &outcome.counts;
    let verdict = if outcome.violations.is_empty() {
        "passed".to_owned()
    } else {
        format!("FAILED ({} violations)", outcome.violations.len())
    };
    println!(
        "episode {number} seed {}: {verdict}, {} runs, {} events, {} takeovers, {:.0} s",
        outcome.seed,
        counts.runs,
        counts.events_stored,
        counts.takeovers,
        outcome.length.as_secs_f64()
    );
    for fault in &outcome.faults {
        println!("    {fault}");
    }
    for violation in outcome.violations.iter().take(PRINTED) {
        let text: String = violation.to_string().chars().take(600).collect();
        println!("  ! {text}");
    }
    if let Some(kept) = &outcome.kept {
        println!(
            "  see {}; replay with --replay {}",
            kept.display(),
            outcome.seed
        );
    }
}

fn settings(flags: &Flags) -> anyhow::Result<Settings> {
    let kinds = match &flags.faults {
        None => FaultKind::value_variants().to_vec(),
        Some(names) => names
            .iter()
            .filter(|name| name.as_str() != "none")
            .map(|name| FaultKind::from_str(name, true).map_err(anyhow::Error::msg))
            .collect::<anyhow::Result<_>>()?,
    };
    Ok(Settings {
        clients: flags.clients,
        kinds,
        faults: Duration::from_secs(flags.fault_seconds),
        trouble_percent: flags.trouble_percent,
        keep: flags.directory.clone(),
        keep_all: flags.keep,
    })
}

fn options(flags: &Flags) -> anyhow::Result<Options> {
    let beside = std::env::current_exe()?.with_file_name("talaria");
    let beside = beside.to_string_lossy().into_owned();
    let binary = flags.binary.clone().unwrap_or(beside);
    let is_there = std::path::Path::new(&binary).exists();
    anyhow::ensure!(is_there, "{binary} is not there: build it");
    let variable = |text: &String| {
        let (name, value) = text.split_once('=').context("--env takes NAME=VALUE")?;
        Ok((name.to_owned(), value.to_owned()))
    };
    Ok(Options {
        binary,
        stores: 2,
        orchestrators: 3,
        gateways: 2,
        environment: flags
            .env
            .iter()
            .map(variable)
            .collect::<anyhow::Result<_>>()?,
        failpoints: flags.failpoints.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
