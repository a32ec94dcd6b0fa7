//! Encoding, decoding and the files of a folder, over the three kinds of vocabulary.

use proptest::prelude::*;

use super::*;
use crate::text::testing::{self, with_files};

fn load(files: &[(&str, &str)]) -> Result<Tokenizer, String> {
    with_files(files, |dir| Tokenizer::from_dir(dir).map_err(|e| e.to_string()))
}

/// Each token's range of the text.
fn pieces<'a>(tokenizer: &Tokenizer, text: &'a str) -> Vec<&'a str> {
    let encoding = tokenizer.encode(text, false).unwrap();
    assert_eq!(encoding.ids.len(), encoding.offsets.len());
    encoding.offsets.iter().map(|&(start, end)| &text[start..end]).collect()
}

#[test]
fn a_tokenizer_is_shared_by_threads() {
    fn check<T: Send + Sync>() {}
    check::<Tokenizer>();
}

#[test]
fn tiktoken_ids_and_offsets() {
    let tokenizer = testing::tiktoken();
    let ids = |text: &str| tokenizer.encode(text, true).unwrap().ids;
    assert_eq!(ids(""), [] as [u32; 0]);
    assert_eq!(ids("hello world"), [259, 262, 263]);
    assert_eq!(ids("a<|im_end|><|extra_204|>"), [97, 268, 473]);
    assert_eq!(ids("<|extra_205|>").len(), "<|extra_205|>".len());
    // Normalised first: a letter and its accent are one character.
    assert_eq!(ids("e\u{301}"), [264]);
    assert_eq!(ids("你"), [265, 0xa0]);
    assert_eq!(pieces(&tokenizer, "hello<|im_end|> world"), ["hello", "<|im_end|>", " wor", "ld"]);
    assert_eq!(pieces(&tokenizer, "ae\u{301}b 你"), ["a", "e\u{301}", "b", " ", "你", "你"]);
    assert_eq!(tokenizer.vocab_size(), 266 + 208);
    assert_eq!(tokenizer.token_bytes(265), [0xe4, 0xbd]);
    assert_eq!(tokenizer.token_bytes(473), b"<|extra_204|>");
    assert!(tokenizer.is_special(266) && !tokenizer.is_special(265) && !tokenizer.is_special(474));
    assert_eq!(tokenizer.token_bytes(474), b"");
}

#[test]
fn byte_level_ids_and_offsets() {
    let tokenizer = testing::byte_level();
    let ids = |text: &str| tokenizer.encode(text, true).unwrap().ids;
    // Longer than the truncation that the file asks for.
    assert_eq!(ids("hello w"), [256, 257, u32::from(b'o'), 258]);
    assert_eq!(ids("aaaaaaaa"), [97; 8]);
    assert_eq!(ids("a<|im_end|>"), [97, 261]);
    assert_eq!(ids("e\u{301}"), [259]);
    assert_eq!(pieces(&tokenizer, "he 你<|im_end|>"), ["he", " ", "你", "你", "你", "<|im_end|>"]);
    assert_eq!(tokenizer.token_bytes(258), b" w");
    assert_eq!(tokenizer.token_bytes(262), "<tool é>".as_bytes());
    assert!(tokenizer.is_special(261) && !tokenizer.is_special(262));
    assert_eq!(tokenizer.decode(&[97, 262, 261], true), "a<tool é>");
    assert_eq!(tokenizer.vocab_size(), 263);
}

#[test]
fn metaspace_ids_and_bytes() {
    let tokenizer = testing::metaspace();
    let text = |ids: &[u32]| tokenizer.decode(ids, false);
    let encoding = tokenizer.encode("he 你\n", true).unwrap();
    assert_eq!(encoding.ids[0], 1, "the post-processor adds <s>");
    assert_eq!(text(&encoding.ids), "<s> he 你\n");
    assert_eq!(tokenizer.decode(&encoding.ids, true), "he 你\n");
    assert_eq!(tokenizer.token_bytes(3 + 0xe4), [0xe4]);
    assert_eq!(tokenizer.token_bytes(259), b" ");
    assert_eq!(text(&[259, 259]), " ");
    assert_eq!(text(&[3 + 0xe4, 259]), "\u{fffd} ");
}

#[test]
fn parts_of_a_prompt_cannot_inject_special_tokens() {
    let prompt =
        Prompt::Parts(vec![PromptPart::Special("<|im_start|>"), PromptPart::Text("<|im_end|>".into())]);
    for (tokenizer, start) in [(testing::tiktoken(), 267), (testing::byte_level(), 260)] {
        let Encoding { ids, offsets } = tokenizer.encode_prompt(&prompt).unwrap();
        assert_eq!((ids[0], offsets[0], offsets.last()), (start, (0, 12), Some(&(21, 22))));
        assert!(ids.len() > 2 && ids[1..].iter().all(|&id| !tokenizer.is_special(id)));
        assert_eq!(tokenizer.decode(&ids, false), "<|im_start|><|im_end|>");
    }
    let text = Prompt::Text("<|im_start|>a".into());
    assert_eq!(testing::tiktoken().encode_prompt(&text).unwrap().ids, [267, 97]);
    let message = testing::metaspace().encode_prompt(&prompt).unwrap_err().to_string();
    assert_eq!(message, "tokenizer error the vocabulary has no special token <|im_start|>");
}

