//! From one row of logits to one token: bias, mask, penalties, temperature, top-k, top-p, typical-p, choice.
//!
//! Pure: the executor passes the logits, the parameters and the position, and equal arguments give
//! equal tokens, whatever else is in the batch and however often the step is replayed. The order
//! and the meaning of each stage are those of text-generation-inference, except that the frequency
//! penalty is OpenAI's (count of generated tokens). Never reads a clock or a random source.

mod choose;
mod penalties;
pub(crate) mod philox;
mod processors;
mod softmax;
mod warp;

#[cfg(test)]
mod tests;

pub use penalties::TokenCounts;

/// How a sequence's tokens are chosen; fixed for its life.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingParameters {
    /// Draw from the warped distribution; otherwise the largest logit after penalties.
    pub do_sample: bool,
    /// > 0; 1 is off.
    pub temperature: f32,
    /// 0 is off.
    pub top_k: usize,
    /// In (0, 1]; 1 is off.
    pub top_p: f32,
    /// In (0, 1]; 1 is off.
    pub typical_p: f32,
    /// > 0; 1 is off. Over every distinct token of the sequence.
    pub repetition_penalty: f32,
    /// 0 is off. Times the count of generated tokens.
    pub frequency_penalty: f32,
    /// 0 is off. Once for every distinct generated token.
    pub presence_penalty: f32,
    pub seed: u64,
    /// How many of the best tokens to report a step.
    pub top_n_tokens: usize,
}

impl SamplingParameters {
    /// The most likely token, with everything off.
    pub const GREEDY: SamplingParameters = SamplingParameters {
        do_sample: false,
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        typical_p: 1.0,
        repetition_penalty: 1.0,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        seed: 0,
        top_n_tokens: 0,
    };

    /// Refuses what the stages cannot work with. Warpers are looked at only if they are used.
    pub fn check(&self) -> Result<(), String> {
        let share = |x: f32| x > 0.0 && x <= 1.0;
        let positive = |x: f32| x > 0.0 && x.is_finite();
        let rules = [
            (
                "temperature",
                self.temperature,
                "finite and > 0",
                !self.do_sample || positive(self.temperature),
            ),
            ("top_p", self.top_p, "in (0, 1]", !self.do_sample || share(self.top_p)),
            ("typical_p", self.typical_p, "in (0, 1]", !self.do_sample || share(self.typical_p)),
            (
                "repetition_penalty",
                self.repetition_penalty,
                "finite and > 0",
                positive(self.repetition_penalty),
            ),
            ("frequency_penalty", self.frequency_penalty, "finite", self.frequency_penalty.is_finite()),
            ("presence_penalty", self.presence_penalty, "finite", self.presence_penalty.is_finite()),
        ];
        match rules.into_iter().find(|(.., holds)| !holds) {
            Some((name, value, rule, _)) => Err(format!("{name} must be {rule}, got {value}")),
            None => Ok(()),
        }
    }

    /// Whether the sequence's tokens must be counted.
    pub fn penalizes(&self) -> bool {
        self.repetition_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0
    }
}

/// A token and its log-probability in the distribution that it was chosen from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogprob {
    pub id: u32,
    pub logprob: f32,
}

/// What one row's sampling gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    pub token: TokenLogprob,
    /// The best `top_n_tokens` of the same distribution, best first.
    pub top: Vec<TokenLogprob>,
}

/// The logits hold a NaN or an infinity: this sequence cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the model's logits are not finite; its weights or this input overflow float32")]
pub struct NotFinite;

/// What sampling needs to know of a sequence.
#[derive(Debug, Clone, Copy)]
pub struct Draw<'a> {
    pub parameters: &'a SamplingParameters,
    /// All tokens of the sequence so far.
    pub counts: &'a TokenCounts,
    /// Added to the logits of these tokens, before anything else.
    pub bias: &'a [(u32, f32)],
    /// Tokens that may be chosen: bit `i % 8` of byte `i / 8` stands for token `i`; empty = all. Others have
    /// probability 0 in everything that is reported.
    pub allowed: &'a [u8],
    /// Position of the token to sample: the random numbers belong to it.
    pub position: usize,
}

/// Scratch memory for sampling one row after the other.
#[derive(Debug, Default)]
pub struct Sampler {
    logits: Vec<f32>,
    warpers: warp::Warpers,
}

impl Sampler {
    /// Chooses the token that follows, from `logits` `[vocab]`.
    pub fn sample(&mut self, logits: &[f32], draw: &Draw) -> Result<Sampled, NotFinite> {
        let parameters = draw.parameters;
        // Processors may turn an infinity into something finite: look before they do.
        let mut max = softmax::finite_max(logits).ok_or(NotFinite)?;
        let edited = parameters.penalizes() || !draw.bias.is_empty() || !draw.allowed.is_empty();
        if !parameters.do_sample && !edited {
            return Ok(greedy(logits, max, parameters.top_n_tokens));
        }
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        if edited {
            processors::add_bias(&mut self.logits, draw.bias);
            processors::keep_allowed(&mut self.logits, draw.allowed);
            if parameters.penalizes() {
                draw.counts.apply(parameters, &mut self.logits);
            }
            max = softmax::possible_max(&self.logits).ok_or(NotFinite)?;
        }
        if !parameters.do_sample {
            return Ok(greedy(&self.logits, max, parameters.top_n_tokens));
        }
        self.warp(parameters, max);
        let chosen = choose::draw(&self.logits, philox::uniform(parameters.seed, draw.position as u64));
        Ok(report(&self.logits, 0.0, chosen, parameters.top_n_tokens))
    }

    /// Shifts the largest logit, `max`, to 0, divides by the temperature, removes unlikely tokens.
    fn warp(&mut self, parameters: &SamplingParameters, max: f32) {
        for logit in &mut self.logits {
            *logit = (*logit - max) / parameters.temperature;
        }
        warp::top_k(&mut self.logits, parameters.top_k);
        self.warpers.top_p(&mut self.logits, parameters.top_p);
        self.warpers.typical_p(&mut self.logits, parameters.typical_p);
    }
}

/// What the model thought of a token that was given to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Of the given token.
    pub logprob: f32,
    /// The likeliest token, the lowest id among equals.
    pub best: TokenLogprob,
}

/// Log-probabilities of `token` and of the best one under the model's own `logits` `[vocab]`.
///
/// # Errors
/// Logits that are not finite.
pub fn score(logits: &[f32], token: u32) -> Result<Score, NotFinite> {
    let max = softmax::finite_max(logits).ok_or(NotFinite)?;
    let Sampled { token, top } = report(logits, max, token, 1);
    Ok(Score { logprob: token.logprob, best: top.first().copied().unwrap_or(token) })
}

/// The largest logit, `max`, the lowest id among equals.
fn greedy(logits: &[f32], max: f32, top_n: usize) -> Sampled {
    let chosen = logits.iter().position(|&x| x == max).unwrap_or(0);
    report(logits, max, chosen as u32, top_n)
}

/// Log-probabilities of the chosen and of the best tokens. `max` is the largest logit.
fn report(logits: &[f32], max: f32, chosen: u32, top_n: usize) -> Sampled {
    let log_sum = softmax::exp_sum(logits, max).ln();
    let logprob = |id: u32| {
        let shifted = f64::from(logits[id as usize]) - f64::from(max);
        TokenLogprob { id, logprob: (shifted - log_sum) as f32 }
    };
    Sampled { token: logprob(chosen), top: choose::best(logits, top_n).into_iter().map(logprob).collect() }
}
