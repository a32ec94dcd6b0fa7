//! JSON that TGI's routes read. `null` means "not given" everywhere; unknown keys are ignored.

use serde::{Deserialize, Deserializer};

use crate::api::compat::Compat;
use crate::api::lists::one_or_many;
use crate::validation::rules::SamplingChoice;
use crate::validation::{Draft, Input, Refusal};

/// Body of /generate, /generate_stream, / and /tokenize.
#[derive(Debug, Deserialize)]
pub struct GenerateRequest {
    pub inputs: String,
    parameters: Option<Parameters>,
    /// Only / reads it.
    #[serde(default, deserialize_with = "or_default")]
    pub stream: bool,
}

impl GenerateRequest {
    /// Takes the parameters out: greedy when there are none, but see `Compat`.
    pub fn take_parameters(&mut self, compat: Compat) -> Parameters {
        self.parameters.take().unwrap_or_else(|| Parameters {
            do_sample: compat.samples_without_parameters(),
            ..Parameters::default()
        })
    }
}

/// `parameters`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Parameters {
    pub best_of: Option<usize>,
    temperature: Option<f32>,
    repetition_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    top_k: Option<i32>,
    top_p: Option<f32>,
    typical_p: Option<f32>,
    #[serde(deserialize_with = "or_default")]
    do_sample: bool,
    max_new_tokens: Option<u32>,
    pub return_full_text: Option<bool>,
    #[serde(deserialize_with = "one_or_many")]
    stop: Vec<String>,
    truncate: Option<usize>,
    #[serde(deserialize_with = "or_default")]
    watermark: bool,
    #[serde(deserialize_with = "or_default")]
    details: bool,
    #[serde(deserialize_with = "or_default")]
    pub decoder_input_details: bool,
    seed: Option<u64>,
    top_n_tokens: Option<u32>,
    grammar: Option<Grammar>,
    adapter_id: Option<String>,
}

/// A constraint on the output, checked for its shape only: it is not supported yet.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Grammar {
    #[serde(alias = "json_object")]
    Json {
        #[serde(rename = "value")]
        _value: serde_json::Value,
    },
    Regex {
        #[serde(rename = "value")]
        _value: String,
    },
    JsonSchema {
        #[serde(rename = "value")]
        _value: serde_json::Value,
    },
}

impl Parameters {
    pub fn wants_details(&self) -> bool {
        self.details || self.decoder_input_details
    }

    /// The request that validation sees. `prefill_allowed`: whether the prompt's log-probabilities
    /// may be computed for the asking.
    ///
    /// # Errors
    /// For what no model of this server does, rather than doing without.
    pub fn draft(self, input: Input, random_seed: u64, prefill_allowed: bool) -> Result<Draft, Refusal> {
        self.refuse_unsupported()?;
        Ok(Draft {
            best_of: self.best_of,
            choice: SamplingChoice {
                do_sample: self.do_sample,
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                typical_p: self.typical_p,
                repetition_penalty: self.repetition_penalty,
                frequency_penalty: self.frequency_penalty,
                presence_penalty: None,
                seed: self.seed,
            },
            max_new_tokens: self.max_new_tokens,
            stop: self.stop,
            truncate: self.truncate,
            top_n_tokens: self.top_n_tokens.unwrap_or(0),
            prompt_logprobs: self.decoder_input_details && prefill_allowed,
            grammar: self.grammar.is_some(),
            ..Draft::new(input, random_seed)
        })
    }

    fn refuse_unsupported(&self) -> Result<(), Refusal> {
        if self.watermark {
            let text =
                "`watermark` is not supported: this server adds no watermark. Leave it out or send false";
            return Err(Refusal(text.into()));
        }
        match self.adapter_id.as_deref() {
            None | Some("") => Ok(()),
            Some(id) => {
                Err(Refusal(format!("`adapter_id` is not supported: no adapters are loaded. Given: {id}")))
            }
        }
    }
}

/// `null` is the default.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(de: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(de)?.unwrap_or_default())
}
