//! The launcher: checks the arguments, prepares the model, spawns and supervises shard and router.
//!
//! `args` parses, `checks` judges (pure), `model` finds or downloads the checkpoint, `convert` makes one
//! from a GGUF file, `supervise` runs the children by a pure policy, `launch` puts these in order, `plan` counts instead of serving. The
//! launcher knows the other programs by their flags, environment, sockets and exit codes alone.
#![forbid(unsafe_code)]

pub mod args;
pub mod checks;
pub mod convert;
pub mod download;
pub mod environment;
pub mod error;
pub mod launch;
pub mod logging;
pub mod model;
pub mod plan;
pub mod programs;
pub mod supervise;
