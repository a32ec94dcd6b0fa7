//! What the engine has done since it was made. Read by the driver, which exports the growth as metrics.

/// Sums that only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Prompt tokens found in the prefix cache. With `prompt_tokens_computed` every prompt token of an
    /// admitted sequence is counted once, however often it is replayed.
    pub prompt_tokens_cached: u64,
    /// Prompt tokens given to steps for the first time.
    pub prompt_tokens_computed: u64,
    /// Tokens computed again after a preemption or the loss of a shard.
    pub replayed_tokens: u64,
    /// Sequences that gave up their blocks and went back to the queue.
    pub preemptions: u64,
    /// Sequences that ended because they killed the shard.
    pub quarantined: u64,
}
