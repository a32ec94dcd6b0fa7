//! Functions, calls and results as the original Qwen was trained to read them: a transcript of thoughts, actions
//! and observations in the assistant's turn. Pure; called by `prompt`.

use super::prompt::Conversation;
use super::{Function, Toolbox};
use crate::text::{ChatMessage, python_json};

const FORMAT: &str = "Use the following format:\n\n\
    Question: the input question you must answer\n\
    Thought: you should always think about what to do\n\
    Action: the action to take, should be one of [{names}]\n\
    Action Input: the input to the action\n\
    Observation: the result of the action\n\
    ... (this Thought/Action/Action Input/Observation can be repeated zero or more times)\n\
    Thought: I now know the final answer\n\
    Final Answer: the final answer to the original input question\n\n\
    Begin!";
/// How an answer without a call stands in the transcript.
const ANSWERED: &str = "Thought: I now know the final answer.\nFinal Answer:";

pub fn arrange(messages: Vec<ChatMessage>, tools: Option<&Toolbox>) -> Conversation {
    let after_result = messages.last().is_some_and(ChatMessage::is_result);
    let mut turns = turns(&messages, tools.is_some());
    if let Some(tools) = tools {
        ask(&mut turns, &instruction(tools));
    }
    if let (true, Some(last)) = (after_result, turns.last_mut()) {
        last.content += match tools {
            Some(tools) if tools.is_forced() => "",
            Some(_) => "\nThought:",
            None => "\nThought: I now know the final answer.\nFinal Answer:",
        };
    }
    Conversation { messages: turns, after_result }
}

/// Calls and results become text of the assistant's turn that they belong to.
fn turns(messages: &[ChatMessage], has_tools: bool) -> Vec<ChatMessage> {
    let mut turns: Vec<ChatMessage> = Vec::new();
    let mut at = 0;
    while let Some(message) = messages.get(at) {
        at += 1;
        let is_last = at == messages.len();
        if message.is_result() {
            extend_assistant(&mut turns, &observation(message));
        } else if !message.tool_calls.is_empty() {
            let n_results = messages[at..].iter().take_while(|next| next.is_result()).count();
            extend_assistant(&mut turns, &calls(message, &messages[at..at + n_results]));
            at += n_results;
        } else if message.role == "assistant" && has_tools && !is_last {
            extend_assistant(&mut turns, &format!("{ANSWERED} {}", message.content.trim()));
        } else {
            turns.push(message.clone());
        }
    }
    turns
}

fn extend_assistant(turns: &mut Vec<ChatMessage>, text: &str) {
    match turns.last_mut() {
        Some(last) if last.role == "assistant" => {
            last.content.push('\n');
            last.content += text;
        }
        _ => turns.push(ChatMessage::new("assistant", text)),
    }
}

fn observation(result: &ChatMessage) -> String {
    format!("Observation: {}", result.content.trim())
}

/// Each call with its result: by id, else in order. Results of no call follow.
fn calls(message: &ChatMessage, results: &[ChatMessage]) -> String {
    let mut results: Vec<&ChatMessage> = results.iter().collect();
    let mut lines = Vec::new();
    for (i, call) in message.tool_calls.iter().enumerate() {
        let thought = message.content.trim().trim_start_matches("Thought:").trim();
        lines.push(format!("Thought: {}", if i == 0 { thought } else { "" }).trim_end().to_string());
        lines.push(format!("Action: {}\nAction Input: {}", call.name, call.arguments));
        let by_id = results.iter().position(|result| result.tool_call_id.as_deref() == Some(&call.id));
        if let Some(found) = by_id.or((!results.is_empty()).then_some(0)) {
            lines.push(observation(results.remove(found)));
        }
    }
    lines.extend(results.into_iter().map(observation));
    lines.join("\n")
}

/// The functions come before the last question.
fn ask(turns: &mut Vec<ChatMessage>, instruction: &str) {
    match turns.iter_mut().rev().find(|turn| turn.role == "user") {
        Some(last) => last.content = format!("{instruction}\n\nQuestion: {}", last.content.trim()),
        None => {
            let at = turns.iter().take_while(|turn| turn.role == "system").count();
            turns.insert(at, ChatMessage::new("user", instruction));
        }
    }
}

fn instruction(tools: &Toolbox) -> String {
    let list: Vec<String> = tools.functions.iter().map(describe).collect();
    let list = list.join("\n\n");
    if let Some(prompt) = &tools.prompt {
        return format!("{list}\n\n{prompt}");
    }
    let names: Vec<&str> = tools.functions.iter().map(|function| function.name.as_str()).collect();
    let format = FORMAT.replace("{names}", &names.join(","));
    let opening = "Answer the following questions as best you can. You have access to the following APIs:";
    format!("{opening}\n\n{list}\n\n{format}")
}

fn describe(function: &Function) -> String {
    let Function { name, description, .. } = function;
    let description = description.as_deref().unwrap_or_default();
    let parameters = python_json(&function.schema());
    format!(
        "{name}: Call this tool to interact with the {name} API. What is the {name} API useful for? \
         {description} Parameters: {parameters} Format the arguments as a JSON object."
    )
}
