//! The command line.

mod scale;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use crate::stage::{Instances, Shape};
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::scale::{ScaleArgs, ScaleTable};

/// Measures Talaria against a mock upstream
#[derive(Debug, Parser)]
#[command(name = "talaria-bench", args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub measurement: Measurement,
}

/// The parts that run as processes of their own, so that their CPU time is theirs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// An upstream that answers `tokens=N pace_ms=M`
    Mock,
    /// An HTTP proxy that only copies bytes
    Proxy {
        #[arg(long, value_name = "HOST:PORT")]
        upstream: SocketAddr,
    },
    /// Measures how figures change with one quantity
    Curve(CurveArgs),
    /// Offers more than can be done, beside streams at a human pace
    Overload(OverloadArgs),
    /// Holds streams whose clients leave and come back, and looks whether anything grows
    Soak(SoakArgs),
    /// Measures what each part costs, and what a second one of it adds
    Scale(ScaleArgs),
    /// Shows two files that --json wrote beside each other
    Compare {
        #[arg(value_name = "OLD.json")]
        old: PathBuf,
        #[arg(value_name = "NEW.json")]
        new: PathBuf,
    },
    /// A program that ends with the process that started it
    #[command(name = "__follow", hide = true)]
    Follow {
        parent: i32,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<OsString>,
    },
}

/// What to measure.
#[derive(Args, Debug)]
pub struct Measurement {
    /// Which scenarios [default: all]
    #[arg(value_name = "SCENARIO")]
    pub scenarios: Vec<Scenario>,
    /// How often each is measured; the table shows medians
    #[arg(long, default_value = "3")]
    pub rounds: NonZeroU32,
    /// Which subjects, separated by commas
    #[arg(long, value_delimiter = ',', default_values = ["straight", "proxy", "durable", "ephemeral"])]
    subjects: Vec<Subject>,
    /// Also measure Talaria with every service in a process of its own
    #[arg(long)]
    apart: bool,
    #[command(flatten)]
    pub common: Common,
}

/// What all that measures can be told.
#[derive(Args, Debug)]
pub struct Common {
    /// Where to write every figure
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// The talaria program [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    pub server: Option<PathBuf>,
    /// The commit of that program, to be noted with the figures [default: that of the work tree it lies in]
    #[arg(long, value_name = "TEXT")]
    pub commit: Option<String>,
}

/// Which curves to draw.
#[derive(Args, Debug)]
pub struct CurveArgs {
    #[arg(value_name = "CURVE", required = true)]
    pub curves: Vec<Curve>,
    /// The largest point that is wanted [default: all]
    #[arg(long, value_name = "COUNT")]
    pub up_to: Option<u64>,
    #[command(flatten)]
    pub common: Common,
}

/// How much to offer.
#[derive(Args, Debug)]
pub struct OverloadArgs {
    /// How many times the sustainable load
    #[arg(long, default_value = "2")]
    pub times: f64,
    /// For how long
    #[arg(long, default_value = "10")]
    pub seconds: u16,
    /// `runs.max_starting` of the server [default: its own]
    #[arg(long)]
    pub max_starting: Option<u32>,
    #[command(flatten)]
    pub common: Common,
}

/// How long to hold how many streams.
#[derive(Args, Debug)]
pub struct SoakArgs {
    #[arg(long, default_value = "60")]
    pub minutes: f64,
    #[arg(long, default_value = "500")]
    pub streams: u32,
    /// From one look at what the server holds to the next
    #[arg(long, default_value = "60")]
    pub sample_seconds: u16,
    /// With every service in a process of its own
    #[arg(long)]
    pub apart: bool,
    #[command(flatten)]
    pub common: Common,
}

