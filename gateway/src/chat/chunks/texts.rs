//! One kind of a completion's text on its way: what was shown of each part, and what stands between them.

use std::collections::HashMap;

use super::frames::Frames;

/// What stands between two messages or two thoughts, which a completion shows as one.
pub const SEPARATOR: &str = "\n\n";

/// A part of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    item: u32,
    list: List,
    part: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum List {
    Content,
    Summary,
}

impl Place {
    pub fn content(item: u32, part: usize) -> Self {
        let list = List::Content;
        Self { item, list, part }
    }

    pub fn summary(item: u32, part: usize) -> Self {
        let list = List::Summary;
        Self { item, list, part }
    }
}

/// What was shown in one member of the deltas.
#[derive(Debug)]
pub struct Texts {
    member: &'static str,
    /// Whether each part stands apart, or only each item.
    separates_parts: bool,
    shown: HashMap<Place, Shown>,
    last: Option<Place>,
    /// Characters of all parts and what stands between them.
    characters: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Shown {
    bytes: usize,
    /// Characters before the part.
    offset: usize,
    annotations: usize,
}

impl Texts {
    /// Texts of which each item stands apart.
    pub fn by_item(member: &'static str) -> Self {
        Self {
            member,
            separates_parts: false,
            shown: HashMap::new(),
            last: None,
            characters: 0,
        }
    }

    /// Texts of which each part stands apart.
    pub fn by_part(member: &'static str) -> Self {
        Self {
            separates_parts: true,
            ..Self::by_item(member)
        }
    }

    /// Shows more of a part.
    pub fn push(
        &mut self,
        out: &mut String,
        frames: &Frames,
        place: Place,
        text: &str,
        logprobs: &[u8],
    ) {
        if text.is_empty() {
            return;
        }
        let is_apart =
            |last: Place| last.item != place.item || (self.separates_parts && last != place);
        if self.last.replace(place).is_some_and(is_apart) {
            frames.text(out, self.member, SEPARATOR, b"");
            self.characters += SEPARATOR.len();
        }
        let offset = self.characters;
        let new = Shown {
            offset,
            ..Shown::default()
        };
        self.shown.entry(place).or_insert(new).bytes += text.len();
        self.characters += text.chars().count();
        frames.text(out, self.member, text, logprobs);
    }

    /// Shows what is missing of a part's whole text.
    pub fn complete(&mut self, out: &mut String, frames: &Frames, place: Place, whole: &str) {
        let shown = self.shown.get(&place).map_or(0, |shown| shown.bytes);
        if let Some(rest) = whole.get(shown..) {
            self.push(out, frames, place, rest, b"");
        }
    }

    /// How many annotations of a part were shown.
    pub fn annotations(&self, place: Place) -> usize {
        self.shown.get(&place).map_or(0, |shown| shown.annotations)
    }

    /// Counts an annotation of a part, and tells how many characters stand before the part.
    pub fn annotate(&mut self, place: Place) -> usize {
        let offset = self.characters;
        let new = Shown {
            offset,
            ..Shown::default()
        };
        let shown = self.shown.entry(place).or_insert(new);
        shown.annotations += 1;
        shown.offset
    }
}
