//! Stop strings: found anywhere in streamed text, across pieces, holding back only what may still match.
//!
//! Used once a request by the HTTP handlers, on the detokenised text. Pure: the outcome depends on the
//! concatenated text alone, never on how it was cut into pieces.

/// Finds stop strings anywhere in streamed text, across token borders, holding back a possible
/// partial match.
///
/// Of several stop strings the one that is complete first wins, so that generation can end at once;
/// of those complete at the same byte, the longest.
pub struct StopMatcher {
    stops: Vec<StopString>,
    /// The end of the text so far that is not emitted: the longest beginning of any stop string.
    held: String,
    matched: bool,
}

/// What a piece of text did to the matcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopOutcome {
    /// Text that is safe to send now (up to the stop string's start when one matched).
    pub emit: String,
    /// The stop string that matched; nothing after it may be sent. `/generate` sends it after
    /// `emit`, `/v1` drops it.
    pub matched: Option<String>,
}

impl StopMatcher {
    /// Empty stop strings are ignored.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).map(|stop| StopString::new(stop)).collect();
        Self { stops, held: String::new(), matched: false }
    }

    /// Takes the next piece of text. After a match everything is swallowed: the outcome stays empty.
    pub fn push(&mut self, piece: &str) -> StopOutcome {
        if self.matched {
            return StopOutcome { emit: String::new(), matched: None };
        }
        let n_held = self.held.len();
        self.held.push_str(piece);
        for (i, byte) in piece.bytes().enumerate() {
            if let Some(stop) = self.step(byte) {
                let mut text = std::mem::take(&mut self.held);
                text.truncate(n_held + i + 1 - stop.len());
                self.matched = true;
                return StopOutcome { emit: text, matched: Some(stop) };
            }
        }
        let n_partial = self.stops.iter().map(|stop| stop.n_matched).max().unwrap_or(0);
        let kept = self.held.split_off(self.held.len() - n_partial);
        StopOutcome { emit: std::mem::replace(&mut self.held, kept), matched: None }
    }

    /// Text still held back when the generation ends for another reason.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Advances all stop strings by one byte; the longest that is complete now.
    fn step(&mut self, byte: u8) -> Option<String> {
        let mut complete: Option<&str> = None;
        for stop in &mut self.stops {
            if stop.step(byte) && complete.is_none_or(|best| stop.text.len() > best.len()) {
                complete = Some(&stop.text);
            }
        }
        complete.map(str::to_owned)
    }
}

/// One stop string with its Knuth-Morris-Pratt state: linear in the text whatever the stop string is.
struct StopString {
    text: String,
    /// `border[i]`: length of the longest proper prefix of the text that ends at byte `i`, inclusive.
    border: Vec<usize>,
    /// How many of its first bytes the end of the streamed text equals; below its length between steps.
    n_matched: usize,
}

