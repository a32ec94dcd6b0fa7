//! The `decoder` section of tokenizer.json, turned into a rule for one token at a time.
//!
//! Called by `hf` once a token at load. A decoder whose output for a token depends on other tokens
//! (beyond a leading space) is refused with a clear error rather than streamed wrongly.

use std::sync::LazyLock;

use serde_json::Value;

/// What turns a token as the vocabulary writes it into bytes.
pub struct TokenDecoder {
    steps: Vec<Step>,
    pub leading_strip: Option<LeadingStrip>,
}

enum Step {
    /// Each character stands for a byte (GPT-2's alphabet).
    ByteLevel,
    Replace {
        from: String,
        to: String,
    },
    /// `<0xNN>` is the byte NN.
    ByteFallback,
}

/// At most `max` characters `content` are dropped at the beginning of a decoded text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LeadingStrip {
    content: char,
    max: usize,
}

impl LeadingStrip {
    pub fn apply(self, text: &str) -> &str {
        let mut text = text;
        for _ in 0..self.max {
            let Some(rest) = text.strip_prefix(self.content) else { break };
            text = rest;
        }
        text
    }
}

impl TokenDecoder {
    /// `decoder` is the section's JSON; null where the file has none.
    pub fn new(decoder: &Value) -> Result<Self, String> {
        let mut new = Self { steps: Vec::new(), leading_strip: None };
        let mut is_fused = false;
        for component in components(decoder)? {
            let text = |key: &str| component.get(key).and_then(Value::as_str);
            match text("type").unwrap_or_default() {
                "ByteLevel" => new.steps.push(Step::ByteLevel),
                "ByteFallback" => new.steps.push(Step::ByteFallback),
                "Fuse" => is_fused = true,
                "Replace" => {
                    let from = component.pointer("/pattern/String").and_then(Value::as_str);
                    let (Some(from), Some(to)) = (from, text("content")) else {
                        return Err(unsupported(component));
                    };
                    new.steps.push(Step::Replace { from: from.to_string(), to: to.to_string() });
                }
                "Metaspace" => {
                    let replacement = text("replacement").ok_or_else(|| unsupported(component))?;
                    new.steps.push(Step::Replace { from: replacement.to_string(), to: " ".to_string() });
                    if prepends_space(component) {
                        new.leading_strip = Some(LeadingStrip { content: ' ', max: 1 });
                    }
                }
                "Strip" if is_fused => new.leading_strip = Some(leading_strip(component)?),
                _ => return Err(unsupported(component)),
            }
        }
        Ok(new)
    }

    /// The bytes of a token of the vocabulary (not of an added token, which is its own text).
    pub fn bytes(&self, token: &str) -> Vec<u8> {
        let mut text = token.to_string();
        for step in &self.steps {
            match step {
                Step::ByteLevel => {
                    let bytes: Option<Vec<u8>> = text.chars().map(byte_of_char).collect();
                    return bytes.unwrap_or_else(|| text.into_bytes());
                }
                Step::Replace { from, to } => text = text.replace(from, to),
                Step::ByteFallback => {
                    if let Some(byte) = fallback_byte(&text) {
                        return vec![byte];
                    }
                }
            }
        }
        text.into_bytes()
    }
}

/// A `Sequence` is its decoders, anything else itself.
fn components(decoder: &Value) -> Result<Vec<&Value>, String> {
    match decoder.get("type").and_then(Value::as_str) {
        Some("Sequence") => {
            let decoders = decoder.get("decoders").and_then(Value::as_array);
            Ok(decoders.ok_or_else(|| unsupported(decoder))?.iter().collect())
        }
        _ => Ok(vec![decoder]),
    }
}

fn unsupported(component: &Value) -> String {
    format!(
        "decoder {component} is not supported; expected ByteLevel, Metaspace, or a sequence of Replace \
         (of a string), ByteFallback, Fuse and then Strip (at the start)"
    )
}

/// Whether encoding puts a space before the text: newer files say `prepend_scheme`, older ones
/// `add_prefix_space`; yes where neither says no.
fn prepends_space(metaspace: &Value) -> bool {
    metaspace.get("prepend_scheme").is_none_or(|scheme| scheme != "never")
        && metaspace.get("add_prefix_space").is_none_or(|prefix| prefix != false)
}

