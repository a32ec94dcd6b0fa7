//! What is read from a text, whichever pieces it comes in.

use proptest::prelude::*;

use super::*;

const HERMES: ToolStyle = ToolStyle::Template;
const REACT: ToolStyle = ToolStyle::React;

/// Feeds the pieces: the texts in a row, and the calls.
fn read(parser: ToolParser, pieces: &[&str]) -> (String, Vec<(String, String)>) {
    let mut parser = parser;
    let mut events: Vec<ToolEvent> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    events.extend(parser.finish());
    let (mut text, mut calls) = (String::new(), Vec::new());
    for event in events {
        match event {
            ToolEvent::Text(more) => text += &more,
            ToolEvent::Call(name) => calls.push((name, String::new())),
            ToolEvent::Arguments(more) => calls.last_mut().expect("a call has begun").1 += &more,
        }
    }
    (text, calls)
}

fn parser(style: ToolStyle, after_result: bool) -> ToolParser {
    ToolParser::new(style, &toolbox(ToolChoice::Auto), after_result)
}

/// The text in one piece and character by character.
fn check(style: ToolStyle, after_result: bool, answer: &str, text: &str, calls: &[(&str, &str)]) {
    let calls: Vec<_> = calls.iter().map(|(name, json)| (name.to_string(), json.to_string())).collect();
    let expected = (text.to_string(), calls);
    assert_eq!(read(parser(style, after_result), &[answer]), expected, "{answer}");
    let single: Vec<String> = answer.chars().map(String::from).collect();
    let single: Vec<&str> = single.iter().map(String::as_str).collect();
    assert_eq!(read(parser(style, after_result), &single), expected, "{answer}, one by one");
}

