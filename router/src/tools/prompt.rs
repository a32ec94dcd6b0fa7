//! Functions, calls and their results as messages that the model's chat template can render. Pure.
//!
//! Called by the chat route before the template is applied. A template that knows tools is left to do it
//! itself; for others the functions go into the system message, calls and results into texts of Hermes' form;
//! the original Qwen reads a transcript of thoughts, actions and observations.

use super::{ToolChoice, Toolbox, transcript};
use crate::text::{ChatMessage, ToolStyle, python_json};

/// What is handed to the template.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversation {
    pub messages: Vec<ChatMessage>,
    /// The prompt ends in the middle of the assistant's turn, after a call's result.
    pub after_result: bool,
}

/// `tools`: the functions of this request, if it may call any.
pub fn arrange(style: ToolStyle, messages: Vec<ChatMessage>, tools: Option<&Toolbox>) -> Conversation {
    let has_calls = messages.iter().any(|message| message.is_result() || !message.tool_calls.is_empty());
    if tools.is_none() && !has_calls {
        return Conversation { messages, after_result: false };
    }
    match style {
        ToolStyle::React => transcript::arrange(messages, tools),
        ToolStyle::Template => {
            Conversation { messages: with_client_prompt(messages, tools), after_result: false }
        }
        ToolStyle::Prompt { system } => {
            let messages = merged_results(messages.into_iter().map(as_text));
            let messages = match tools {
                Some(tools) => with_instruction(messages, &hermes_instruction(tools), system),
                None => messages,
            };
            Conversation { messages, after_result: false }
        }
    }
}

/// A template's own words stand; those of the client follow the last message, as TGI has it.
fn with_client_prompt(mut messages: Vec<ChatMessage>, tools: Option<&Toolbox>) -> Vec<ChatMessage> {
    let prompt = tools.and_then(|tools| tools.prompt.as_deref());
    if let (Some(prompt), Some(last)) = (prompt, messages.last_mut()) {
        last.content += "\n---\n";
        last.content += prompt;
    }
    messages
}

/// Into the system message where the template takes one, else before the first message's text.
fn with_instruction(mut messages: Vec<ChatMessage>, text: &str, system: bool) -> Vec<ChatMessage> {
    match messages.first_mut() {
        Some(first) if first.role == "system" => first.content = format!("{}\n\n{text}", first.content),
        Some(first) if !system => first.content = format!("{text}\n\n{}", first.content),
        _ => messages.insert(0, ChatMessage::new("system", text)),
    }
    messages
}

fn hermes_instruction(tools: &Toolbox) -> String {
    let functions: Vec<String> =
        tools.functions.iter().map(|function| python_json(&function.definition())).collect();
    let list = format!("<tools>\n{}\n</tools>", functions.join("\n"));
    if let Some(prompt) = &tools.prompt {
        return format!("{list}\n{prompt}");
    }
    let form = "<tool_call>\n{\"name\": \"the function's name\", \"arguments\": {\"parameter\": \"value\"}}\n</tool_call>";
    let when = match tools.choice {
        ToolChoice::Auto => "When one of them helps with the user's request, answer with a call",
        ToolChoice::Required | ToolChoice::Named => "Answer with a call",
    };
    let many = if tools.has_many_calls() { " Several calls stand one below the other." } else { "" };
    format!(
        "You can call functions. Here is each of them with the JSON schema of its parameters:\n{list}\n\
         {when}, which is JSON in this form:\n{form}\n\
         The result comes back between <tool_response> and </tool_response>.{many}"
    )
}

/// A call as the model writes it, a result as it is shown one.
fn as_text(mut message: ChatMessage) -> ChatMessage {
    for call in std::mem::take(&mut message.tool_calls) {
        if !message.content.is_empty() {
            message.content.push('\n');
        }
        let name = serde_json::Value::from(call.name);
        message.content +=
            &format!("<tool_call>\n{{\"name\": {name}, \"arguments\": {}}}\n</tool_call>", call.arguments);
    }
    if message.is_result() {
        let content = format!("<tool_response>\n{}\n</tool_response>", message.content);
        return ChatMessage { name: message.name, ..ChatMessage::new("user", &content) };
    }
    message
}

/// Results that follow each other are one turn: templates want turns to alternate.
fn merged_results(messages: impl Iterator<Item = ChatMessage>) -> Vec<ChatMessage> {
    let is_result = |message: &ChatMessage| message.content.starts_with("<tool_response>");
    let mut out: Vec<ChatMessage> = Vec::new();
    for message in messages {
        match out.last_mut() {
            Some(last) if last.role == "user" && is_result(last) && is_result(&message) => {
                last.content.push('\n');
                last.content += &message.content;
            }
            _ => out.push(message),
        }
    }
    out
}
