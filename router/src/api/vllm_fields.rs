//! vLLM's request fields beside OpenAI's: what they mean here, and which are refused. Used by OpenAI's routes
//! and by vLLM's first /generate.
//!
//! A field that would change the answer is done or refused, never passed over in silence. TGI passes them
//! all over: its own mode does, too, with those that are not done here.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use utoipa::ToSchema;

use super::compat::Compat;
use super::pieces::TextStyle;
use crate::validation::{Draft, Refusal};

/// vLLM's fields that choose tokens and show them.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct VllmFields {
    /// Sample from the k likeliest tokens; -1 and 0 are off.
    top_k: Option<i32>,
    /// Go on past the tokens that end an answer.
    ignore_eos: Option<bool>,
    /// Token ids that end the answer, too. Their text is not part of it.
    stop_token_ids: Option<Vec<u32>>,
    /// Leave the stop string at the end of the answer.
    include_stop_str_in_output: Option<bool>,
    /// Leave special tokens out of the text; true when absent.
    skip_special_tokens: Option<bool>,
    /// Keep only so many of the last prompt tokens; -1: as many as a prompt may have.
    truncate_prompt_tokens: Option<i64>,
    /// Only with `ignore_eos` and nothing else that ends an answer; otherwise refused.
    min_tokens: Option<u32>,
    /// Whether the tokenizer adds its own, such as a BOS. Refused unless it is the route's way: true for plain
    /// texts, false for chats.
    add_special_tokens: Option<bool>,
    /// Refused unless 0.
    min_p: Option<f32>,
    /// Refused unless false.
    use_beam_search: Option<bool>,
    /// Refused unless 1.
    length_penalty: Option<f32>,
    /// Refused: `echo` with `logprobs` on /v1/completions reports the prompt's.
    prompt_logprobs: Option<Value>,
    /// Refused unless empty.
    allowed_token_ids: Option<Vec<u32>>,
    /// Refused unless empty.
    bad_words: Option<Vec<String>>,
    /// Refused.
    logits_processors: Option<Value>,
    /// Refused unless false.
    return_token_ids: Option<bool>,
    /// Refused unless false.
    return_tokens_as_token_ids: Option<bool>,
}

/// What the meaning of the fields depends on.
pub struct RouteFacts {
    pub compat: Compat,
    /// The most tokens that a prompt may have.
    pub max_input_tokens: u32,
    /// Whether the tokenizer's own special tokens are added to prompts.
    pub adds_special_tokens: bool,
}

impl VllmFields {
    /// The draft as these fields want it.
    ///
    /// # Errors
    /// The first field that asks for what is not done here.
    pub fn apply(&self, draft: Draft, route: &RouteFacts) -> Result<Draft, Refusal> {
        if !route.compat.ignores_unsupported_fields() {
            self.refuse_unsupported(&draft, route)?;
        }
        let mut draft = draft;
        draft.choice.top_k = self.top_k.filter(|k| draft.choice.do_sample && !matches!(k, -1 | 0));
        draft.ignore_eos = self.ignore_eos.unwrap_or(false);
        draft.stop_ids = self.stop_token_ids.clone().unwrap_or_default();
        draft.truncate = match self.truncate_prompt_tokens {
            None => None,
            Some(-1) => Some(route.max_input_tokens as usize),
            Some(n) => Some(usize::try_from(n).map_err(|_| {
                Refusal(format!("`truncate_prompt_tokens` must be -1 or strictly positive. Given: {n}"))
            })?),
        };
        Ok(draft)
    }

    pub fn truncates(&self) -> bool {
        self.truncate_prompt_tokens.is_some()
    }

    /// How the answer's text is shown.
    pub fn style(&self, compat: Compat) -> TextStyle {
        TextStyle::OpenAi {
            keep_stop: self.include_stop_str_in_output.unwrap_or(false) || compat.keeps_stop_on_v1(),
            show_special: self.skip_special_tokens == Some(false),
        }
    }

    fn refuse_unsupported(&self, draft: &Draft, route: &RouteFacts) -> Result<(), Refusal> {
        let absent_or = |flag: Option<bool>, off: bool| flag.is_none_or(|on| on == off);
        let unsupported = [
            ("min_tokens", self.min_tokens.is_none_or(|min| min == 0 || self.cannot_end_before(min, draft))),
            ("add_special_tokens", absent_or(self.add_special_tokens, route.adds_special_tokens)),
            ("min_p", self.min_p.is_none_or(|p| p == 0.0)),
            ("use_beam_search", absent_or(self.use_beam_search, false)),
            ("length_penalty", self.length_penalty.is_none_or(|penalty| penalty == 1.0)),
            ("prompt_logprobs", self.prompt_logprobs.is_none()),
            ("allowed_token_ids", self.allowed_token_ids.as_ref().is_none_or(Vec::is_empty)),
            ("bad_words", self.bad_words.as_ref().is_none_or(Vec::is_empty)),
            ("logits_processors", self.logits_processors.as_ref().is_none_or(is_empty)),
            ("return_token_ids", absent_or(self.return_token_ids, false)),
            ("return_tokens_as_token_ids", absent_or(self.return_tokens_as_token_ids, false)),
        ];
        refuse_any(&unsupported)
    }

    /// Whether the answer has at least `min` tokens anyhow.
    fn cannot_end_before(&self, min: u32, draft: &Draft) -> bool {
        self.ignore_eos == Some(true)
            && self.stop_token_ids.as_ref().is_none_or(Vec::is_empty)
            && draft.stop.is_empty()
            && draft.own_stop.is_none()
            && draft.constraint.is_none()
            && draft.max_new_tokens.is_some_and(|max| max >= min)
    }
}

