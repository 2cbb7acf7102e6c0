//! S1 and S2: streams at a human pace, and streams as fast as they are taken.

use std::time::Duration;

use super::{count, measured, micros_each, millis};
use crate::cli::Subject;
use crate::load::{Plan, Request, Sample, Until};
use crate::report::{Book, Measure, quantile};
use crate::stage::Stage;

const PACED_WORKERS: u32 = 50;
const PACED_TOKENS: u32 = 100;
const PACE: Duration = Duration::from_millis(20);
/// Spreads the streams over their 2 s, and their ticks over the 20 ms.
const PACED_STAGGER: Duration = Duration::from_micros(40_400);
const PACED_STREAMS_EACH: u32 = 4;

const FAST_WORKERS: u32 = 64;
const FAST_TOKENS: u32 = 200;
const FAST_PERIOD: Duration = Duration::from_secs(4);

/// S1, once for every subject.
pub async fn paced_round(
    stage: &Stage,
    subjects: &[Subject],
    book: &mut Book,
) -> anyhow::Result<()> {
    let mut tokens_after = Vec::new();
    for &subject in subjects {
        let request = Request::stream(PACED_TOKENS, PACE, subject.stores());
        let (outcome, cpu) = measured(stage, subject, |address| Plan {
            address,
            request,
            workers: PACED_WORKERS,
            stagger: PACED_STAGGER,
            until: Until::Asked(PACED_STREAMS_EACH),
        })
        .await?;
        let at = |time: fn(&Sample) -> Duration, share| {
            millis(quantile(outcome.samples.iter().map(time), share))
        };
        book.note(
            Measure::FirstEventMedian,
            subject,
            at(|s| s.first_event, 0.5),
        );
        let first_token = [0.5, 0.99].map(|share| at(|s| s.first_token, share));
        book.note(Measure::FirstTokenMedian, subject, first_token[0]);
        book.note(Measure::FirstTokenTail, subject, first_token[1]);
        tokens_after.push((subject, first_token));
        if subject != Subject::Straight {
            let tokens = count(outcome.samples.len()) * f64::from(PACED_TOKENS);
            let together = cpu.server + cpu.postgres;
            book.note(Measure::PacedCpu, subject, micros_each(together, tokens));
            book.note(
                Measure::PacedCpuPostgres,
                subject,
                micros_each(cpu.postgres, tokens),
            );
        }
    }
    note_added(&tokens_after, book);
    Ok(())
}

/// Notes what standing in between adds to the times of going straight to the upstream, in the same round.
fn note_added(tokens_after: &[(Subject, [f64; 2])], book: &mut Book) {
    let straight = tokens_after
        .iter()
        .find(|(subject, _)| *subject == Subject::Straight);
    let Some((_, [straight_median, straight_tail])) = straight else {
        return;
    };
    for (subject, [median, tail]) in tokens_after {
        if *subject != Subject::Straight {
            book.note(Measure::AddedMedian, *subject, median - straight_median);
            book.note(Measure::AddedTail, *subject, tail - straight_tail);
        }
    }
}

/// S2, once for every subject.
pub async fn fast_round(
    stage: &Stage,
    subjects: &[Subject],
    book: &mut Book,
) -> anyhow::Result<()> {
    for &subject in subjects {
        let stores = subject.stores();
        let request = Request::stream(FAST_TOKENS, Duration::ZERO, stores);
        let (outcome, cpu) = measured(stage, subject, |address| Plan {
            address,
            request,
            workers: FAST_WORKERS,
            stagger: Duration::ZERO,
            until: Until::Elapsed(FAST_PERIOD),
        })
        .await?;
        let tokens = count(outcome.samples.len()) * f64::from(FAST_TOKENS);
        let rate = tokens / outcome.elapsed.as_secs_f64();
        book.note(Measure::FastRate, subject, rate);
        if subject != Subject::Straight {
            let together = cpu.server + cpu.postgres;
            book.note(Measure::FastCpu, subject, micros_each(together, tokens));
            book.note(
                Measure::FastCpuPostgres,
                subject,
                micros_each(cpu.postgres, tokens),
            );
        }
    }
    Ok(())
}
