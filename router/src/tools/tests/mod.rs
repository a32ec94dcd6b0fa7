//! Parsers by example and by random texts in random pieces; prompts and grammars by example.

mod forced;
mod parsing;
mod telling;

use serde_json::json;

use super::*;

/// Two functions, `get_weather` with parameters and `now` without.
fn toolbox(choice: ToolChoice) -> Toolbox {
    let parameters =
        json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    let weather = Function {
        name: "get_weather".into(),
        description: Some("Weather of a city.".into()),
        parameters: Some(parameters),
    };
    let now = Function { name: "now".into(), description: None, parameters: None };
    Toolbox { functions: vec![weather, now], choice, parallel: true, prompt: None }
}
