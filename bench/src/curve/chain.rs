//! How many turns a chain has.

use std::time::Duration;

use crate::cli::Subject;
use crate::load::Connection;
use crate::points::Points;
use crate::report::quantile;
use crate::scenarios::chain::{turn, whole_turn};
use crate::scenarios::millis;
use crate::stage::Stage;

const USUAL: [u32; 11] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000];
/// The time of a turn is the median of so many, of which it is the last.
const TURNS_EACH: u32 = 5;

/// The time of a turn of 1 kB in and 1 kB out, and that of the mock with a history as long.
pub async fn measure(stage: &Stage, points: &mut Points) -> anyhow::Result<()> {
    let mut durable = Connection::open(stage.target(Subject::Durable)?.address).await?;
    let straight = stage.target(Subject::Straight)?.address;
    let mut previous = None;
    let mut times: Vec<Duration> = Vec::new();
    let wanted = points.wanted(USUAL);
    for number in 1..=wanted.last().copied().unwrap_or(0) {
        let (time, id) = turn(&mut durable, number, previous.as_deref()).await?;
        previous = Some(id);
        times.push(time);
        if !wanted.contains(&number) {
            continue;
        }
        points.begin(number);
        let first = number.saturating_sub(TURNS_EACH - 1).max(1);
        // The mock closes connections on which nothing is asked for half a minute.
        let mut connection = Connection::open(straight).await?;
        let mut mock = Vec::new();
        for number in first..=number {
            mock.push(whole_turn(&mut connection, Subject::Straight, number).await?);
        }
        let latest = times[times.len() - mock.len()..].iter().copied();
        let (turn, mock) = (
            millis(quantile(latest, 0.5)),
            millis(quantile(mock.into_iter(), 0.5)),
        );
        points.note("turn", "ms", turn);
        points.note("straight", "ms", mock);
        points.note("added", "ms", turn - mock);
    }
    Ok(())
}