/// What is varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Curve {
    /// 1 to 4,096 clients: paced streams, and short runs
    Concurrency,
    /// 10 to 100,000 tokens in one run: CPU, GET, replay
    Tokens,
    /// 1 to 2,000 turns in a chain: time of a turn
    Chain,
    /// 10,000 to 10 million stored responses, up to 30 GB: runs, GET, list, turn
    Rows,
    /// 1 to 10,000 tenants among as many responses: the same
    Tenants,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Scenario {
    /// 50 streams of 100 tokens, one each 20 ms: added time to the first token
    S1,
    /// 64 streams of 200 tokens, as fast as taken
    S2,
    /// Short runs, not streamed, 32 at a time
    S3,
    /// GET of stored responses, 32 at a time
    S4,
    /// 2,000 streams held at one token per second: memory
    S5,
    /// Chains of 200 turns of 1 kB in and 1 kB out: time of a turn, bytes in the database
    S6,
    /// Replay of finished streams, 32 at a time
    S7,
    /// One run of 100,000 deltas: memory, GET in the middle, replay
    S8,
    /// What the disk and Postgres can do by themselves
    Limits,
}

/// What a scenario is measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Subject {
    /// The mock upstream itself
    Straight,
    /// A proxy that only copies bytes: the machine's limit
    Proxy,
    /// Talaria with `store: true`
    Durable,
    /// Talaria with `store: false`
    Ephemeral,
    /// Talaria with `store: true`, every service in a process of its own
    Apart,
}

impl Measurement {
    /// The subjects that were asked for.
    pub fn subjects(&self) -> Vec<Subject> {
        let mut subjects = self.subjects.clone();
        if self.apart && !subjects.contains(&Subject::Apart) {
            subjects.push(Subject::Apart);
        }
        subjects
    }

    /// The scenarios that were asked for, in their order.
    pub fn scenarios(&self) -> Vec<Scenario> {
        let asked =
            |scenario: &Scenario| self.scenarios.is_empty() || self.scenarios.contains(scenario);
        Scenario::value_variants()
            .iter()
            .copied()
            .filter(asked)
            .collect()
    }
}

impl Curve {
    /// Its name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Concurrency => "concurrency",
            Self::Tokens => "tokens",
            Self::Chain => "chain",
            Self::Rows => "rows",
            Self::Tenants => "tenants",
        }
    }

    /// What is counted.
    pub fn of(self) -> &'static str {
        match self {
            Self::Concurrency => "clients",
            Self::Tokens => "tokens of a run",
            Self::Chain => "turns",
            Self::Rows => "responses",
            Self::Tenants => "tenants",
        }
    }
}

impl Scenario {
    /// Its name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::S1 => "s1",
            Self::S2 => "s2",
            Self::S3 => "s3",
            Self::S4 => "s4",
            Self::S5 => "s5",
            Self::S6 => "s6",
            Self::S7 => "s7",
            Self::S8 => "s8",
            Self::Limits => "limits",
        }
    }
}

impl Subject {
    /// Its name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Straight => "straight",
            Self::Proxy => "proxy",
            Self::Durable => "durable",
            Self::Ephemeral => "ephemeral",
            Self::Apart => "apart",
        }
    }

    /// Whether runs on it are stored, where it can store any.
    pub fn stores(self) -> bool {
        match self {
            Self::Straight | Self::Proxy | Self::Durable | Self::Apart => true,
            Self::Ephemeral => false,
        }
    }

    /// How the Talaria is set up that it is measured on, if it is one.
    pub fn shape(self) -> Option<Shape> {
        match self {
            Self::Straight | Self::Proxy => None,
            Self::Durable | Self::Ephemeral => Some(Shape::OneProcess),
            Self::Apart => Some(Shape::Apart(Instances::ONE)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn scenarios_and_parts_are_told_apart() {
        let cli = Cli::try_parse_from(["talaria-bench", "s4", "s1", "--rounds", "1"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.measurement.scenarios(), [Scenario::S1, Scenario::S4]);

        let cli = Cli::try_parse_from(["talaria-bench", "--apart"]).unwrap();
        assert_eq!(cli.measurement.subjects().last(), Some(&Subject::Apart));

        let cli = Cli::try_parse_from(["talaria-bench", "mock"]).unwrap();
        assert!(matches!(cli.command, Some(Command::Mock)));
    }
}
