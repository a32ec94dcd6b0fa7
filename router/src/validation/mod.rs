//! The only maker of `ValidRequest`: checks of TGI's contract, in its order and with its texts.
//!
//! `rules` holds the checks that need no tokenizer (pure); `Validator` tokenizes in between and counts
//! tokens against the limits. Called by `api` for every generation; never submits anything itself.

pub mod rules;

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::constraint::{Compiler, Constraint, ConstraintSpec};
use crate::request::{Caller, Limits, Sampling, ValidRequest};
use crate::text::{Encoding, Prompt, TextError, Tokenizer};
use rules::{Rules, SamplingChoice};

/// A request that the contract refuses; `Display` is the text after `Input validation error: `.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

impl Refusal {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// What is to be continued.
#[derive(Debug, Clone)]
pub enum Input {
    /// Raw text: special tokens in it are parsed and the tokenizer adds its own.
    Text(String),
    /// A rendered chat template: nothing is added.
    Prompt(Prompt),
    /// Token ids given by the client.
    Ids(Vec<u32>),
}

impl Input {
    /// Characters of the text (of ids: how many), for the x-compute-characters header.
    pub fn characters(&self) -> usize {
        match self {
            Self::Text(text) => text.chars().count(),
            Self::Prompt(prompt) => prompt.parts().map(|part| part.chars().count()).sum(),
            Self::Ids(ids) => ids.len(),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Prompt(prompt) => prompt.n_bytes() == 0,
            Self::Ids(ids) => ids.is_empty(),
        }
    }
}

/// A request as a client stated it, whichever route it came by. `None` = not given.
#[derive(Debug, Clone)]
pub struct Draft {
    pub input: Input,
    pub best_of: Option<usize>,
    pub choice: SamplingChoice,
    pub max_new_tokens: Option<u32>,
    pub stop: Vec<String>,
    /// A stop string of the server's own, beside those that the client may have.
    pub own_stop: Option<String>,
    /// Keep only this many of the last prompt tokens.
    pub truncate: Option<usize>,
    pub top_n_tokens: u32,
    /// Most of them, where a route has checked them by a bound of its own; `None`: the server's.
    pub max_top_n_tokens: Option<u32>,
    /// Report the prompt's log-probabilities.
    pub prompt_logprobs: bool,
    /// What the answer must look like; `None` = anything.
    pub constraint: Option<ConstraintSpec>,
    /// Added to the logits of these token ids.
    pub logit_bias: Vec<(u32, f32)>,
    /// Used when the client gave no seed.
    pub random_seed: u64,
    /// Go on past tokens that end a generation.
    pub ignore_eos: bool,
    /// Tokens that end this generation beside the model's own.
    pub stop_ids: Vec<u32>,
    pub caller: Caller,
}

impl Draft {
    /// A greedy request without any parameter.
    pub fn new(input: Input, random_seed: u64) -> Self {
        Self {
            input,
            best_of: None,
            choice: SamplingChoice::default(),
            max_new_tokens: None,
            stop: Vec::new(),
            own_stop: None,
            truncate: None,
            top_n_tokens: 0,
            max_top_n_tokens: None,
            prompt_logprobs: false,
            constraint: None,
            logit_bias: Vec::new(),
            random_seed,
            ignore_eos: false,
            stop_ids: Vec::new(),
            caller: Caller::ANONYMOUS,
        }
    }
}

/// A request ready for the driver, and what the edge keeps of it.
#[derive(Debug)]
pub struct Accepted {
    pub request: ValidRequest,
    pub stop: Vec<String>,
    pub input_tokens: u32,
    pub max_new_tokens: u32,
    /// Only when the request samples: what `details.seed` echoes.
    pub seed: Option<u64>,
}

impl Accepted {
    fn new(request: ValidRequest, stop: Vec<String>) -> Self {
        Self {
            input_tokens: request.prompt_ids.len() as u32, // <= max_input_tokens, a u32
            max_new_tokens: request.max_new_tokens,
            seed: request.sampling.do_sample.then_some(request.sampling.seed),
            request,
            stop,
        }
    }

    /// The same request with another seed.
    pub fn copy(&self, seed: u64, prompt_logprobs: bool) -> Self {
        let sampling = Sampling { seed, ..self.request.sampling.clone() };
        let request = ValidRequest { sampling, prompt_logprobs, ..self.request.clone() };
        Self::new(request, self.stop.clone())
    }
}

/// Texts longer than this are tokenized on a blocking thread: below, the hop costs more than the work.
const INLINE_BYTES: usize = 4096;

/// Applies the rules with one model's tokenizer and limits.
pub struct Validator {
    tokenizer: Arc<Tokenizer>,
    eos_ids: Arc<[u32]>,
    limits: Limits,
    rules: Rules,
    vocab_size: u32,
    /// `None`: constraints are refused.
    compiler: Option<Compiler>,
    /// Bounds how many blocking threads tokenize at once (`--validation-workers`).
    workers: Arc<Semaphore>,
}

impl Validator {
    /// With one worker. `vocab_size` is the shard's: an id at or beyond it is refused.
    pub fn new(tokenizer: Arc<Tokenizer>, limits: Limits, rules: Rules, vocab_size: u32) -> Self {
        let eos_ids = tokenizer.eos_ids().into();
        let (compiler, workers) = (None, Arc::new(Semaphore::new(1)));
        Self { tokenizer, eos_ids, limits, rules, vocab_size, compiler, workers }
    }

