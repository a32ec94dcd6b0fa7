//! A client of the step protocol for the programs beside it: starts a shard, plans it, and runs requests through it as the
//! router would (continuous batching, one step ahead where the shard allows it, explicit or last sampled tokens).
//!
//! `process` owns the child, `connection` the stream of steps, `batch` decides what each step holds. Nothing here measures
//! or judges; that is the callers' part.

pub mod batch;
pub mod connection;
pub mod process;

use text_generation_proto::shard as proto;

/// The largest logit, no penalties, `top_n` best tokens reported.
pub fn greedy(top_n: u32) -> proto::SamplingParameters {
    proto::SamplingParameters {
        do_sample: false,
        temperature: 1.0,
        top_p: 1.0,
        typical_p: 1.0,
        repetition_penalty: 1.0,
        top_n_tokens: top_n,
        ..Default::default()
    }
}
