//! The figures: what is measured, what is aimed at, and how both are shown.

mod compare;
mod figures;
mod listing;
mod measure;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

pub use self::compare::comparison;
pub use self::figures::{Figures, Rounds};
pub use self::listing::Listing;
pub use self::measure::{Limit, Measure};
pub use self::table::{aligned, count_shown, shown};

use self::figures::{Measured, MeasuredLimit, Targets};
use crate::cli::Subject;
use crate::machine::MeasuredOn;

/// Every figure of every round.
#[derive(Default)]
pub struct Book {
    measures: BTreeMap<Measure, BTreeMap<Subject, Vec<f64>>>,
    limits: BTreeMap<Limit, Vec<f64>>,
}

impl Book {
    /// Notes a subject's figure of one round.
    pub fn note(&mut self, measure: Measure, subject: Subject, figure: f64) {
        let subjects = self.measures.entry(measure).or_default();
        subjects.entry(subject).or_default().push(figure);
    }

    /// Notes what the machine can do, as seen in one round.
    pub fn limit(&mut self, limit: Limit, figure: f64) {
        self.limits.entry(limit).or_default().push(figure);
    }

    /// The medians beside what is aimed at, as Markdown.
    pub fn table(&self) -> String {
        let mut text = String::new();
        if !self.measures.is_empty() {
            text.push_str(&table::measures(&self.measures));
        }
        if !self.limits.is_empty() {
            text.push('\n');
            text.push_str(&table::limits(&self.limits));
        }
        text
    }

    /// Everything, with what it was measured on.
    pub fn figures(&self, measured_on: MeasuredOn) -> Figures {
        let measures = self.measures.iter().map(|(measure, subjects)| {
            let row = measure.row();
            let rounds = |(subject, rounds): (&Subject, &Vec<f64>)| {
                (subject.name().to_owned(), Rounds::of(rounds))
            };
            Measured {
                scenario: row.scenario.name().to_owned(),
                measure: row.what.to_owned(),
                unit: row.unit.to_owned(),
                better: row.better,
                target: Targets {
                    durable: row.durable,
                    ephemeral: row.ephemeral,
                },
                figures: subjects.iter().map(rounds).collect(),
            }
        });
        let machine = self.limits.iter().map(|(limit, rounds)| {
            let (what, unit) = limit.what();
            MeasuredLimit {
                measure: what.to_owned(),
                unit: unit.to_owned(),
                figures: Rounds::of(rounds),
            }
        });
        Figures {
            measured_on,
            measures: measures.collect(),
            machine: machine.collect(),
        }
    }
}

/// Writes figures into a file.
pub fn write_json(path: &Path, figures: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(figures).context("rendering the figures")?;
    fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
}

/// The value that `share` of all do not exceed; zero if there are none.
pub fn quantile(values: impl Iterator<Item = Duration>, share: f64) -> Duration {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of a length is an index"
    )]
    let rank = (values.len() as f64 * share).ceil() as usize;
    let index = rank.saturating_sub(1).min(values.len().saturating_sub(1));
    values.get(index).copied().unwrap_or_default()
}

/// The middle of some figures; of an even number, the mean of the two in the middle.
fn median(figures: &[f64]) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_unstable_by(f64::total_cmp);
    let half = figures.len() / 2;
    match figures.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => figures[half],
        _ => f64::midpoint(figures[half - 1], figures[half]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let of = |values: &[u64], share| {
            quantile(values.iter().copied().map(Duration::from_millis), share).as_millis()
        };

        assert_eq!(of(&[], 0.5), 0);
        assert_eq!(of(&[7], 0.99), 7);
        assert_eq!(of(&[3, 1, 2], 0.5), 2);
        assert_eq!(of(&(1..=100).collect::<Vec<_>>(), 0.99), 99);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0]) - 2.5).abs() < 1e-9);
    }

    #[test]
    fn services_apart_have_columns_when_they_were_measured() {
        let mut book = Book::default();
        book.note(Measure::FastCpu, Subject::Durable, 8.0);
        book.note(Measure::FastCpu, Subject::Apart, 14.0);

        insta::assert_snapshot!(book.table(), @r"
        |    |             | unit | straight | proxy | durable | × proxy | target  | ephemeral | × proxy | target | apart | × durable | target       |
        | -- | ----------- | ---- | -------- | ----- | ------- | ------- | ------- | --------- | ------- | ------ | ----- | --------- | ------------ |
        | S2 | CPU a token | µs   | –        | –     | 8.00    | –       | ≤ 9 met | –         | –       | ≤ 6    | 14.0  | 1.75      | ≤ 1.5 missed |
        ");
    }

    #[test]
    fn the_table_shows_medians_ratios_and_targets() {
        let mut book = Book::default();
        for (subject, figures) in [
            (Subject::Straight, [0.0, 0.0]),
            (Subject::Proxy, [0.25, 0.35]),
            (Subject::Durable, [1.4, 1.6]),
            (Subject::Ephemeral, [0.5, 0.7]),
        ] {
            for figure in figures {
                book.note(Measure::AddedMedian, subject, figure);
            }
        }
        book.note(Measure::FastRate, Subject::Durable, 151_234.6);
        book.limit(Limit::InsertsByOne, 5123.0);

        insta::assert_snapshot!(book.table(), @r#"
        |    |                           | unit | straight | proxy | durable | × proxy | target        | ephemeral | × proxy | target    |
        | -- | ------------------------- | ---- | -------- | ----- | ------- | ------- | ------------- | --------- | ------- | --------- |
        | S1 | added to first token, p50 | ms   | 0.00     | 0.30  | 1.50    | 5.00    | ≤ 1.2 missed  | 0.60      | 2.00    | ≤ 0.8 met |
        | S2 | tokens a second           | 1/s  | –        | –     | 151,235 | –       | ≥ 150,000 met | –         | –       | ≥ 180,000 |

        | the machine by itself                             | unit |       |
        | ------------------------------------------------- | ---- | ----- |
        | Postgres: rows committed one by one, 1 connection | 1/s  | 5,123 |
        "#);
    }
}
