//! Incremental detokenisation: whole characters only, as soon as they are whole.
//!
//! One per choice of a request, fed by the HTTP handlers with each sampled token. Holds at most the
//! three bytes of an unfinished character; never splits one, never waits on bytes that cannot become one.

use std::sync::Arc;

use super::Tokenizer;

/// Turns tokens into text one at a time without ever emitting half a character.
///
/// The tokens continue a prompt, so a leading space is text and is kept; [`Tokenizer::decode`], for a
/// text from its first token on, drops the space that some vocabularies put before the first word.
/// Otherwise all pushes and the finish together are what `decode` returns for the same ids.
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    /// Beginning of a character whose other bytes are still to come.
    unfinished: Vec<u8>,
}

impl Detokenizer {
    /// `skip_special` leaves special tokens out of the text.
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, unfinished: Vec::new() }
    }

    /// Text completed by this token: "" while a character is unfinished. Bytes that can no longer
    /// become a character come out as U+FFFD.
    pub fn push(&mut self, id: u32) -> String {
        if self.skip_special && self.tokenizer.is_special(id) {
            return String::new();
        }
        self.unfinished.extend_from_slice(self.tokenizer.token_bytes(id));
        let (text, n_read) = decode_whole_characters(&self.unfinished);
        self.unfinished.drain(..n_read);
        text
    }

    /// What is left at the end; an unfinished character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.unfinished)).into_owned()
    }
}

/// The text of `bytes` up to a character that more bytes could complete, and how many bytes it took.
/// Invalid sequences are replaced just as [`String::from_utf8_lossy`] replaces them.
fn decode_whole_characters(bytes: &[u8]) -> (String, usize) {
    let (mut text, mut n_read) = (String::new(), 0);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        n_read += chunk.valid().len();
        let invalid = chunk.invalid();
        let at_end = n_read + invalid.len() == bytes.len();
        if at_end && std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none()) {
            break;
        }
        if !invalid.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            n_read += invalid.len();
        }
    }
    (text, n_read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::testing;
    use proptest::prelude::*;

    fn stream(tokenizer: &Arc<Tokenizer>, ids: &[u32], skip_special: bool) -> Vec<String> {
        let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer), skip_special);
        let mut texts: Vec<String> = ids.iter().map(|&id| detokenizer.push(id)).collect();
        texts.push(detokenizer.finish());
        texts
    }

    /// Ids of single bytes in the small tiktoken vocabulary, whose first 256 ranks are the bytes in order.
    fn check_bytes(bytes: &[u8], expected: &[&str]) {
        let ids: Vec<u32> = bytes.iter().map(|&b| u32::from(b)).collect();
        assert_eq!(stream(&testing::tiktoken(), &ids, false), expected, "{bytes:x?}");
    }

    #[test]
    fn emits_whole_characters_as_soon_as_they_are_whole() {
        check_bytes("aé".as_bytes(), &["a", "", "é", ""]);
        check_bytes("你".as_bytes(), &["", "", "你", ""]);
        check_bytes("🦀".as_bytes(), &["", "", "", "🦀", ""]);
        check_bytes(&[0xe4, 0xbd], &["", "", "\u{fffd}"]);
        check_bytes(&[0xe4, b'a'], &["", "\u{fffd}a", ""]);
        check_bytes(&[0xe4, 0xe4, 0xbd, 0xa0], &["", "\u{fffd}", "", "你", ""]);
        check_bytes(&[0xff, 0x80], &["\u{fffd}", "\u{fffd}", ""]);
        check_bytes(&[0xf0, 0x9f, b'!'], &["", "", "\u{fffd}!", ""]);
        // 0xe0 0x80 can never begin a character, so it does not wait for a third byte.
        check_bytes(&[0xe0, 0x80], &["", "\u{fffd}\u{fffd}", ""]);
    }

    #[test]
    fn special_tokens_are_text_only_when_asked_for() {
        let tokenizer = testing::tiktoken();
        let end = tokenizer.token_id("<|im_end|>").unwrap();
        assert_eq!(stream(&tokenizer, &[u32::from(b'a'), end], true).concat(), "a");
        assert_eq!(stream(&tokenizer, &[u32::from(b'a'), end], false).concat(), "a<|im_end|>");
        assert_eq!(stream(&tokenizer, &[u32::MAX, 1 << 20], false).concat(), "");
    }

    #[test]
    fn a_continuation_keeps_its_leading_space() {
        let tokenizer = testing::metaspace();
        let ids = tokenizer.encode("hello world", false).unwrap().ids;
        assert_eq!(stream(&tokenizer, &ids, true).concat(), " hello world");
        assert_eq!(tokenizer.decode(&ids, true), "hello world");
    }

    fn check_equals_decode(tokenizer: &Arc<Tokenizer>, ids: &[u32], skip: bool) -> Result<(), TestCaseError> {
        let streamed = stream(tokenizer, ids, skip).concat();
        prop_assert_eq!(tokenizer.strip_leading(&streamed), tokenizer.decode(ids, skip));
        Ok(())
    }

    proptest! {
        #[test]
        fn streaming_equals_decoding_at_once(
            ids in prop::collection::vec(0u32..600, 0..40),
            skip_special in any::<bool>(),
        ) {
            check_equals_decode(&testing::tiktoken(), &ids, skip_special)?;
            check_equals_decode(&testing::byte_level(), &ids, skip_special)?;
            check_equals_decode(&testing::metaspace(), &ids, skip_special)?;
        }

        #[test]
        fn any_split_of_any_bytes_equals_the_lossy_text(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let ids: Vec<u32> = bytes.iter().map(|&b| u32::from(b)).collect();
            prop_assert_eq!(stream(&testing::tiktoken(), &ids, false).concat(), String::from_utf8_lossy(&bytes));
        }
    }
}
