//! A model's vocabulary behind one type, whichever file of the checkpoint folder it comes from.
//!
//! Built once by `main`, shared by all requests. Encoding is the libraries' (`tiktoken`, `hf`); decoding
//! is a table of each token's exact bytes, so that streamed text never depends on a token's neighbours.

mod byte_level;
mod eos;
mod hf;
mod nfc;
mod pattern;
mod table;
mod tiktoken;
mod token_decoder;

use std::path::Path;

use super::files::{file_error, read_json_if_present};
use super::{Prompt, PromptPart, TextError};
use hf::HfTokenizer;
use table::TokenTable;
pub use tiktoken::QWEN_VOCABULARY;
use tiktoken::TiktokenTokenizer;
use token_decoder::LeadingStrip;

const HF_VOCABULARY: &str = "tokenizer.json";
const SENTENCEPIECE_VOCABULARY: &str = "tokenizer.model";

/// Token ids of a text and the byte range of the text that each stands for.
///
/// Ranges lie on character borders: each token of a character cut in several has the whole
/// character's range. Where normalisation rewrote a stretch of text, its tokens have the range of the
/// whole stretch as the client sent it (`qwen.tiktoken`; about its part of one beyond 128 bytes) or of
/// the characters that the library takes for its origin (`tokenizer.json`). Tokens added by the post-processor have empty ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoding {
    pub ids: Vec<u32>,
    pub offsets: Vec<(usize, usize)>,
}

/// A model's vocabulary: `qwen.tiktoken` or `tokenizer.json`.
pub struct Tokenizer {
    encoder: Encoder,
    table: TokenTable,
    leading_strip: Option<LeadingStrip>,
    eos_ids: Vec<u32>,
}

enum Encoder {
    Tiktoken(Box<TiktokenTokenizer>),
    Hf(Box<HfTokenizer>),
}

impl Tokenizer {
    /// Reads the tokenizer of a checkpoint folder. Where both vocabularies are there, `qwen.tiktoken`,
    /// the original model's own, is taken.
    pub fn from_dir(dir: &Path) -> Result<Self, TextError> {
        let (encoder, table, leading_strip) = if dir.join(QWEN_VOCABULARY).exists() {
            let (encoder, table) = TiktokenTokenizer::from_file(&dir.join(QWEN_VOCABULARY))?;
            (Encoder::Tiktoken(Box::new(encoder)), table, None)
        } else if dir.join(HF_VOCABULARY).exists() {
            let hf::Loaded { encoder, table, leading_strip } =
                HfTokenizer::from_file(&dir.join(HF_VOCABULARY))?;
            (Encoder::Hf(Box::new(encoder)), table, leading_strip)
        } else {
            return Err(no_vocabulary(dir));
        };
        let mut tokenizer = Self { encoder, table, leading_strip, eos_ids: Vec::new() };
        let config_path = dir.join("tokenizer_config.json");
        let config = read_json_if_present(&config_path)?.unwrap_or_default();
        tokenizer.eos_ids = eos::read(dir, &config, &tokenizer)?;
        Ok(tokenizer)
    }

    /// Encodes raw text; special tokens written out in it become their ids. `add_special_tokens`
    /// runs the tokenizer's own post-processor (a BOS where the model has one).
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Encoding, TextError> {
        match &self.encoder {
            Encoder::Tiktoken(encoder) => encoder.encode(text, &self.table),
            Encoder::Hf(encoder) => encoder.encode(text, add_special_tokens),
        }
    }

    /// The ids of `encode`, which takes several times as long.
    pub fn ids(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        match &self.encoder {
            Encoder::Tiktoken(encoder) => Ok(encoder.encode(text, &self.table)?.ids),
            Encoder::Hf(encoder) => encoder.ids(text, add_special_tokens),
        }
    }

    /// The ids of `encode_prompt`.
    pub fn prompt_ids(&self, prompt: &Prompt) -> Result<Vec<u32>, TextError> {
        let Prompt::Parts(parts) = prompt else { return self.ids(&prompt.text(), false) };
        let mut ids = Vec::new();
        for part in parts {
            match (part, &self.encoder) {
                (PromptPart::Text(text), Encoder::Hf(encoder)) => ids.extend(encoder.ids_literally(text)?),
                _ => ids.extend(self.encode_part(part)?.ids),
            }
        }
        Ok(ids)
    }