#[test]
fn end_of_sequence_ids() {
    let (tiktoken, byte_level) = (testing::tiktoken_file(), testing::byte_level_file());
    let check = |vocabulary: (&str, &str), generation: &str, config: &str, expected: &[u32]| {
        let files = [vocabulary, ("generation_config.json", generation), ("tokenizer_config.json", config)];
        assert_eq!(load(&files).unwrap().eos_ids(), expected, "{generation} {config}");
    };
    let qwen = ("qwen.tiktoken", tiktoken.as_str());
    check(qwen, r#"{"eos_token_id": 266, "chat_format": "chatml"}"#, "{}", &[266, 267, 268]);
    check(qwen, "{}", "{}", &[266, 267, 268]);
    check(qwen, r#"{"eos_token_id": 266, "chat_format": "raw"}"#, "{}", &[266]);
    let qwen2 = ("tokenizer.json", byte_level.as_str());
    check(qwen2, r#"{"eos_token_id": 261}"#, r#"{"eos_token": "<|im_end|>"}"#, &[261]);
    check(
        qwen2,
        r#"{"eos_token_id": [261, 7]}"#,
        r#"{"eos_token": {"content": "<|im_start|>"}}"#,
        &[7, 260, 261],
    );
    check(qwen2, r#"{"eos_token_id": null}"#, r#"{"eos_token": "absent"}"#, &[]);
    let config = ("config.json", r#"{"eos_token_id": 5}"#);
    assert_eq!(load(&[qwen2, config]).unwrap().eos_ids(), [5]);
    let generation = ("generation_config.json", r#"{"eos_token_id": 261}"#);
    assert_eq!(load(&[qwen2, config, generation]).unwrap().eos_ids(), [261]);
    for bad in ["-1", "1.5", "\"2\"", "[1, null]", "4294967296"] {
        let generation = format!("{{\"eos_token_id\": {bad}}}");
        let message = load(&[qwen2, ("generation_config.json", &generation)]).err().unwrap();
        assert!(message.contains("generation_config.json: eos_token_id: expected a token id"), "{message}");
    }
}

#[test]
fn folders_that_cannot_be_used() {
    let byte_level = testing::byte_level_file();
    let check = |files: &[(&str, &str)], expected: &[&str]| {
        let message = load(files).err().unwrap();
        assert!(expected.iter().all(|e| message.contains(e)), "{message}");
    };
    check(&[], &["has no tokenizer: expected qwen.tiktoken or tokenizer.json"]);
    check(&[("tokenizer.model", "x")], &["tokenizer.model alone is not read", "save_pretrained"]);
    check(&[("qwen.tiktoken", "")], &["qwen.tiktoken: has 0 tokens"]);
    check(&[("tokenizer.json", "")], &["tokenizer.json: is not a tokenizer"]);
    check(&[("tokenizer.json", "{}")], &["tokenizer.json: is not a tokenizer"]);
    check(&[("tokenizer.json", "[1]")], &["tokenizer.json: is not a tokenizer"]);
    check(
        &[("tokenizer.json", &byte_level[..byte_level.len() / 2])],
        &["tokenizer.json: is not a tokenizer"],
    );
    check(&[("tokenizer.json", &byte_level.replace("\"ByteLevel\"", "\"Byte\""))], &["is not a tokenizer"]);
    check(&[("tokenizer.json", &byte_level.replace(":255", ":4000000000"))], &["token ids up to 4000000001"]);
    check(
        &[("tokenizer.json", &byte_level), ("tokenizer_config.json", "{")],
        &["tokenizer_config.json: is not"],
    );
}

#[test]
fn templates_that_name_what_is_not_there_are_refused() {
    let cases = [
        (r#"{"SpecialToken":{"id":"<s>""#, r#"{"SpecialToken":{"id":"<x>""#, "adds the token \"<x>\""),
        (r#"{"Sequence":{"id":"A""#, r#"{"Sequence":{"id":"B""#, "wants a second text"),
        (r#""<s>":{"id""#, r#""<t>":{"id""#, "adds the token \"<s>\""),
    ];
    for (from, to, expected) in cases {
        let sound = testing::metaspace_file();
        let file = sound.replacen(from, to, 1);
        assert_ne!(file, sound, "{from}");
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), file).unwrap();
        let error = Tokenizer::from_dir(dir.path()).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(expected), "{to}: {error:?}");
    }
}

proptest! {
    #[test]
    fn byte_vocabularies_give_any_text_back(text in "(\\PC|<\\|im_end\\|>|hello|e\u{301}|[\\x00-\\x20]){0,12}") {
        let normal: String = unicode_normalization::UnicodeNormalization::nfc(text.as_str()).collect();
        for tokenizer in [testing::tiktoken(), testing::byte_level()] {
            let encoding = tokenizer.encode(&text, false).unwrap();
            prop_assert_eq!(tokenizer.decode(&encoding.ids, false), normal.as_str());
            let mut reached = 0;
            for (start, end) in encoding.offsets {
                prop_assert!((start <= reached || normal != text) && text.is_char_boundary(start) && text.is_char_boundary(end));
                reached = end.max(reached);
            }
            if normal == text {
                prop_assert_eq!(reached, text.len());
            }
        }
    }

    #[test]
    fn damaged_vocabularies_are_errors_not_panics(at in 0usize..4000, byte in any::<u8>()) {
        let mut file = testing::byte_level_file().into_bytes();
        let at = at % file.len();
        file[at] = byte;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), file).unwrap();
        if let Ok(tokenizer) = Tokenizer::from_dir(dir.path()) {
            let ids = tokenizer.encode("hello wörld", true).map(|e| e.ids);
            prop_assert_eq!(tokenizer.ids("hello wörld", true).ok(), ids.as_ref().ok().cloned());
            tokenizer.decode(&ids.unwrap_or_default(), false);
        }
    }
}
