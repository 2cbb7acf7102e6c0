//! Misspelt parameters: an unknown name is ignored unless it is nearly a known one.

/// The known name that `name` was probably meant to be.
///
/// Two letters may differ, one where the known name is short.
pub fn near_miss<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    // Longer names are at least as far away as their length says.
    if name.len() > 64 {
        return None;
    }
    known
        .iter()
        .map(|known| (distance(name, known), *known))
        .filter(|(distance, known)| *distance <= if known.len() <= 4 { 1 } else { 2 })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// How many insertions, deletions and replacements lead from `a` to `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_single_letters() {
        for (a, b, expected) in [
            ("", "abc", 3),
            ("store", "store", 0),
            ("stroe", "store", 2),
            ("stor", "store", 1),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn the_nearest_known_name_is_meant() {
        let known = ["store", "stream", "text"];

        assert_eq!(near_miss("streem", &known), Some("stream"));
        assert_eq!(near_miss("tex", &known), Some("text"));
        assert_eq!(near_miss("tx", &known), None);
        assert_eq!(near_miss("provider", &known), None);
        assert_eq!(near_miss(&"é".repeat(40), &known), None);
    }
}
