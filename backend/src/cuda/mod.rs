//! The GPU side of the shard: exists with cargo feature `cuda` only.
//!
//! `available` is the only door: nothing else here may be called before it has returned `Ok`, because a process on a
//! machine without a driver must run on the CPU. `load` then makes the executor that the device thread drives. `sys`
//! holds the kernels' C functions as bindgen writes them.

mod arena;
mod available;
mod driver;
mod executor;
mod load;
mod machine;
mod ops;
mod step_inputs;
pub mod sys;

pub use available::{Unavailable, available};
pub use executor::CudaExecutor;
pub use load::load;
pub use machine::GpuMachine;
