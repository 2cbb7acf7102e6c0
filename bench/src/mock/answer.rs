//! An answer, rendered once and sent any number of times.

use bytes::Bytes;

/// About how much is handed to the connection at once when nothing is paced.
const BURST_BYTES: usize = 16 * 1024;

/// The words that texts are made of; as models do, with the space in front.
const WORDS: [&str; 8] = [
    " the", " messenger", " of", " Olympus", " ties", " winged", " sandals", " and",
];

/// Everything that a client can be sent of one answer.
pub struct Answer {
    /// One piece a token: the first has what comes before the text, the last what comes after it.
    pub paced: Vec<Bytes>,
    /// The same in few pieces.
    pub bursts: Vec<Bytes>,
    /// The body when nothing is streamed.
    pub whole: Bytes,
}

impl Answer {
    /// Puts an answer together from its rendered parts.
    pub fn new(before: &str, tokens: &[String], after: &str, whole: String) -> Self {
        let mut paced = tokens.to_vec();
        if paced.is_empty() {
            paced.push(String::new());
        }
        if let Some(first) = paced.first_mut() {
            first.insert_str(0, before);
        }
        if let Some(last) = paced.last_mut() {
            last.push_str(after);
        }
        Self {
            bursts: bursts(&paced),
            paced: paced.into_iter().map(Bytes::from).collect(),
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

fn bursts(pieces: &[String]) -> Vec<Bytes> {
    let mut bursts = Vec::new();
    let mut burst = String::new();
    for piece in pieces {
        burst.push_str(piece);
        if burst.len() >= BURST_BYTES {
            bursts.push(std::mem::take(&mut burst).into());
        }
    }
    if !burst.is_empty() {
        bursts.push(burst.into());
    }
    bursts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_come_at_any_pace() {
        for tokens in [0, 1, 3, 2000] {
            let frames: Vec<_> = (0..tokens).map(|n| format!("[{}]", token(n))).collect();

            let answer = Answer::new("<", &frames, ">", String::new());

            assert_eq!(answer.paced.concat(), answer.bursts.concat());
            assert_eq!(answer.paced.len(), frames.len().max(1));
            assert!(answer.bursts.len() <= frames.len() / 500 + 1);
        }
    }
}
