//! How much memory a budget takes on a GPU, measured with the code that allocates. Needs no GPU, only its facts: the
//! executor calls it before it allocates, and the shard's `plan` to say what will fit.

use super::buckets;
use crate::config::ModelConfig;
use crate::cuda::arena::{ALIGNMENT, Arena};
use crate::cuda::ops::{Places, StepRoom};
use crate::cuda::step_inputs::{Layout, StepShape};
use crate::error::LoadError;
use crate::executor::Budget;
use crate::memory_plan::{self, BLOCK_SIZE, KvDefault, MemoryPlan, PlanInputs};
use crate::model::decoder::{Memory, Room};
use crate::ops::Allocate;

/// Sequences whose sampled token has a place, at least; a place is four bytes.
const MIN_SLOTS: usize = 4096;
/// Rows of logits there is room for, at least: scores of a prompt are computed so many at a time.
const MIN_LOGITS_ROWS: usize = 16;
/// What the driver takes for one layer of a captured decode step: an H100 took 16.8 MB for 28 steps of 40 layers, 12.6 MB
/// for 20 and 6.3 MB for 8.
const GRAPH_LAYER_BYTES: usize = 16 << 10;
/// Left free for graphs and for what the driver takes by itself.
pub const RESERVE_BYTES: usize = 512 << 20;

/// Sizes that follow from the budget.
pub struct Sizes {
    pub step: StepRoom,
    pub table_stride: usize,
}

/// What `budget` takes of `available` bytes, and what goes where.
///
/// # Errors
/// A model without kernels, or what `memory_plan::plan` refuses.
pub fn plan(
    places: &mut Places,
    config: &ModelConfig,
    budget: &Budget,
    available: usize,
) -> Result<(Sizes, MemoryPlan), LoadError> {
    let sizes = Sizes::new(places, budget);
    // A zero in the budget is the plan's to refuse.
    let workspace_bytes = match budget.max_step_rows == 0 || budget.max_total_tokens == 0 {
        true => 0,
        false => sizes.workspace_bytes(places, config)?,
    };
    let inputs = PlanInputs {
        max_step_tokens: budget.max_step_tokens,
        max_step_rows: budget.max_step_rows,
        max_batch_total_tokens: budget.max_batch_total_tokens,
        max_total_tokens: budget.max_total_tokens,
        available_bytes: available.saturating_sub(RESERVE_BYTES),
        kv_element_bytes: Places::KV_ELEMENT_BYTES,
        workspace_bytes: Some(workspace_bytes),
        kv_default: KvDefault::All,
    };
    let graphs = buckets::sizes(budget.max_step_rows).len() * config.n_layers * GRAPH_LAYER_BYTES;
    Ok((sizes, MemoryPlan { graph_bytes: graphs, ..memory_plan::plan(config, &inputs)? }))
}

/// Bytes of the block that holds a plan's KV cache and workspace: the cache's size need not be a multiple of the
/// arena's alignment.
pub fn block_bytes(plan: &MemoryPlan) -> usize {
    plan.kv_bytes + plan.workspace_bytes + ALIGNMENT
}

/// A decode step of `rows` sequences.
pub fn decode_shape(places: &Places, rows: usize, table_stride: usize, max_tokens: usize) -> StepShape {
    StepShape {
        rows,
        spans: rows,
        decode_spans: rows,
        logits_rows: rows,
        score_rows: 0,
        table_stride,
        plan_ints: places.plan_ints(rows, max_tokens),
        mask_words: places.mask_words,
    }
}

impl Sizes {
    fn new(places: &Places, budget: &Budget) -> Sizes {
        let table_stride = budget.max_total_tokens.div_ceil(BLOCK_SIZE);
        let (max_rows, max_spans) = (budget.max_step_tokens, budget.max_step_rows);
        let largest = StepShape {
            rows: max_rows.max(max_spans),
            score_rows: max_rows.max(max_spans),
            ..decode_shape(places, max_spans, table_stride, budget.max_total_tokens)
        };
        Sizes {
            step: StepRoom {
                max_rows: max_rows.max(max_spans),
                max_spans,
                max_logits_rows: max_spans.max(MIN_LOGITS_ROWS),
                max_tokens: budget.max_total_tokens,
                count_slots: max_spans,
                slots: MIN_SLOTS.max(4 * max_spans),
                input_bytes: Layout::new(largest).bytes,
            },
            table_stride,
        }
    }

    pub fn room(&self, n_blocks: usize) -> Room {
        Room {
            n_blocks,
            block_size: BLOCK_SIZE,
            max_rows: self.step.max_rows,
            max_logits_rows: self.step.max_logits_rows,
        }
    }

    /// Bytes beside the KV cache.
    fn workspace_bytes(&self, places: &mut Places, config: &ModelConfig) -> Result<usize, LoadError> {
        places.arena = Arena::measuring();
        Memory::allocate(places, config, &self.room(0))?;
        places.step_memory(&self.step, config)?;
        let used = places.arena.used();
        places.free();
        Ok(used)
    }
}
