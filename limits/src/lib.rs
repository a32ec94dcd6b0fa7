//! Token limits: defaults and cross-checks, before and after the shard says what fits; and `files`: how large a model's files
//! may be. Pure.
//!
//! Used by the router around the shard's `Plan` call, and by the shard's `plan`, which says beforehand what that call
//! will come to. Texts are TGI's where TGI has them.
#![forbid(unsafe_code)]

pub mod files;

/// On a CPU a longer default would cost memory that few requests use.
const CPU_MAX_TOTAL_TOKENS: u32 = 4096;
const DEFAULT_PREFILL_TOKENS: u32 = 4096;

/// Token limits after defaults are resolved against the model and the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub max_input_tokens: u32,
    pub max_total_tokens: u32,
    pub max_batch_prefill_tokens: u32,
    pub max_batch_total_tokens: u64,
    /// Sequences running at once.
    pub max_batch_size: u32,
    /// Whether sequences may share the KV blocks of a common beginning (`--prefix-caching`).
    pub prefix_caching: bool,
}

impl Limits {
    /// Input tokens of the largest step: a full budget of prompt tokens beside a decode of every other sequence.
    pub fn max_step_tokens(&self) -> u32 {
        self.max_batch_prefill_tokens.saturating_add(self.max_batch_size)
    }
}

/// What defaults depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelFacts {
    /// Longest sequence that the model's positions allow.
    pub max_positions: u32,
    pub on_cpu: bool,
}

/// The limits as given; `None` = not given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitFlags {
    pub max_input_tokens: Option<u32>,
    pub max_input_length: Option<u32>,
    pub max_total_tokens: Option<u32>,
    pub max_batch_prefill_tokens: Option<u32>,
    pub max_batch_total_tokens: Option<u32>,
    pub max_batch_size: Option<u32>,
    pub max_concurrent_requests: usize,
    pub prefix_caching: bool,
}

/// Limits that contradict each other, the model or its memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    #[error("`{name}` must be > 0")]
    Zero { name: &'static str },
    #[error(
        "Both `max_input_tokens` ({tokens}) and `max_input_length` ({length}) are set. \
         Please define only `max_input_tokens`: `max_input_length` is its older name"
    )]
    BothInputs { tokens: u32, length: u32 },
    #[error("`max_input_tokens`({input}) must be < `max_total_tokens`({total})")]
    InputTotal { input: u32, total: u32 },
    #[error("`max_batch_prefill_tokens` must be <= `max_batch_total_tokens`. Given: {prefill} and {batch}")]
    PrefillBatch { prefill: u32, batch: u32 },
    #[error("`max_total_tokens` must be <= `max_batch_total_tokens`. Given: {total} and {batch}")]
    TotalBatch { total: u32, batch: u32 },
    #[error(
        "`max_total_tokens` must be <= {max_positions}, the longest sequence of this model. Given: {total}"
    )]
    Positions { total: u32, max_positions: u32 },
    #[error(
        "Not enough memory to handle `max_total_tokens={total}`: there is room for {supported} tokens. \
         Lower --max-total-tokens"
    )]
    Memory { total: u32, supported: u64 },
}

impl LimitFlags {
    /// What contradicts itself whatever the model.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn check(&self) -> Result<(), LimitError> {
        for (name, value) in [
            ("max_input_tokens", self.max_input_tokens),
            ("max_input_length", self.max_input_length),
            ("max_total_tokens", self.max_total_tokens),
            ("max_batch_prefill_tokens", self.max_batch_prefill_tokens),
            ("max_batch_total_tokens", self.max_batch_total_tokens),
            ("max_batch_size", self.max_batch_size),
        ] {
            if value == Some(0) {
                return Err(LimitError::Zero { name });
            }
        }
        if let (Some(tokens), Some(length)) = (self.max_input_tokens, self.max_input_length) {
            return Err(LimitError::BothInputs { tokens, length });
        }
        if let (Some(input), Some(total)) = (self.max_input(), self.max_total_tokens) {
            check_input(input, total)?;
        }
        let Some(batch) = self.max_batch_total_tokens else { return Ok(()) };
        match (self.max_batch_prefill_tokens, self.max_total_tokens) {
            (Some(prefill), _) if prefill > batch => Err(LimitError::PrefillBatch { prefill, batch }),
            (_, Some(total)) if total > batch => Err(LimitError::TotalBatch { total, batch }),
            _ => Ok(()),
        }
    }

    /// What to ask the shard to plan for; `max_batch_total_tokens` 0 = as much as fits.
    ///
    /// # Errors
    /// When a limit is beyond the model's positions, or contradicts a default taken from the model.
    pub fn wanted(&self, model: ModelFacts) -> Result<Limits, LimitError> {
        let max_total_tokens = self.wanted_total(model)?;
        let max_input_tokens = self.max_input().unwrap_or_else(|| max_total_tokens.saturating_sub(1).max(1));
        check_input(max_input_tokens, max_total_tokens)?;
        let default_prefill = DEFAULT_PREFILL_TOKENS.min(max_total_tokens);
        Ok(Limits {
            max_input_tokens,
            max_total_tokens,
            max_batch_prefill_tokens: self.max_batch_prefill_tokens.unwrap_or(default_prefill),
            max_batch_total_tokens: self.max_batch_total_tokens.unwrap_or(0).into(),
            max_batch_size: self
                .max_batch_size
                .unwrap_or_else(|| u32::try_from(self.max_concurrent_requests).unwrap_or(u32::MAX)),
            prefix_caching: self.prefix_caching,
        })
    }

    fn wanted_total(&self, model: ModelFacts) -> Result<u32, LimitError> {
        let max_positions = model.max_positions;
        if let Some(total) = self.max_total_tokens {
            return match total <= max_positions {
                true => Ok(total),
                false => Err(LimitError::Positions { total, max_positions }),
            };
        }
        let asks_for_more = self.max_input().is_some_and(|input| input >= CPU_MAX_TOTAL_TOKENS);
        let cap = if model.on_cpu && !asks_for_more { CPU_MAX_TOTAL_TOKENS } else { u32::MAX };
        Ok(max_positions.min(cap).min(self.max_batch_total_tokens.unwrap_or(u32::MAX)))
    }

    /// The limits to serve with, given those `planned`: as wanted, with the KV tokens there are.
    ///
    /// # Errors
    /// When the memory is too small for the limits that were given.
    pub fn resolve(&self, planned: Limits) -> Result<Limits, LimitError> {
        let supported = planned.max_batch_total_tokens;
        let total = planned.max_total_tokens;
        if u64::from(total) <= supported {
            return Ok(planned);
        }
        if self.max_total_tokens.is_some() || supported < 2 {
            return Err(LimitError::Memory { total, supported });
        }
        let max_total_tokens = supported as u32; // < total, a u32
        let max_input_tokens = self.max_input().unwrap_or(max_total_tokens - 1);
        check_input(max_input_tokens, max_total_tokens)?;
        Ok(Limits { max_input_tokens, max_total_tokens, ..planned })
    }

    fn max_input(&self) -> Option<u32> {
        self.max_input_tokens.or(self.max_input_length)
    }
}

fn check_input(input: u32, total: u32) -> Result<(), LimitError> {
    if input < total { Ok(()) } else { Err(LimitError::InputTotal { input, total }) }
}

#[cfg(test)]
mod tests;
