//! How many tenants the stored responses belong to.

use super::generate::Copies;
use super::tables;
use crate::points::Points;
use crate::stage::{Shape, Stage};

const USUAL: [u32; 5] = [1, 10, 100, 1000, 10_000];
/// How many responses there are in all.
const RESPONSES: u32 = 200_000;

/// What is read and run for one tenant, on a server whose responses belong to so many in equal parts.
pub async fn measure(stage: &Stage, points: &mut Points) -> anyhow::Result<()> {
    for tenants in points.wanted(USUAL) {
        points.begin(tenants);
        let talaria = stage.start_talaria(Shape::OneProcess).await?;
        let target = talaria.target();
        let session = talaria.connect().await?;
        let template = tables::template(&target).await?;
        tables::warm_up(&target).await?;
        let mut copies = Copies::of(&template, tenants)?;
        copies.make(&session, RESPONSES).await?;
        tables::measure(&target, &copies, &session, points).await?;
        drop(session);
        talaria.stop().await?;
    }
    points.remark(format!(
        "{RESPONSES} responses in all. One tenant is served, `default`: there is no other that a client could be."
    ));
    Ok(())
}