/// # Errors
/// For the first of the named fields that is not as if it were absent.
pub fn refuse_any(fields: &[(&str, bool)]) -> Result<(), Refusal> {
    match fields.iter().find(|(_, is_off)| !is_off) {
        Some((name, _)) => Err(Refusal(format!("`{name}` is not supported on this route. Leave it out"))),
        None => Ok(()),
    }
}

/// Whether a list or an object holds nothing.
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// A seed as OpenAI's clients send it: any 64 bits; -1 is none, as in vLLM.
pub fn seed<'de, D: Deserializer<'de>>(de: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a whole number of 64 bits")]
    enum Seed {
        Unsigned(u64),
        Signed(i64),
    }
    Ok(match Option::deserialize(de)? {
        None | Some(Seed::Signed(-1)) => None,
        Some(Seed::Unsigned(seed)) => Some(seed),
        Some(Seed::Signed(seed)) => Some(seed.cast_unsigned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validation::Input;
    use crate::validation::rules::SamplingChoice;

    const ROUTE: RouteFacts =
        RouteFacts { compat: Compat::Fixed, max_input_tokens: 99, adds_special_tokens: false };

    fn apply(json: &str) -> Result<Draft, Refusal> {
        let choice = SamplingChoice { do_sample: true, ..SamplingChoice::default() };
        let draft = Draft { choice, max_new_tokens: Some(8), ..Draft::new(Input::Ids(vec![1]), 0) };
        serde_json::from_str::<VllmFields>(json).unwrap().apply(draft, &ROUTE)
    }

    #[test]
    fn what_is_done() {
        let draft =
            apply(r#"{"top_k": 5, "ignore_eos": true, "stop_token_ids": [7], "truncate_prompt_tokens": 3}"#);
        let draft = draft.unwrap();
        assert_eq!((draft.choice.top_k, draft.ignore_eos, draft.truncate), (Some(5), true, Some(3)));
        assert_eq!(draft.stop_ids, [7]);
        for off in ["{}", r#"{"top_k": -1, "truncate_prompt_tokens": null}"#, r#"{"top_k": 0}"#] {
            let draft = apply(off).unwrap();
            assert_eq!((draft.choice.top_k, draft.ignore_eos, draft.truncate), (None, false, None), "{off}");
        }
        assert_eq!(apply(r#"{"truncate_prompt_tokens": -1}"#).unwrap().truncate, Some(99));
        assert!(apply(r#"{"truncate_prompt_tokens": -2}"#).is_err());
    }

    #[test]
    fn what_is_refused() {
        for (json, name) in [
            (r#"{"min_p": 0.1}"#, "min_p"),
            (r#"{"min_tokens": 1}"#, "min_tokens"),
            (r#"{"min_tokens": 9, "ignore_eos": true}"#, "min_tokens"),
            (r#"{"min_tokens": 1, "ignore_eos": true, "stop_token_ids": [1]}"#, "min_tokens"),
            (r#"{"add_special_tokens": true}"#, "add_special_tokens"),
            (r#"{"use_beam_search": true}"#, "use_beam_search"),
            (r#"{"length_penalty": 0.5}"#, "length_penalty"),
            (r#"{"prompt_logprobs": 0}"#, "prompt_logprobs"),
            (r#"{"allowed_token_ids": [1]}"#, "allowed_token_ids"),
            (r#"{"bad_words": ["x"]}"#, "bad_words"),
            (r#"{"logits_processors": [{}]}"#, "logits_processors"),
            (r#"{"return_token_ids": true}"#, "return_token_ids"),
            (r#"{"return_tokens_as_token_ids": true}"#, "return_tokens_as_token_ids"),
        ] {
            let expected = format!("`{name}` is not supported on this route. Leave it out");
            assert_eq!(apply(json).unwrap_err(), Refusal(expected), "{json}");
        }
        for json in [
            r#"{"min_p": 0, "min_tokens": 0, "add_special_tokens": false, "use_beam_search": false}"#,
            r#"{"length_penalty": 1.0, "prompt_logprobs": null, "allowed_token_ids": [], "bad_words": []}"#,
            r#"{"logits_processors": [], "return_token_ids": false, "return_tokens_as_token_ids": null}"#,
            r#"{"min_tokens": 8, "ignore_eos": true}"#,
        ] {
            assert!(apply(json).is_ok(), "{json}");
        }
    }

    #[test]
    fn seeds() {
        #[derive(Deserialize)]
        struct Body {
            #[serde(default, deserialize_with = "seed")]
            seed: Option<u64>,
        }
        let read = |json: &str| serde_json::from_str::<Body>(json).map(|body| body.seed);
        for (json, expected) in [
            ("{}", None),
            (r#"{"seed": null}"#, None),
            (r#"{"seed": -1}"#, None),
            (r#"{"seed": 0}"#, Some(0)),
            (r#"{"seed": 18446744073709551615}"#, Some(u64::MAX)),
            (r#"{"seed": -2}"#, Some(u64::MAX - 1)),
        ] {
            assert_eq!(read(json).unwrap(), expected, "{json}");
        }
        for json in [r#"{"seed": 1.5}"#, r#"{"seed": "1"}"#, r#"{"seed": -9223372036854775809}"#] {
            assert!(read(json).is_err(), "{json}");
        }
    }
}
