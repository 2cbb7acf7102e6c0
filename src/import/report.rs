//! What an import says at its end.

use std::fmt;

/// How many lines of one kind are printed.
const LINES: usize = 20;

/// What became of the records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub responses: Count,
    pub conversations: Count,
    /// Responses that had not ended.
    pub unended: usize,
    /// Stored ids that could not be kept, and the ids in their place.
    pub renamed: Vec<(String, String)>,
    /// What was not imported, and why.
    pub skipped: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub imported: usize,
    /// By an earlier import.
    pub were_there: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            responses,
            conversations,
            unended,
            renamed,
            skipped,
        } = self;
        let both = |responses, conversations| {
            let responses = counted(responses, "response");
            format!("{responses} and {}", counted(conversations, "conversation"))
        };
        let imported = both(responses.imported, conversations.imported);
        writeln!(f, "Imported {imported}.")?;
        if responses.were_there + conversations.were_there > 0 {
            let were_there = both(responses.were_there, conversations.were_there);
            writeln!(f, "There already: {were_there}.")?;
        }
        if *unended > 0 {
            let unended = counted(*unended, "response");
            writeln!(f, "Had not ended, incomplete now: {unended}.")?;
        }
        if !renamed.is_empty() {
            writeln!(
                f,
                "Under another id: {}.",
                counted(renamed.len(), "response")
            )?;
            let lines = renamed.iter().map(|(old, new)| format!("{old} is {new}"));
            list(f, renamed.len(), lines)?;
        }
        if !skipped.is_empty() {
            writeln!(f, "Skipped: {}.", skipped.len())?;
            list(f, skipped.len(), skipped.iter())?;
        }
        Ok(())
    }
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

fn list(
    f: &mut fmt::Formatter<'_>,
    length: usize,
    lines: impl Iterator<Item = impl fmt::Display>,
) -> fmt::Result {
    for line in lines.take(LINES) {
        writeln!(f, "  {line}")?;
    }
    if length > LINES {
        writeln!(f, "  and {} more", length - LINES)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happened_is_said() {
        let count = |imported, were_there| Count {
            imported,
            were_there,
        };
        let quiet = Report {
            responses: count(3, 0),
            ..Report::default()
        };
        let loud = Report {
            responses: count(1, 2),
            conversations: count(0, 1),
            unended: 1,
            renamed: vec![("a".to_owned(), "resp_1".to_owned())],
            skipped: (0..22).map(|n| format!("row {n}")).collect(),
        };

        insta::assert_snapshot!(quiet.to_string(), @"Imported 3 responses and 0 conversations.");
        let lines: Vec<_> = loud.to_string().lines().map(str::to_owned).collect();
        insta::assert_snapshot!(lines[..8].join("\n"), @r"
        Imported 1 response and 0 conversations.
        There already: 2 responses and 1 conversation.
        Had not ended, incomplete now: 1 response.
        Under another id: 1 response.
          a is resp_1
        Skipped: 22.
          row 0
          row 1
        ");
        assert_eq!(lines.last().map(String::as_str), Some("  and 2 more"));
    }
}
