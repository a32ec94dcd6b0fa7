//! The byte-level BPE vocabulary of a GGUF as tokenizer.json and tokenizer_config.json.
//! Called by `run`. Must never approximate: a pre-tokenizer that is not known exactly is an error, because a wrong
//! split silently costs quality.

use serde_json::{Map, Value, json};

use super::ConvertError;
use super::config::{Dims, token_id};
use super::gguf::{Header, required};

/// Token types of the GGUF specification; the others (unused, unknown, byte) get no entry.
const NORMAL: i128 = 1;
const CONTROL: i128 = 3;
const USER_DEFINED: i128 = 4;

/// How Qwen models split text into words before merging bytes.
const QWEN_SPLIT: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PreTokenizer {
    Gpt2,
    Smollm,
    Qwen2,
}

/// The vocabulary of a GGUF, checked.
pub(super) struct Tokenizer<'a> {
    header: &'a Header,
    pre: PreTokenizer,
    tokens: &'a [String],
    types: Vec<i128>,
    merges: &'a [String],
}

impl<'a> Tokenizer<'a> {
    /// Looks the vocabulary up and checks that its parts agree.
    pub(super) fn read(header: &'a Header, dims: &Dims) -> Result<Self, ConvertError> {
        let meta = &header.metadata;
        let (model, pre) = ("tokenizer.ggml.model", "tokenizer.ggml.pre");
        match required(meta.str(model)?, model)? {
            "gpt2" => {}
            other => {
                return Err(ConvertError::Unsupported(format!(
                    "tokenizer model {other:?}; only byte-level BPE (\"gpt2\") is supported"
                )));
            }
        }
        let pre = PreTokenizer::from_name(required(meta.str(pre)?, pre)?)?;
        let (tokens, types) = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type");
        let merges = "tokenizer.ggml.merges";
        let tokenizer = Self {
            header,
            pre,
            tokens: required(meta.strings(tokens)?, tokens)?,
            types: required(meta.ints(types)?, types)?,
            merges: required(meta.strings(merges)?, merges)?,
        };
        let (n_tokens, n_types) = (tokenizer.tokens.len(), tokenizer.types.len());
        if n_tokens != n_types || n_tokens > dims.vocab {
            return Err(ConvertError::Damaged(format!(
                "{n_tokens} tokens, {n_types} token types and {} embedding rows do not agree",
                dims.vocab
            )));
        }
        Ok(tokenizer)
    }

    /// tokenizer.json.
    pub(super) fn tokenizer_json(&self) -> Value {
        let qwen2 = self.pre == PreTokenizer::Qwen2;
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added_tokens().map(|(id, token)| with_id(id, token)).collect::<Vec<_>>(),
            "normalizer": if qwen2 { json!({"type": "NFC"}) } else { Value::Null },
            "pre_tokenizer": self.pre.json(),
            "post_processor": byte_level(!qwen2, true),
            "decoder": byte_level(true, true),
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "",
                "fuse_unk": false,
                "byte_fallback": false,
                "vocab": self.vocab(),
                "merges": self.merges,
            },
        })
    }

    /// tokenizer_config.json.
    pub(super) fn tokenizer_config(&self, dims: &Dims) -> Result<Value, ConvertError> {
        let meta = &self.header.metadata;
        let qwen2 = self.pre == PreTokenizer::Qwen2;
        let decoder: Map<_, _> = self.added_tokens().map(|(id, token)| (id.to_string(), token)).collect();
        Ok(json!({
            "add_bos_token": meta.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(false),
            "add_prefix_space": false,
            "added_tokens_decoder": decoder,
            "bos_token": if qwen2 { None } else { self.special("bos")? },
            "chat_template": meta.str("tokenizer.chat_template")?,
            "clean_up_tokenization_spaces": false,
            "eos_token": self.special("eos")?,
            "model_max_length": dims.context,
            "pad_token": self.special("padding")?,
            "tokenizer_class": if qwen2 { "Qwen2Tokenizer" } else { "GPT2Tokenizer" },
            "unk_token": self.special("unknown")?,
        }))
    }

    /// Ids and texts of the BPE model. A control token below the top of the vocabulary belongs to it too (SmolLM2
    /// keeps its 17 at ids 0 to 16); one above it is known as an added token only.
    fn vocab(&self) -> Map<String, Value> {
        let in_model = |id: usize, kind: i128| match kind {
            NORMAL => true,
            CONTROL | USER_DEFINED => id < self.merges.len(),
            _ => false,
        };
        let tokens = self.tokens.iter().zip(&self.types).enumerate();
        tokens
            .filter(|(id, (_, kind))| in_model(*id, **kind))
            .map(|(id, (t, _))| (t.clone(), id.into()))
            .collect()
    }

    /// Tokens that are matched in the text as a whole, by id.
    fn added_tokens(&self) -> impl Iterator<Item = (usize, Value)> {
        let tokens = self.tokens.iter().zip(&self.types).enumerate();
        tokens.filter(|(_, (_, kind))| matches!(**kind, CONTROL | USER_DEFINED)).map(
            |(id, (content, kind))| {
                let token = json!({
                    "content": content,
                    "single_word": false,
                    "lstrip": false,
                    "rstrip": false,
                    "normalized": false,
                    "special": *kind == CONTROL,
                });
                (id, token)
            },
        )
    }

    /// The text of the special token `name`.
    fn special(&self, name: &str) -> Result<Option<&str>, ConvertError> {
        let Some(id) = token_id(self.header, name)? else { return Ok(None) };
        let token = usize::try_from(id).ok().and_then(|id| self.tokens.get(id));
        token.map(|t| Some(t.as_str())).ok_or_else(|| {
            ConvertError::Damaged(format!(
                "{name} token id {id}: the vocabulary has {} tokens",
                self.tokens.len()
            ))
        })
    }
}

impl PreTokenizer {
    fn from_name(name: &str) -> Result<Self, ConvertError> {
        match name {
            "gpt2" | "gpt-2" => Ok(Self::Gpt2),
            "smollm" => Ok(Self::Smollm),
            "qwen2" => Ok(Self::Qwen2),
            other => Err(ConvertError::Unsupported(format!(
                "pre-tokenizer {other:?}; supported are gpt-2, smollm, qwen2"
            ))),
        }
    }

    fn json(self) -> Value {
        let first = match self {
            Self::Gpt2 => return byte_level(true, true),
            Self::Smollm => json!({"type": "Digits", "individual_digits": true}),
            Self::Qwen2 => json!({
                "type": "Split",
                "pattern": {"Regex": QWEN_SPLIT},
                "behavior": "Isolated",
                "invert": false,
            }),
        };
        let own_words = self != Self::Qwen2;
        json!({"type": "Sequence", "pretokenizers": [first, byte_level(own_words, own_words)]})
    }
}

fn byte_level(trim_offsets: bool, use_regex: bool) -> Value {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": false,
        "trim_offsets": trim_offsets,
        "use_regex": use_regex,
    })
}

/// An added token with its id as the first field.
fn with_id(id: usize, token: Value) -> Value {
    let mut fields = Map::from_iter([("id".to_owned(), Value::from(id))]);
    if let Value::Object(rest) = token {
        fields.extend(rest);
    }
    Value::Object(fields)
}
