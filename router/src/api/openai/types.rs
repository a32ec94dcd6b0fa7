//! JSON that both OpenAI routes share, and the mapping of OpenAI's sampling fields.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::logit_bias::logit_bias;
use crate::api::random;
use crate::api::state::Serving;
use crate::api::vllm_fields::seed;
use crate::validation::rules::SamplingChoice;

/// `stream_options`.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct StreamOptions {
    pub include_usage: Option<bool>,
    /// vLLM's: the usage so far in every chunk, too.
    pub continuous_usage_stats: Option<bool>,
}

/// Fields of both routes that choose the next token.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct SamplingFields {
    temperature: Option<f32>,
    top_p: Option<f32>,
    frequency_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    repetition_penalty: Option<f32>,
    /// -1 is none.
    #[serde(default, deserialize_with = "seed")]
    #[schema(value_type = Option<i64>)]
    seed: Option<u64>,
    /// Added to the logits of these token ids, -100 to 100.
    #[serde(default, deserialize_with = "logit_bias")]
    #[schema(value_type = Option<std::collections::HashMap<String, f32>>)]
    pub logit_bias: Vec<(u32, f32)>,
}

impl SamplingFields {
    /// OpenAI's meaning: sampling unless `temperature` (or `top_p`) is 0; `top_p` 1 is off.
    pub fn choice(&self) -> SamplingChoice {
        let greedy = self.temperature == Some(0.0) || self.top_p == Some(0.0);
        SamplingChoice {
            do_sample: !greedy,
            temperature: self.temperature.filter(|_| !greedy),
            top_p: self.top_p.filter(|p| !greedy && *p != 1.0),
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            top_k: None,
            typical_p: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Usage {
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
    pub total_tokens: u32,
}

impl Usage {
    pub fn new(prompt_tokens: u32, completion_tokens: u32) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens.saturating_add(completion_tokens),
        }
    }
}

/// What every object of one answer repeats.
#[derive(Debug, Clone)]
pub struct Envelope {
    pub id: String,
    pub created: u64,
    pub model: String,
    pub system_fingerprint: String,
}

impl Envelope {
    /// `model`: what the answer calls the model; the server's own id when `None`.
    pub fn new(serving: &Serving, id_prefix: &str, model: Option<String>) -> Self {
        Self {
            id: if serving.compat.has_empty_ids() { String::new() } else { random::id(id_prefix) },
            created: random::unix_seconds(),
            model: model.unwrap_or_else(|| serving.info.model_id.clone()),
            system_fingerprint: serving.info.fingerprint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampling_fields() {
        let choice = |json: &str| serde_json::from_str::<SamplingFields>(json).unwrap().choice();
        let sampled = SamplingChoice { do_sample: true, ..SamplingChoice::default() };
        assert_eq!(choice("{}"), sampled);
        assert_eq!(choice(r#"{"top_p": 1, "temperature": null}"#), sampled);
        assert_eq!(choice(r#"{"temperature": 0, "top_p": 0.5}"#), SamplingChoice::default());
        assert_eq!(choice(r#"{"temperature": 0.7, "top_p": 0}"#), SamplingChoice::default());
        assert_eq!(
            choice(r#"{"temperature": 0.7, "top_p": 0.9, "presence_penalty": 1, "seed": 3}"#),
            SamplingChoice {
                temperature: Some(0.7),
                top_p: Some(0.9),
                presence_penalty: Some(1.0),
                seed: Some(3),
                ..sampled
            }
        );
    }
}
