//! Two files of figures beside each other.

use super::figures::{Figures, Rounds};
use super::measure::Better;
use super::table::{NOTHING, aligned, ratio, shown};

/// The lines that both have, as Markdown.
pub fn comparison(old: &Figures, new: &Figures) -> String {
    let mut lines = Vec::new();
    for after in &new.measures {
        let before = old
            .measures
            .iter()
            .find(|it| it.scenario == after.scenario && it.measure == after.measure);
        for (subject, new) in &after.figures {
            let Some(old) = before.and_then(|it| it.figures.get(subject)) else {
                continue;
            };
            let head = [&after.scenario, &after.measure, &after.unit, subject];
            let verdict = match subject.as_str() {
                // Nothing of ours is in between.
                "straight" | "proxy" => verdict(old, new, None),
                _ => verdict(old, new, Some(after.better)),
            };
            lines.push(line(head.map(String::as_str), old, new, verdict));
        }
    }
    for after in &new.machine {
        if let Some(before) = old.machine.iter().find(|it| it.measure == after.measure) {
            let (old, new) = (&before.figures, &after.figures);
            let head = ["limits", &after.measure, &after.unit, "machine"];
            lines.push(line(head, old, new, verdict(old, new, None)));
        }
    }
    let head = [
        "",
        "",
        "unit",
        "subject",
        "old",
        "new",
        "new / old",
        "spread",
        "",
    ];
    format!(
        "old: {}\nnew: {}\n\n{}",
        old.measured_on.line(),
        new.measured_on.line(),
        aligned(&head, lines.into_iter())
    )
}

fn line(head: [&str; 4], old: &Rounds, new: &Rounds, verdict: &'static str) -> Vec<String> {
    let mut line: Vec<String> = head.map(str::to_owned).to_vec();
    line.extend([
        shown(Some(old.median)),
        shown(Some(new.median)),
        ratio(Some(new.median), Some(old.median)),
        shown(spread(old, new)),
        verdict.to_owned(),
    ]);
    line
}

/// The larger of both spreads, if both are known.
fn spread(old: &Rounds, new: &Rounds) -> Option<f64> {
    Some(old.spread()?.max(new.spread()?))
}

/// Whether the medians differ by more than the rounds of either do, and what that means.
fn verdict(old: &Rounds, new: &Rounds, better: Option<Better>) -> &'static str {
    let Some(spread) = spread(old, new) else {
        return "one round";
    };
    let difference = new.median - old.median;
    if difference.abs() <= spread {
        return NOTHING;
    }
    match (better, difference < 0.0) {
        (None, _) => "differs",
        (Some(Better::Lower), true) | (Some(Better::Higher), false) => "better",
        (Some(Better::Lower), false) | (Some(Better::Higher), true) => "worse",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Subject;
    use crate::machine::MeasuredOn;
    use crate::report::{Book, Limit, Measure};

    fn figures(rate: [f64; 2], cpu: [f64; 2]) -> Figures {
        let mut book = Book::default();
        for round in 0..2 {
            book.note(Measure::FastRate, Subject::Durable, rate[round]);
            book.note(Measure::FastCpu, Subject::Durable, cpu[round]);
            book.note(Measure::FastCpu, Subject::Proxy, cpu[round]);
            book.limit(Limit::Fdatasync, 150.0);
        }
        let machine = MeasuredOn {
            cores: Some(2),
            ..MeasuredOn::default()
        };
        let text = serde_json::to_string(&book.figures(machine)).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn differences_beyond_the_spread_are_better_or_worse() {
        let old = figures([100_000.0, 110_000.0], [8.0, 9.0]);
        let new = figures([140_000.0, 150_000.0], [10.0, 12.0]);
        let same = figures([100_000.0, 112_000.0], [8.5, 9.0]);

        insta::assert_snapshot!(comparison(&old, &new), @r"
        old: 2 cores
        new: 2 cores

        |        |                               | unit | subject | old     | new     | new / old | spread |         |
        | ------ | ----------------------------- | ---- | ------- | ------- | ------- | --------- | ------ | ------- |
        | s2     | tokens a second               | 1/s  | durable | 105,000 | 145,000 | 1.38      | 10,000 | better  |
        | s2     | CPU a token                   | µs   | durable | 8.50    | 11.0    | 1.29      | 2.00   | worse   |
        | s2     | CPU a token                   | µs   | proxy   | 8.50    | 11.0    | 1.29      | 2.00   | differs |
        | limits | write and fdatasync of a page | µs   | machine | 150     | 150     | 1.00      | 0.00   | –       |
        ");
        assert!(!comparison(&old, &same).contains("better"));
    }
}
