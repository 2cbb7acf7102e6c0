//! Every requirement has a test that names it, or a line in the API differences that says why not; `docs/requirements.md`
//! says which.
//!
//! A test names requirements in its doc comment: `/// REQ-1, REQ-2`. After a change to those,
//! `TALARIA_UPDATE=1 cargo test --test requirements` writes the table's last column anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;

const TABLE: &str = "docs/requirements.md";
const DIFFERENCES: &str = "docs/api-differences.md";
/// Where tests stand.
const SOURCES: [&str; 5] = ["tests", "services", "gateway", "src", "proto"];

#[test]
fn every_requirement_has_a_test_or_a_reason() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(root.join(TABLE)).context("reading the table")?;
    let differences = std::fs::read_to_string(root.join(DIFFERENCES))?;
    let explained: Vec<u32> = differences.lines().flat_map(explained_by).collect();
    let tests = tests_by_requirement(root)?;

    let mut missing = Vec::new();
    let mut made = String::new();
    for line in table.lines() {
        let Some(row) = Row::parse(line) else {
            writeln!(made, "{line}")?;
            continue;
        };
        let named = tests
            .get(&row.number)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let explained = explained.contains(&row.number);
        if named.is_empty() && !explained {
            missing.push(format!("REQ-{}", row.number));
        }
        let mut shown: Vec<String> = named.to_vec();
        if explained {
            shown
                .push("[why not, or not quite](api-differences.md#hermes-requirements)".to_owned());
        }
        writeln!(
            made,
            "| REQ-{} | {} | {} |",
            row.number,
            row.says,
            shown.join(", ")
        )?;
    }
    let rows = made.lines().filter_map(Row::parse).map(|row| row.number);
    assert!(
        rows.eq(1..=107),
        "{TABLE} must have each requirement once, in order"
    );
    assert!(
        missing.is_empty(),
        "no test names, and {DIFFERENCES} does not explain: {missing:?}"
    );

    if made != table {
        if std::env::var_os("TALARIA_UPDATE").is_some() {
            std::fs::write(root.join(TABLE), &made)?;
        } else {
            panic!(
                "{TABLE} is not what the tests say: TALARIA_UPDATE=1 cargo test --test requirements"
            );
        }
    }
    Ok(())
}

/// A row of the table: number, and what is required.
struct Row<'a> {
    number: u32,
    says: &'a str,
}

impl<'a> Row<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (number, rest) = line.strip_prefix("| REQ-")?.split_once(" | ")?;
        let (says, _) = rest.split_once(" |")?;
        let number = number.parse().ok()?;
        Some(Self { number, says })
    }
}

/// The tests that name each requirement, as `file: name`.
fn tests_by_requirement(root: &Path) -> anyhow::Result<BTreeMap<u32, Vec<String>>> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect(&root.join(source), &mut files)?;
    }
    files.sort();
    let mut tests: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        let place = file.strip_prefix(root)?.display().to_string();
        let mut named: Vec<u32> = Vec::new();
        for line in text.lines() {
            let line = line.trim();
            let comment = line.strip_prefix("///").or_else(|| line.strip_prefix('#'));
            if let Some(comment) = comment.filter(|comment| comment.contains("REQ-")) {
                named.extend(numbers(comment));
            } else if let Some(name) = test_name(line) {
                for number in named.drain(..) {
                    let shown_by = format!("`{place}: {name}`");
                    let tests = tests.entry(number).or_default();
                    if !tests.contains(&shown_by) {
                        tests.push(shown_by);
                    }
                }
            }
        }
        anyhow::ensure!(
            named.is_empty(),
            "{place} names {named:?} below its last test"
        );
    }
    Ok(tests)
}

fn test_name(line: &str) -> Option<&str> {
    let line = line.strip_prefix("pub ").unwrap_or(line);
    let line = line.strip_prefix("async ").unwrap_or(line);
    let rest = line
        .strip_prefix("fn ")
        .or_else(|| line.strip_prefix("def "))?;
    rest.split_once('(').map(|(name, _)| name)
}

fn numbers(text: &str) -> impl Iterator<Item = u32> {
    text.split("REQ-").skip(1).filter_map(|rest| {
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    })
}

/// The requirements that a line of the differences is about: `* REQ-1, REQ-2: why not`.
fn explained_by(line: &str) -> impl Iterator<Item = u32> {
    let heading = line
        .strip_prefix("* REQ-")
        .and_then(|_| line.split_once(':'));
    numbers(heading.map_or("", |(heading, _)| heading))
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if path.is_dir() {
            collect(&path, files)?;
        } else if matches!(extension, Some("rs" | "py" | "mjs"))
            && !path.ends_with("tests/requirements.rs")
        {
            files.push(path);
        }
    }
    Ok(())
}
