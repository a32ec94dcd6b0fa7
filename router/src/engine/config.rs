//! The numbers that bound the engine, checked once so that no admissible request can wait forever.
//!
//! Made by the driver from what the shard said of itself and from the token limits.

use crate::request::{Limits, ShardInfo};

/// A budget in which some admissible request could never run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineConfigError {
    #[error("{name} is {got}, expected at least 1")]
    Zero { name: &'static str, got: u32 },
    #[error(
        "the KV cache holds {kv_tokens} tokens ({n_blocks} blocks of {block_size}), but one request may need \
         {max_total_tokens}: lower --max-total-tokens or raise --max-batch-total-tokens"
    )]
    KvTooSmall { kv_tokens: u64, n_blocks: u32, block_size: u32, max_total_tokens: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// Sequences that own blocks at once.
    pub max_batch_size: u32,
    /// Prompt tokens of one step.
    pub max_batch_prefill_tokens: u32,
    /// Tokens a KV block.
    pub block_size: u32,
    pub n_blocks: u32,
    /// Steps sent to the shard before its reply to the first of them.
    pub max_steps_in_flight: u32,
    /// Whether sequences share the blocks of a common beginning.
    pub prefix_caching: bool,
    /// Prompts beyond this length have keys of their own (see `ShardInfo`); 0 = none have.
    pub ntk_seq_length: u32,
    /// Longest sequence.
    pub max_total_tokens: u32,
}

impl EngineConfig {
    /// # Errors
    /// When a bound is zero, or the KV cache cannot hold a request of `max_total_tokens` (whose last
    /// token needs no KV).
    pub fn new(info: &ShardInfo, limits: &Limits) -> Result<Self, EngineConfigError> {
        for (name, got) in [
            ("the batch size", limits.max_batch_size),
            ("--max-batch-prefill-tokens", limits.max_batch_prefill_tokens),
            ("the shard's block size", info.block_size),
            ("the shard's number of steps in flight", info.max_steps_in_flight),
        ] {
            if got == 0 {
                return Err(EngineConfigError::Zero { name, got });
            }
        }
        let kv_tokens = u64::from(info.n_blocks) * u64::from(info.block_size);
        if kv_tokens + 1 < u64::from(limits.max_total_tokens) {
            return Err(EngineConfigError::KvTooSmall {
                kv_tokens,
                n_blocks: info.n_blocks,
                block_size: info.block_size,
                max_total_tokens: limits.max_total_tokens,
            });
        }
        Ok(Self {
            max_batch_size: limits.max_batch_size,
            max_batch_prefill_tokens: limits.max_batch_prefill_tokens,
            block_size: info.block_size,
            n_blocks: info.n_blocks,
            max_steps_in_flight: info.max_steps_in_flight,
            prefix_caching: limits.prefix_caching,
            ntk_seq_length: info.ntk_seq_length,
            max_total_tokens: limits.max_total_tokens,
        })
    }
}
