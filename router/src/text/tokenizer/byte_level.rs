//! Token ids of a text, for byte-level vocabularies, without the range of the text that each stands for.
//!
//! Called by `hf` where nobody asks for ranges: the library follows every byte through every step, which
//! takes most of its time. Here are the steps between its parts alone: pieces of text are found by its
//! patterns and encoded by its own model. What is not known to give the library's ids is left to it.

use aho_corasick::{AhoCorasick, BuildError, MatchKind};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, Model, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer as Library,
};
use unicode_normalization::{IsNormalized, is_nfc_quick};

use super::pattern::Pattern;
use super::token_decoder::char_of_byte;

/// The pattern of the library's ByteLevel, which keeps it to itself.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The way from a text to ids, for the tokenizers that it is known for.
pub struct ByteLevelEncoder {
    cuts: Vec<Cut>,
    /// The text's normal form is NFC; otherwise it is taken as it comes.
    nfc: bool,
    /// Added tokens that stand for themselves wherever they are written, and their ids.
    added: AhoCorasick,
    added_ids: Vec<u32>,
    /// Added tokens with conditions: a text that holds one is the library's.
    conditional: AhoCorasick,
    /// What the post-processor puts before and after every text.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
}

/// Each match, and each stretch between two, is a piece.
enum Cut {
    Digits,
    Pattern(Pattern),
}

impl ByteLevelEncoder {
    /// `None` for a tokenizer with any other part.
    pub fn new(library: &Library) -> Option<Self> {
        let nfc = match library.get_normalizer() {
            None => false,
            Some(NormalizerWrapper::NFC(_)) => true,
            Some(_) => return None,
        };
        let tokens = library.get_added_tokens_decoder();
        if nfc && tokens.values().any(|token| !is_nfc(&token.content)) {
            return None;
        }
        let (plain, conditional): (Vec<_>, Vec<_>) =
            tokens.into_iter().partition(|(_, token)| is_unconditional(token));
        let find = |tokens: &[(u32, AddedToken)]| finder(tokens.iter().map(|(_, token)| &*token.content));
        let (prefix, suffix) = surroundings(library)?;
        Some(Self {
            cuts: cuts(library.get_pre_tokenizer()?)?,
            nfc,
            added: find(&plain).ok()?,
            added_ids: plain.into_iter().map(|(id, _)| id).collect(),
            conditional: find(&conditional).ok()?,
            prefix,
            suffix,
        })
    }

    /// What the library's `encode` gives; `None` for a text that has to go to the library.
    pub fn encode(
        &self,
        library: &Library,
        text: &str,
        add_special_tokens: bool,
    ) -> tokenizers::Result<Option<Vec<u32>>> {
        if self.nfc && !is_nfc(text) || self.conditional.is_match(text) {
            return Ok(None);
        }
        let mut ids = Vec::with_capacity(self.prefix.len() + text.len() / 2 + self.suffix.len());
        let mut end = 0;
        if add_special_tokens {
            ids.extend(&self.prefix);
        }
        for found in self.added.find_iter(text) {
            self.append(library, &text[end..found.start()], &mut ids)?;
            ids.push(self.added_ids[found.pattern().as_usize()]);
            end = found.end();
        }
        self.append(library, &text[end..], &mut ids)?;
        if add_special_tokens {
            ids.extend(&self.suffix);
        }
        Ok(Some(ids))
    }

    /// The same, where special tokens written out in the text are characters like any other.
    pub fn encode_literally(&self, library: &Library, text: &str) -> tokenizers::Result<Option<Vec<u32>>> {
        if self.added.is_match(text) { Ok(None) } else { self.encode(library, text, false) }
    }

    /// Appends the ids of a text without added tokens.
    fn append(&self, library: &Library, text: &str, ids: &mut Vec<u32>) -> tokenizers::Result<()> {
        let mut pieces = vec![text];
        for cut in &self.cuts {
            let mut finer = Vec::with_capacity(2 * pieces.len());
            pieces.into_iter().for_each(|piece| cut.apply(piece, &mut finer));
            pieces = finer;
        }
        let mut letters = String::new();
        for piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
            letters.clear();
            letters.extend(piece.bytes().map(char_of_byte));
            ids.extend(library.get_model().tokenize(&letters)?.iter().map(|token| token.id));
        }
        Ok(())
    }
}

impl Cut {
    fn apply<'a>(&self, text: &'a str, pieces: &mut Vec<&'a str>) {
        let mut end_of_last = 0;
        let mut cut = |start: usize, end: usize| {
            pieces.extend([&text[end_of_last..start], &text[start..end]]);
            end_of_last = end;
        };
        match self {
            Self::Digits => {
                let digits = text.char_indices().filter(|(_, c)| c.is_numeric());
                digits.for_each(|(at, c)| cut(at, at + c.len_utf8()));
            }
            Self::Pattern(pattern) => pattern.find(text, cut),
        }
        pieces.push(&text[end_of_last..]);
    }
}

/// The cuts before a last ByteLevel that adds nothing to the text.
fn cuts(pre_tokenizer: &PreTokenizerWrapper) -> Option<Vec<Cut>> {
    let all = match pre_tokenizer {
        PreTokenizerWrapper::Sequence(sequence) => sequence.as_ref(),
        one => std::slice::from_ref(one),
    };
    let (last, before) = all.split_last()?;
    let mut cuts = before.iter().map(cut).collect::<Option<Vec<Cut>>>()?;
    match last {
        PreTokenizerWrapper::ByteLevel(ByteLevel { add_prefix_space: false, use_regex, .. }) => {
            if *use_regex {
                cuts.push(Cut::Pattern(Pattern::new(GPT2)?));
            }
            Some(cuts)
        }
        _ => None,
    }
}

