//! What `plan` fixes: sizes, device memory, the activations, the KV cache, and the captured graphs. Measured
//! first with the code that allocates, then taken as one block; nothing is allocated on the device later.

use std::time::Instant;

use super::buckets::{self, Bucket};
use super::completion::TransferBytes;
use super::slots::Slots;
use super::step_batch::StepBatch;
use crate::cuda::arena::Arena;
use crate::cuda::driver::CudaError;
use crate::cuda::ops::{CudaOps, StepRoom};
use crate::cuda::step_inputs::{Layout, StepShape, Writer};
use crate::cuda::sys;
use crate::error::LoadError;
use crate::executor::admission::Limits;
use crate::executor::{Budget, Start};
use crate::memory_plan::{self, BLOCK_SIZE, KvDefault, MemoryPlan, PlanInputs, mib};
use crate::model::decoder::{Decoder, Memory, Room};
use crate::ops::Ops;

/// Sequences whose sampled token has a place, at least; a place is four bytes.
const MIN_SLOTS: usize = 4096;
/// Left free for graphs and for what the driver takes by itself.
pub const RESERVE_BYTES: usize = 512 << 20;

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
    table_stride: usize,
}

impl Planned {
    pub fn new(
        decoder: &mut Decoder<CudaOps>,
        budget: &Budget,
        memory_fraction: f64,
    ) -> Result<Planned, LoadError> {
        let room = Sizes::new(decoder, budget);
        let mut plan = room.plan(decoder, budget, memory_fraction)?;
        let started = Instant::now();
        let memory = room.allocate(decoder, plan.n_blocks, plan.kv_bytes + plan.workspace_bytes)?;
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
                outputs: room.step.max_logits_rows * size_of::<sys::QuernSampled>(),
            },
            plan,
            table_stride: room.table_stride,
        };
        let before = decoder.ops().gpu.memory()?.0;
        planned.capture(decoder, budget.max_step_rows)?;
        let (free, total) = decoder.ops().gpu.memory()?;
        plan.workspace_bytes += before.saturating_sub(free);
        planned.plan = plan;
        tracing::info!(
            "GPU memory: {} of {} in use; {} decode graphs captured in {:.2?}",
            mib(total - free),
            mib(total),
            planned.buckets.len(),
            started.elapsed()
        );
        Ok(planned)
    }

    /// The shape of a step that has no bucket.
    pub fn shape(&self, ops: &CudaOps, batch: &StepBatch) -> StepShape {
        StepShape {
            rows: batch.n_rows(),
            spans: batch.n_spans(),
            decode_spans: batch.n_decode(),
            logits_rows: batch.outputs.len(),
            table_stride: self.table_stride,
            plan_ints: plan_ints(ops, batch.n_decode(), self.limits.max_total_tokens),
        }
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

    fn capture(&mut self, decoder: &mut Decoder<CudaOps>, max_rows: usize) -> Result<(), LoadError> {
        let mut host = vec![0u64; self.transfer_bytes.inputs.div_ceil(8) + 4];
        // Largest first: what the driver takes for them then serves the others too.
        for rows in buckets::sizes(max_rows).into_iter().rev() {
            let ops = decoder.ops();
            let layout =
                Layout::new(decode_shape(ops, rows, self.table_stride, self.limits.max_total_tokens));
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut host);
            let offset = bytes.as_ptr().align_offset(32);
            let bytes = &mut bytes[offset..][..layout.bytes];
            let mut writer = Writer::new(&layout, bytes);
            let (positions, plan) = writer.decode_plan();
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

fn plan_ints(ops: &CudaOps, spans: usize, max_tokens: usize) -> usize {
    match spans {
        0 => 0,
        // SAFETY: both structs are readable.
        n => unsafe {
            sys::quern_decode_plan_ints(&ops.gpu.device, &ops.decode_shape(n, max_tokens)).max(0) as usize
        },
    }
}

fn decode_shape(ops: &CudaOps, rows: usize, table_stride: usize, max_tokens: usize) -> StepShape {
    StepShape {
        rows,
        spans: rows,
        decode_spans: rows,
        logits_rows: rows,
        table_stride,
        plan_ints: plan_ints(ops, rows, max_tokens),
    }
}

/// Sizes that follow from the budget.
struct Sizes {
    step: StepRoom,
    table_stride: usize,
}

impl Sizes {
    fn new(decoder: &mut Decoder<CudaOps>, budget: &Budget) -> Sizes {
        let table_stride = budget.max_total_tokens.div_ceil(BLOCK_SIZE);
        let (max_rows, max_spans) = (budget.max_step_tokens, budget.max_step_rows);
        let largest = StepShape {
            rows: max_rows.max(max_spans),
            ..decode_shape(decoder.ops(), max_spans, table_stride, budget.max_total_tokens)
        };
        Sizes {
            step: StepRoom {
                max_rows: max_rows.max(max_spans),
                max_spans,
                max_logits_rows: max_spans,
                max_tokens: budget.max_total_tokens,
                count_slots: max_spans,
                slots: MIN_SLOTS.max(4 * max_spans),
                input_bytes: Layout::new(largest).bytes,
            },
            table_stride,
        }
    }

    fn room(&self, n_blocks: usize) -> Room {
        Room {
            n_blocks,
            block_size: BLOCK_SIZE,
            max_rows: self.step.max_rows,
            max_logits_rows: self.step.max_logits_rows,
        }
    }

    fn plan(
        &self,
        decoder: &mut Decoder<CudaOps>,
        budget: &Budget,
        memory_fraction: f64,
    ) -> Result<MemoryPlan, LoadError> {
        // A zero in the budget is the plan's to refuse.
        let workspace_bytes = match budget.max_step_rows == 0 || budget.max_total_tokens == 0 {
            true => Some(0),
            false => Some(self.measure(decoder)?),
        };
        let available = decoder.ops().gpu.available(memory_fraction)?;
        let inputs = PlanInputs {
            max_step_tokens: budget.max_step_tokens,
            max_step_rows: budget.max_step_rows,
            max_batch_total_tokens: budget.max_batch_total_tokens,
            max_total_tokens: budget.max_total_tokens,
            available_bytes: available.saturating_sub(RESERVE_BYTES),
            kv_element_bytes: CudaOps::KV_ELEMENT_BYTES,
            workspace_bytes,
            kv_default: KvDefault::All,
        };
        memory_plan::plan(decoder.config(), &inputs)
    }

    /// Bytes beside the KV cache.
    fn measure(&self, decoder: &mut Decoder<CudaOps>) -> Result<usize, LoadError> {
        decoder.ops_mut().arena = Arena::measuring();
        let config = decoder.config().clone();
        decoder.allocate(&self.room(0))?;
        decoder.ops_mut().allocate(&self.step, &config)?;
        let used = decoder.ops().arena.used();
        decoder.ops_mut().free();
        Ok(used)
    }

    /// Takes `bytes` as one block and gives it out, all zeros.
    fn allocate(
        &self,
        decoder: &mut Decoder<CudaOps>,
        n_blocks: usize,
        bytes: usize,
    ) -> Result<Memory<CudaOps>, LoadError> {
        let config = decoder.config().clone();
        let ops = decoder.ops_mut();
        // The cache's size need not be a multiple of the arena's alignment.
        ops.arena = Arena::new("the KV cache and the workspace", bytes + crate::cuda::arena::ALIGNMENT)?;
        if let Some((address, bytes)) = ops.arena.block() {
            // SAFETY: the block was just allocated.
            unsafe { ops.gpu.zero(address, bytes) }?;
        }
        let memory = decoder.allocate(&self.room(n_blocks))?;
        decoder.ops_mut().allocate(&self.step, &config)?;
        Ok(memory)
    }
}
