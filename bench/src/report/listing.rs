//! Figures that stand for themselves, one a line.

use serde::Serialize;

use super::table::{aligned, shown};

/// Some figures, in their order.
#[derive(Debug, Default, Serialize)]
pub struct Listing {
    lines: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    measure: String,
    unit: &'static str,
    figure: f64,
}

impl Listing {
    pub fn note(&mut self, measure: impl Into<String>, unit: &'static str, figure: f64) {
        self.lines.push(Line {
            measure: measure.into(),
            unit,
            figure,
        });
    }

    /// All lines, as Markdown.
    pub fn table(&self) -> String {
        let lines = self.lines.iter().map(|line| {
            vec![
                line.measure.clone(),
                line.unit.to_owned(),
                shown(Some(line.figure)),
            ]
        });
        aligned(&["", "unit", ""], lines)
    }
}
