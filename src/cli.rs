//! The command line, as it is written; what it means is decided in [`crate::settings`].

use clap::{Args, Parser, Subcommand};
use secrecy::SecretString;

use crate::embedded::GuardArgs;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "talaria",
    version,
    about = "Runs AI agents behind the OpenAI API and never loses a run",
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    #[command(subcommand)]
    invocation: Option<Invocation>,
    #[command(flatten)]
    serve: ServeFlags,
}

/// How this program was started: by someone, or by itself.
#[derive(Debug, Subcommand)]
pub enum Invocation {
    #[command(flatten)]
    Command(Command),
    /// Becomes a Postgres server that ends with the process that started it
    #[command(name = crate::embedded::GUARD_COMMAND, hide = true)]
    PostgresGuard(GuardArgs),
}

/// What to run; nothing at all means `serve`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Gateway, orchestrator and store in one process (the default)
    Serve(ServeFlags),
    /// The HTTP façade
    Gateway(GatewayFlags),
    /// The run orchestrator (gRPC)
    Orchestrator(OrchestratorFlags),
    /// The store service (gRPC)
    Store(StoreFlags),
    /// Applies the database migrations and leaves
    Migrate(MigrateFlags),
    /// Brings over what another server stored
    Import(ImportFlags),
}

/// Where an import comes from.
#[derive(Args, Debug)]
pub struct ImportFlags {
    #[command(subcommand)]
    pub source: ImportSource,
}

#[derive(Debug, Subcommand)]
pub enum ImportSource {
    /// A Hermes API server's response store
    Hermes(ImportHermesFlags),
}

/// What every command takes.
#[derive(Args, Debug, Default)]
pub struct CommonFlags {
    /// Settings file [default: ./talaria.toml if it is there]
    #[arg(long, value_name = "PATH")]
    pub config: Option<String>,
}

#[derive(Args, Debug, Default)]
pub struct ServeFlags {
    #[command(flatten)]
    pub common: CommonFlags,
    /// Address that clients talk to [default: 127.0.0.1:8642]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Postgres 14 or newer [default: a private one in the data directory]
    #[arg(long, value_name = "URL")]
    pub database_url: Option<SecretString>,
    /// Where the private Postgres lives [default: ./.talaria]
    #[arg(long, value_name = "PATH")]
    pub data_dir: Option<String>,
}

#[derive(Args, Debug, Default)]
pub struct GatewayFlags {
    #[command(flatten)]
    pub common: CommonFlags,
    /// Address that clients talk to [default: 127.0.0.1:8642]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// The orchestrators: one URL, or several with commas; a name stands for all its addresses
    #[arg(long, value_name = "URLS")]
    pub orchestrator: Option<String>,
    /// The stores, likewise
    #[arg(long, value_name = "URLS")]
    pub store: Option<String>,
}

#[derive(Args, Debug, Default)]
pub struct OrchestratorFlags {
    #[command(flatten)]
    pub common: CommonFlags,
    /// Address that façades talk to [default: 127.0.0.1:8643]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Where other processes reach this one, and only this one [default: the listen address, or this machine's own]
    #[arg(long, value_name = "URL")]
    pub advertise: Option<String>,
    /// The stores: one URL, or several with commas; a name stands for all its addresses
    #[arg(long, value_name = "URLS")]
    pub store: Option<String>,
}

#[derive(Args, Debug, Default)]
pub struct StoreFlags {
    #[command(flatten)]
    pub common: CommonFlags,
    /// Address that the other services talk to [default: 127.0.0.1:8644]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Postgres 14 or newer
    #[arg(long, value_name = "URL")]
    pub database_url: Option<SecretString>,
}

#[derive(Args, Debug, Default)]
pub struct MigrateFlags {
    #[command(flatten)]
    pub common: CommonFlags,
    /// Postgres 14 or newer
    #[arg(long, value_name = "URL")]
    pub database_url: Option<SecretString>,
}

#[derive(Args, Debug, Default)]
pub struct ImportHermesFlags {
    #[command(flatten)]
    pub common: CommonFlags,
    /// The store: the file `response_store.db` of the Hermes home, which is only read
    #[arg(long, value_name = "FILE")]
    pub from: String,
    /// Postgres 14 or newer [default: the private one in the data directory]
    #[arg(long, value_name = "URL")]
    pub database_url: Option<SecretString>,
    /// Where the private Postgres lives [default: ./.talaria]
    #[arg(long, value_name = "PATH", conflicts_with = "database_url")]
    pub data_dir: Option<String>,
    /// Whose the imported responses are
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub tenant: String,
}

impl Cli {
    /// What was asked for.
    pub fn invocation(self) -> Invocation {
        self.invocation
            .unwrap_or(Invocation::Command(Command::Serve(self.serve)))
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
    fn no_command_means_serve() {
        let cli = Cli::try_parse_from(["talaria", "--listen", "127.0.0.1:1"]).unwrap();

        let Invocation::Command(Command::Serve(flags)) = cli.invocation() else {
            panic!("not serve")
        };
        assert_eq!(flags.listen.as_deref(), Some("127.0.0.1:1"));
    }

    #[test]
    fn a_database_url_is_not_printed() {
        let cli = Cli::try_parse_from([
            "talaria",
            "store",
            "--database-url",
            "postgres://u:geheim@h/d",
        ]);

        assert!(!format!("{:?}", cli.unwrap()).contains("geheim"));
    }
}