#[test]
fn hermes_calls() {
    let check = |answer: &str, text: &str, calls: &[(&str, &str)]| check(HERMES, false, answer, text, calls);
    let paris = r#"{"city": "Paris"}"#;
    let call = format!("<tool_call>\n{{\"name\": \"get_weather\", \"arguments\": {paris}}}\n</tool_call>");
    check("Hello.\n", "Hello.\n", &[]);
    check(&call, "", &[("get_weather", paris)]);
    check(&format!("Let me see.\n\n{call}\n"), "Let me see.", &[("get_weather", paris)]);
    check(&format!("{call}\n{call}"), "", &[("get_weather", paris), ("get_weather", paris)]);
    check(&format!("{call} done"), "\n done", &[("get_weather", paris)]);
    // Unusual, but clear.
    check(r#"<tool_call>{"arguments":{},"name":"now"}"#, "", &[("now", "{}")]);
    check(r#"<tool_call>{"name":"now"}</tool_call>"#, "", &[("now", "{}")]);
    check(r#"<tool_call>{"name":"now","arguments":null}</tool_call>"#, "", &[("now", "{}")]);
    check(r#"<tool_call>{"name":"now","arguments":"{\"a\": 1}"}</tool_call>"#, "", &[("now", r#"{"a": 1}"#)]);
    check(
        r#"<tool_call>{"id": [1, {"x": "}"}], "name":"now", "parameters": {"a": "}"}, "b": 2}}</tool_call>"#,
        "",
        &[("now", r#"{"a": "}"}"#)],
    );
    check(
        r#"<tool_call>[{"name":"now"}, {"name":"get_weather","arguments":{"city":"é\"]"}}]</tool_call>"#,
        "",
        &[("now", "{}"), ("get_weather", r#"{"city":"é\"]"}"#)],
    );
    check(r#"<tool_call>{"name":"now"}<tool_call>{"name":"now"}"#, "", &[("now", "{}"), ("now", "{}")]);
    // Cut off inside the arguments.
    check(r#"<tool_call>{"name":"now","arguments":{"a": [1, "#, "", &[("now", r#"{"a": [1, "#)]);
} // fmt: skip

#[test]
fn calls_without_tags() {
    let check = |answer: &str, text: &str, calls: &[(&str, &str)]| check(HERMES, false, answer, text, calls);
    let paris = r#"{"city": "Paris"}"#;
    let call = format!(r#"{{"name": "get_weather", "parameters": {paris}}}"#);
    let weather = ("get_weather", paris);
    check(&call, "", &[weather]);
    check(&format!("\n{call}\n"), "", &[weather]);
    check(&format!("{call}; {call}"), "", &[weather, weather]);
    check(&format!("{call}\n{call} done"), " done", &[weather, weather]);
    check(&format!(r#"[{call}, {{"name": "now", "arguments": {{}}}}]"#), "", &[weather, ("now", "{}")]);
    check(r#"{"type": "function", "arguments": {}, "name": "now"}"#, "", &[("now", "{}")]);
    check(&format!("{call}\n</tool_call>"), "", &[weather]);
    // Something in front: the model speaks of a call, or the tags are there.
    check(&format!("Use {call}"), &format!("Use {call}"), &[]);
    check(&format!(r#"{{"a": <tool_call>{call}"#), r#"{"a":"#, &[weather]);
}

#[test]
fn json_that_is_no_call_is_text() {
    for answer in [
        r#"{"city": "Paris"}"#,
        r#"{"name": "now"}"#,
        r#"{"name": "Anna", "arguments": {}}"#,
        r#"{"name": "now", "age": 3}"#,
        r#"{"arguments": {}, "name": "unknown"}"#,
        r#"{"name": "now", "arguments": [1]}"#,
        r#"{"name": "now", "argu"#,
        r#"{"name": "<tool_call>{"#,
        r#"[1, 2] [{"name": "now", "arguments": {}}]"#,
        "[a link](http://a) {",
        "{{}}; {",
        "{",
        ";",
    ] {
        check(HERMES, false, answer, answer, &[]);
    }
}

#[test]
fn what_is_no_hermes_call_is_text() {
    for answer in [
        "a < b <tool <tool_ca",
        "<<tool_call",
        "<tool_call>",
        r#"<tool_call>{"name": "unknown", "arguments": {}}</tool_call>"#,
        "<tool_call>now()</tool_call>",
        r#"x <tool_call>{"name": "now", "arguments": [1]}</tool_call> y"#,
        r#"<tool_call>{"name": 3}</tool_call>"#,
        r#"<tool_call>{"arguments": {}}</tool_call>"#,
        r#"<tool_call>{"name" "now"}</tool_call>"#,
        r#"<tool_call>{"arguments": "no object", "name": "now"}</tool_call>"#,
        r#"<tool_call>[]</tool_call>"#,
        r#"<tool_call>{"name": "no"#,
        "</tool_call>",
    ] {
        check(HERMES, false, answer, answer, &[]);
    }
}

#[test]
fn react_calls() {
    let check = |answer: &str, text: &str, calls: &[(&str, &str)]| check(REACT, false, answer, text, calls);
    let paris = r#"{"city": "Paris"}"#;
    let action = format!("Action: get_weather\nAction Input: {paris}");
    check("Hello.\nHow are you?", "Hello.\nHow are you?", &[]);
    check(&action, "", &[("get_weather", paris)]);
    check(&format!("\n{action}"), "", &[("get_weather", paris)]);
    let thought = format!("Thought: I need the weather.\n{action}");
    check(&thought, "I need the weather.", &[("get_weather", paris)]);
    check(&format!("{thought}\nObservation: sunny"), "I need the weather.", &[("get_weather", paris)]);
    check(&format!("{thought}\n{action}"), "I need the weather.", &[("get_weather", paris)]);
    check(&format!("Sure.\n{thought}"), "Sure.\nI need the weather.", &[("get_weather", paris)]);
    check("Thought: I know it.\nFinal Answer: It is 4.\nAction: none", "It is 4.\nAction: none", &[]);
    check("Thought: I know it.\nIt is 4.", "I know it.\nIt is 4.", &[]);
    check("Final Answer:\n 4", "4", &[]);
    check("Action: now\n\nAction Input:\n{}\n", "", &[("now", "{}")]);
    check(
        r#"Action: now
Action Input: {"a": "}", "b": [1"#,
        "",
        &[("now", r#"{"a": "}", "b": [1"#)],
    );
    // Two actions: the second has an input.
    check("Action: now\nAction: now\nAction Input: {}", "Action: now", &[("now", "{}")]);
}

#[test]
fn react_after_a_result() {
    let check = |answer: &str, text: &str, calls: &[(&str, &str)]| check(REACT, true, answer, text, calls);
    check(" I know it.\nFinal Answer: 4", "4", &[]);
    check(" I need the time.\nAction: now\nAction Input: {}", "I need the time.", &[("now", "{}")]);
    check(" It is 4.", "It is 4.", &[]);
    // After `Action:` was demanded there is no thought to begin with.
    let forced = ToolParser::new(REACT, &toolbox(ToolChoice::Required), true);
    let (text, calls) = read(forced, &["\nAction: now\nAction Input: {}"]);
    assert_eq!((text.as_str(), calls.len()), ("", 1));
}

#[test]
fn what_is_no_react_call_is_text() {
    for answer in [
        "Action: unknown\nAction Input: {}",
        "Action: now\nInput: {}",
        "Action: now",
        "Action: now\nAction In",
        "Action: now\nAction Input:",
        "Action: now\nAction Input: Paris",
        "Act",
        "An Action: now\nAction Input: {}",
    ] {
        check(REACT, false, answer, answer, &[]);
    }
    // A thought is not lost with it.
    let answer = "Thought: x\nAction: unknown\nAction Input: {}";
    check(REACT, false, answer, answer, &[]);
}

#[test]
fn no_more_calls_than_allowed() {
    let call = "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": 1}}</tool_call>";
    let mut tools = toolbox(ToolChoice::Auto);
    tools.parallel = false;
    let (text, calls) = read(ToolParser::new(HERMES, &tools, false), &[&call.repeat(3)]);
    assert_eq!((text.as_str(), calls), ("", vec![("now".to_string(), "{\"a\": 1}".to_string())]));
}

/// Arguments come as they are written, not at the end.
#[test]
fn arguments_are_streamed() {
    for (style, before) in
        [(HERMES, "<tool_call>{\"name\": \"now\", \"arguments\": "), (REACT, "Action: now\nAction Input: ")]
    {
        let mut parser = parser(style, false);
        assert!(parser.push(before).is_empty());
        let begun = [ToolEvent::Call("now".into()), ToolEvent::Arguments("{\"a".into())];
        assert_eq!(parser.push("{\"a"), begun);
        assert_eq!(parser.push("\": 1"), [ToolEvent::Arguments("\": 1".into())]);
        assert_eq!(parser.push("}"), [ToolEvent::Arguments("}".into())]);
        assert!(parser.push("\n").is_empty());
    }
}

/// Texts made of what the parsers look at.
fn answers() -> impl Strategy<Value = Vec<String>> {
    let words = [
        "<tool_call>",
        "</tool_call>",
        "<",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "\\",
        ":",
        ",",
        "\"name\"",
        "\"arguments\"",
        "\"now\"",
        "now",
        "\n",
        " ",
        "Thought:",
        "Action:",
        "Action Input:",
        "Final Answer:",
        "é",
        "null",
        "Act",
        "{\"name\": \"now\", \"arguments\": {}}",
        "Action: now\nAction Input: {\"a\": [1]}",
    ]; // fmt: skip
    prop::collection::vec(prop::sample::select(words.to_vec()).prop_map(String::from), 0..24)
}

proptest! {
    #[test]
    fn pieces_do_not_matter(words in answers(), react in any::<bool>(), after in any::<bool>()) {
        let style = if react { REACT } else { HERMES };
        let whole = words.concat();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let expected = read(parser(style, after), &[&whole]);
        prop_assert_eq!(&read(parser(style, after), &words), &expected);
        let single: Vec<String> = whole.chars().map(String::from).collect();
        let single: Vec<&str> = single.iter().map(String::as_str).collect();
        prop_assert_eq!(&read(parser(style, after), &single), &expected);
    }

    /// Calls that models write well come out as they went in.
    #[test]
    fn calls_come_out_as_they_went_in(
        texts in prop::collection::vec("[^<]{0,12}", 1..4),
        values in prop::collection::vec(".{0,12}", 1..4),
    ) {
        let calls: Vec<_> = values.iter().map(|value| json!({"v": value, "{": [value]}).to_string()).collect();
        let tagged = calls.iter().zip(texts.iter().cycle()).map(|(arguments, text)| {
            format!("{text}<tool_call>{{\"name\": \"now\", \"arguments\": {arguments}}}</tool_call>")
        });
        let (_, read) = read(parser(HERMES, false), &[&tagged.collect::<String>()]);
        let names: Vec<_> = calls.into_iter().map(|arguments| ("now".to_string(), arguments)).collect();
        prop_assert_eq!(read, names);
    }
}
