//! Text to tokens and back: tokenizers, chat templates, incremental detokenisation, stop strings.

use std::path::Path;

/// A tokenizer, special tokens or template that cannot be read or applied.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    #[error("{path}: {detail}")]
    File { path: String, detail: String },
    #[error("tokenizer error {0}")]
    Encode(String),
    #[error("template not found")]
    NoTemplate,
    #[error("{0}")]
    Template(String),
}

/// Token ids of a text and the byte range of the text that each stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoding {
    pub ids: Vec<u32>,
    pub offsets: Vec<(usize, usize)>,
}

/// A model's vocabulary: `qwen.tiktoken` or `tokenizer.json`.
pub struct Tokenizer {}

impl Tokenizer {
    /// Reads the tokenizer of a checkpoint folder.
    pub fn from_dir(dir: &Path) -> Result<Self, TextError> {
        Err(TextError::File { path: dir.display().to_string(), detail: "no tokenizer".into() })
    }
    /// Encodes raw text; special tokens written out in it become their ids. `add_special_tokens`
    /// runs the tokenizer's own post-processor (a BOS where the model has one).
    pub fn encode(&self, _text: &str, _add_special_tokens: bool) -> Result<Encoding, TextError> {
        Ok(Encoding::default())
    }
    /// Encodes a rendered chat prompt, part by part, without adding special tokens.
    pub fn encode_prompt(&self, _prompt: &Prompt) -> Result<Vec<u32>, TextError> {
        Ok(Vec::new())
    }
    /// The bytes a token stands for (a special token: its text); empty for ids without a token.
    pub fn token_bytes(&self, _id: u32) -> &[u8] {
        &[]
    }
    pub fn is_special(&self, _id: u32) -> bool {
        false
    }
    /// Text of a finished sequence of ids; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, _ids: &[u32], _skip_special: bool) -> String {
        String::new()
    }
    /// Ids that end a generation: generation_config.json's `eos_token_id` (number or list), the
    /// tokenizer's eos token, and for ChatML models `<|im_end|>` and `<|im_start|>`.
    pub fn eos_ids(&self) -> &[u32] {
        &[]
    }
}

/// A chat prompt after its template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// One text in which special tokens are parsed (a template's output).
    Text(String),
    /// Parts encoded one by one (Qwen v1's ChatML): text in `PromptPart::Text` cannot inject a special token.
    Parts(Vec<PromptPart>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptPart {
    Special(&'static str),
    Text(String),
}

/// One chat message as templates see it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ChatMessage {
    pub role: String,
    pub content: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The model's chat template, or the built-in ChatML of the original Qwen.
pub struct ChatTemplate {}

impl ChatTemplate {
    /// `tokenizer_config_path` overrides the folder's tokenizer_config.json.
    pub fn from_dir(_dir: &Path, _tokenizer_config_path: Option<&Path>) -> Result<Self, TextError> {
        Err(TextError::NoTemplate)
    }
    /// Renders messages and the opening of the assistant's turn. A last message from the assistant
    /// is continued instead (TGI's rule: cut right after its content, right-trimmed).
    pub fn apply(&self, _messages: &[ChatMessage]) -> Result<Prompt, TextError> {
        Err(TextError::NoTemplate)
    }
}

/// Turns tokens into text one at a time without ever emitting half a character.
pub struct Detokenizer {}

impl Detokenizer {
    pub fn new(_tokenizer: std::sync::Arc<Tokenizer>, _skip_special: bool) -> Self {
        Self {}
    }
    /// Text completed by this token: "" while a character is unfinished.
    pub fn push(&mut self, _id: u32) -> String {
        String::new()
    }
    /// What is left at the end; an unfinished character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        String::new()
    }
}

/// Finds stop strings anywhere in streamed text, across token borders, holding back a possible
/// partial match.
pub struct StopMatcher {}

/// What a piece of text did to the matcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopOutcome {
    /// Text that is safe to send now (up to the stop string's start when one matched).
    pub emit: String,
    /// The stop string that matched; nothing after it may be sent.
    pub matched: Option<String>,
}

impl StopMatcher {
    pub fn new(_stops: &[String]) -> Self {
        Self {}
    }
    pub fn push(&mut self, piece: &str) -> StopOutcome {
        StopOutcome { emit: piece.to_string(), matched: None }
    }
    /// Text still held back when the generation ends for another reason.
    pub fn finish(&mut self) -> String {
        String::new()
    }
}