fn cut(pre_tokenizer: &PreTokenizerWrapper) -> Option<Cut> {
    match pre_tokenizer {
        PreTokenizerWrapper::Digits(Digits { individual_digits: true, .. }) => Some(Cut::Digits),
        PreTokenizerWrapper::Split(Split {
            pattern: SplitPattern::Regex(pattern),
            behavior: SplitDelimiterBehavior::Isolated,
            ..
        }) => Pattern::new(pattern).map(Cut::Pattern),
        _ => None,
    }
}

fn is_unconditional(token: &AddedToken) -> bool {
    !(token.single_word || token.lstrip || token.rstrip || token.normalized)
}

fn finder<'a>(texts: impl Iterator<Item = &'a str>) -> Result<AhoCorasick, BuildError> {
    AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts)
}

fn is_nfc(text: &str) -> bool {
    text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes
}

/// What is put before and after any text, found by what is put around one.
fn surroundings(library: &Library) -> Option<(Vec<u32>, Vec<u32>)> {
    let ids = |special: bool| Some(library.encode("a", special).ok()?.get_ids().to_vec());
    let (text, whole) = (ids(false)?, ids(true)?);
    let at = |start: &usize| !text.is_empty() && whole[*start..].starts_with(&text);
    let mut places = (0..whole.len()).filter(at);
    match (places.next(), places.next()) {
        (Some(start), None) => Some((whole[..start].to_vec(), whole[start + text.len()..].to_vec())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::hf::HfTokenizer;
    use crate::text::testing::{byte_level_file, metaspace_file, with_files};
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::sync::LazyLock;

    fn load(file: &Value) -> HfTokenizer {
        let text = file.to_string();
        with_files(&[("tokenizer.json", &text)], |dir| {
            HfTokenizer::from_file(&dir.join("tokenizer.json")).unwrap().encoder
        })
    }

    /// The test vocabulary with other parts.
    fn variant(parts: Value) -> Value {
        let mut file: Value = serde_json::from_str(&byte_level_file()).unwrap();
        for (key, part) in parts.as_object().unwrap() {
            file[key] = part.clone();
        }
        file
    }

    fn after(first: Value, use_regex: bool) -> Value {
        let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [first, byte_level]}})
    }

    fn split(behavior: &str) -> Value {
        let pattern = r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|[^\r\n\p{L}\p{N}]?\p{L}+|\s+(?!\S)|\s+";
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": false})
    }

    fn template() -> Value {
        let special = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
        let token = |id: &str, n: u32| json!({"id": id, "ids": [n], "tokens": [id]});
        json!({"post_processor": {"type": "TemplateProcessing",
            "single": [special("<|im_start|>"), {"Sequence": {"id": "A", "type_id": 0}}, special("<|im_end|>")],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|im_start|>": token("<|im_start|>", 260), "<|im_end|>": token("<|im_end|>", 261)}}})
    }

    fn added(condition: &str) -> Value {
        let token = |id: u32, content: &str| {
            json!({"id": id, "content": content, "special": id < 262, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false})
        };
        let mut tokens = vec![token(260, "<|im_start|>"), token(261, "<|im_end|>"), token(262, "<|im")];
        tokens[1][condition] = true.into();
        json!({ "added_tokens": tokens })
    }

    static TOKENIZERS: LazyLock<Vec<HfTokenizer>> = LazyLock::new(|| {
        let digits = json!({"type": "Digits", "individual_digits": true});
        let parts = [
            json!({}),
            json!({"normalizer": null}),
            after(digits, true),
            after(split("Isolated"), false),
            template(),
            added("special"),
            added("lstrip"),
            added("single_word"),
            added("normalized"),
        ];
        parts.into_iter().map(|parts| load(&variant(parts))).collect()
    });

    #[test]
    fn the_way_is_taken_where_it_is_known() {
        assert!(TOKENIZERS.iter().all(|one| one.byte_level().is_some()));
        let metaspace = serde_json::from_str(&metaspace_file()).unwrap();
        let normalizer = json!({"normalizer": {"type": "Lowercase"}});
        let digits = json!({"type": "Digits", "individual_digits": false});
        let prefixed = json!({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}});
        let unknown = [normalizer, after(digits, true), after(split("Removed"), false), prefixed];
        for file in unknown.into_iter().map(variant).chain([metaspace]) {
            assert!(load(&file).byte_level().is_none(), "{}", file["pre_tokenizer"]);
        }
    }

    #[test]
    fn texts_with_conditions_are_the_librarys() {
        let tokenizer = load(&variant(added("lstrip")));
        let way = tokenizer.byte_level().unwrap();
        let known = |text: &str| way.encode(tokenizer.library(), text, true).unwrap().is_some();
        assert!(known("a <|im_start|>") && !known("a <|im_end|>") && !known("e\u{301}"));
        let literally = |text: &str| way.encode_literally(tokenizer.library(), text).unwrap().is_some();
        assert!(literally("a <") && !literally("<|im_start|>"));
    }

    proptest! {
        #[test]
        fn ids_are_the_librarys(
            text in "(\\PC|<\\|im_(start|end)\\|>|<\\|im|hello| w|[0-9 ]{1,4}|e\u{301}|'re|[\\x00-\\x20]|\u{bd}){0,12}",
            special in any::<bool>(),
        ) {
            for tokenizer in TOKENIZERS.iter() {
                prop_assert_eq!(tokenizer.ids(&text, special).unwrap(), tokenizer.encode(&text, special).unwrap().ids);
                prop_assert_eq!(tokenizer.ids_literally(&text).unwrap(), tokenizer.encode_literally(&text).unwrap().ids);
            }
        }
    }
}
