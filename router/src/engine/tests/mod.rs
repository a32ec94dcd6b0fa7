//! Tests of the engine: the policy by example, its invariants over random histories against a
//! naive shard. All pure: no clock, no task, no socket.

mod fairness;
mod histories;
mod naive_shard;
mod play;
mod policy;
mod preemption;
mod recovery;
mod sharing;
mod world;
