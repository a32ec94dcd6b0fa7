//! The shard: holds memory and does arithmetic, and knows nothing of requests or text.
//!
//! `config` and `weights` read a checkpoint; `memory_plan` sizes everything before loading;
//! `model::decoder` is the one forward pass, written against the `ops::Ops` trait; `executor` runs
//! one step (embed, layers, logits, sample); `service` speaks the step protocol; `plan` says what a model will take.
//! Unsafe code lives in `weights::mmap`, in `cuda` and, of `ops::cpu`, in `simd`, `pool` and `grid` only.
#![deny(unsafe_code)]

pub mod args;
pub mod batch;
pub mod config;
#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
pub mod cuda;
pub mod device_thread;
pub mod error;
pub mod executor;
pub mod memory_plan;
pub mod model;
pub mod ops;
pub mod parent;
pub mod plan;
pub mod sampler;
pub mod service;
pub mod startup;
pub mod weights;
