//! Templates of the served families and the corners of their dialect.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::text::testing::message;
use crate::text::{Ending, ToolCall};

fn template(text: &str) -> JinjaTemplate {
    let tokens = vec![("bos_token", "<s>".to_string()), ("eos_token", "</s>".to_string())];
    JinjaTemplate::new(TemplateSource {
        path: PathBuf::from("chat_template.jinja"),
        text: text.into(),
        tokens,
    })
    .unwrap()
}

fn render(text: &str, turns: &[(&str, &str)]) -> Result<String, String> {
    let messages: Vec<_> = turns.iter().map(|(role, content)| message(role, content)).collect();
    // 2024-02-29 23:59:58 UTC
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_251_198);
    let chat = Chat { messages: &messages, tools: &[], options: &TemplateOptions::default() };
    template(text).render(chat, now).map_err(|e| e.to_string())
}

const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
    {{ '<|im_start|>system\nDefault<|im_end|>\n' }}{% endif %}\
    {{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

const LLAMA2: &str = "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}\
    {% set turns = messages[1:] %}{% else %}{% set system = false %}{% set turns = messages %}{% endif %}\
    {% for message in turns %}\
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
    {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
    {% if loop.index0 == 0 and system %}{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + message['content'] %}\
    {% else %}{% set content = message['content'] %}{% endif %}\
    {% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}\
    {% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}";

#[test]
fn templates_of_the_served_families() {
    let check = |template: &str, turns: &[(&str, &str)], expected: &str| {
        assert_eq!(render(template, turns).unwrap(), expected);
    };
    let opened =
        "<|im_start|>system\nDefault<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
    check(CHATML, &[("user", "Hi")], opened);
    check(CHATML, &[], "<|im_start|>assistant\n");
    check(
        LLAMA2,
        &[("system", "S"), ("user", " Hi "), ("assistant", "Yo"), ("user", "Go")],
        "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\n Hi  [/INST] Yo </s><s>[INST] Go [/INST]"
            .replace("\n\n Hi  ", "\n\n Hi ")
            .as_str(),
    );
}

#[test]
fn the_last_message_of_the_assistant_is_continued() {
    let check = |template: &str, content: &str, expected: &str| {
        let text = render(template, &[("user", "Hi"), ("assistant", content)]).unwrap();
        assert_eq!(text, expected, "{content:?}");
    };
    let opened =
        "<|im_start|>system\nDefault<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
    check(CHATML, "Sure, ", &format!("{opened}Sure,"));
    // Texts that occur in the template itself, or earlier.
    check(CHATML, "assistant", &format!("{opened}assistant"));
    check(CHATML, "Hi", &format!("{opened}Hi"));
    check(CHATML, ">", &format!("{opened}>"));
    check(CHATML, CUT_MARK, &format!("{opened}{CUT_MARK}"));
    check(CHATML, " \n", opened);
    check(LLAMA2, "  Yo  ", "<s>[INST] Hi [/INST] Yo");
    // A template that hides the content: nothing to cut at, so a turn is opened.
    check("{{ messages | length }}{% if add_generation_prompt %}>{% endif %}", "x", "2>");
}

#[test]
fn the_dialect_of_transformers() {
    let check = |template: &str, expected: &str| {
        assert_eq!(render(template, &[("user", "a<b>'é"), ("tool", "T")]).unwrap(), expected, "{template}");
    };
    // Blocks take their line with them, as with trim_blocks and lstrip_blocks.
    check("x\n  {% if true %}\ny\n  {% endif %}\nz\n", "x\ny\nz");
    check(
        "{{ messages[::-1][0].role }} {{ messages[1:] | length }} {{ messages[-1]['role'] }}",
        "tool 1 tool",
    );
    check("{{ messages[0].role.upper() }}{{ ' x '.strip() }}{{ 'a,b'.split(',')[1] }}", "USERxb");
    check("{{ messages[0] | tojson }}", r#"{"role": "user", "content": "a<b>'é"}"#);
    check("{{ [1, {'k': []}] | tojson(indent=2) }}", "[\n  1,\n  {\n    \"k\": []\n  }\n]");
    check("{{ [1, none, true, 'ü'] | tojson(ensure_ascii=False) }}", "[1, null, true, \"ü\"]");
    check(
        "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
        "user",
    );
    check(
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        "2",
    );
    check(
        "{{ strftime_now('%d %b %Y') }}|{{ strftime_now('%Y-%m-%d %H:%M:%S') }}",
        "29 Feb 2024|2024-02-29 23:59:58",
    );
    check("{{ bos_token }}{{ pad_token }}{{ eos_token }}", "<s></s>");
    check("{% if tools %}t{% endif %}{{ tools is none }}{{ documents is defined }}", "TrueTrue");
    check("{% if messages[0].tool_calls is defined %}c{% endif %}{{ messages[0].name }}|", "|");
    check("a {%- generation -%} b {%- endgeneration %} c", "ab c");
    check("{% generation %}b{% endgeneration %}{# {% generation %} #}", "b");
    check("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f('y') }}", "[y]");
    check(
        "{% for k, v in messages[0].items() %}{{ k }} {% endfor %}{{ messages[0].get('q', 'd') }}",
        "role content d",
    );
}

/// The way of Qwen2's template with tools, shortened.
const WITH_TOOLS: &str = "{%- if tools %}{{- '<tools>' }}{%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}{%- endfor %}\
    {{- '\n</tools><tool_call>' }}{%- endif %}{%- for message in messages %}{%- if message.role == 'assistant' and message.tool_calls %}\
    {%- if message.content %}{{- message.content }}{%- endif %}{%- for call in message.tool_calls %}\
    {%- if call.function is defined %}{%- set call = call.function %}{%- endif %}\
    {{- '[' + call.name + ' ' }}{{- call.arguments | tojson }}{{- ']' }}{%- endfor %}\
    {%- else %}{{- message.role + ': ' + message.content + '\n' }}{%- endif %}{%- endfor %}";

#[test]
fn tools_and_calls() {
    let template = template(WITH_TOOLS);
    assert!(template.knows_tools());
    let call = |arguments: &str| ToolCall { id: "1".into(), name: "f".into(), arguments: arguments.into() };
    let calls = vec![call("{\"b\":1, \"a\": [null]}"), call("broken")];
    let messages = [
        message("user", "Hi"),
        ChatMessage { tool_calls: calls, ..message("assistant", "") },
        ChatMessage { tool_call_id: Some("1".into()), ..message("tool", "r") },
    ];
    let tools = [json!({"type": "function", "function": {"name": "f", "a": 1}})];
    let options = TemplateOptions::default();
    let render = |tools: &[_]| {
        let chat = Chat { messages: &messages, tools, options: &options };
        template.render(chat, SystemTime::UNIX_EPOCH).unwrap()
    };
    let turns = "user: Hi\n[f {\"b\": 1, \"a\": [null]}][f \"broken\"]tool: r\n";
    assert_eq!(render(&[]), turns);
    let told =
        "<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"f\", \"a\": 1}}\n</tools><tool_call>";
    assert_eq!(render(&tools), format!("{told}{turns}"));
}

#[test]
fn endings_and_variables() {
    let messages = [message("user", "u"), message("assistant", "a ")];
    let render = |text: &str, ending, variables: serde_json::Value| {
        let variables = variables.as_object().cloned().unwrap_or_default();
        let options = TemplateOptions { ending, variables };
        let chat = Chat { messages: &messages, tools: &[], options: &options };
        template(text).render(chat, SystemTime::UNIX_EPOCH).unwrap()
    };
    let text =
        "{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}";
    for (ending, expected) in
        [(Ending::Reply, "[u][a"), (Ending::NewTurn, "[u][a ]>"), (Ending::Closed, "[u][a ]")]
    {
        assert_eq!(render(text, ending, json!({})), expected);
    }
    let text = "{{ thinking }} {{ deep.list[1] }} {{ bos_token }} {{ messages | length }}";
    let variables =
        json!({"thinking": false, "deep": {"list": [1, "x"]}, "bos_token": "mine", "messages": []});
    assert_eq!(render(text, Ending::NewTurn, variables), "False x <s> 2");
}

#[test]
fn what_a_template_takes() {
    for (text, knows_tools, takes_system) in
        [(CHATML, false, true), (LLAMA2, false, true), (WITH_TOOLS, true, true)]
    {
        let template = template(text);
        assert_eq!((template.knows_tools(), template.takes_system()), (knows_tools, takes_system), "{text}");
    }
    for without_system in [
        "{{ raise_exception('no') if messages[0].role == 'system' }}",
        "{% for m in messages %}{{ m.content if m.role == 'user' }}{% endfor %}",
    ] {
        assert!(!template(without_system).takes_system(), "{without_system}");
    }
}

#[test]
fn errors_tell_what_the_template_says() {
    let check = |template: &str, expected: &str| {
        let message = render(template, &[("assistant", "x")]).unwrap_err();
        assert!(message.contains(expected), "{message}");
    };
    let alternate = "Conversation roles must alternate user/assistant/user/assistant/...";
    assert_eq!(render(LLAMA2, &[("assistant", "x"), ("user", "y")]).unwrap_err(), alternate);
    check("{% macro f() %}{{ raise_exception('inner') }}{% endmacro %}{{ f() }}", "inner");
    check("{{ nothing.at.all }}", "undefined value");
    check("{{ messages[0].content.nope() }}", "nope");
    check("{{ strftime_now('%!') }}", "strftime_now");
    check("{{ [] | tojson(indent=1000000000) }}", "expected at most 16");
    check("{% include 'other' %}", "other");
}

#[test]
fn runaway_templates_end_with_an_error() {
    let endless = "{% for a in range(10000) %}{% set x = 'y' * 1000000 %}{% endfor %}";
    assert!(render(endless, &[]).unwrap_err().contains("fuel"));
    let recursive = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    assert!(render(recursive, &[]).unwrap_err().contains("recursion"));
    assert!(render("{{ 'x' * 10000000000 }}", &[]).is_err());
}

#[test]
fn a_long_conversation_is_within_the_bounds() {
    let content = "word ".repeat(40);
    let turns: Vec<(&str, &str)> =
        (0..10_000).map(|i| (if i % 2 == 0 { "user" } else { "assistant" }, content.as_str())).collect();
    let text = render(CHATML, &turns).unwrap();
    assert!(text.len() > 2_000_000 && text.ends_with("word"));
}

#[test]
fn a_template_with_wrong_syntax_is_named() {
    let source =
        TemplateSource { path: "dir/chat_template.jinja".into(), text: "\n{% if %}".into(), tokens: vec![] };
    let message = JinjaTemplate::new(source).err().unwrap().to_string();
    assert!(
        message.contains("dir/chat_template.jinja: chat template: ") && message.contains(":2)"),
        "{message}"
    );
}
