//! What becomes of logits on the GPU: a token for each sequence, or what the model thought of a token that is given.
//! Called by the executor after the output head; places and parameters are in the step's inputs.

use super::{CudaAct, CudaOps, pointer};
use crate::cuda::driver::{CudaError, check};
use crate::cuda::sys;

impl CudaOps {
    /// Chooses a token for every row of `logits`, as the step's inputs say.
    pub fn sample(&mut self, logits: &CudaAct) -> Result<(), CudaError> {
        let (memory, layout) = (self.memory()?, self.layout()?);
        let args = sys::QuernSample {
            logits: pointer(logits.address),
            row: pointer(memory.inputs + layout.sampling as u64).cast(),
            counts: pointer(memory.counts).cast(),
            biases: pointer(memory.biases).cast(),
            masks: pointer(memory.inputs + layout.masks as u64).cast(),
            last_sampled: pointer(memory.last_sampled).cast(),
            out: pointer(memory.sampled).cast(),
            scratch: std::ptr::null_mut(),
            logits_are_f16: 0,
            rows: logits.rows as i32,
            vocab: logits.cols as i32,
            ld: logits.cols as i32,
        };
        // SAFETY: all arrays were allocated for the largest step; logits are float32.
        check("sample", unsafe { sys::quern_sample(&self.gpu.device, &args, self.gpu.stream_pointer()) })
    }

    /// Scores the step's given tokens from the `first` on, one for every row of `logits`.
    pub fn score(&mut self, logits: &CudaAct, first: usize) -> Result<(), CudaError> {
        let (memory, layout) = (self.memory()?, self.layout()?);
        let (ids, out) = (4 * first, size_of::<sys::QuernScored>() * first);
        let args = sys::QuernScore {
            logits: pointer(logits.address).cast(),
            ids: pointer(memory.inputs + (layout.score_ids + ids) as u64).cast(),
            out: pointer(memory.scores + out as u64).cast(),
            rows: logits.rows as i32,
            vocab: logits.cols as i32,
            ld: logits.cols as i32,
        };
        // SAFETY: ids were checked against the vocabulary, and there are as many as scores; logits are float32.
        check("score", unsafe { sys::quern_score(&self.gpu.device, &args, self.gpu.stream_pointer()) })
    }
}
