//! The pattern by which a pre-tokenizer cuts text into pieces. Used by `byte_level`.
//!
//! Nearly all end in the same way, a whitespace run that leaves its last character to the word behind it. That
//! ending alone needs look-ahead, and look-ahead alone needs the slow engine that the tokenizers library uses:
//! here the ending is spelled out, and the rest goes to an automaton. Matches are the library's.

use regex_automata::Input;
use regex_automata::meta::Regex;
use regex_automata::util::syntax;
use tokenizers::utils::SysRegex;

const ENDING: &str = r"|\s+(?!\S)|\s+";
const WHITESPACE: &str = r"\s+";
/// What an automaton reads otherwise than the library's engine does: possessive repetition, and flags that
/// would hold for the ending, too.
const READ_OTHERWISE: [&str; 4] = ["++", "*+", "?+", "-u"];

pub enum Pattern {
    /// The pattern before the ending, and whitespace.
    Automaton(Box<Regex>),
    Library(SysRegex),
}

impl Pattern {
    /// `None` when it is no pattern.
    pub fn new(pattern: &str) -> Option<Self> {
        match automaton(pattern) {
            Some(regex) => Some(Self::Automaton(Box::new(regex))),
            None => SysRegex::new(pattern).ok().map(Self::Library),
        }
    }

    /// Calls `cut` with the start and end of each match, in order.
    pub fn find(&self, text: &str, mut cut: impl FnMut(usize, usize)) {
        match self {
            Self::Library(pattern) => pattern.find_iter(text).for_each(|(start, end)| cut(start, end)),
            Self::Automaton(regex) => {
                let mut at = 0;
                while let Some(found) = regex.find(Input::new(text).range(at..)) {
                    let is_whitespace = found.pattern().as_usize() > 0;
                    at = if is_whitespace { end_of_whitespace(text, found.range()) } else { found.end() };
                    cut(found.start(), at);
                }
            }
        }
    }
}

/// `None` where the pattern does not end as most do, or needs more than an automaton before that.
fn automaton(pattern: &str) -> Option<Regex> {
    let head = pattern.strip_suffix(ENDING)?;
    if READ_OTHERWISE.iter().any(|part| head.contains(part)) || has_possessive_range(head) {
        return None;
    }
    let parts = [syntax::parse(head).ok()?, syntax::parse(WHITESPACE).ok()?];
    // Where nothing could match, the two would go on differently.
    let never_empty = parts[0].properties().minimum_len().is_some_and(|len| len > 0);
    if never_empty { Regex::builder().build_many_from_hir(&parts).ok() } else { None }
}

/// `{2,3}+`, but not `\p{L}+`.
fn has_possessive_range(pattern: &str) -> bool {
    let starts_with_digit = |range: &str| range.starts_with(|c: char| c.is_ascii_digit());
    pattern.match_indices("}+").any(|(at, _)| pattern[..at].rsplit('{').next().is_some_and(starts_with_digit))
}

/// A run before something else than whitespace leaves it its last character, unless that is all there is.
fn end_of_whitespace(text: &str, run: std::ops::Range<usize>) -> usize {
    let last = text[run.clone()].char_indices().next_back().map_or(0, |(at, _)| at);
    if run.end == text.len() || last == 0 { run.end } else { run.start + last }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    const HEADS: [&str; 4] = [
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
        r"(?i)x\b|\s\d|a|\Aa\s+$",
        r"a[\s\S]b",
    ];

    static PATTERNS: LazyLock<Vec<(Pattern, SysRegex)>> = LazyLock::new(|| {
        let patterns = HEADS.map(|head| format!("{head}{ENDING}"));
        patterns.iter().map(|one| (Pattern::new(one).unwrap(), SysRegex::new(one).unwrap())).collect()
    });

    #[test]
    fn an_automaton_where_it_means_the_same() {
        assert!(PATTERNS.iter().all(|(pattern, _)| matches!(pattern, Pattern::Automaton(_))));
        let heads = ["a(?=b)", r"\p{N}{1,3}+", r"\p{L}++", "[a-u]", "a*", r"\b", r"(a)\1", "(?>a)"];
        let others = heads.map(|head| format!("{head}{ENDING}")).into_iter().chain([r"\p{L}+|\s+".into()]);
        for pattern in others {
            assert!(matches!(Pattern::new(&pattern), Some(Pattern::Library(_))), "{pattern}");
        }
        assert!(Pattern::new("(").is_none());
    }

    proptest! {
        #[test]
        fn matches_are_the_librarys(text in "([aAbxX1 '\\n\\r\\t\u{3000}\u{e9}]|'re|'LL|\\PC|  ){0,16}") {
            for (pattern, library) in PATTERNS.iter() {
                let mut found = Vec::new();
                pattern.find(&text, |start, end| found.push((start, end)));
                prop_assert_eq!(found, library.find_iter(&text).collect::<Vec<_>>());
            }
        }
    }
}
