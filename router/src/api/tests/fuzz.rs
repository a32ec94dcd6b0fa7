//! Random input against everything that reads a client's bytes or a model's text files: bodies, chat templates, stop
//! strings, tokens, vocabularies; and against what reads calls from a model's text.
//!
//! Mutations of a small corpus by a seeded generator: the same run every time. A short one by default;
//! `make fuzz` sets QUERN_FUZZ, how many executions each target gets.

use std::time::SystemTime;

use super::super::extract::RawJson;
use super::super::openai::{ChatRequest, CompletionRequest};
use super::super::platforms::VertexRequest;
use super::super::tgi::request::GenerateRequest;
use super::super::tokenize::{DetokenizeRequest, VllmText};
use super::super::vllm::VllmRequest;
use crate::text::testing::{
    byte_level, byte_level_file, message, metaspace, metaspace_file, tiktoken, tiktoken_file, with_files,
};
use crate::text::{
    Chat, ChatTemplate, Detokenizer, Ending, StopMatcher, TemplateOptions, Tokenizer, ToolStyle,
};
use crate::tools::{Function, ToolChoice, ToolEvent, ToolParser, Toolbox};

/// Executions of one target.
pub fn executions() -> u64 {
    std::env::var("QUERN_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000)
}

/// Splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

/// Pieces of JSON that parsers stumble over.
const DICTIONARY: &[&str] = &[
    "null",
    "true",
    "-1",
    "0",
    "1e400",
    "1e-400",
    "18446744073709551616",
    "-0.0",
    "\"\"",
    "[]",
    "{}",
    "[[",
    "{\"a\":",
    "\\u0000",
    "\\ud83d",
    "\\ud83d\\ude00",
    "\u{fffd}",
    "\"type\":\"json\"",
    "\"type\":\"text\"",
    "\"role\":\"tool\"",
    "NaN",
    ",",
    ":",
    "\"",
    "\\",
    "\u{1f980}",
]; // fmt: skip

/// Some changes to one of the corpus: bytes flipped, cut, doubled, pieces put in, ends of others appended.
pub fn mutate(random: &mut Random, corpus: &[&str]) -> Vec<u8> {
    let mut bytes = random.pick(corpus).as_bytes().to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 => bytes.truncate(at),
            2 => {
                let end = (at + random.below(8)).min(bytes.len());
                bytes.drain(at..end);
            }
            3 => {
                let piece = bytes[at..(at + random.below(16)).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => {
                let other = random.pick(corpus).as_bytes();
                bytes.splice(at.., other[random.below(other.len())..].iter().copied());
            }
            _ => {
                bytes.splice(at..at, random.pick(DICTIONARY).bytes());
            }
        }
    }
    bytes
}

const BODIES: &[&str] = &[
    r#"{"inputs":"a","parameters":{"best_of":2,"temperature":0.7,"top_k":40,"top_p":0.95,"stop":["a","b"],"seed":1,"details":true,"grammar":{"type":"json","value":{"properties":{}}}},"stream":false}"#,
    r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"}]},{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","content":"r","tool_call_id":"1"}],"model":"m","stop":"a","stream_options":{"include_usage":true},"tools":[{"type":"function","function":{"name":"f","parameters":{}}}],"tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"required","tools":[{"function":{"name":"f"}}]}},"parallel_tool_calls":false,"response_format":{"type":"json_object"},"logit_bias":{"5":1}}"#,
    r#"{"prompt":["a","b"],"max_tokens":5,"logprobs":2,"echo":true,"stop":["x"],"n":2}"#,
    r#"{"prompt":[[1,2],[3]],"temperature":0}"#,
    r#"{"prompt":"a","n":1,"use_beam_search":false,"top_k":-1,"stop_token_ids":[],"ignore_eos":true}"#,
    r#"{"instances":[{"inputs":"a"},{"messages":[]}]}"#,
    r#"{"tokens":[1,2,3]}"#,
];

