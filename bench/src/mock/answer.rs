//! An answer, rendered once and sent any number of times.

use std::borrow::Cow;

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

/// What words of varied texts are made of.
const SYLLABLES: [&str; 16] = [
    "an", "ber", "ca", "dor", "e", "fi", "gen", "hal", "is", "kin", "lo", "mer", "no", "o", "per",
    "ti",
];

/// Which text an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Text {
    pub tokens: u32,
    /// 0 is the same few words over and over. Any other is a text of its own, of many words, that compresses about
    /// as prose does.
    pub seed: u32,
}

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

impl Text {
    /// A text of the same few words.
    pub fn plain(tokens: u32) -> Self {
        Self { tokens, seed: 0 }
    }

    /// The token with this number.
    pub fn token(self, number: u32) -> Cow<'static, str> {
        if self.seed == 0 {
            return WORDS[number as usize % WORDS.len()].into();
        }
        let mut random = fastrand::Rng::with_seed(u64::from(self.seed) << 32 | u64::from(number));
        // The smaller of two: some words are frequent, as in any language.
        let mut word = random.usize(1..4096).min(random.usize(1..4096));
        let mut token = String::from(" ");
        while word > 0 {
            token.push_str(SYLLABLES[word % SYLLABLES.len()]);
            word /= SYLLABLES.len();
        }
        token.into()
    }

    /// All of it.
    pub fn whole(self) -> String {
        (0..self.tokens).map(|number| self.token(number)).collect()
    }
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

    #[test]
    fn varied_texts_differ_and_stay_what_they_are() {
        let text = |seed| Text { tokens: 4, seed }.whole();

        assert_eq!(Text::plain(4).whole(), " the messenger of Olympus");
        insta::assert_snapshot!(text(1), @" hale genlofi timerfi egen");
        assert_eq!(text(7), text(7));
        assert_ne!(text(7), text(8));
    }
}
