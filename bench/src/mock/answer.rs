//! An answer, rendered once and sent any number of times.

use bytes::Bytes;

/// The words that texts are made of; as models do, with the space in front.
const WORDS: [&str; 8] = [
    " the",
    " messenger",
    " of",
    " Olympus",
    " ties",
    " winged",
    " sandals",
    " and",
];

/// Everything that a client can be sent of one answer.
pub struct Answer {
    /// One piece a token: the first has what comes before the text, the last what comes after it. Where nothing is
    /// paced, hyper puts up to 16 into one write.
    pub pieces: Vec<Bytes>,
    /// The body when nothing is streamed.
    pub whole: Bytes,
}

impl Answer {
    /// Puts an answer together from its rendered parts.
    pub fn new(before: &str, tokens: &[String], after: &str, whole: String) -> Self {
        let mut pieces = tokens.to_vec();
        if pieces.is_empty() {
            pieces.push(String::new());
        }
        if let Some(first) = pieces.first_mut() {
            first.insert_str(0, before);
        }
        if let Some(last) = pieces.last_mut() {
            last.push_str(after);
        }
        Self {
            pieces: pieces.into_iter().map(Bytes::from).collect(),
            whole: whole.into(),
        }
    }
}

/// The token with this number.
pub fn token(number: u32) -> &'static str {
    WORDS[number as usize % WORDS.len()]
}

/// The text of an answer of so many tokens.
pub fn text(tokens: u32) -> String {
    (0..tokens).map(token).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_piece_for_each_token_and_at_least_one() {
        let pieces = |tokens: &[&str]| {
            let tokens: Vec<_> = tokens.iter().map(|&token| token.to_owned()).collect();
            Answer::new("<", &tokens, ">", String::new()).pieces
        };

        assert_eq!(pieces(&[]), ["<>"]);
        assert_eq!(pieces(&["a"]), ["<a>"]);
        assert_eq!(pieces(&["a", "b", "c"]), ["<a", "b", "c>"]);
    }
}
