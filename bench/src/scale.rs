//! Growth: what each part of a Talaria costs, and what a second one of it adds.

mod costs;
mod instances;
mod load;
mod parts;
mod quota;
mod usage;

use anyhow::ensure;
use serde::Serialize;

use self::parts::PartFigures;
use crate::cli::{ScaleArgs, ScaleTable, Subject};
use crate::machine::MeasuredOn;
use crate::points::Points;
use crate::report::write_json;
use crate::stage::{Instances, Shape, Stage};

/// What is written as JSON.
#[derive(Serialize)]
struct File {
    measured_on: MeasuredOn,
    costs: PartFigures,
    instances: Vec<Points>,
}

/// Measures what was asked for and prints the tables.
pub async fn run(args: &ScaleArgs) -> anyhow::Result<()> {
    let mut failures = Vec::new();
    let (measured_on, costs) = costs(args, &mut failures).await?;
    let instances = if args.wants(ScaleTable::Instances) {
        instances(args, &mut failures).await?
    } else {
        Vec::new()
    };
    println!("Measured on: {}", measured_on.line());
    if let Some(path) = &args.common.json {
        let file = File {
            measured_on,
            costs,
            instances,
        };
        write_json(path, &file)?;
    }
    for failure in &failures {
        eprintln!("{failure:#}");
    }
    ensure!(failures.is_empty(), "{} loads failed", failures.len());
    Ok(())
}

/// The costs, if they were asked for, and what everything is measured on.
async fn costs(
    args: &ScaleArgs,
    failures: &mut Vec<anyhow::Error>,
) -> anyhow::Result<(MeasuredOn, PartFigures)> {
    let stage = Stage::set(args.common.server.as_deref(), &[Subject::Straight]).await?;
    let mut costs = PartFigures::default();
    if args.wants(ScaleTable::Costs) {
        for round in 0..args.rounds.get() {
            eprintln!("costs, round {} of {}", round + 1, args.rounds);
            costs::round(&stage, args.seconds, &mut costs, failures).await?;
        }
        println!("{}", costs.table());
    }
    let talaria = stage.start_talaria(Shape::Apart(Instances::ONE)).await?;
    let commit = args.common.commit.as_deref();
    let measured_on = MeasuredOn::this_machine(commit, stage.server(), Some(&talaria)).await;
    talaria.stop().await?;
    stage.clear().await?;
    Ok((measured_on, costs))
}

/// What more instances add, where the machine lets us limit them.
async fn instances(
    args: &ScaleArgs,
    failures: &mut Vec<anyhow::Error>,
) -> anyhow::Result<Vec<Points>> {
    if let Err(error) = quota::check() {
        eprintln!(
            "instances are left out, since they cannot be limited here (that needs root, the CPU controller of control \
             groups, and two cores): {error:#}"
        );
        return Ok(Vec::new());
    }
    let tables = instances::measure(args, failures).await?;
    for table in &tables {
        println!("{}", table.table());
    }
    Ok(tables)
}
