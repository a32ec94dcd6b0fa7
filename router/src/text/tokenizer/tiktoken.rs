//! `qwen.tiktoken`, the vocabulary of the original Qwen: byte-pair ranks in base64, one a line.
//!
//! Called by `Tokenizer`. The file is checked completely before the BPE library, which trusts its
//! maps, sees it.

use std::collections::HashSet;
use std::path::Path;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustc_hash::FxHashMap;
use tiktoken_rs::CoreBPE;

use super::Encoding;
use super::nfc::Nfc;
use super::table::{MAX_TOKENS, TokenTable};
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
    /// Whether a byte has a token; the library must not see one that has none.
    has_byte: [bool; 256],
}

impl TiktokenTokenizer {
    pub fn from_file(path: &Path) -> Result<(Self, TokenTable), TextError> {
        let file = read_bounded(path, MAX_VOCABULARY_BYTES)?;
        let tokens = parse_tokens(&file).map_err(|detail| file_error(path, detail))?;
        let has_byte = single_bytes(&tokens).map_err(|detail| file_error(path, detail))?;
        let n_ranks = tokens.len() as u32;
        let mut table = TokenTable::default();
        tokens.iter().for_each(|token| table.push(token, false));
        SPECIAL_TOKENS.iter().for_each(|token| table.push(token.as_bytes(), true));
        let ranks = rank_map(tokens).map_err(|detail| file_error(path, detail))?;
        let special = SPECIAL_TOKENS.iter().cloned().zip(n_ranks..).collect();
        let bpe = CoreBPE::new(ranks, special, SPLIT_PATTERN)
            .map_err(|e| file_error(path, format!("cannot be used: {e}")))?;
        Ok((Self { bpe, n_ranks, has_byte }, table))
    }

    /// Special tokens written out in the text become their ids.
    pub fn encode(&self, text: &str, table: &TokenTable) -> Result<Encoding, TextError> {
        self.encode_allowing(text, &ALL_SPECIAL, table)
    }

    /// Special tokens written out in the text are characters like any other.
    pub fn encode_literally(&self, text: &str, table: &TokenTable) -> Result<Encoding, TextError> {
        self.encode_allowing(text, &HashSet::new(), table)
    }

    fn encode_allowing(
        &self,
        text: &str,
        allowed_special: &HashSet<&str>,
        table: &TokenTable,
    ) -> Result<Encoding, TextError> {
        let nfc = Nfc::new(text);
        let ids = self.encode_normalised(&nfc.text, allowed_special)?;
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

    fn encode_normalised(&self, text: &str, allowed_special: &HashSet<&str>) -> Result<Vec<u32>, TextError> {
        if let Some(byte) = text.bytes().find(|&byte| !self.has_byte[byte as usize]) {
            return Err(TextError::Encode(format!("the vocabulary has no token for the byte 0x{byte:02x}")));
        }
        let (ids, _) = self.bpe.encode(text, allowed_special).map_err(|e| TextError::Encode(e.message))?;
        Ok(ids)
    }

    /// The id of a special token.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        let i = SPECIAL_TOKENS.iter().position(|special| special == token)?;
        Some(self.n_ranks + i as u32)
    }
}

/// The tokens in order of rank: lines of `BASE64 RANK`, ranks 0.. each exactly once. Errors name the line.
fn parse_tokens(file: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let lines =
        || file.split(|&b| b == b'\n').map(<[u8]>::trim_ascii).zip(1..).filter(|(l, _)| !l.is_empty());
    let n_lines = lines().count();
    if n_lines == 0 || n_lines > MAX_TOKENS {
        return Err(format!("has {n_lines} tokens, expected 1 to {MAX_TOKENS}"));
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

/// Which bytes have a token of their own. Small vocabularies leave some out (control characters), but
/// then in all their tokens: merging starts from single bytes, and where it gets stuck on one without
/// a token the library panics.
fn single_bytes(tokens: &[Vec<u8>]) -> Result<[bool; 256], String> {
    let mut has_byte = [false; 256];
    for token in tokens {
        if let [byte] = token[..] {
            has_byte[byte as usize] = true;
        }
    }
    for (rank, token) in tokens.iter().enumerate() {
        if let Some(byte) = token.iter().find(|&&byte| !has_byte[byte as usize]) {
            return Err(format!("rank {rank} has the byte 0x{byte:02x}, which has no token of its own"));
        }
    }
    Ok(has_byte)
}

/// The map that the library takes.
fn rank_map(tokens: Vec<Vec<u8>>) -> Result<FxHashMap<Vec<u8>, u32>, String> {
    let mut ranks = FxHashMap::with_capacity_and_hasher(tokens.len(), Default::default());
    for (token, rank) in tokens.into_iter().zip(0..) {
        if let Some(first) = ranks.insert(token, rank) {
            return Err(format!("ranks {first} and {rank} are the same token"));
        }
    }
    Ok(ranks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::testing::{tiktoken_file, with_files};

    fn read(file: &str) -> Result<(TiktokenTokenizer, TokenTable), String> {
        with_files(&[(QWEN_VOCABULARY, file)], |dir| {
            TiktokenTokenizer::from_file(&dir.join(QWEN_VOCABULARY)).map_err(|e| e.to_string())
        })
    }

    #[test]
    fn faults_of_the_file_are_named() {
        let check = |file: &str, expected: &str| {
            let message = read(file).err().unwrap();
            assert!(message.contains(&format!("{QWEN_VOCABULARY}: {expected}")), "{message}");
        };
        check("", "has 0 tokens, expected 1 to");
        check("\n\n", "has 0 tokens");
        check("YQ==", "line 1: expected a token in base64, a space and its rank");
        check("YQ== 0 0", "line 1: expected a token in base64");
        check("Y!== 0", "line 1: the token is not base64");
        check(" 0", "line 1: expected a token in base64");
        check("YQ== 0\n= 1", "line 2: the token is not base64");
        check("YQ== x", "line 1: the rank is not a number");
        check("YQ== -1", "line 1: the rank is not a number");
        check("YQ== 99999999999999999999999", "line 1: the rank is not a number");
        check("YQ== 0\n\nYg== 2", "line 3: rank 2 in a file of 2 tokens, expected ranks 0 to 1");
        check("YQ== 0\nYg== 0", "line 2: rank 0 occurs twice");
        check("YQ== 0\nYQ== 1", "ranks 0 and 1 are the same token");
        check("YQ== 0\nYWI= 1", "rank 1 has the byte 0x62, which has no token of its own");
    }

    #[test]
    fn line_ends_of_windows_make_no_difference() {
        let file = tiktoken_file();
        let (_, table) = read(&file.replace('\n', "\r\n")).unwrap();
        assert_eq!(table.len(), file.lines().count() + SPECIAL_TOKENS.len());
    }

    #[test]
    fn text_with_a_byte_that_has_no_token_is_an_error() {
        let (tokenizer, table) = read("YQ== 0\nYg== 1\nYWI= 2\n").unwrap();
        let encode = |text: &str| tokenizer.encode(text, &table).map(|e| e.ids).map_err(|e| e.to_string());
        assert_eq!(encode("aab").unwrap(), [0, 2]);
        let expected = "tokenizer error the vocabulary has no token for the byte 0x63";
        assert_eq!(encode("abc").unwrap_err(), expected);
    }
}
