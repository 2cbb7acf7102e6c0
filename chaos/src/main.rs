//! Kills everything, at any moment, and shows that nothing was lost: `docs/reliability.md`.

mod check;
mod client;
mod cluster;
mod episode;
mod failpoints;
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
use crate::failpoints::{MUTANTS, named};
use crate::nemesis::FaultKind;
use crate::random::Random;
use crate::report::Report;

/// Violations of one episode that are printed.
const PRINTED: usize = 12;

#[derive(Debug, Parser)]
#[command(about = "Kills everything, at any moment, and shows that nothing was lost")]
struct Cli {
    /// What to do instead of running episodes
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Clone, Copy, Debug, clap::Subcommand)]
enum Command {
    /// Gives the product one known bug after the other, and runs episodes until each is found
    Mutants,
}

#[derive(Args, Clone, Debug)]
struct Flags {
    /// The product [default: the `talaria` beside this program]
    #[arg(long, global = true, value_name = "PATH")]
    binary: Option<String>,
    /// Decides everything that is decided; episode N has the seed's Nth number
    #[arg(long, global = true, default_value_t = 1)]
    seed: u64,
    /// Runs just the episode of this seed, as a failure names it
    #[arg(long, global = true, value_name = "SEED")]
    replay: Option<u64>,
    #[arg(long, global = true, default_value_t = 10)]
    episodes: usize,
    /// Begins no more episodes after this many seconds
    #[arg(long, global = true, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Clusters at one time
    #[arg(long, global = true, default_value_t = 1)]
    parallel: usize,
    #[arg(long, global = true, default_value_t = 40)]
    clients: usize,
    /// Kinds of faults [default: all of them]; `none` for none
    #[arg(long, global = true, value_delimiter = ',')]
    faults: Option<Vec<String>>,
    /// Faults of one episode at most
    #[arg(long, global = true, default_value_t = 6)]
    most_faults: u64,
    /// Seconds in which faults begin
    #[arg(long, global = true, default_value_t = 15)]
    fault_seconds: u64,
    /// Answers of the model in 100 that something goes wrong with
    #[arg(long, global = true, default_value_t = 3)]
    trouble_percent: u64,
    /// `usual`, or failpoints as in `append.after_commit_before_reply=2:crash;tool.after_intent=1:sleep 3000`; the product
    /// has to be built with the feature `failpoints`
    #[arg(long, global = true, default_value = "")]
    failpoints: String,
    /// Where failed episodes are kept
    #[arg(long, global = true, default_value = "target/chaos")]
    directory: PathBuf,
    /// With `mutants`: only these
    #[arg(long, global = true, value_delimiter = ',')]
    bugs: Option<Vec<String>>,
    /// Keeps all episodes
    #[arg(long, global = true)]
    keep: bool,
    /// Variables for all processes: NAME=VALUE
    #[arg(long, global = true, value_name = "NAME=VALUE")]
    env: Vec<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    if let Some(Command::Mutants) = cli.command {
        return mutants(&cli.flags).await;
    }
    let report = run(&cli.flags, false).await?;
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

/// Runs episodes on each mutant until it is found.
async fn mutants(flags: &Flags) -> anyhow::Result<ExitCode> {
    let mut lines = Vec::new();
    let (mut found, mut missed) = (0, 0);
    for mutant in MUTANTS {
        if flags
            .bugs
            .as_ref()
            .is_some_and(|bugs| !bugs.iter().any(|bug| bug == mutant.bug))
        {
            continue;
        }
        println!("known bug {}", mutant.bug);
        let mut flags = flags.clone();
        flags.env.push(format!("TALARIA_KNOWN_BUG={}", mutant.bug));
        flags.failpoints = mutant.failpoints.to_owned();
        flags.directory = flags.directory.join(mutant.bug);
        let report = run(&flags, true).await?;
        let by: Vec<&str> = report.violations.keys().map(String::as_str).collect();
        let episodes = report.passed + report.failed;
        let verdict = if report.failed > 0 {
            found += 1;
            format!("found in episode {episodes} by {}", by.join(", "))
        } else {
            missed += 1;
            format!("NOT FOUND in {episodes} episodes")
        };
        lines.push(format!("{:<16}{verdict}", mutant.bug));
    }
    println!("\n{}\n\n{found} passed, {missed} failed", lines.join("\n"));
    Ok(if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs all episodes, or those until one fails, on as many clusters as were asked for.
async fn run(flags: &Flags, until_failure: bool) -> anyhow::Result<Report> {
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
                let has_failed = {
                    let report = report.lock().unwrap_or_else(PoisonError::into_inner);
                    until_failure && report.failed > 0
                };
                let is_late = has_failed || until.is_some_and(|until| Instant::now() > until);
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
                say(number, &outcome, &settings.replay);
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

fn say(number: usize, outcome: &episode::Outcome, replay: &str) {
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
            "  see {}; replay with {replay} {}",
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
        most_faults: flags.most_faults,
        faults: Duration::from_secs(flags.fault_seconds),
        trouble_percent: flags.trouble_percent,
        replay: replay(flags),
        keep: flags.directory.clone(),
        keep_all: flags.keep,
    })
}

/// The command line that runs an episode of these flags again, up to its seed.
fn replay(flags: &Flags) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let mut words = vec!["talaria-chaos".to_owned()];
    let mut say = |name: &str, value: String| words.extend([format!("--{name}"), value]);
    say("seed", flags.seed.to_string());
    say("clients", flags.clients.to_string());
    say("most-faults", flags.most_faults.to_string());
    say("fault-seconds", flags.fault_seconds.to_string());
    say("trouble-percent", flags.trouble_percent.to_string());
    if let Some(binary) = &flags.binary {
        say("binary", quoted(binary));
    }
    if let Some(faults) = &flags.faults {
        say("faults", faults.join(","));
    }
    if !flags.failpoints.is_empty() {
        say("failpoints", quoted(&flags.failpoints));
    }
    for variable in &flags.env {
        say("env", quoted(variable));
    }
    words.push("--replay".to_owned());
    words.join(" ")
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
        failpoints: named(&flags.failpoints),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_to_replay_an_episode_does() {
        let given = [
            "talaria-chaos",
            "--seed=7",
            "--faults=kill,freeze",
            "--failpoints=tool.after_intent=1:sleep 3000",
            "--env=TALARIA_KNOWN_BUG=no-seal",
        ];
        let said = replay(&Cli::parse_from(given).flags);

        assert_eq!(
            said,
            "talaria-chaos --seed 7 --clients 40 --most-faults 6 --fault-seconds 15 --trouble-percent 3 \
             --faults kill,freeze --failpoints 'tool.after_intent=1:sleep 3000' \
             --env 'TALARIA_KNOWN_BUG=no-seal' --replay"
        );
    }

    #[test]
    fn the_command_line_is_well_formed() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
