//! The thread of the step loop: its runtime holds a shard's connection and the driver, nothing else.
//!
//! Between a shard's reply and the next step there is then no change of threads and no queue of
//! handlers to wait in, however many streams the other threads are writing. Started by `shard::grpc`.

use std::io;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

const MASK_THREADS: usize = 4;
/// Automata are walked recursively; memory is taken as far as it is used.
const MASK_STACK_BYTES: usize = 16 << 20;

/// Ends its thread, and every task on it, when dropped.
pub(super) struct StepThread {
    runtime: Handle,
    /// Dropping it wakes the thread to its end.
    _running: oneshot::Sender<()>,
}

impl StepThread {
    /// # Errors
    /// When the system has no thread or no event queue left.
    pub fn start() -> io::Result<Self> {
        let mut builder = Builder::new_current_thread();
        // Masks of constrained answers are computed beside the loop, a few at a time.
        builder.max_blocking_threads(MASK_THREADS).thread_name("masks").thread_stack_size(MASK_STACK_BYTES);
        let runtime = builder.enable_all().build()?;
        let handle = runtime.handle().clone();
        let (running, ended) = oneshot::channel();
        std::thread::Builder::new().name("step-loop".into()).spawn(move || {
            let _ = runtime.block_on(ended); // always an error: nothing is ever sent
        })?;
        Ok(Self { runtime: handle, _running: running })
    }

    pub fn runtime(&self) -> Handle {
        self.runtime.clone()
    }
}
