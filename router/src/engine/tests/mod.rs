//! Tests of the engine: the policy by example, its invariants over random histories.

mod histories;
mod naive_shard;
mod policy;
