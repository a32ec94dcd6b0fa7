//! JSON that TGI's routes read. `null` means "not given" everywhere; unknown keys are ignored.

use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use crate::api::compat::Compat;
use crate::api::constraint_fields::Grammar;
use crate::api::lists::{one_or_many, one_or_many_schema};
use crate::validation::rules::SamplingChoice;
use crate::validation::{Draft, Input, Refusal};

/// Body of /generate, /generate_stream, / and /tokenize.
#[derive(Debug, Deserialize, ToSchema)]
pub struct GenerateRequest {
    /// The text to continue. Special tokens written out in it are special tokens.
    pub inputs: String,
    parameters: Option<Parameters>,
    /// Only / reads it.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<bool>)]
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

/// What the answer is to be like. `null` means "not given" everywhere.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct Parameters {
    /// Generate so many answers and return the likeliest.
    #[schema(minimum = 1)]
    pub best_of: Option<usize>,
    /// Below 1 sharpens, above 1 flattens the distribution; 1 is off.
    #[schema(exclusive_minimum = 0)]
    temperature: Option<f32>,
    /// Divides the logits of tokens that occurred, in prompt or answer; 1 is off.
    #[schema(exclusive_minimum = 0)]
    repetition_penalty: Option<f32>,
    /// Subtracted from a token's logit for each time it was generated.
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f32>,
    /// Sample from the k likeliest tokens.
    #[schema(minimum = 1)]
    top_k: Option<i32>,
    /// Sample from the fewest tokens whose probabilities add up to this.
    #[schema(exclusive_minimum = 0, exclusive_maximum = 1)]
    top_p: Option<f32>,
    /// Locally typical sampling with this mass.
    #[schema(exclusive_minimum = 0, exclusive_maximum = 1)]
    typical_p: Option<f32>,
    /// Sample even if no other parameter asks for it.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<bool>)]
    do_sample: bool,
    /// Tokens to generate at most; when absent, as many as fit.
    #[schema(minimum = 1)]
    max_new_tokens: Option<u32>,
    /// Begin `generated_text` with the inputs. / does when absent, the other routes do not.
    pub return_full_text: Option<bool>,
    /// Strings that end the answer; a match stays at its end.
    #[serde(default, deserialize_with = "one_or_many")]
    #[schema(schema_with = one_or_many_schema)]
    stop: Vec<String>,
    /// Keep only so many of the last prompt tokens.
    #[schema(minimum = 1)]
    truncate: Option<usize>,
    /// Not supported: true is refused.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<bool>)]
    watermark: bool,
    /// Return tokens, finish reason and counts, too.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<bool>)]
    details: bool,
    /// Return the prompt's tokens with their log-probabilities, too. Not with streaming.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<bool>)]
    pub decoder_input_details: bool,
    /// Of the sampling; a request with the same seed gives the same answer.
    seed: Option<u64>,
    /// Report so many of the likeliest tokens beside each chosen one.
    top_n_tokens: Option<u32>,
    /// What the answer must look like.
    grammar: Option<Grammar>,
    /// Not supported: no adapters are loaded.
    adapter_id: Option<String>,
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
            constraint: self.grammar.as_ref().map(Grammar::constraint).transpose()?,
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
