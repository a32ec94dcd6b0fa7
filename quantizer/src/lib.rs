//! Quantises a float checkpoint to 4 bits by AWQ: activation-aware scales and clipping, searched on calibration text.
//!
//! `run` is the whole of it: `calibration` makes token windows, `source` reads the float model block by block,
//! `block` computes a block's activations, `search` finds scales and levels, `work` keeps finished blocks on disk so
//! that an interrupted run goes on, `assemble` writes the folder. Method: "AWQ: Activation-aware Weight Quantization"
//! (Lin et al., 2023); the folder is what AutoAWQ writes ("gemm"), so every loader of that format takes it.
// `forbid` would refuse the slices that ndarray's macro makes.
#![deny(unsafe_code)]

pub mod args;
mod assemble;
mod block;
mod calibration;
mod error;
mod progress;
mod quantized;
mod run;
mod search;
mod source;
mod statistics;
mod work;

pub use error::QuantizeError;
pub use run::{Report, run};
