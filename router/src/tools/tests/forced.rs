//! What a demanded answer may be, by the compiler that serves: its language, and that the parser reads all of it.

use std::sync::Arc;

use super::*;
use crate::constraint::{Compiler, Constraint, ConstraintSpec, TokenMask};
use crate::text::{Tokenizer, testing};

const VOCAB_SIZE: u32 = 600;
const STYLES: [ToolStyle; 2] = [ToolStyle::Template, ToolStyle::React];

async fn compiled(style: ToolStyle, tools: &Toolbox, after_result: bool) -> (Constraint, Arc<Tokenizer>) {
    let tokenizer = testing::tiktoken();
    let spec = ConstraintSpec::Lark(grammar(style, tools, after_result));
    let constraint = Compiler::new(tokenizer.clone(), VOCAB_SIZE, 1).compile(spec).await;
    (constraint.expect("the grammar is sound"), tokenizer)
}

/// Goes through the text byte by byte: `None` if it is in the language, else where it leaves it.
fn leaves(constraint: &Constraint, text: &str, ends: &[u32]) -> Option<usize> {
    let (mut progress, mut mask) = (constraint.begin(), constraint.first_mask().clone());
    for (at, byte) in text.bytes().enumerate() {
        if !mask.allows(byte.into()) {
            return Some(at);
        }
        mask = progress.advance(byte.into()).expect("an allowed token");
    }
    (!mask.allows(ends[0])).then_some(text.len())
}

#[tokio::test]
async fn the_language_of_demanded_calls() {
    let paris = r#"{"city": "Paris"}"#;
    let weather = format!("<tool_call>\n{{\"name\": \"get_weather\", \"arguments\": {paris}}}\n</tool_call>");
    let now = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    let action = format!("Action: get_weather\nAction Input: {paris}");
    let (hermes, react) = (ToolStyle::Template, ToolStyle::React);
    for (style, choice, after_result, text, expected) in [
        (hermes, ToolChoice::Required, false, weather.clone(), None),
        (hermes, ToolChoice::Required, false, format!("{weather}\n{now}"), None),
        (hermes, ToolChoice::Named, false, format!("{weather}\n{weather}"), Some(weather.len())),
        (hermes, ToolChoice::Required, false, "I think".into(), Some(0)),
        (hermes, ToolChoice::Required, false, weather.replace("city", "town"), weather.find("city")),
        (hermes, ToolChoice::Required, false, weather.replace("\"Paris\"", "3"), weather.find("\"Paris")),
        (react, ToolChoice::Required, false, action.clone(), None),
        (react, ToolChoice::Required, true, format!("\n{action}"), None),
        (react, ToolChoice::Required, true, action.clone(), Some(0)),
        (react, ToolChoice::Required, false, "Action: rain".into(), Some(8)),
        (react, ToolChoice::Named, false, "Action: now".into(), Some(8)),
    ] {
        let mut tools = toolbox(choice);
        let city = json!({"type": "object", "properties": {"city": {"type": "string"}}, "additionalProperties": false});
        tools.functions[0].parameters = Some(city);
        tools.functions.truncate(if choice == ToolChoice::Named { 1 } else { 2 });
        let (constraint, tokenizer) = compiled(style, &tools, after_result).await;
        assert_eq!(leaves(&constraint, &text, tokenizer.eos_ids()), expected, "{text}");
    }
}

/// Schemas whose references point to their own root, names and words that must be quoted.
#[tokio::test]
async fn schemas_keep_their_meaning() {
    let mut tools = toolbox(ToolChoice::Required);
    tools.functions[0].name = "a.b/c:d".into();
    tools.functions[0].parameters = Some(json!({
        "$defs": {"x": {"enum": ["a ::= \"b\"\n"]}}, "properties": {"x": {"$ref": "#/$defs/x"}}, "required": ["x"],
    }));
    let (constraint, tokenizer) = compiled(ToolStyle::React, &tools, false).await;
    let text = |x: &str| format!("Action: a.b/c:d\nAction Input: {{\"x\": {x}}}");
    let ends = tokenizer.eos_ids();
    assert_eq!(leaves(&constraint, &text(r#""a ::= \"b\"\n""#), ends), None);
    assert!(leaves(&constraint, &text("\"c\""), ends).is_some());
}

/// Splitmix64.
fn random(state: &mut u64) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as usize
}

/// A text of the language: random allowed tokens, those that end strings and the text before others.
fn written(constraint: &Constraint, tokenizer: &Tokenizer, seed: &mut u64) -> Option<String> {
    let (mut progress, mut mask, mut ids) = (constraint.begin(), constraint.first_mask().clone(), vec![]);
    for _ in 0..1500 {
        let end = tokenizer.eos_ids()[0];
        if mask.allows(end) && (random(seed).is_multiple_of(2) || only(&mask, tokenizer)) {
            return Some(tokenizer.decode(&ids, false));
        }
        let allowed: Vec<u32> = (0..256).filter(|&id| mask.allows(id)).collect();
        let quote = u32::from(b'"');
        let closes = mask.allows(quote) && random(seed).is_multiple_of(4);
        let id = if closes { quote } else { *allowed.get(random(seed) % allowed.len().max(1))? };
        ids.push(id);
        mask = progress.advance(id).expect("an allowed token");
    }
    None
}

/// Whether nothing but the end is allowed.
fn only(mask: &TokenMask, tokenizer: &Tokenizer) -> bool {
    (0..VOCAB_SIZE).all(|id| !mask.allows(id) || tokenizer.eos_ids().contains(&id))
}

#[tokio::test]
async fn whatever_is_written_is_read_as_calls() {
    let mut seed = 1;
    for style in STYLES {
        let mut tools = toolbox(ToolChoice::Required);
        for function in &mut tools.functions {
            // No numbers: JSON has them larger than serde_json.
            function.parameters = Some(json!({"type": "object", "additionalProperties": {"type": "string"}}));
        }
        let (constraint, tokenizer) = compiled(style, &tools, false).await;
        let mut n_written = 0;
        for _ in 0..40 {
            let Some(text) = written(&constraint, &tokenizer, &mut seed) else { continue };
            n_written += 1;
            let mut parser = ToolParser::new(style, &tools, false);
            let events = [parser.push(&text), parser.finish()].concat();
            let mut n_calls = 0;
            for event in events {
                match event {
                    ToolEvent::Text(text) => panic!("text in a demanded call: {text}"),
                    ToolEvent::Call(_) => n_calls += 1,
                    ToolEvent::Arguments(json) => {
                        serde_json::from_str::<serde_json::Map<_, _>>(&json).expect("an object");
                    }
                }
            }
            assert!(n_calls > 0, "{text}");
        }
        assert!(n_written >= 10, "{style:?}: {n_written} texts came to an end");
    }
}
