//! Figures as Markdown tables whose columns also line up as plain text.

use std::collections::BTreeMap;

use super::measure::{Better, Limit, Measure};
use super::median;
use crate::cli::Subject;

pub const NOTHING: &str = "–";
/// How many times the CPU of one process the services apart may cost.
const APART_TIMES: f64 = 1.5;

/// What was measured, a line each.
pub fn measures(measures: &BTreeMap<Measure, BTreeMap<Subject, Vec<f64>>>) -> String {
    let mut head = vec![
        "",
        "",
        "unit",
        "straight",
        "proxy",
        "durable",
        "× proxy",
        "target",
        "ephemeral",
        "× proxy",
        "target",
    ];
    let has_apart = measures
        .values()
        .any(|subjects| subjects.contains_key(&Subject::Apart));
    if has_apart {
        head.extend(["apart", "× durable", "target"]);
    }
    let lines = measures.iter().map(|(measure, subjects)| {
        let row = measure.row();
        let figure = |subject| subjects.get(&subject).map(|rounds| median(rounds));
        let proxy = figure(Subject::Proxy);
        let durable = figure(Subject::Durable);
        let ephemeral = figure(Subject::Ephemeral);
        let mut line = vec![
            format!("{:?}", row.scenario),
            row.what.to_owned(),
            row.unit.to_owned(),
            shown(figure(Subject::Straight)),
            shown(proxy),
            shown(durable),
            ratio(durable, proxy),
            target(row.better, row.durable, durable),
            shown(ephemeral),
            ratio(ephemeral, proxy),
            target(row.better, row.ephemeral, ephemeral),
        ];
        if has_apart {
            let apart = figure(Subject::Apart);
            let times = apart.zip(durable).map(|(apart, durable)| apart / durable);
            let aim = measure.is_cost().then_some(APART_TIMES);
            line.extend([
                shown(apart),
                ratio(apart, durable),
                target(row.better, aim, times),
            ]);
        }
        line
    });
    aligned(&head, lines)
}

/// What the machine can do, a line each.
pub fn limits(limits: &BTreeMap<Limit, Vec<f64>>) -> String {
    let lines = limits.iter().map(|(limit, rounds)| {
        let (what, unit) = limit.what();
        vec![
            what.to_owned(),
            unit.to_owned(),
            shown(Some(median(rounds))),
        ]
    });
    aligned(&["the machine by itself", "unit", ""], lines)
}

/// A figure with about three digits.
pub fn shown(figure: Option<f64>) -> String {
    let Some(figure) = figure else {
        return NOTHING.to_owned();
    };
    let decimals = match figure.abs() {
        small if small < 9.995 => 2,
        middle if middle < 99.95 => 1,
        _ => 0,
    };
    grouped(&format!("{figure:.decimals$}"))
}

/// A whole number.
pub fn count_shown(count: u64) -> String {
    grouped(&count.to_string())
}

/// Commas between the thousands.
fn grouped(number: &str) -> String {
    let (whole, fraction) = number
        .find('.')
        .map_or((number, ""), |at| number.split_at(at));
    let mut text = String::new();
    for (index, digit) in whole.chars().enumerate() {
        let left = whole.len() - index;
        if left % 3 == 0 && text.ends_with(|c: char| c.is_ascii_digit()) {
            text.push(',');
        }
        text.push(digit);
    }
    text + fraction
}

/// How many times `to` a figure is.
pub fn ratio(figure: Option<f64>, to: Option<f64>) -> String {
    match (figure, to) {
        (Some(figure), Some(to)) if to > 0.0 => format!("{:.2}", figure / to),
        _ => NOTHING.to_owned(),
    }
}

fn target(better: Better, target: Option<f64>, figure: Option<f64>) -> String {
    let Some(target) = target else {
        return NOTHING.to_owned();
    };
    let (sign, is_met) = match better {
        Better::Lower => ('≤', figure.map(|figure| figure <= target)),
        Better::Higher => ('≥', figure.map(|figure| figure >= target)),
    };
    let verdict = match is_met {
        None => "",
        Some(true) => " met",
        Some(false) => " missed",
    };
    let target = grouped(&target.to_string());
    format!("{sign} {target}{verdict}")
}

/// A Markdown table whose columns also line up as plain text.
pub fn aligned(head: &[&str], lines: impl Iterator<Item = Vec<String>>) -> String {
    let head = head.iter().map(|&name| name.to_owned()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(lines).collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let rule: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();

    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        text.push_str(&joined(line, &widths));
        if index == 0 {
            text.push_str(&joined(&rule, &widths));
        }
    }
    text
}

fn joined(cells: &[String], widths: &[usize]) -> String {
    let cells: Vec<_> = cells
        .iter()
        .zip(widths)
        .map(|(cell, &width)| format!("{cell:<width$}"))
        .collect();
    format!("| {} |\n", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_about_three_digits() {
        for (figure, expected) in [
            (0.0, "0.00"),
            (1.234, "1.23"),
            (9.999, "10.0"),
            (-12.34, "-12.3"),
            (999.6, "1,000"),
            (-123_456.0, "-123,456"),
            (1_234_567.8, "1,234,568"),
        ] {
            assert_eq!(shown(Some(figure)), expected);
        }
        assert_eq!(shown(None), "–");
    }
}
