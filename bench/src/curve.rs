//! Curves: how figures change with one quantity.

mod chain;
mod concurrency;
mod generate;
mod rows;
mod tables;
mod tenants;
mod tokens;

use anyhow::Context;
use serde::Serialize;

use crate::cli::{Curve, CurveArgs, Subject};
use crate::machine::MeasuredOn;
use crate::points::Points;
use crate::report::write_json;
use crate::scenarios::warm_up;
use crate::stage::Stage;

/// What a file of curves holds.
#[derive(Serialize)]
struct Curves {
    measured_on: MeasuredOn,
    curves: Vec<Points>,
}

/// Measures the curves that were asked for and prints a table of each.
pub async fn run(args: &CurveArgs) -> anyhow::Result<()> {
    let subjects = [Subject::Straight, Subject::Proxy, Subject::Durable];
    let stage = Stage::set(args.common.server.as_deref(), &subjects).await?;
    warm_up(
        &stage,
        &[Subject::Proxy, Subject::Durable, Subject::Ephemeral],
    )
    .await?;
    let mut curves = Vec::new();
    for curve in &args.curves {
        let up_to = args.up_to.unwrap_or(u64::MAX);
        let mut points = Points::new(curve.name(), curve.of(), up_to);
        match curve {
            Curve::Concurrency => concurrency::measure(&stage, &mut points).await,
            Curve::Tokens => tokens::measure(&stage, &mut points).await,
            Curve::Chain => chain::measure(&stage, &mut points).await,
            Curve::Rows => rows::measure(&stage, &mut points).await,
            Curve::Tenants => tenants::measure(&stage, &mut points).await,
        }
        .with_context(|| format!("drawing the curve {curve:?}"))?;
        println!("{}", points.table());
        curves.push(points);
    }
    let commit = args.common.commit.as_deref();
    let measured_on = MeasuredOn::this_machine(commit, stage.server(), stage.any_talaria()).await;
    stage.clear().await?;
    println!("Measured on: {}", measured_on.line());
    if let Some(path) = &args.common.json {
        let file = Curves {
            measured_on,
            curves,
        };
        write_json(path, &file)?;
    }
    Ok(())
}
