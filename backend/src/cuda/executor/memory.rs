//! What `plan` fixes: device memory, the activations, the KV cache, and the captured graphs. Taken as one block, of
//! the size that `sizes` has measured; nothing is allocated on the device later.

use std::time::{Duration, Instant};

use super::buckets::{self, Bucket};
use super::completion::TransferBytes;
use super::sizes::{self, Sizes};
use super::slots::Slots;
use super::step_batch::StepBatch;
use crate::cuda::arena::Arena;
use crate::cuda::driver::CudaError;
use crate::cuda::ops::CudaOps;
use crate::cuda::step_inputs::{Layout, StepShape, Writer};
use crate::cuda::sys;
use crate::error::LoadError;
use crate::executor::admission::{Limits, MAX_BIASES};
use crate::executor::{Budget, Start};
use crate::memory_plan::{MemoryPlan, mib};
use crate::model::decoder::{Decoder, Memory};

/// Of one sequence's biases on the device.
const BIAS_ROW_BYTES: usize = MAX_BIASES * size_of::<sys::QuernTokenBias>();
const _: () = assert!(MAX_BIASES == sys::QUERN_MAX_BIASES as usize && size_of::<sys::QuernTokenBias>() == 8);

/// The bit of a count that says that the token is in the prompt.
const IN_PROMPT: u32 = 1 << 31;

/// See the module.
pub struct Planned {
    // Graphs go before the memory that they read.
    pub buckets: Vec<Bucket>,
    pub memory: Memory<CudaOps>,
    pub limits: Limits,
    pub slots: Slots,
    pub transfer_bytes: TransferBytes,
    pub plan: MemoryPlan,
    pub capture_time: Duration,
    table_stride: usize,
}

impl Planned {
    pub fn new(
        decoder: &mut Decoder<CudaOps>,
        budget: &Budget,
        memory_fraction: f64,
    ) -> Result<Planned, LoadError> {
        let config = decoder.config().clone();
        let available = decoder.ops().gpu.available(memory_fraction)?;
        let (room, plan) = sizes::plan(&mut decoder.ops_mut().places, &config, budget, available)?;
        let memory = allocate(decoder, &room, &plan)?;
        let mut planned = Planned {
            buckets: vec![],
            memory,
            limits: Limits {
                max_step_tokens: budget.max_step_tokens,
                max_step_rows: budget.max_step_rows,
                max_total_tokens: budget.max_total_tokens,
                n_blocks: plan.n_blocks,
            },
            slots: Slots::new(room.step.slots, room.step.count_slots),
            transfer_bytes: TransferBytes {
                inputs: room.step.input_bytes,
                outputs: room.step.output_bytes(),
            },
            plan,
            capture_time: Duration::ZERO,
            table_stride: room.table_stride,
        };
        planned.capture(decoder, budget.max_step_rows)?;
        Ok(planned)
    }

    /// The shape of a step that has no bucket.
    pub fn shape(&self, ops: &CudaOps, batch: &StepBatch) -> StepShape {
        StepShape {
            rows: batch.n_rows(),
            spans: batch.n_spans(),
            decode_spans: batch.n_decode(),
            logits_rows: batch.outputs.len(),
            score_rows: batch.n_scores(),
            table_stride: self.table_stride,
            plan_ints: ops.places.plan_ints(batch.n_decode(), self.limits.max_total_tokens),
            mask_words: ops.places.mask_words,
        }
    }

    /// Tells the device what a sequence adds to its logits.
    pub fn set_biases(&self, ops: &CudaOps, row: i32, bias: &[(u32, f32)]) -> Result<(), CudaError> {
        let entries: Vec<[u32; 2]> = bias.iter().map(|(id, bias)| [*id, bias.to_bits()]).collect();
        let at = ops.memory()?.biases + (row as usize * BIAS_ROW_BYTES) as u64;
        // SAFETY: a row has room for the most biases that admission lets through; the copy is waited for.
        unsafe { ops.gpu.upload(bytemuck::cast_slice(&entries), at) }?;
        ops.gpu.synchronize()
    }