/// Any bytes are refused or read.
#[test]
fn bodies() {
    let mut random = Random(1);
    let mut n_read = 0;
    for _ in 0..executions() {
        let body = RawJson::from_bytes(mutate(&mut random, BODIES));
        body.first_of(&["inputs", "prompt", "messages"]);
        n_read += u64::from(match random.below(7) {
            0 => body.parse::<GenerateRequest>().is_ok(),
            1 => body.parse::<ChatRequest>().is_ok_and(|chat| {
                let _ = (chat.toolbox(), chat.template_messages(), chat.check_unsupported());
                true
            }),
            2 => body.parse::<CompletionRequest>().is_ok(),
            3 => body.parse::<VllmRequest>().is_ok(),
            4 => body.parse::<VertexRequest>().is_ok(),
            5 => body.parse::<VllmText>().is_ok(),
            _ => body.parse::<DetokenizeRequest>().is_ok(),
        });
    }
    assert!(n_read > executions() / 100, "the mutations leave enough that can be read: {n_read}");
}

const TEXTS: &[&str] = &[
    "<|im_start|>user\nhello<|im_end|>\n",
    "a é 你 \u{1f980}",
    "{{ messages }}{% for %}",
    "e\u{301}\u{300}",
    " ",
    "",
];

/// Whatever roles and contents: a prompt or an error, and its tokens are its text.
#[test]
fn chat_templates() {
    let jinja = r#"{"chat_template": "{% for m in messages %}{{ m['role'] + ': ' + m['content'] | trim }}\n{% if m.content.startswith('a') %}!{% endif %}{% endfor %}{{ raise_exception('x') if messages | length > 3 }}"}"#;
    let load = |name, file: &str| with_files(&[(name, file)], |dir| ChatTemplate::from_dir(dir, None).ok());
    let templates = [load("qwen.tiktoken", &tiktoken_file()), load("tokenizer_config.json", jinja)]
        .map(|t| t.expect("it loads"));
    let mut random = Random(2);
    // Rendering costs more than parsing.
    for _ in 0..executions() / 10 {
        let messages: Vec<_> = (0..random.below(5))
            .map(|_| {
                let content = String::from_utf8_lossy(&mutate(&mut random, TEXTS)).into_owned();
                message(random.pick(&["system", "user", "assistant", "tool", "<|im_end|>"]), &content)
            })
            .collect();
        let ending = *random.pick(&[&Ending::Reply, &Ending::NewTurn, &Ending::Closed]);
        let options = TemplateOptions { ending, ..TemplateOptions::default() };
        let chat = Chat { messages: &messages, tools: &[], options: &options };
        for template in &templates {
            let Ok(prompt) = template.apply_at(chat, SystemTime::UNIX_EPOCH) else { continue };
            let ids = tiktoken().encode_prompt(&prompt).expect("every byte has a token").ids;
            assert!(!ids.is_empty() || prompt.n_bytes() == 0);
        }
    }
}