impl StopString {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut border = vec![0; bytes.len()];
        let mut n = 0;
        for i in 1..bytes.len() {
            while n > 0 && bytes[i] != bytes[n] {
                n = border[n - 1];
            }
            n += usize::from(bytes[i] == bytes[n]);
            border[i] = n;
        }
        Self { text: text.to_string(), border, n_matched: 0 }
    }

    /// Advances by one byte; whether the stop string is complete. Not to be stepped after that.
    fn step(&mut self, byte: u8) -> bool {
        let bytes = self.text.as_bytes();
        while self.n_matched > 0 && bytes[self.n_matched] != byte {
            self.n_matched = self.border[self.n_matched - 1];
        }
        self.n_matched += usize::from(bytes[self.n_matched] == byte);
        self.n_matched == bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strings(stops: &[&str]) -> Vec<String> {
        stops.iter().map(|s| s.to_string()).collect()
    }

    /// Feeds the pieces; what was emitted in all, and the match.
    fn run(stops: &[String], pieces: &[&str]) -> (String, Option<String>) {
        let mut matcher = StopMatcher::new(stops);
        let (mut emitted, mut matched) = (String::new(), None);
        for piece in pieces {
            let outcome = matcher.push(piece);
            emitted += &outcome.emit;
            matched = matched.or(outcome.matched);
        }
        emitted += &matcher.finish();
        (emitted, matched)
    }

    #[test]
    fn finds_stop_strings_across_pieces() {
        let check = |stops: &[&str], pieces: &[&str], emitted: &str, matched: Option<&str>| {
            let expected = (emitted.to_string(), matched.map(str::to_string));
            assert_eq!(run(&strings(stops), pieces), expected, "{stops:?} in {pieces:?}");
        };
        check(&[], &["any", "thing"], "anything", None);
        check(&["", "x"], &["abc"], "abc", None);
        check(&["lo w"], &["hello world"], "hel", Some("lo w"));
        check(&["\n\n"], &["a\n", "b\n", "\nc"], "a\nb", Some("\n\n"));
        check(&["aab"], &["aaaa", "aab"], "aaaa", Some("aab"));
        check(&["abcd", "c"], &["ab", "cd"], "ab", Some("c"));
        check(&["b", "ab", "xb"], &["a", "b"], "", Some("ab"));
        check(&["ab", "abc"], &["abc"], "", Some("ab"));
        check(&["停止"], &["请", "停", "止吧"], "请", Some("停止"));
        check(&["é"], &["ê", "é"], "ê", Some("é"));
        check(&["User:"], &["Use", "Us", "er", ":", " hi"], "Use", Some("User:"));
        check(&["END"], &["the EN", "D"], "the ", Some("END"));
        check(&["END"], &["the EN"], "the EN", None);
    }

    #[test]
    fn nothing_comes_out_after_a_match() {
        let mut matcher = StopMatcher::new(&strings(&["stop"]));
        assert_eq!(matcher.push("a stop b").matched.as_deref(), Some("stop"));
        assert_eq!(matcher.push("stop more"), StopOutcome { emit: String::new(), matched: None });
        assert_eq!(matcher.finish(), "");
    }

    #[test]
    fn long_self_similar_stop_strings_stay_linear() {
        let stop = "a".repeat(100_000) + "b";
        let mut matcher = StopMatcher::new(std::slice::from_ref(&stop));
        let text = "a".repeat(300_000);
        assert_eq!(matcher.push(&text).emit.len(), 200_000);
        assert_eq!(matcher.push("b").matched, Some(stop));
    }

    /// Earliest end, then longest, over the whole text.
    fn naive(stops: &[String], text: &str) -> (String, Option<String>) {
        for end in 0..=text.len() {
            let complete =
                stops.iter().filter(|s| !s.is_empty() && text.as_bytes()[..end].ends_with(s.as_bytes()));
            if let Some(stop) = complete.max_by_key(|s| s.len()) {
                return (text[..end - stop.len()].to_string(), Some(stop.clone()));
            }
        }
        (text.to_string(), None)
    }

    /// Bytes of the end of `text` that could be the beginning of a stop string.
    fn naive_held(stops: &[String], text: &str) -> usize {
        let could_match = |start: &usize| {
            stops
                .iter()
                .any(|s| s.len() > text.len() - start && s.as_bytes().starts_with(&text.as_bytes()[*start..]))
        };
        (0..text.len()).find(could_match).map_or(0, |start| text.len() - start)
    }

    proptest! {
        #[test]
        fn equals_a_naive_search_however_the_text_is_split(
            stops in prop::collection::vec("[abé停]{0,4}", 0..4),
            pieces in prop::collection::vec("[abé停]{0,5}", 0..12),
        ) {
            let text = pieces.concat();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(run(&stops, &pieces), naive(&stops, &text));
        }

        #[test]
        fn holds_back_no_more_than_a_possible_match(
            stops in prop::collection::vec("[abé]{1,5}", 1..4),
            pieces in prop::collection::vec("[abé]{0,3}", 1..10),
        ) {
            let mut matcher = StopMatcher::new(&stops);
            let (mut text, mut n_emitted) = (String::new(), 0);
            for piece in &pieces {
                text += piece;
                let outcome = matcher.push(piece);
                if outcome.matched.is_some() {
                    break;
                }
                n_emitted += outcome.emit.len();
                prop_assert_eq!(text.len() - n_emitted, naive_held(&stops, &text));
            }
        }
    }
}