    /// Clears a row of the token counts, and counts the tokens that a sequence begins with.
    pub fn reset_counts(&self, ops: &CudaOps, row: i32, start: &Start) -> Result<(), CudaError> {
        let at = ops.memory()?.counts + (row as usize * ops.vocab * 4) as u64;
        if start.cached_ids.is_empty() {
            // SAFETY: the row lies in the counts.
            return unsafe { ops.gpu.zero(at, ops.vocab * 4) };
        }
        let mut counts = vec![0u32; ops.vocab];
        for (position, &id) in start.cached_ids.iter().enumerate() {
            match position < start.prompt_length {
                true => counts[id as usize] |= IN_PROMPT,
                false => counts[id as usize] += 1,
            }
        }
        // SAFETY: the row lies in the counts, and the copy is waited for.
        unsafe { ops.gpu.upload(bytemuck::cast_slice(&counts), at) }?;
        ops.gpu.synchronize()
    }

    /// Captures the decode steps, and notes what that took.
    fn capture(&mut self, decoder: &mut Decoder<CudaOps>, max_rows: usize) -> Result<(), LoadError> {
        let before = decoder.ops().gpu.memory()?.0;
        let started = Instant::now();
        self.capture_buckets(decoder, max_rows)?;
        let (free, total) = decoder.ops().gpu.memory()?;
        self.plan.graph_bytes = before.saturating_sub(free);
        self.capture_time = started.elapsed();
        tracing::info!(
            "GPU memory: {} of {} in use; {} decode graphs captured in {:.2?}",
            mib(total - free),
            mib(total),
            self.buckets.len(),
            self.capture_time
        );
        Ok(())
    }

    fn capture_buckets(&mut self, decoder: &mut Decoder<CudaOps>, max_rows: usize) -> Result<(), LoadError> {
        let mut host = vec![0u64; self.transfer_bytes.inputs.div_ceil(8) + 4];
        // Largest first: what the driver takes for them then serves the others too.
        for rows in buckets::sizes(max_rows).into_iter().rev() {
            let ops = decoder.ops();
            let longest = self.limits.max_total_tokens;
            let layout = Layout::new(sizes::decode_shape(&ops.places, rows, self.table_stride, longest));
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut host);
            let offset = bytes.as_ptr().align_offset(32);
            let bytes = &mut bytes[offset..][..layout.bytes];
            let mut writer = Writer::new(&layout, bytes);
            let (positions, plan) = writer.decode_plans();
            ops.plan_decode(positions, self.limits.max_total_tokens, plan)?;
            // SAFETY: the step memory holds the largest layout; the copy is waited for before `host` changes.
            unsafe { ops.gpu.upload(bytes, ops.memory()?.inputs) }?;
            self.buckets.push(Bucket::capture(decoder, &mut self.memory, layout)?);
            decoder.ops().gpu.synchronize()?;
        }
        self.buckets.reverse();
        Ok(())
    }
}

/// Takes the plan's memory as one block and gives it out, all zeros.
fn allocate(
    decoder: &mut Decoder<CudaOps>,
    room: &Sizes,
    plan: &MemoryPlan,
) -> Result<Memory<CudaOps>, LoadError> {
    let config = decoder.config().clone();
    let ops = decoder.ops_mut();
    ops.places.arena = Arena::new("the KV cache and the workspace", sizes::block_bytes(plan))?;
    if let Some((address, bytes)) = ops.places.arena.block() {
        // SAFETY: the block was just allocated.
        unsafe { ops.gpu.zero(address, bytes) }?;
    }
    let memory = decoder.allocate(&room.room(plan.n_blocks))?;
    let step = decoder.ops_mut().places.step_memory(&room.step, &config)?;
    decoder.ops_mut().set_memory(step);
    Ok(memory)
}
