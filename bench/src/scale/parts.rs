//! Figures by part, and how they are shown.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::report::{Rounds, aligned, shown};
use crate::stage::Part;

/// The column of what belongs to no part, or to all.
const ALL: &str = "all";

/// Figures of every round, in the order in which they first came.
#[derive(Default)]
pub struct PartFigures {
    lines: Vec<Line>,
}

struct Line {
    load: &'static str,
    measure: String,
    unit: &'static str,
    /// By the names of the parts.
    figures: BTreeMap<&'static str, Vec<f64>>,
}

impl PartFigures {
    /// Notes one round's figure of each part, and their sum.
    pub fn note_parts(
        &mut self,
        load: &'static str,
        measure: &str,
        unit: &'static str,
        figures: &BTreeMap<Part, f64>,
    ) {
        for (part, figure) in figures {
            self.note_in(part.name(), load, measure, unit, *figure);
        }
        self.note(load, measure, unit, figures.values().sum());
    }

    /// Notes one round's figure of one part.
    pub fn note_part(
        &mut self,
        load: &'static str,
        measure: &str,
        unit: &'static str,
        part: Part,
        figure: f64,
    ) {
        self.note_in(part.name(), load, measure, unit, figure);
    }

    /// Notes one round's figure of the whole.
    pub fn note(&mut self, load: &'static str, measure: &str, unit: &'static str, figure: f64) {
        self.note_in(ALL, load, measure, unit, figure);
    }

    fn note_in(
        &mut self,
        column: &'static str,
        load: &'static str,
        measure: &str,
        unit: &'static str,
        figure: f64,
    ) {
        let found = self
            .lines
            .iter()
            .position(|line| line.load == load && line.measure == measure && line.unit == unit);
        let index = found.unwrap_or_else(|| {
            self.lines.push(Line {
                load,
                measure: measure.to_owned(),
                unit,
                figures: BTreeMap::new(),
            });
            self.lines.len() - 1
        });
        let rounds = self.lines[index].figures.entry(column).or_default();
        rounds.push(figure);
    }

    /// Medians, as Markdown.
    pub fn table(&self) -> String {
        let columns = Part::ALL.map(Part::name).into_iter().chain([ALL]);
        let head: Vec<&str> = ["load", "", "unit"]
            .into_iter()
            .chain(columns.clone())
            .collect();
        let lines = self.lines.iter().map(|line| {
            let median = |column| Some(Rounds::of(line.figures.get(column)?).median);
            let mut cells = vec![
                line.load.to_owned(),
                line.measure.clone(),
                line.unit.to_owned(),
            ];
            cells.extend(columns.clone().map(|column| shown(median(column))));
            cells
        });
        aligned(&head, lines)
    }
}

/// As its lines, with all rounds.
impl Serialize for PartFigures {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown<'a> {
            load: &'a str,
            measure: &'a str,
            unit: &'a str,
            figures: BTreeMap<&'a str, Rounds>,
        }
        serializer.collect_seq(self.lines.iter().map(|line| {
            Shown {
                load: line.load,
                measure: &line.measure,
                unit: line.unit,
                figures: line
                    .figures
                    .iter()
                    .map(|(column, rounds)| (*column, Rounds::of(rounds)))
                    .collect(),
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stand_beside_their_sum() {
        let mut figures = PartFigures::default();
        for round in [1.0, 3.0, 5.0] {
            let parts = BTreeMap::from([(Part::Gateway, round), (Part::Store, 2.0)]);
            figures.note_parts("short runs", "CPU a run", "µs", &parts);
            figures.note_part("short runs", "WAL a run", "bytes", Part::Postgres, 1e3);
        }

        insta::assert_snapshot!(figures.table(), @r"
        | load       |           | unit  | gateway | orchestrator | store | postgres | all  |
        | ---------- | --------- | ----- | ------- | ------------ | ----- | -------- | ---- |
        | short runs | CPU a run | µs    | 3.00    | –            | 2.00  | –        | 5.00 |
        | short runs | WAL a run | bytes | –       | –            | –     | 1,000    | –    |
        ");
        let json = serde_json::to_value(&figures).unwrap();
        let gateway = serde_json::json!({"median": 3.0, "rounds": [1.0, 3.0, 5.0]});
        assert_eq!(json[0]["figures"]["gateway"], gateway);
    }
}
