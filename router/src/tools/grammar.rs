//! The language of answers that are nothing but calls, for requests that demand one. Pure; used by the chat
//! route as a constraint on the whole answer.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{Function, Toolbox};
use crate::constraint;
use crate::text::ToolStyle;

/// Most calls in one answer that must have one: a weak model would go on for ever.
const MAX_CALLS: usize = 8;

/// Lark's notation, start symbol `start`. `after_result`: the prompt ends with a call's result, in the
/// middle of the assistant's turn.
pub fn grammar(style: ToolStyle, tools: &Toolbox, after_result: bool) -> String {
    let (start, call) = match style {
        ToolStyle::React if after_result => ("\"\\nAction: \" call".to_string(), "call"),
        ToolStyle::React => ("\"Action: \" call".to_string(), "call"),
        ToolStyle::Template | ToolStyle::Prompt { .. } if tools.has_many_calls() => {
            (format!("tag (\"\\n\" tag){{0,{}}}", MAX_CALLS - 1), "tag")
        }
        ToolStyle::Template | ToolStyle::Prompt { .. } => ("tag".to_string(), "tag"),
    };
    let mut lark = format!("start: {start}\n");
    if call == "tag" {
        lark += "tag: \"<tool_call>\\n\" call \"\\n</tool_call>\"\n";
    }
    let names: Vec<String> = (0..tools.functions.len()).map(|i| format!("f{i}")).collect();
    let _ = writeln!(lark, "call: {}", names.join(" | "));
    for (name, function) in names.iter().zip(&tools.functions) {
        let (before, after) = around_arguments(style, &function.name);
        let _ = writeln!(lark, "{name}: {before} {name}_arguments{after}");
        let _ = writeln!(lark, "{name}_arguments: %json {}", schema(function));
    }
    // Two colons and an equals sign would make it EBNF to the compiler; they can stand in strings only.
    lark.replace("::=", "\\u003a\\u003a=")
}

/// The literals before and after a call's arguments.
fn around_arguments(style: ToolStyle, name: &str) -> (Value, &'static str) {
    match style {
        ToolStyle::React => (json!(format!("{name}\nAction Input: ")), ""),
        ToolStyle::Template | ToolStyle::Prompt { .. } => {
            (json!(format!("{{\"name\": {}, \"arguments\": ", json!(name))), " \"}\"")
        }
    }
}

/// The function's parameters, in JSON with the spaces that models are shown.
fn schema(function: &Function) -> Value {
    let mut schema = function.schema();
    constraint::close(&mut schema);
    let spaces = json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "});
    schema["x-guidance"] = spaces;
    schema
}
