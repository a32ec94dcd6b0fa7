//! Constraints from specification to masks, over small vocabularies of the three kinds that models use.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Compiler, Constraint, ConstraintSpec, TokenMask};
use crate::text::{Tokenizer, testing};

use super::testing::VOCAB_SIZE;

fn vocabularies() -> [(&'static str, Arc<Tokenizer>); 3] {
    [
        ("tiktoken", testing::tiktoken()),
        ("byte level", with_eos(testing::byte_level_file())),
        ("metaspace", with_eos(testing::metaspace_file())),
    ]
}

/// These files of the tests' name no end token; token 1 is `<s>` or a byte that no case needs.
fn with_eos(file: String) -> Arc<Tokenizer> {
    let config = r#"{"eos_token_id": 1}"#;
    testing::with_files(&[("tokenizer.json", &file), ("generation_config.json", config)], |dir| {
        Arc::new(Tokenizer::from_dir(dir).expect("a sound vocabulary"))
    })
}

fn compiler(tokenizer: &Arc<Tokenizer>) -> Compiler {
    Compiler::new(tokenizer.clone(), VOCAB_SIZE, 2)
}

async fn compile(spec: ConstraintSpec) -> Result<Constraint, String> {
    compiler(&testing::tiktoken()).compile(spec).await
}

/// The ids that a mask allows, apart from those that end a text; and whether those are allowed.
fn allowed(mask: &TokenMask, tokenizer: &Tokenizer) -> (Vec<u32>, bool) {
    let ids = (0..VOCAB_SIZE).filter(|&id| mask.allows(id));
    let (ends, others): (Vec<u32>, Vec<u32>) = ids.partition(|id| tokenizer.eos_ids().contains(id));
    assert!(ends.is_empty() || ends == tokenizer.eos_ids(), "all tokens that end a text, or none");
    (others, !ends.is_empty())
}

/// Goes through `text` a byte at a time, each of which must be allowed. `Err` names the first that is not,
/// and the end of the text if it may not end there.
fn follow(constraint: &Constraint, tokenizer: &Tokenizer, text: &str) -> Result<(), usize> {
    let mut progress = constraint.begin();
    let mut mask = constraint.first_mask().clone();
    for (i, byte) in text.bytes().enumerate() {
        let (ids, _) = allowed(&mask, tokenizer);
        let id = ids.into_iter().find(|&id| tokenizer.token_bytes(id) == [byte]).ok_or(i)?;
        mask = progress.advance(id).expect("an allowed token");
    }
    if allowed(&mask, tokenizer).1 { Ok(()) } else { Err(text.len()) }
}

fn schema(value: Value) -> ConstraintSpec {
    ConstraintSpec::JsonSchema(value)
}

#[tokio::test]
async fn texts_are_allowed_as_far_as_the_constraint_goes() {
    let person = json!({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"],
        "additionalProperties": false});
    let lark = "start: \"a\" b+\nb: \"b\" | /[0-9]/";
    let ebnf = "root ::= \"a\" b+\nb ::= \"b\" | [0-9]";
    for (spec, text, expected) in [
        (ConstraintSpec::Regex("[ab]+c".into()), "abac", Ok(())),
        (ConstraintSpec::Regex("[ab]+c".into()), "abad", Err(3)),
        (ConstraintSpec::Regex("[ab]+c".into()), "ab", Err(2)),
        (ConstraintSpec::Regex("^a/b$".into()), "a/b", Ok(())),
        (ConstraintSpec::Regex(r"\d\w".into()), "1x", Ok(())),
        (ConstraintSpec::Choice(vec!["hello".into(), "he".into()]), "he", Ok(())),
        (ConstraintSpec::Choice(vec!["hello".into(), "he".into()]), "hello", Ok(())),
        (ConstraintSpec::Choice(vec!["hello".into(), "he".into()]), "hel", Err(3)),
        (ConstraintSpec::Choice(vec!["é (a|b)*\n/".into()]), "é (a|b)*\n/", Ok(())),
        (ConstraintSpec::Lark(lark.into()), "ab7", Ok(())),
        (ConstraintSpec::Lark(lark.into()), "a", Err(1)),
        (ConstraintSpec::Lark(ebnf.into()), "ab7", Ok(())),
        (ConstraintSpec::Lark(ebnf.into()), "ax", Err(1)),
        (ConstraintSpec::JsonObject, r#"{"a": [1, {}]}"#, Ok(())),
        (ConstraintSpec::JsonObject, "[1]", Err(0)),
        (schema(person.clone()), "{\n  \"age\": 42\n}", Ok(())),
        (schema(person.clone()), r#"{"age":42}"#, Ok(())),
        (schema(person.clone()), r#"{"age":  42}"#, Err(8)),
        (schema(person.clone()), r#"{"age":"x"}"#, Err(7)),
        (schema(person), r#"{"name""#, Err(2)),
        // As TGI's documentation writes schemas: without a type, and without a word about other properties.
        (schema(json!({"properties": {"a": {"type": "integer"}}, "required": ["a"]})), "{\"a\": 1}", Ok(())),
        (schema(json!({"properties": {"a": {"type": "integer"}}, "required": ["a"]})), "\"x\"", Err(0)),
        (schema(json!({"properties": {"a": {"type": "integer"}}, "required": ["a"]})), "{\"a\": 1, ", Err(7)),
        (schema(json!({"properties": {}, "additionalProperties": true})), "{\"b\": 1}", Ok(())),
        (schema(json!({})), "[null]", Ok(())),
        (schema(json!(true)), "1.5", Ok(())),
    ] {
        for (name, tokenizer) in vocabularies() {
            let constraint = compiler(&tokenizer).compile(spec.clone()).await.expect("sound");
            assert_eq!(follow(&constraint, &tokenizer, text), expected, "{name}: {spec:?} {text:?}");
        }
    }
}

#[tokio::test]
async fn tokens_of_several_bytes_are_allowed_where_they_fit() {
    let tokenizer = testing::tiktoken();
    let constraint = compile(ConstraintSpec::Regex("hello world".into())).await.expect("sound");
    let texts = |mask: &TokenMask| -> Vec<String> {
        let (ids, _) = allowed(mask, &tokenizer);
        ids.iter().map(|&id| tokenizer.token_text(id)).collect()
    };
    assert_eq!(texts(constraint.first_mask()), ["h", "he", "hello"]);
    let mut progress = constraint.begin();
    assert_eq!(texts(&progress.advance(259).expect("hello")), [" ", " w", " wor"]);
    for text in [" wor", "ld"] {
        let id = (0..VOCAB_SIZE).find(|&id| tokenizer.token_bytes(id) == text.as_bytes()).expect("a token");
        assert_ne!(progress.advance(id).expect("allowed").n_allowed(), 0);
    }
    assert_eq!(progress.advance(0), Err("parser stopped in consume_token; no error message".into()));
    // Another answer begins anew.
    assert_eq!(texts(&constraint.begin().advance(u32::from(b'h')).expect("h")), ["e"]);
}

#[tokio::test]
async fn a_finished_constraint_allows_only_the_end() {
    let tokenizer = testing::tiktoken();
    let constraint = compile(ConstraintSpec::Choice(vec!["a".into(), "ab".into()])).await.expect("sound");
    let mut progress = constraint.begin();
    let after_a = progress.advance(u32::from(b'a')).expect("allowed");
    assert_eq!(allowed(&after_a, &tokenizer), (vec![u32::from(b'b')], true));
    let after_ab = progress.advance(u32::from(b'b')).expect("allowed");
    assert_eq!(allowed(&after_ab, &tokenizer), (vec![], true));
    let special = tokenizer.token_id("<|extra_0|>").expect("it has one");
    let anything = compile(ConstraintSpec::Regex("(?s:.)*".into())).await.expect("sound");
    let (ids, ends) = allowed(anything.first_mask(), &tokenizer);
    assert!(ends && !ids.contains(&special), "special tokens are no text");
}

#[tokio::test]
async fn bad_specifications_are_refused_with_the_reason() {
    let refs: serde_json::Map<String, Value> =
        (0..2000).map(|i| (format!("d{i}"), json!({"$ref": format!("#/$defs/d{}", i + 1)}))).collect();
    for (spec, reason) in [
        (ConstraintSpec::Regex("(a".into()), "unclosed group"),
        (ConstraintSpec::Regex("a(?=b)".into()), "look-around"),
        (ConstraintSpec::Regex("(".repeat(100_000)), ""),
        (ConstraintSpec::Lark(format!("start: {}", "(".repeat(100_000))), ""),
        (ConstraintSpec::Lark("start: nothing".into()), "nothing"),
        (ConstraintSpec::Lark(String::new()), "start"),
        (ConstraintSpec::Lark("root ::= \"a".into()), "EBNF"),
        (schema(json!({"type": "nonsense"})), "nonsense"),
        (schema(json!({"type": "array", "uniqueItems": true})), "uniqueItems"),
        (schema(json!({"$ref": "https://example.com/x.json"})), ""),
        (schema(json!({"$ref": "#/$defs/a"})), ""),
        (schema(json!({"$defs": refs, "$ref": "#/$defs/d0"})), ""),
        (schema(json!({"type": "string", "pattern": "("})), ""),
        (schema(json!({"type": "integer", "minimum": 3, "maximum": 2})), ""),
        (schema(json!({"x-guidance": 3})), ""),
        (schema(json!(false)), "a JSON schema is an object"),
    ] {
        let shown = format!("{spec:?}").chars().take(80).collect::<String>();
        let error = compile(spec).await.expect_err(&shown);
        assert!(
            error.contains(reason) && error.len() < 5000 && !error.contains("backtrace"),
            "{shown}: {error}"
        );
    }
}

#[tokio::test]
async fn a_specification_is_compiled_once_while_it_is_remembered() {
    let compiler = compiler(&testing::tiktoken());
    let compile =
        async |i: usize| compiler.compile(ConstraintSpec::Regex(format!("a{i}"))).await.expect("sound");
    let first = compile(0).await;
    assert!(compile(0).await.is_same(&first));
    for i in 1..=64 {
        assert!(!compile(i).await.is_same(&first));
        let again = compile(1).await;
        assert!(compile(1).await.is_same(&again));
    }
    assert!(!compile(0).await.is_same(&first), "it was not used for longest");
}

#[tokio::test]
async fn a_model_without_an_end_token_cannot_be_constrained() {
    let compiler = Compiler::new(testing::byte_level(), VOCAB_SIZE, 1);
    let error = compiler.compile(ConstraintSpec::JsonObject).await.expect_err("no end");
    assert_eq!(error, "the model has no token that ends a text");
}
