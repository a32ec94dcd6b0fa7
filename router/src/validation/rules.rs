//! The checks of a request that need neither tokenizer nor clock: ranges, counts, lengths. Pure.
//!
//! Order and texts are TGI's, down to the letter: clients and tests compare them. Called by `Validator`.

use super::{Draft, Refusal};
use crate::request::{Limits, Sampling};

pub(super) const EMPTY: &str = "`inputs` cannot be empty";

/// Bounds set by flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    pub max_best_of: usize,
    pub max_stop_sequences: usize,
    pub max_top_n_tokens: u32,
}

/// How a client asked for the next token to be chosen. `None` = not given.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplingChoice {
    pub do_sample: bool,
    pub temperature: Option<f32>,
    pub top_k: Option<i32>,
    pub top_p: Option<f32>,
    pub typical_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub seed: Option<u64>,
}

impl SamplingChoice {
    /// Whether anything given is about sampling (TGI's test for `best_of`).
    fn mentions_sampling(&self) -> bool {
        self.do_sample
            || self.temperature.is_some()
            || self.top_k.is_some()
            || self.top_p.is_some()
            || self.typical_p.is_some()
    }

    /// The numbers the sampler gets; it samples only if something differs from greedy's defaults.
    fn resolve(&self, random_seed: u64, top_n_tokens: u32) -> Sampling {
        let temperature = self.temperature.unwrap_or(1.0);
        let top_k = self.top_k.unwrap_or(0).max(0).unsigned_abs();
        let top_p = self.top_p.unwrap_or(1.0);
        let typical_p = self.typical_p.unwrap_or(1.0);
        let warped = temperature != 1.0 || top_k != 0 || top_p < 1.0 || typical_p < 1.0;
        Sampling {
            do_sample: self.do_sample || warped,
            temperature,
            top_k,
            top_p,
            typical_p,
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            seed: self.seed.unwrap_or(random_seed),
            top_n_tokens,
            logit_bias: [].into(),
        }
    }

    fn check(&self) -> Result<(), Refusal> {
        let positive = |value: Option<f32>| value.is_none_or(|v| v > 0.0 && v.is_finite());
        let share = |value: Option<f32>| value.is_none_or(|v| v > 0.0 && v < 1.0);
        let penalty = |value: Option<f32>| value.is_none_or(|v| (-2.0..=2.0).contains(&v));
        for (holds, text) in [
            (positive(self.temperature), "`temperature` must be strictly positive"),
            (positive(self.repetition_penalty), "`repetition_penalty` must be strictly positive"),
            (penalty(self.frequency_penalty), "`frequency_penalty` must be >= -2.0 and <= 2.0"),
            (penalty(self.presence_penalty), "`presence_penalty` must be >= -2.0 and <= 2.0"),
            (share(self.top_p), "`top_p` must be > 0.0 and < 1.0"),
            (share(self.typical_p), "`typical_p` must be > 0.0 and < 1.0"),
            (self.top_k.is_none_or(|k| k > 0), "`top_k` must be strictly positive"),
        ] {
            ensure(holds, || text.into())?;
        }
        Ok(())
    }
}

/// `best_of` against the server's limit: checked before a request takes its place (contract: before the permit).
pub fn check_best_of(best_of: Option<usize>, rules: &Rules) -> Result<(), Refusal> {
    let (n, max) = (best_of.unwrap_or(1), rules.max_best_of);
    ensure(n == 1 || max != 1, || "`best_of` != 1 is not allowed for this endpoint".into())?;
    ensure((1..=max).contains(&n), || format!("`best_of` must be > 0 and <= {max}. Given: {n}"))
}

/// What a streaming route refuses before anything else.
pub fn check_streaming(best_of: Option<usize>, decoder_input_details: bool) -> Result<(), Refusal> {
    ensure(best_of.unwrap_or(1) == 1, || "`best_of` != 1 is not supported when streaming tokens".into())?;
    ensure(!decoder_input_details, || {
        "`decoder_input_details` == true is not supported when streaming tokens".into()
    })
}