fn leading_strip(strip: &Value) -> Result<LeadingStrip, String> {
    let mut content = strip.get("content").and_then(Value::as_str).unwrap_or_default().chars();
    let number = |key: &str| strip.get(key).and_then(Value::as_u64);
    match (content.next(), content.next(), number("start"), number("stop")) {
        (Some(content), None, Some(max), Some(0)) => Ok(LeadingStrip { content, max: max as usize }),
        _ => Err(unsupported(strip)),
    }
}

fn fallback_byte(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_hex = hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    is_hex.then(|| u8::from_str_radix(hex, 16).ok())?
}

/// The bytes that another character stands for, in ascending order.
static OTHERS: LazyLock<Vec<u8>> = LazyLock::new(|| (0..=u8::MAX).filter(|&b| !is_own_char(b)).collect());

/// GPT-2's alphabet: printable Latin-1 characters stand for their own byte, the other bytes in
/// ascending order for U+0100 on.
fn byte_of_char(c: char) -> Option<u8> {
    match u8::try_from(c) {
        Ok(byte) => is_own_char(byte).then_some(byte),
        Err(_) => OTHERS.get((c as usize).checked_sub(0x100)?).copied(),
    }
}

/// The character of GPT-2's alphabet that stands for a byte.
pub fn char_of_byte(byte: u8) -> char {
    static CHARS: LazyLock<[char; 256]> = LazyLock::new(|| {
        let mut chars = std::array::from_fn(|byte| char::from(byte as u8));
        for (c, &byte) in ('\u{100}'..).zip(OTHERS.iter()) {
            chars[usize::from(byte)] = c;
        }
        chars
    });
    CHARS[usize::from(byte)]
}

fn is_own_char(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_byte_alphabet_has_each_byte_once() {
        let mut bytes: Vec<u8> = (0..0x200).filter_map(|c| byte_of_char(char::from_u32(c)?)).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=u8::MAX).collect::<Vec<u8>>());
        assert!((0..=u8::MAX).all(|byte| byte_of_char(char_of_byte(byte)) == Some(byte)));
        let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        assert!(alphabet.len() == 256 && alphabet.iter().all(|&c| byte_of_char(c).is_some()));
    }

    #[test]
    fn decoders_of_the_served_families() {
        let check = |decoder: Value, token: &str, bytes: &[u8], strip: bool| {
            let decoder = TokenDecoder::new(&decoder).unwrap();
            assert_eq!(decoder.bytes(token), bytes, "{token}");
            assert_eq!(decoder.leading_strip.is_some(), strip);
        };
        let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false});
        check(byte_level.clone(), "ĠhelloĊ", b" hello\n", false);
        check(byte_level.clone(), "Ã©", "é".as_bytes(), false);
        check(byte_level, "a b", b"a b", false);
        let metaspace =
            |scheme: &str| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme});
        check(metaspace("first"), "▁hello", b" hello", true);
        check(metaspace("never"), "▁▁", b"  ", false);
        check(json!({"type": "Metaspace", "replacement": "▁", "add_prefix_space": false}), "▁", b" ", false);
        let llama = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        check(llama.clone(), "▁hello", b" hello", true);
        check(llama.clone(), "<0xE4>", &[0xe4], true);
        check(llama.clone(), "<0x+4>", b"<0x+4>", true);
        check(llama, "<0xE4", b"<0xE4", true);
    }

    #[test]
    fn decoders_that_cannot_stream_are_refused() {
        let check = |decoder: Value| {
            let message = TokenDecoder::new(&decoder).err().unwrap();
            assert!(message.contains("is not supported; expected ByteLevel"), "{message}");
        };
        check(Value::Null);
        check(json!({"type": "WordPiece", "prefix": "##"}));
        check(json!({"type": "Sequence"}));
        check(json!({"type": "Replace", "pattern": {"Regex": "a+"}, "content": ""}));
        check(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        let fused = |strip: Value| json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, strip]});
        check(fused(json!({"type": "Strip", "content": " ", "start": 0, "stop": 1})));
        check(fused(json!({"type": "Strip", "content": "", "start": 1, "stop": 0})));
        check(fused(json!({"type": "Strip", "content": "ab", "start": 1, "stop": 0})));
    }

    #[test]
    fn only_so_many_leading_spaces_are_dropped() {
        let check = |max: usize, text: &str, expected: &str| {
            assert_eq!(LeadingStrip { content: ' ', max }.apply(text), expected);
        };
        check(1, "  a ", " a ");
        check(1, "a", "a");
        check(1, "", "");
        check(usize::MAX, "   ", "");
        check(0, " a", " a");
    }
}