    /// Encodes a rendered chat prompt, part by part, without adding special tokens. Offsets are into
    /// [`Prompt::text`].
    pub fn encode_prompt(&self, prompt: &Prompt) -> Result<Encoding, TextError> {
        let Prompt::Parts(parts) = prompt else { return self.encode(&prompt.text(), false) };
        let mut all = Encoding::default();
        let mut start = 0;
        for part in parts {
            let one = self.encode_part(part)?;
            all.ids.extend(one.ids);
            all.offsets.extend(one.offsets.into_iter().map(|(from, to)| (start + from, start + to)));
            start += part.text().len();
        }
        Ok(all)
    }

    /// In a text part, special tokens written out are plain characters.
    fn encode_part(&self, part: &PromptPart) -> Result<Encoding, TextError> {
        match (part, &self.encoder) {
            (PromptPart::Special(token), _) => {
                Ok(Encoding { ids: vec![self.special_id(token)?], offsets: vec![(0, token.len())] })
            }
            (PromptPart::Text(text), Encoder::Tiktoken(encoder)) => {
                encoder.encode_literally(text, &self.table)
            }
            (PromptPart::Text(text), Encoder::Hf(encoder)) => encoder.encode_literally(text),
        }
    }

    fn special_id(&self, token: &str) -> Result<u32, TextError> {
        self.token_id(token)
            .filter(|&id| self.is_special(id))
            .ok_or_else(|| TextError::Encode(format!("the vocabulary has no special token {token}")))
    }

    /// The id of a token written as the vocabulary file writes it.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        match &self.encoder {
            Encoder::Tiktoken(encoder) => encoder.token_id(token),
            Encoder::Hf(encoder) => encoder.token_id(token),
        }
    }

    /// The bytes a token stands for (a special token: its text); empty for ids without a token.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.table.bytes(id)
    }

    /// A token decoded on its own; bytes that are no UTF-8 become U+FFFD.
    pub fn token_text(&self, id: u32) -> String {
        String::from_utf8_lossy(self.token_bytes(id)).into_owned()
    }

    /// Whether a token is one of the vocabulary's special tokens; false for ids without a token.
    pub fn is_special(&self, id: u32) -> bool {
        self.table.is_special(id)
    }

    /// Text of a finished sequence of ids, from its first token on; bytes that are no UTF-8 become
    /// U+FFFD. The space that some vocabularies put before the first word is dropped.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let kept = ids.iter().filter(|&&id| !(skip_special && self.is_special(id)));
        let bytes: Vec<u8> = kept.flat_map(|&id| self.token_bytes(id)).copied().collect();
        self.strip_leading(&String::from_utf8_lossy(&bytes)).to_string()
    }

    /// `text` without what the vocabulary puts before the first word.
    pub(super) fn strip_leading<'a>(&self, text: &'a str) -> &'a str {
        self.leading_strip.map_or(text, |strip| strip.apply(text))
    }

    /// Ids that end a generation, ascending: generation_config.json's `eos_token_id` (number or list),
    /// the tokenizer's eos token, and for ChatML models `<|im_end|>` and `<|im_start|>`.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// One more than the largest token id. A model's logits may have more columns (padding).
    pub fn vocab_size(&self) -> usize {
        self.table.len()
    }

    fn is_tiktoken(&self) -> bool {
        matches!(self.encoder, Encoder::Tiktoken(_))
    }
}

fn no_vocabulary(dir: &Path) -> TextError {
    let mut detail = format!("has no tokenizer: expected {QWEN_VOCABULARY} or {HF_VOCABULARY}");
    if dir.join(SENTENCEPIECE_VOCABULARY).exists() {
        detail += &format!(
            "; {SENTENCEPIECE_VOCABULARY} alone is not read, save the fast tokenizer of transformers \
             (`AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)`) to get {HF_VOCABULARY}"
        );
    }
    file_error(dir, detail)
}

#[cfg(test)]
mod tests;