/// A damaged vocabulary is refused, or reads and writes without a panic.
#[test]
fn vocabularies() {
    let files = [
        ("qwen.tiktoken", tiktoken_file()),
        ("tokenizer.json", byte_level_file()),
        ("tokenizer.json", metaspace_file()),
    ];
    let mut random = Random(5);
    let mut n_read = 0;
    for i in 0..executions() / 20 {
        let (name, sound) = &files[i as usize % files.len()];
        let file = String::from_utf8_lossy(&mutate(&mut random, &[sound])).into_owned();
        let tokenizer = with_files(&[(name, &file)], Tokenizer::from_dir);
        let Ok(tokenizer) = tokenizer else { continue };
        n_read += 1;
        let Ok(encoding) = tokenizer.encode("hello wor\u{e9}", true) else { continue };
        assert!(encoding.ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        tokenizer.decode(&encoding.ids, false);
    }
    assert!(n_read > executions() / 2000, "the mutations leave enough that can be read: {n_read}");
}

/// However a text is cut, a stop string is found where it first ends, and nothing is lost or added.
#[test]
fn stop_strings() {
    let mut random = Random(3);
    let letters = ["a", "b", "ab", "é", "停", "\n"];
    for _ in 0..executions() {
        let mut word = |n| (0..random.below(n)).map(|_| letters[random.below(6)]).collect::<String>();
        let (stops, pieces) = ([word(4), word(4)], [word(5), word(5), word(5)]);
        let text = pieces.concat();
        let mut matcher = StopMatcher::new(&stops);
        let (mut emitted, mut matched) = (String::new(), None);
        for piece in &pieces {
            let outcome = matcher.push(piece);
            emitted += &outcome.emit;
            matched = matched.or(outcome.matched);
        }
        emitted += &matcher.finish();
        let ends = |stop: &&String| !stop.is_empty();
        let first =
            stops.iter().filter(ends).filter_map(|s| text.find(s.as_str()).map(|at| at + s.len())).min();
        match (&matched, first) {
            (Some(stop), Some(end)) => {
                assert_eq!(format!("{emitted}{stop}"), text[..end], "{stops:?} in {pieces:?}")
            }
            (None, None) => assert_eq!(emitted, text, "{stops:?}"),
            _ => panic!("{matched:?} of {stops:?} in {pieces:?}"),
        }
    }
}

/// Any ids: the pieces are whole characters and add up to the text decoded at once.
#[test]
fn detokeniser() {
    let mut random = Random(4);
    let tokenizers = [tiktoken(), byte_level(), metaspace()];
    for _ in 0..executions() {
        let tokenizer = &tokenizers[random.below(3)];
        let ids: Vec<u32> =
            (0..random.below(12)).map(|_| random.below(tokenizer.vocab_size() + 20) as u32).collect();
        let skip = random.below(2) == 0;
        let mut detokenizer = Detokenizer::new(tokenizer.clone(), skip);
        let mut text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
        text += &detokenizer.finish();
        let whole = tokenizer.decode(&ids, skip);
        assert!(text == whole || text.trim_start() == whole.trim_start(), "{ids:?}");
    }
}

const ANSWERS: &[&str] = &[
    "Let me see.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\"]}}\n</tool_call>\n<tool_call>{\"name\":\"g\"}</tool_call>",
    "<tool_call>[{\"parameters\": \"{\\\"a\\\": 1}\", \"name\": \"f\"}, {\"name\": \"g\", \"arguments\": null}]</tool_call> so",
    "Thought: I need f.\nAction: f\nAction Input: {\"a\": {\"b\": \"\\\"\"}}\nObservation: x",
    "Thought: I know.\nFinal Answer: 4\nAction: g",
    "Action: g\n\nAction Input: {}",
];

/// Names and arguments of the calls, and the text, of an answer in these pieces.
fn read_calls(mut parser: ToolParser, pieces: &[&str]) -> (String, Vec<(String, String)>) {
    let events: Vec<ToolEvent> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    let (mut text, mut calls) = (String::new(), Vec::new());
    for event in events.into_iter().chain(parser.finish()) {
        match event {
            ToolEvent::Text(more) => text += &more,
            ToolEvent::Call(name) => calls.push((name, String::new())),
            ToolEvent::Arguments(more) => calls.last_mut().expect("a call has begun").1 += &more,
        }
    }
    (text, calls)
}

/// Whatever a model writes, in whichever pieces: the same calls of known functions with the beginnings of
/// objects, and no more characters than were written.
#[test]
fn tool_calls() {
    let function = |name: &str| Function { name: name.into(), description: None, parameters: None };
    let functions = vec![function("f"), function("g")];
    let mut tools = Toolbox { functions, choice: ToolChoice::Auto, parallel: true, prompt: None };
    let mut random = Random(5);
    let mut n_calls = 0;
    for _ in 0..executions() {
        let answer = String::from_utf8_lossy(&mutate(&mut random, ANSWERS)).into_owned();
        tools.parallel = random.below(4) > 0;
        let style = if random.below(2) == 0 { ToolStyle::React } else { ToolStyle::Template };
        let parser = |after_result| ToolParser::new(style, &tools, after_result);
        let after_result = random.below(2) == 0;
        let cut = |at: usize| (at..=answer.len()).find(|&at| answer.is_char_boundary(at)).unwrap_or(0);
        let first = cut(random.below(answer.len() + 1));
        let second = cut(first + random.below(answer.len() + 1 - first));
        let pieces = [&answer[..first], &answer[first..second], &answer[second..]];
        let (text, calls) = read_calls(parser(after_result), &pieces);
        assert_eq!(read_calls(parser(after_result), &[&answer]), (text.clone(), calls.clone()), "{answer:?}");
        assert!(
            calls
                .iter()
                .all(|(name, json)| tools.functions.iter().any(|f| f.name == *name) && json.starts_with('{'))
        );
        assert!(text.len() <= answer.len() && (tools.parallel || calls.len() <= 1), "{answer:?}");
        n_calls += calls.len() as u64;
    }
    assert!(n_calls > executions() / 10, "the mutations leave enough calls: {n_calls}");
}