/// Everything that can be checked before tokenizing.
pub(super) fn check(draft: &Draft, rules: &Rules, max_input_tokens: u32) -> Result<Sampling, Refusal> {
    let many = draft.best_of.unwrap_or(1) > 1;
    ensure(!many || draft.choice.mentions_sampling(), || {
        "you must use sampling when `best_of` is > 1".into()
    })?;
    draft.choice.check()?;
    ensure(draft.max_new_tokens != Some(0), || "`max_new_tokens` must be strictly positive".into())?;
    let (max, n) = (rules.max_stop_sequences, draft.stop.len());
    ensure(n <= max, || format!("`stop` supports up to {max} stop sequences. Given: {n}"))?;
    ensure(!many || draft.choice.seed.is_none(), || "`seed` must not be set when `best_of` > 1".into())?;
    let (max, n) = (draft.max_top_n_tokens.unwrap_or(rules.max_top_n_tokens), draft.top_n_tokens);
    ensure(n <= max, || format!("`top_n_tokens` must be >= 0 and <= {max}. Given: {n}"))?;
    ensure(!draft.input.is_empty(), || EMPTY.into())?;
    if let Some(n) = draft.truncate {
        ensure(n >= 1 && n <= max_input_tokens as usize, || {
            format!("`truncate` must be strictly positive and less than {max_input_tokens}. Given: {n}")
        })?;
    }
    check_bias(&draft.logit_bias)?;
    let n = draft.stop_ids.len();
    ensure(n <= MAX_STOP_IDS, || format!("`stop_token_ids` supports up to {MAX_STOP_IDS} ids. Given: {n}"))?;
    let sampling = draft.choice.resolve(draft.random_seed, draft.top_n_tokens);
    Ok(Sampling { logit_bias: draft.logit_bias.as_slice().into(), ..sampling })
}

/// Each token of an answer is looked up among them.
const MAX_STOP_IDS: usize = 128;

/// Most tokens with a bias: a GPU has room for so many.
pub const MAX_BIASES: usize = 1024;

fn check_bias(biases: &[(u32, f32)]) -> Result<(), Refusal> {
    let n = biases.len();
    ensure(n <= MAX_BIASES, || format!("`logit_bias` supports up to {MAX_BIASES} tokens. Given: {n}"))?;
    match biases.iter().find(|(_, bias)| !(-100.0..=100.0).contains(bias)) {
        None => Ok(()),
        Some((_, bias)) => {
            Err(Refusal(format!("`logit_bias` values must be >= -100.0 and <= 100.0. Given: {bias}")))
        }
    }
}

/// How the two refusals begin that a shorter request would not get.
const TOO_MUCH: &str = "`inputs` tokens + `max_new_tokens` must be <= ";
const TOO_LONG: &str = "`inputs` must have less than ";

impl Refusal {
    /// Whether the request does not fit into the model's context: OpenAI's clients then shorten it.
    pub fn is_about_length(&self) -> bool {
        [TOO_MUCH, TOO_LONG].iter().any(|beginning| self.0.starts_with(beginning))
    }
}

/// Lengths after tokenizing; returns the exact number of tokens the request may generate.
pub(super) fn check_lengths(
    n_input: usize,
    max_new_tokens: Option<u32>,
    limits: &Limits,
) -> Result<u32, Refusal> {
    let (max_input, max_total) = (limits.max_input_tokens, limits.max_total_tokens);
    let n_input = u32::try_from(n_input).unwrap_or(u32::MAX);
    let n_new = max_new_tokens.unwrap_or_else(|| max_total.saturating_sub(n_input));
    ensure(n_input.checked_add(n_new).is_some_and(|total| total <= max_total), || {
        format!("{TOO_MUCH}{max_total}. Given: {n_input} `inputs` tokens and {n_new} `max_new_tokens`")
    })?;
    ensure(n_input <= max_input, || format!("{TOO_LONG}{max_input} tokens. Given: {n_input}"))?;
    Ok(n_new)
}

fn ensure(holds: bool, text: impl FnOnce() -> String) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(Refusal(text())) }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