    /// At most `workers` >= 1 long texts are tokenized at once.
    pub fn with_workers(self, workers: usize) -> Self {
        Self { workers: Arc::new(Semaphore::new(workers.max(1))), ..self }
    }

    /// From now on answers may be constrained. At most `workers` >= 1 constraints are compiled at once.
    pub fn with_constraints(self, workers: usize) -> Self {
        let compiler = Compiler::new(self.tokenizer.clone(), self.vocab_size, workers);
        Self { compiler: Some(compiler), ..self }
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Checks a draft completely; the first failed check in TGI's order is the answer.
    pub async fn validate(&self, draft: Draft) -> Result<Accepted, Refusal> {
        let sampling = rules::check(&draft, &self.rules, self.limits.max_input_tokens)?;
        let mut ids = self.ids(draft.input).await?;
        if let Some(keep) = draft.truncate {
            ids.drain(..ids.len().saturating_sub(keep));
        }
        let max_new_tokens = rules::check_lengths(ids.len(), draft.max_new_tokens, &self.limits)?;
        if ids.is_empty() {
            return Err(Refusal::new(rules::EMPTY));
        }
        let biased = draft.logit_bias.iter().map(|(id, _)| id);
        self.check_ids(ids.iter().chain(biased).chain(&draft.stop_ids).copied())?;
        let constraint = match draft.constraint {
            Some(spec) => Some(self.constraint(spec).await?),
            None => None,
        };
        // A constrained answer that is complete can only end.
        let never_ends = draft.ignore_eos && constraint.is_none();
        let request = ValidRequest {
            prompt_ids: ids.into(),
            sampling,
            max_new_tokens,
            eos_ids: self.end_ids(never_ends, &draft.stop_ids),
            caller: draft.caller,
            prompt_logprobs: draft.prompt_logprobs,
            constraint,
        };
        Ok(Accepted::new(request, draft.stop.into_iter().chain(draft.own_stop).collect()))
    }

    /// Encodes raw text, with the tokens that the tokenizer adds to `inputs` or without.
    pub async fn encode(&self, text: String, add_special_tokens: bool) -> Result<Encoding, Refusal> {
        let bytes = text.len();
        self.run(bytes, move |tokenizer| tokenizer.encode(&text, add_special_tokens)).await
    }

    /// Encodes a rendered chat template.
    pub async fn encode_prompt(&self, prompt: Prompt) -> Result<Encoding, Refusal> {
        let bytes = prompt.n_bytes();
        self.run(bytes, move |tokenizer| tokenizer.encode_prompt(&prompt)).await
    }

    async fn ids(&self, input: Input) -> Result<Vec<u32>, Refusal> {
        match input {
            Input::Ids(ids) => Ok(ids),
            Input::Text(text) => self.run(text.len(), move |tokenizer| tokenizer.ids(&text, true)).await,
            Input::Prompt(prompt) => {
                self.run(prompt.n_bytes(), move |tokenizer| tokenizer.prompt_ids(&prompt)).await
            }
        }
    }

    /// Tokenizes inline when short, on a bounded number of blocking threads when long.
    async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce(&Tokenizer) -> Result<T, TextError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let refusal = |error: TextError| match error {
            TextError::Encode(_) => Refusal::new(error.to_string()),
            other => Refusal::new(format!("tokenizer error {other}")),
        };
        if bytes <= INLINE_BYTES {
            return work(&self.tokenizer).map_err(refusal);
        }
        let permit = self.workers.clone().acquire_owned().await;
        let tokenizer = self.tokenizer.clone();
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit; // held until the work is done, even if the client leaves
            work(&tokenizer)
        });
        match task.await {
            Ok(result) => result.map_err(refusal),
            Err(_) => Err(Refusal::new("tokenizer error the tokenizer stopped at this text")),
        }
    }

    async fn constraint(&self, spec: ConstraintSpec) -> Result<Constraint, Refusal> {
        let compiler = self.compiler.as_ref().ok_or_else(|| Refusal::new("grammar is not supported"))?;
        let compiled = compiler.compile(spec).await;
        compiled.map_err(|error| Refusal::new(format!("grammar is not valid: {error}")))
    }

    /// The tokens that end a generation.
    fn end_ids(&self, ignore_eos: bool, stop_ids: &[u32]) -> Arc<[u32]> {
        let own: &[u32] = if ignore_eos { &[] } else { &self.eos_ids };
        match stop_ids {
            [] if !ignore_eos => self.eos_ids.clone(),
            _ => own.iter().chain(stop_ids).copied().collect(),
        }
    }

    fn check_ids(&self, mut ids: impl Iterator<Item = u32>) -> Result<(), Refusal> {
        match ids.find(|id| *id >= self.vocab_size) {
            Some(id) => Err(Refusal::new(format!(
                "token ids must be < {}, the size of the model's vocabulary. Given: {id}",
                self.vocab_size
            ))),
            None => Ok(()),
        }
    }
}
