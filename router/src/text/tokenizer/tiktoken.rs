//! `qwen.tiktoken`, the vocabulary of the original Qwen: byte-pair ranks in base64, one a line.
//!
//! Called by `Tokenizer`. The file is checked completely before the BPE library, which trusts its
//! maps, sees it.

use std::collections::HashSet;
use std::path::Path;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tiktoken_rs::CoreBPE;

use super::Encoding;
use super::nfc::Nfc;
use super::table::{MAX_TOKENS, TokenEntry, TokenTable};
use crate::text::TextError;
use crate::text::files::{MAX_VOCABULARY_BYTES, file_error, read_bounded};

/// The file's name in a checkpoint folder.
pub const QWEN_VOCABULARY: &str = "qwen.tiktoken";

/// How text is split before the byte-pair merges; shared by all Qwen models.
const SPLIT_PATTERN: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// The special tokens, whose ids follow the last rank in this order.
static SPECIAL_TOKENS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let chat = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(str::to_string);
    chat.into_iter().chain((0..205).map(|i| format!("<|extra_{i}|>"))).collect()
});

static ALL_SPECIAL: LazyLock<HashSet<&'static str>> =
    LazyLock::new(|| SPECIAL_TOKENS.iter().map(String::as_str).collect());

/// The BPE over the file's ranks.
pub struct TiktokenTokenizer {
    bpe: CoreBPE,
    n_ranks: u32,
}

impl TiktokenTokenizer {
    pub fn from_file(path: &Path) -> Result<(Self, TokenTable), TextError> {
        let bytes = read_bounded(path, MAX_VOCABULARY_BYTES)?;
        let tokens = parse_ranks(&bytes).map_err(|detail| file_error(path, detail))?;
        let n_ranks = tokens.len() as u32;
        let special = || SPECIAL_TOKENS.iter().zip(n_ranks..);
        let ranks = tokens.iter().cloned().zip(0..).collect();
        let special_ranks = special().map(|(token, id)| (token.clone(), id)).collect();
        let bpe = CoreBPE::new(ranks, special_ranks, SPLIT_PATTERN)
            .map_err(|e| file_error(path, format!("cannot be used: {e}")))?;
        let plain = tokens.into_iter().map(|bytes| TokenEntry { bytes, is_special: false });
        let special =
            special().map(|(token, _)| TokenEntry { bytes: token.clone().into_bytes(), is_special: true });
        Ok((Self { bpe, n_ranks }, plain.chain(special).collect()))
    }

    /// Special tokens written out in the text become their ids.
    pub fn encode(&self, text: &str, table: &TokenTable) -> Result<Encoding, TextError> {
        let nfc = Nfc::new(text);
        let ids = self.encode_normalised(&nfc.text, &ALL_SPECIAL)?;
        // The tokens' bytes are the normalised text, cut.
        let mut end = 0;
        let offsets = ids
            .iter()
            .map(|&id| {
                let start = end;
                end += table.bytes(id).len();
                nfc.original_range(start..end)
            })
            .collect();
        Ok(Encoding { ids, offsets })
    }

    /// Special tokens written out in the text are characters like any other.
    pub fn encode_literally(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.encode_normalised(&Nfc::new(text).text, &HashSet::new())
    }

    fn encode_normalised(&self, text: &str, allowed_special: &HashSet<&str>) -> Result<Vec<u32>, TextError> {
        let (ids, _) = self.bpe.encode(text, allowed_special).map_err(|e| TextError::Encode(e.message))?;
        Ok(ids)
    }

    /// The id of a special token.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        let i = SPECIAL_TOKENS.iter().position(|special| special == token)?;
        Some(self.n_ranks + i as u32)
    }
}

/// The tokens in order of rank: lines of `BASE64 RANK`, ranks 0.. each exactly once, no token twice,
/// all 256 single bytes there (so that any text can be encoded). Errors name the line.
fn parse_ranks(file: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let lines =
        || file.split(|&b| b == b'\n').map(<[u8]>::trim_ascii).zip(1..).filter(|(l, _)| !l.is_empty());
    let n_lines = lines().count();
    if n_lines > MAX_TOKENS {
        return Err(format!("has {n_lines} tokens, expected at most {MAX_TOKENS}"));
    }
    let mut tokens = vec![Vec::new(); n_lines];
    for (line, number) in lines() {
        let (token, rank) = parse_line(line).map_err(|detail| format!("line {number}: {detail}"))?;
        let slot = tokens.get_mut(rank).ok_or_else(|| {
            format!("line {number}: rank {rank} in a file of {n_lines} tokens, expected ranks 0 to {} without gaps", n_lines - 1)
        })?;
        if !slot.is_empty() {
            return Err(format!("line {number}: rank {rank} occurs twice"));
        }
        *slot = token;
    }
    check_tokens(&tokens)?;
    Ok(tokens)
}

fn parse_line(line: &[u8]) -> Result<(Vec<u8>, usize), String> {
    let mut fields = line.split(|&b| b == b' ');
    let (Some(token), Some(rank), None) = (fields.next(), fields.next(), fields.next()) else {
        return Err("expected a token in base64, a space and its rank".to_string());
    };
    let token = STANDARD.decode(token).map_err(|e| format!("the token is not base64: {e}"))?;
    if token.is_empty() {
        return Err("the token is empty".to_string());
    }
    let rank = std::str::from_utf8(rank).ok().and_then(|rank| rank.parse().ok());
    Ok((token, rank.ok_or("the rank is not a number")?))
}

fn check_tokens(tokens: &[Vec<u8>]) -> Result<(), String> {
    let mut ranks = rustc_hash::FxHashMap::default();
    for (rank, token) in tokens.iter().enumerate() {
        if let Some(first) = ranks.insert(token.as_slice(), rank) {
            return Err(format!("ranks {first} and {rank} are the same token"));
        }
    }
    match (0..=u8::MAX).find(|byte| !ranks.contains_key([*byte].as_slice())) {
        Some(byte) => Err(format!("has no token for the byte 0x{byte:02x}, expected all 256 single bytes")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::testing::tiktoken_file;

    #[test]
    fn faults_of_the_file_are_named() {
        let check = |file: &str, expected: &str| {
            let message = parse_ranks(file.as_bytes()).unwrap_err();
            assert!(message.contains(expected), "{message}");
        };
        let good = tiktoken_file();
        let n = good.lines().count();
        assert_eq!(parse_ranks(good.as_bytes()).unwrap().len(), n);
        assert_eq!(parse_ranks(good.replace('\n', "\r\n").as_bytes()).unwrap().len(), n);
        check("", "no token for the byte 0x00");
        check("YQ==", "line 1: expected a token in base64, a space and its rank");
        check("YQ== 0 0", "line 1: expected a token in base64");
        check("Y!== 0", "line 1: the token is not base64");
        check(" 0", "line 1: expected a token in base64");
        check("YQ== x", "line 1: the rank is not a number");
        check("YQ== -1", "line 1: the rank is not a number");
        check("YQ== 99999999999999999999999", "line 1: the rank is not a number");
        check("YQ== 0\n\nYg== 2", "line 3: rank 2 in a file of 2 tokens, expected ranks 0 to 1");
        check("YQ== 0\nYg== 0", "line 2: rank 0 occurs twice");
        check("YQ== 0\nYQ== 1", "ranks 0 and 1 are the same token");
        check("YQ== 0\nYg== 1", "no token for the byte 0x00");
    }
}
