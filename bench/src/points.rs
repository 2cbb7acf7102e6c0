//! The points of a curve, and how they are shown.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::report::{aligned, count_shown, shown};

/// What was measured at each point of a curve.
#[derive(Serialize)]
pub struct Points {
    name: &'static str,
    /// What is varied.
    of: &'static str,
    columns: Vec<Column>,
    measured: Vec<Point>,
    /// What the figures do not tell.
    notes: Vec<String>,
    #[serde(skip)]
    up_to: u64,
}

/// One thing that is measured.
#[derive(Clone, PartialEq, Eq, Serialize)]
struct Column {
    measure: String,
    unit: &'static str,
}

#[derive(Serialize)]
struct Point {
    at: u64,
    /// By what is measured.
    figures: BTreeMap<String, f64>,
}

impl Points {
    /// None yet, of which none beyond `up_to` are wanted.
    pub fn new(name: &'static str, of: &'static str, up_to: u64) -> Self {
        Self {
            name,
            of,
            columns: Vec::new(),
            measured: Vec::new(),
            notes: Vec::new(),
            up_to,
        }
    }

    /// Those of the usual points that are wanted.
    pub fn wanted<T: Into<u64> + Copy>(&self, usual: impl IntoIterator<Item = T>) -> Vec<T> {
        usual
            .into_iter()
            .filter(|&at| at.into() <= self.up_to)
            .collect()
    }

    /// Begins the next point.
    pub fn begin(&mut self, at: impl Into<u64>) {
        let at = at.into();
        eprintln!("{}: {at}", self.of);
        self.measured.push(Point {
            at,
            figures: BTreeMap::new(),
        });
    }

    /// Notes a figure of the point that was begun last.
    pub fn note(&mut self, measure: impl Into<String>, unit: &'static str, figure: f64) {
        let measure = measure.into();
        let column = Column {
            measure: measure.clone(),
            unit,
        };
        if !self.columns.contains(&column) {
            self.columns.push(column);
        }
        if let Some(point) = self.measured.last_mut() {
            point.figures.insert(measure, figure);
        }
    }

    /// Says what the figures do not tell.
    pub fn remark(&mut self, note: String) {
        self.notes.push(note);
    }

    /// What was measured of one thing, at all points that have it.
    pub fn figures(&self, measure: &str) -> Vec<f64> {
        let points = self.measured.iter();
        points
            .filter_map(|point| point.figures.get(measure).copied())
            .collect()
    }

    /// All points as a Markdown table with a line for each.
    pub fn table(&self) -> String {
        let titles: Vec<String> = self
            .columns
            .iter()
            .map(|column| match column.unit {
                "" => column.measure.clone(),
                unit => format!("{}, {unit}", column.measure),
            })
            .collect();
        let mut head = vec![self.of];
        head.extend(titles.iter().map(String::as_str));
        let lines = self.measured.iter().map(|point| {
            let figure = |column: &Column| shown(point.figures.get(&column.measure).copied());
            let figures = self.columns.iter().map(figure);
            std::iter::once(count_shown(point.at))
                .chain(figures)
                .collect()
        });
        let mut table = aligned(&head, lines);
        for note in &self.notes {
            table.push_str(note);
            table.push('\n');
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_may_lack_figures() {
        let mut points = Points::new("tokens", "tokens of a run", 1000);
        points.begin(10_u32);
        points.note("GET", "ms", 0.5);
        points.begin(1000_u32);
        points.note("GET", "ms", 1.5);
        points.note("replays", "", 1e6);
        points.remark("Not more.".to_owned());

        assert_eq!(points.figures("replays"), [1e6]);
        assert_eq!(points.wanted([10_u32, 1000, 10_000]), [10, 1000]);
        insta::assert_snapshot!(points.table(), @r"
        | tokens of a run | GET, ms | replays   |
        | --------------- | ------- | --------- |
        | 10              | 0.50    | –         |
        | 1,000           | 1.50    | 1,000,000 |
        Not more.
        ");
    }
}
