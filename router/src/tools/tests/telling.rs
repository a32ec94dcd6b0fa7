//! How functions, calls and results are told to each kind of model, and what a forced answer may be.

use super::*;
use crate::text::{ChatMessage, ToolCall};

fn message(role: &str, content: &str) -> ChatMessage {
    ChatMessage::new(role, content)
}

fn called(content: &str, calls: &[(&str, &str, &str)]) -> ChatMessage {
    let call = |&(id, name, arguments): &(&str, &str, &str)| ToolCall {
        id: id.into(),
        name: name.into(),
        arguments: arguments.into(),
    };
    ChatMessage { tool_calls: calls.iter().map(call).collect(), ..message("assistant", content) }
}

fn result(id: &str, content: &str) -> ChatMessage {
    ChatMessage { tool_call_id: Some(id.into()), ..message("tool", content) }
}

fn shown(conversation: &Conversation) -> Vec<String> {
    conversation.messages.iter().map(|m| format!("{}: {}", m.role, m.content)).collect()
}

/// A question, a call of two functions, their results in the other order.
fn history() -> Vec<ChatMessage> {
    vec![
        message("user", "Weather and time?"),
        called("Both.", &[("1", "get_weather", r#"{"city": "Paris"}"#), ("2", "now", "{}")]),
        result("2", "noon"),
        result("1", "sunny"),
    ]
}

const WITH_SYSTEM: ToolStyle = ToolStyle::Prompt { system: true };

#[test]
fn without_tools_nothing_changes() {
    for style in [ToolStyle::React, ToolStyle::Template, WITH_SYSTEM] {
        let messages = vec![message("user", "Hi"), message("assistant", "Yes?")];
        assert_eq!(
            arrange(style, messages.clone(), None),
            Conversation { messages, after_result: false },
            "{style:?}"
        );
    }
}

#[test]
fn a_template_that_knows_tools_is_left_to_it() {
    let mut tools = toolbox(ToolChoice::Auto);
    assert_eq!(arrange(ToolStyle::Template, history(), Some(&tools)).messages, history());
    tools.prompt = Some("Be quick.".into());
    let told = shown(&arrange(ToolStyle::Template, history(), Some(&tools)));
    assert_eq!(told[3], "tool: sunny\n---\nBe quick.");
}

#[test]
fn other_templates_get_words() {
    let tools = toolbox(ToolChoice::Auto);
    let told = shown(&arrange(WITH_SYSTEM, history(), Some(&tools)));
    assert_eq!(told.len(), 4);
    assert!(
        told[0].starts_with("system: You can call functions.") && told[0].contains("Several calls"),
        "{}",
        told[0]
    );
    let definition = r#"{"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}"#;
    assert!(told[0].contains(&format!("\n{definition}\n</tools>")), "{}", told[0]);
    assert_eq!(told[1], "user: Weather and time?");
    assert_eq!(
        told[2],
        "assistant: Both.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>\n\
         <tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>"
    );
    assert_eq!(
        told[3],
        "user: <tool_response>\nnoon\n</tool_response>\n<tool_response>\nsunny\n</tool_response>"
    );
    // The place of the words, and the client's own.
    let messages = vec![message("system", "Be kind."), message("user", "Hi")];
    let own = Toolbox { prompt: Some("Call them.".into()), ..toolbox(ToolChoice::Auto) };
    let told = shown(&arrange(WITH_SYSTEM, messages, Some(&own)));
    assert!(
        told[0].starts_with("system: Be kind.\n\n<tools>\n{") && told[0].ends_with("</tools>\nCall them.")
    );
    let told =
        shown(&arrange(ToolStyle::Prompt { system: false }, vec![message("user", "Hi")], Some(&tools)));
    assert!(told.len() == 1 && told[0].starts_with("user: You can") && told[0].ends_with("\n\nHi"));
    // Calls of earlier turns are told without tools as well.
    assert!(shown(&arrange(WITH_SYSTEM, history(), None))[1].contains("<tool_call>"));
}

#[test]
fn the_original_qwen_gets_a_transcript() {
    let tools = toolbox(ToolChoice::Auto);
    let conversation = arrange(ToolStyle::React, history(), Some(&tools));
    assert!(conversation.after_result);
    let told = shown(&conversation);
    assert_eq!(told.len(), 2);
    assert!(told[0].starts_with("user: Answer the following questions as best you can. You have access"));
    assert!(told[0].contains(
        "get_weather: Call this tool to interact with the get_weather API. What is the get_weather API useful for? \
         Weather of a city. Parameters: {\"type\": \"object\", \"properties\": {\"city\": {\"type\": \"string\"}}, \
         \"required\": [\"city\"]} Format the arguments as a JSON object.\n\nnow: Call"
    ));
    assert!(told[0].contains("should be one of [get_weather,now]\n"));
    assert!(told[0].ends_with("\n\nBegin!\n\nQuestion: Weather and time?"));
    assert_eq!(
        told[1],
        "assistant: Thought: Both.\nAction: get_weather\nAction Input: {\"city\": \"Paris\"}\nObservation: sunny\n\
         Thought:\nAction: now\nAction Input: {}\nObservation: noon\nThought:"
    );
}

#[test]
fn the_end_of_the_transcript_says_what_is_wanted() {
    let check = |tools: Option<Toolbox>, end: &str| {
        let told = shown(&arrange(ToolStyle::React, history(), tools.as_ref()));
        assert!(told[1].ends_with(&format!("Observation: noon{end}")), "{}", told[1]);
    };
    check(Some(toolbox(ToolChoice::Auto)), "\nThought:");
    check(Some(toolbox(ToolChoice::Required)), "");
    check(None, "\nThought: I now know the final answer.\nFinal Answer:");
}

#[test]
fn later_turns_of_the_transcript() {
    let tools = toolbox(ToolChoice::Auto);
    let mut messages = history();
    messages.extend([message("assistant", "Sunny."), message("user", "And Rome?")]);
    let conversation = arrange(ToolStyle::React, messages, Some(&tools));
    assert!(!conversation.after_result);
    let told = shown(&conversation);
    assert_eq!(told[0], "user: Weather and time?");
    assert!(
        told[1].ends_with("Observation: noon\nThought: I now know the final answer.\nFinal Answer: Sunny.")
    );
    assert!(told[2].starts_with("user: Answer the following") && told[2].ends_with("Question: And Rome?"));
    // Nobody asked.
    let told = shown(&arrange(ToolStyle::React, vec![message("system", "s")], Some(&tools)));
    assert!(told.len() == 2 && told[1].starts_with("user: Answer the following"), "{told:?}");
}

/// The grammars are text: their meaning is tested where they are compiled.
#[test]
fn grammars() {
    let check = |style, choice, after_result, start: &str| {
        let mut tools = toolbox(choice);
        if choice == ToolChoice::Named {
            tools.functions.truncate(1);
        }
        let lark = grammar(style, &tools, after_result);
        assert!(lark.starts_with(&format!("start: {start}\n")), "{lark}");
        lark
    };
    let lark = check(ToolStyle::Template, ToolChoice::Required, false, "tag (\"\\n\" tag){0,7}");
    assert!(lark.contains("\ncall: f0 | f1\n"));
    assert!(
        lark.contains("f1: \"{\\\"name\\\": \\\"now\\\", \\\"arguments\\\": \" f1_arguments \"}\"\n"),
        "{lark}"
    );
    check(WITH_SYSTEM, ToolChoice::Named, false, "tag");
    let lark = check(ToolStyle::React, ToolChoice::Named, false, "\"Action: \" call");
    assert!(lark.contains("f0: \"get_weather\\nAction Input: \" f0_arguments\n"), "{lark}");
    check(ToolStyle::React, ToolChoice::Required, true, "\"\\nAction: \" call");
    let mut tools = toolbox(ToolChoice::Required);
    tools.functions[0].parameters = Some(json!({"description": "a ::= b"}));
    assert!(!grammar(ToolStyle::React, &tools, false).contains("::="));
}
