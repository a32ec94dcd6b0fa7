//! `tokenizer.json`, the vocabulary file of Hugging Face's tokenizers library.
//!
//! Called by `Tokenizer`. Encodes with the library; decoding goes by the table of token bytes that is
//! built here once.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::Value;
use text_generation_limits::files::check_json_values;
use tokenizers::Tokenizer as Library;

use super::Encoding;
use super::byte_level::ByteLevelEncoder;
use super::table::{MAX_TOKENS, TokenTable};
use super::token_decoder::{LeadingStrip, TokenDecoder};
use crate::text::TextError;
use crate::text::files::{MAX_VOCABULARY_BYTES, MAX_VOCABULARY_VALUES, file_error, read_bounded};

/// The library's tokenizer, without the file's truncation and padding (limits are the router's work).
pub struct HfTokenizer {
    library: Library,
    /// A shorter way to ids alone, where there is one.
    byte_level: Option<ByteLevelEncoder>,
    /// A copy that does not parse special tokens, made when first needed.
    literal: OnceLock<Library>,
}

/// What the file gives.
pub struct Loaded {
    pub encoder: HfTokenizer,
    pub table: TokenTable,
    pub leading_strip: Option<LeadingStrip>,
}

/// The sections that the library reads through untyped JSON. Reading them here first gives a syntax
/// error the library would panic on.
#[derive(Deserialize)]
struct Sections {
    #[serde(default)]
    decoder: Value,
    #[serde(default, rename = "normalizer")]
    _normalizer: Value,
    #[serde(default, rename = "pre_tokenizer")]
    _pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
}

impl Sections {
    /// The library takes it for granted that a template names its own special tokens and one text alone.
    fn check_templates(processor: &Value) -> Result<(), String> {
        let list = |name: &str| processor[name].as_array().into_iter().flatten();
        list("processors").try_for_each(Self::check_templates)?;
        for piece in list("single") {
            if let Some(id) = piece["SpecialToken"]["id"].as_str()
                && processor["special_tokens"].get(id).is_none()
            {
                return Err(format!(
                    "has a post-processor that adds the token {id:?}, which its special_tokens do not list"
                ));
            }
            if piece["Sequence"]["id"] == "B" {
                return Err("has a post-processor that wants a second text (Sequence B) where there is one"
                    .to_owned());
            }
        }
        Ok(())
    }
}

impl HfTokenizer {
    pub fn from_file(path: &Path) -> Result<Loaded, TextError> {
        let bytes = read_bounded(path, MAX_VOCABULARY_BYTES)?;
        check_json_values(&bytes, MAX_VOCABULARY_VALUES).map_err(|e| file_error(path, e.to_string()))?;
        let sections: Sections = serde_json::from_slice(&bytes)
            .map_err(|e| file_error(path, format!("is not a tokenizer: {e}")))?;
        Sections::check_templates(&sections.post_processor).map_err(|detail| file_error(path, detail))?;
        let mut library = guarded(|| Library::from_bytes(&bytes))
            .map_err(|e| file_error(path, format!("is not a tokenizer: {e}")))?;
        library.with_padding(None);
        library.with_truncation(None).map_err(|e| file_error(path, e.to_string()))?;
        let decoder = TokenDecoder::new(&sections.decoder).map_err(|detail| file_error(path, detail))?;
        let table = token_table(&library, &decoder).map_err(|detail| file_error(path, detail))?;
        let byte_level = guarded(|| Ok(ByteLevelEncoder::new(&library))).unwrap_or_default();
        let encoder = Self { library, byte_level, literal: OnceLock::new() };
        Ok(Loaded { encoder, table, leading_strip: decoder.leading_strip })
    }

    /// Special tokens written out in the text become their ids.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Encoding, TextError> {
        encode(&self.library, text, add_special_tokens)
    }

    /// The ids of `encode`.
    pub fn ids(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        let short = |way: &ByteLevelEncoder| way.encode(&self.library, text, add_special_tokens);
        match self.short_ids(short)? {
            Some(ids) => Ok(ids),
            None => Ok(self.encode(text, add_special_tokens)?.ids),
        }
    }

    /// Special tokens written out in the text are characters like any other.
    pub fn encode_literally(&self, text: &str) -> Result<Encoding, TextError> {
        let literal = self.literal.get_or_init(|| {
            let mut library = self.library.clone();
            library.set_encode_special_tokens(true);
            library
        });
        encode(literal, text, false)
    }

    /// The ids of `encode_literally`.
    pub fn ids_literally(&self, text: &str) -> Result<Vec<u32>, TextError> {
        match self.short_ids(|way| way.encode_literally(&self.library, text))? {
            Some(ids) => Ok(ids),
            None => Ok(self.encode_literally(text)?.ids),
        }
    }

    fn short_ids(
        &self,
        way: impl FnOnce(&ByteLevelEncoder) -> tokenizers::Result<Option<Vec<u32>>>,
    ) -> Result<Option<Vec<u32>>, TextError> {
        let Some(byte_level) = &self.byte_level else { return Ok(None) };
        guarded(|| way(byte_level)).map_err(TextError::Encode)
    }

    #[cfg(test)]
    pub fn library(&self) -> &Library {
        &self.library
    }

    #[cfg(test)]
    pub fn byte_level(&self) -> Option<&ByteLevelEncoder> {
        self.byte_level.as_ref()
    }

    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.library.token_to_id(token)
    }
}

/// Some damaged files make the library panic: an error of the file, which nobody else shall feel.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("the tokenizers library panicked on it".to_owned()),
    }
}

fn encode(library: &Library, text: &str, add_special_tokens: bool) -> Result<Encoding, TextError> {
    let encoding = guarded(|| library.encode(text, add_special_tokens)).map_err(TextError::Encode)?;
    Ok(Encoding { ids: encoding.get_ids().to_vec(), offsets: encoding.get_offsets().to_vec() })
}

/// The bytes of every token; added tokens are their own text, whatever the decoder.
fn token_table(library: &Library, decoder: &TokenDecoder) -> Result<TokenTable, String> {
    let vocabulary = library.get_vocab(false);
    let added = library.get_added_tokens_decoder();
    let n_tokens = vocabulary.values().chain(added.keys()).max().map_or(0, |&max| max as usize + 1);
    if n_tokens == 0 || n_tokens > MAX_TOKENS {
        return Err(format!("has token ids up to {n_tokens}, expected 1 to {MAX_TOKENS} tokens"));
    }
    let mut tokens = vec![(Vec::new(), false); n_tokens];
    let mut owners: HashMap<u32, String> = HashMap::with_capacity(vocabulary.len());
    for (token, id) in vocabulary {
        tokens[id as usize] = (decoder.bytes(&token), false);
        if let Some(other) = owners.insert(id, token.clone()) {
            let [first, second] = if token < other { [token, other] } else { [other, token] };
            return Err(format!("tokens {first:?} and {second:?} have the same id {id}"));
        }
    }
    for (id, token) in added {
        tokens[id as usize] = (token.content.into_bytes(), token.special);
    }
    let mut table = TokenTable::default();
    tokens.iter().for_each(|(bytes, is_special)| table.push(bytes, *is_special));
    Ok(table)
}
