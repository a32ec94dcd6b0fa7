//! Device memory of the running step, beside the activations, and the layout by which the step is read. Taken
//! by the executor's plan from the arena; used by every operation of `CudaOps`. Nothing is allocated later.

use super::carry::CarryMemory;
use super::{CudaOps, Places};
use crate::config::ModelConfig;
use crate::cuda::arena::Arena;
use crate::cuda::driver::CudaError;
use crate::cuda::step_inputs::{Layout, StepShape};
use crate::cuda::sys;
use crate::error::LoadError;

/// Device memory of the running step and of the sequences, beside the activations.
pub struct StepMemory {
    /// What the host says of the step, by its layout.
    pub inputs: u64,
    /// uint32 `[count slots, vocab]`.
    pub counts: u64,
    /// `QuernTokenBias` `[count slots, QUERN_MAX_BIASES]`.
    pub biases: u64,
    /// int32 `[slots]`.
    pub last_sampled: u64,
    /// `QuernSampled` `[logits rows]`.
    pub sampled: u64,
    /// `QuernScored` `[rows]`.
    pub scores: u64,
    /// Rows of logits there is room for.
    pub max_logits_rows: usize,
    /// float32 pairs `[rows, rope_dim / 2]` and float32 `[rows]`.
    pub(super) angles: u64,
    pub(super) query_factors: u64,
    pub(super) attention_workspace: u64,
    /// Counters in front of the attention workspace, for the largest bucket.
    pub(super) attention_counters: usize,
    /// Longest sequence.
    pub(super) max_tokens: usize,
}

/// How much `StepMemory` must hold.
#[derive(Debug, Clone, Copy)]
pub struct StepRoom {
    pub max_rows: usize,
    pub max_spans: usize,
    pub max_logits_rows: usize,
    pub max_tokens: usize,
    pub count_slots: usize,
    pub slots: usize,
    pub input_bytes: usize,
}

impl StepRoom {
    /// What one step brings back, at most.
    pub fn output_bytes(&self) -> usize {
        self.max_logits_rows * size_of::<sys::QuernSampled>() + self.max_rows * size_of::<sys::QuernScored>()
    }
}

impl Places {
    /// Takes the memory that steps need beside the decoder's.
    pub fn step_memory(&mut self, room: &StepRoom, config: &ModelConfig) -> Result<StepMemory, LoadError> {
        let decode = self.decode_shape(room.max_spans, room.max_tokens);
        // SAFETY: both structs are readable.
        let attention = unsafe { sys::quern_decode_workspace(&self.device, &decode) };
        if attention == 0 {
            return Err(unsupported(config));
        }
        let bias_row = sys::QUERN_MAX_BIASES as usize * size_of::<sys::QuernTokenBias>();
        let counters = self.decode_counter_bytes(room.max_spans, room.max_tokens);
        let arena = &mut self.arena;
        self.workspaces.allocate(&self.device, arena, room.max_rows)?;
        self.carry.allocate(arena, config.hidden)?;
        Ok(StepMemory {
            inputs: arena.take("step inputs", room.input_bytes)?,
            counts: arena.take("token counts", room.count_slots * config.vocab * 4)?,
            biases: arena.take("logit biases", room.count_slots * bias_row)?,
            last_sampled: arena.take("sampled tokens", room.slots * 4)?,
            sampled: arena.take("sampled tokens", room.max_logits_rows * size_of::<sys::QuernSampled>())?,
            scores: arena.take("scores", room.max_rows * size_of::<sys::QuernScored>())?,
            max_logits_rows: room.max_logits_rows,
            angles: arena.take("rotary angles", room.max_rows * config.rope.dim * 4)?,
            query_factors: arena.take("query factors", room.max_rows * 4)?,
            attention_workspace: arena.take("decode attention", attention as usize)?,
            attention_counters: counters,
            max_tokens: room.max_tokens,
        })
    }

    /// Forgets what `step_memory` and `new_act` gave out, and gives it back.
    pub fn free(&mut self) {
        self.workspaces.clear();
        self.carry = CarryMemory::default();
        self.arena = Arena::measuring();
    }
}

impl CudaOps {
    /// From now on steps use `memory`.
    pub fn set_memory(&mut self, memory: StepMemory) {
        self.memory = Some(memory);
    }

    /// Forgets all memory of steps, and gives it back.
    pub fn free(&mut self) {
        self.memory = None;
        self.layout = None;
        self.places.free();
    }

    pub fn memory(&self) -> Result<&StepMemory, CudaError> {
        self.memory.as_ref().ok_or(CudaError { op: "step", detail: "no memory is planned".to_owned() })
    }

    /// From now on steps are read by `layout`; `max_prefill_rows` is the longest span's.
    pub fn set_layout(&mut self, layout: &Layout, max_prefill_rows: usize) {
        self.logits_index = layout.logits_rows;
        self.layout = Some(layout.clone());
        self.max_prefill_rows = max_prefill_rows;
    }

    /// From now on, and until the next layout, logits are those of the scores' rows from the `first` on.
    pub fn gather_for_scores(&mut self, first: usize) {
        self.logits_index = self.layout.as_ref().map_or(0, |layout| layout.score_rows + 4 * first);
    }

    pub(super) fn layout(&self) -> Result<&Layout, CudaError> {
        self.layout.as_ref().ok_or(CudaError { op: "step", detail: "no step is set".to_owned() })
    }

    pub(super) fn shape(&self) -> Result<StepShape, CudaError> {
        self.layout().map(|layout| layout.shape)
    }
}

fn unsupported(config: &ModelConfig) -> LoadError {
    LoadError::Unsupported(format!(
        "the CUDA kernels have heads of 64 or 128 dimensions, at most 8 to a key-value head; this model has \
         {} of {} dimensions for {} key-value heads; use --device cpu",
        config.n_heads, config.head_dim, config.n_kv_heads
    ))
}
