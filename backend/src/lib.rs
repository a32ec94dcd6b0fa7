//! The shard: holds memory and does arithmetic, and knows nothing of requests or text.
//!
//! `config` and `weights` read a checkpoint; `memory_plan` sizes everything before loading;
//! `model::decoder` is the one forward pass, written against the `ops::Ops` trait; `executor` runs
//! one step (embed, layers, logits, sample); `service` speaks the step protocol.
//! Unsafe code lives in `weights::mmap` and `ops::cpu::simd` only.
#![deny(unsafe_code)]

pub mod batch;
pub mod config;
pub mod error;
pub mod memory_plan;
pub mod ops;
pub mod weights;
