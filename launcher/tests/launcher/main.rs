//! The real launcher binary with a shard and a router played by a shell script: what it refuses,
//! what it passes on, and how it ends. No test here loads a model or listens on a port.

mod bad_start;
mod failures;
mod flags;
mod harness;
mod output;
mod recovery;
mod signals;
mod starter;
