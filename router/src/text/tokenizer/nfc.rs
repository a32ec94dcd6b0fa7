//! Unicode normalisation form C that remembers where each byte came from.
//!
//! The original Qwen normalises before its BPE; clients want offsets into what they sent. Called by
//! `tiktoken` on every text, so text that is already normal costs one pass and no copy.

use std::borrow::Cow;
use std::ops::Range;

use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc, is_nfc_quick};

/// A normalised text and the stretches that normalisation rewrote.
pub struct Nfc<'a> {
    pub text: Cow<'a, str>,
    original: &'a str,
    /// Ascending; between them, and before and after, text and original are the same.
    rewritten: Vec<Rewritten>,
}

struct Rewritten {
    normal: Range<usize>,
    original: Range<usize>,
}

/// The longest stretch, in bytes, that is given whole for each part of it. Text has a few combining
/// marks in a row (the Stream-Safe Text Format of Annex 15 allows 30); megabytes of them must not be
/// answered once for each token.
const LONGEST_WHOLE: usize = 128;

impl Rewritten {
    /// Where the part from `at` on, a position in the normalised stretch, begins in the original.
    fn start_of(&self, at: usize) -> usize {
        match self.original.len() <= LONGEST_WHOLE {
            true => self.original.start,
            false => self.original.start + (at - self.normal.start) * self.original.len() / self.normal.len(),
        }
    }

    /// Where the part up to `at` ends in the original.
    fn end_of(&self, at: usize) -> usize {
        match self.original.len() <= LONGEST_WHOLE {
            true => self.original.end,
            false => {
                let scaled = (at - self.normal.start) * self.original.len();
                self.original.start + scaled.div_ceil(self.normal.len())
            }
        }
    }
}

impl<'a> Nfc<'a> {
    pub fn new(original: &'a str) -> Self {
        if is_nfc(original) {
            return Self { text: Cow::Borrowed(original), original, rewritten: Vec::new() };
        }
        let (mut text, mut rewritten, mut start) = (String::with_capacity(original.len()), Vec::new(), 0);
        while start < original.len() {
            let end = segment_end(original, start);
            let segment = &original[start..end];
            let normal_start = text.len();
            text.extend(segment.nfc());
            if text[normal_start..] != *segment {
                rewritten.push(Rewritten { normal: normal_start..text.len(), original: start..end });
            }
            start = end;
        }
        Self { text: Cow::Owned(text), original, rewritten }
    }

    /// The whole characters of the original that a byte range of the normalised text comes from: all
    /// of a rewritten stretch, or about its part of one that is absurdly long.
    pub fn original_range(&self, range: Range<usize>) -> (usize, usize) {
        let n_before = self.rewritten.partition_point(|r| r.normal.start <= range.start);
        let mut start = match self.rewritten[..n_before].last() {
            Some(r) if range.start < r.normal.end => r.start_of(range.start),
            Some(r) => range.start - r.normal.end + r.original.end,
            None => range.start,
        };
        let n_before = self.rewritten.partition_point(|r| r.normal.start < range.end);
        let mut end = match self.rewritten[..n_before].last() {
            Some(r) if range.end <= r.normal.end => r.end_of(range.end),
            Some(r) => range.end - r.normal.end + r.original.end,
            None => range.end,
        };
        while !self.original.is_char_boundary(start) {
            start -= 1;
        }
        while !self.original.is_char_boundary(end) {
            end += 1;
        }
        (start, end)
    }
}

/// End of the segment that begins at `start`: just before the next character that neither combines
/// with what stands before it nor is rewritten itself. Segments normalise independently of each other
/// (Unicode Standard Annex 15, "Stable Code Points").
fn segment_end(text: &str, start: usize) -> usize {
    let is_stable =
        |c: char| canonical_combining_class(c) == 0 && is_nfc_quick([c].into_iter()) == IsNormalized::Yes;
    let mut rest = text[start..].char_indices().skip(1);
    rest.find(|&(_, c)| is_stable(c)).map_or(text.len(), |(i, _)| start + i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn maps_ranges_back_to_what_the_client_sent() {
        let check = |original: &str, normal: &str, range: Range<usize>, expected: &str| {
            let nfc = Nfc::new(original);
            assert_eq!(nfc.text, normal);
            let (start, end) = nfc.original_range(range.clone());
            assert_eq!(&original[start..end], expected, "{original:?} {range:?}");
        };
        check("plain", "plain", 1..3, "la");
        check("cafe\u{301} x", "café x", 3..5, "e\u{301}");
        check("cafe\u{301} x", "café x", 0..3, "caf");
        check("cafe\u{301} x", "café x", 5..7, " x");
        // Half of the normalised character: all of what it came from.
        check("cafe\u{301} x", "café x", 4..5, "e\u{301}");
        // Half of a character that normalisation left alone: all of it.
        check("é e\u{301}", "é é", 0..1, "é");
        check("\u{1100}\u{1161}가", "가가", 0..3, "\u{1100}\u{1161}");
        check("\u{2126}m", "\u{3a9}m", 2..3, "m");
        check("a\u{307}\u{323}b", "\u{1ea1}\u{307}b", 0..5, "a\u{307}\u{323}");
    }

    #[test]
    fn a_stretch_without_end_is_not_repeated_for_each_part() {
        for (marks, n) in [("\u{301}\u{327}", 1000), ("\u{301}\u{958}", 1000)] {
            let original = format!("a{}b", marks.repeat(n));
            let nfc = Nfc::new(&original);
            let ranges = (0..nfc.text.len()).map(|i| nfc.original_range(i..i + 1));
            let lengths: Vec<usize> = ranges.map(|(start, end)| end - start).collect();
            assert!(lengths.iter().all(|&length| (1..=6).contains(&length)), "{lengths:?}");
            assert_eq!(nfc.original_range(0..nfc.text.len()), (0, original.len()));
        }
    }

    proptest! {
        #[test]
        fn segments_together_are_the_normalised_text(
            text in "[a-ce\u{301}\u{323}\u{307}\u{345}\u{1100}\u{1161}\u{11a8}가é\u{2126}\u{958}\u{fb1d}\u{1d15e}你 ]{0,24}",
        ) {
            let nfc = Nfc::new(&text);
            let expected: String = text.nfc().collect();
            prop_assert_eq!(&nfc.text, &expected);
            for start in 0..expected.len() {
                let (s, e) = nfc.original_range(start..start + 1);
                prop_assert!(s < e && text.is_char_boundary(s) && text.is_char_boundary(e));
            }
            prop_assert_eq!(nfc.original_range(0..expected.len()), (0, text.len()));
        }

        #[test]
        fn any_text_normalises_as_a_whole_would(text in any::<String>()) {
            prop_assert_eq!(Nfc::new(&text).text, text.nfc().collect::<String>());
        }
    }
}
