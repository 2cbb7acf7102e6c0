//! How many responses are stored.

use super::generate::Copies;
use super::tables;
use crate::database::counted;
use crate::points::Points;
use crate::stage::{Shape, Stage};

const USUAL: [u32; 7] = [
    10_000, 100_000, 300_000, 1_000_000, 3_000_000, 5_000_000, 10_000_000,
];
/// The tables may become so large.
const MOST_BYTES: f64 = 30e9;

/// What is read and run on a server with so many finished responses, most of which were made in its database.
pub async fn measure(stage: &Stage, points: &mut Points) -> anyhow::Result<()> {
    let talaria = stage.start_talaria(Shape::OneProcess).await?;
    let target = talaria.target();
    let session = talaria.connect().await?;
    let template = tables::template(&target).await?;
    tables::warm_up(&target).await?;

    let mut copies = Copies::of(&template, 1)?;
    let empty = session.written().await?.tables;
    let mut bytes_each = 0.0;
    for count in points.wanted(USUAL) {
        if f64::from(count) * bytes_each > MOST_BYTES {
            points.remark(format!(
                "{count} responses would take more than {:.0} GB, at {bytes_each:.0} bytes each.",
                MOST_BYTES / 1e9
            ));
            break;
        }
        points.begin(count);
        let missing = f64::from(count - copies.made);
        let seconds = copies.make(&session, count).await?;
        let written = session.written().await?.tables;
        bytes_each = counted(written - empty) / f64::from(count);
        points.note("made a second", "1/s", missing / seconds);
        points.note("bytes each", "bytes", bytes_each);
        tables::measure(&target, &copies, &session, points).await?;
    }
    drop(session);
    talaria.stop().await
}
