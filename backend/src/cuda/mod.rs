//! The GPU side of the shard: exists with cargo feature `cuda` only.
//!
//! `available` is the only door: nothing else here may be called before it has returned `Ok`, because a process on a
//! machine without a driver must run on the CPU. `sys` holds the kernels' C functions as bindgen writes them.

mod available;
pub mod sys;

pub use available::{Unavailable, available};
