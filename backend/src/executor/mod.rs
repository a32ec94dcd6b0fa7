//! One step: checks its rows, runs the forward pass in micro-batches, samples. Owned by the device
//! thread. It trusts nothing that a step says: a bad row gets an error of its own, and the other
//! rows run as if it were not there. Holds no clock and no random state. `Executor` computes and
//! samples on the host; a device with an executor of its own shares `admission` and `sequence`.

pub(crate) mod admission;
mod micro_batch;
pub(crate) mod sequence;
mod step;

#[cfg(test)]
mod tests;

pub use step::{Input, Row, RowOutcome, RowScores, Start, Step, StepOutcome};

use std::time::Duration;

use crate::config::ModelConfig;
use crate::error::{LoadError, StepError};
use crate::memory_plan::{self, BLOCK_SIZE, KvDefault, MemoryPlan, PlanInputs};
use crate::model::decoder::{Decoder, Memory, Room};
use crate::ops::Ops;
use crate::sampler::{self, Draw, Sampled, Sampler, Score};
use admission::{Admission, AdmittedRow, Limits};
use micro_batch::MicroBatch;
use sequence::{LastSampled, Sequence, SequenceTable};

/// Rows of one forward pass: enough to reuse every weight many times, few enough that the
/// activations stay in a cache.
const MICRO_BATCH_ROWS: usize = 256;
/// Rows whose logits are computed at once; logits are by far the widest activations.
const LOGITS_ROWS: usize = 64;

/// Bytes of a K or V element on the host.
pub const HOST_KV_ELEMENT_BYTES: usize = size_of::<f32>();

/// What the router asks of `Plan`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    pub max_step_tokens: usize,
    pub max_step_rows: usize,
    /// 0 = as many as suit the machine.
    pub max_batch_total_tokens: usize,
    pub max_total_tokens: usize,
}

/// Hears how a step went, from whatever thread knows first.
pub type Done = Box<dyn FnOnce(Result<StepOutcome, StepError>) + Send>;

/// What the device thread drives.
pub trait StepExecutor {
    /// Forgets everything and allocates what steps within `budget` need.
    ///
    /// # Errors
    /// A budget that the model or the machine cannot meet; steps are then refused until the next plan.
    fn plan(&mut self, budget: &Budget) -> Result<MemoryPlan, LoadError>;
    /// Of the last plan: the part of its time that went into capturing steps.
    fn capture_time(&self) -> Duration {
        Duration::ZERO
    }
    /// Forgets all sequences and where the numbering of steps was: a new stream begins.
    fn reset(&mut self);
    /// Executes a step, or sets it going after those before it; `done` hears of each, in their order.
    /// A step before `plan` or out of order, or a device that fails: the step as a whole is lost.
    fn step(&mut self, step: Step, done: Done);
}

impl<O: Ops> StepExecutor for Executor<O> {
    fn plan(&mut self, budget: &Budget) -> Result<MemoryPlan, LoadError> {
        Executor::plan(self, budget, memory_plan::available_bytes)
    }

    fn reset(&mut self) {
        Executor::reset(self);
    }

    fn step(&mut self, step: Step, done: Done) {
        done(Executor::step(self, step));
    }
}

/// A model, its memory and its sequences.
pub struct Executor<O: Ops> {
    decoder: Decoder<O>,
    planned: Option<Planned<O>>,
    sequences: SequenceTable,
    sampler: Sampler,
    last_step_id: Option<u64>,
}

struct Planned<O: Ops> {
    limits: Limits,
    max_rows: usize,
    max_logits_rows: usize,
    memory: Memory<O>,
}

impl<O: Ops> Executor<O> {
    pub fn new(decoder: Decoder<O>) -> Executor<O> {
        Executor {
            decoder,
            planned: None,
            sequences: SequenceTable::default(),
            sampler: Sampler::default(),
            last_step_id: None,
        }
    }

    /// Forgets everything and allocates what steps within `budget` need. `available_bytes` measures
    /// the free memory once the old plan's is given back.
    ///
    /// # Errors
    /// A budget that the model or the machine cannot meet; steps are then refused until the next plan.
    pub fn plan(
        &mut self,
        budget: &Budget,
        available_bytes: impl FnOnce() -> usize,
    ) -> Result<MemoryPlan, LoadError> {
        self.reset();
        self.planned = None;
        let inputs = host_plan_inputs(self.decoder.config(), budget, available_bytes());
        let (max_rows, max_logits_rows) = (inputs.max_step_tokens, inputs.max_step_rows);
        let plan = memory_plan::plan(self.decoder.config(), &inputs)?;
        let room = Room { n_blocks: plan.n_blocks, block_size: BLOCK_SIZE, max_rows, max_logits_rows };
        let limits = Limits {
            max_step_tokens: budget.max_step_tokens,
            max_step_rows: budget.max_step_rows,
            max_total_tokens: budget.max_total_tokens,
            n_blocks: plan.n_blocks,
        };
        let memory = self.decoder.allocate(&room)?;
        self.planned = Some(Planned { limits, max_rows, max_logits_rows, memory });
        Ok(plan)
    }

    /// Forgets all sequences and where the numbering of steps was: a new stream begins.
    pub fn reset(&mut self) {
        self.sequences.clear();
        self.last_step_id = None;
    }

    /// Executes one step.
    ///
    /// # Errors
    /// A step before `plan` or out of order, or a device that fails: the step as a whole is lost.
    pub fn step(&mut self, step: Step) -> Result<StepOutcome, StepError> {
        let step_id = step.step_id;
        let bad = |detail| StepError::BadStep { step_id, detail };
        let Some(planned) = &mut self.planned else {
            return Err(bad("no memory is planned; call Plan first".to_owned()));
        };
        if let Some(last) = self.last_step_id.filter(|last| last.checked_add(1) != Some(step_id)) {
            return Err(bad(format!("expected the step after {last}")));
        }
        self.last_step_id = Some(step_id);
        self.sequences.forget(&step.forget);

        let ids: Vec<u64> = step.rows.iter().map(|row| row.sequence_id).collect();
        let mut results = vec![RowResult::default(); ids.len()];
        let mut admission = Admission::new(self.decoder.config(), &planned.limits);
        let mut rows = Vec::with_capacity(ids.len());
        for (row, result) in step.rows.into_iter().zip(&mut results) {
            match self.sequences.admit(row, &mut admission) {
                Ok(row) => rows.push(row),
                Err(fault) => result.outcome = Some(Err(fault)),
            }
        }
        for micro_batch in micro_batch::cut(&rows, &self.sequences, planned.max_rows) {
            let mut run = Run {
                decoder: &mut self.decoder,
                planned,
                sequences: &mut self.sequences,
                sampler: &mut self.sampler,
            };
            run.micro_batch(&micro_batch, &rows, &mut results)?;
        }
        Ok(step_outcome(step_id, ids.into_iter().zip(results)))
    }
}

/// What the host plans for a budget: steps run in micro-batches there. K and V are float32.
pub fn host_plan_inputs(config: &ModelConfig, budget: &Budget, available_bytes: usize) -> PlanInputs {
    let max_step_tokens = budget.max_step_tokens.min(MICRO_BATCH_ROWS);
    let max_step_rows = budget.max_step_rows.min(LOGITS_ROWS);
    PlanInputs {
        max_step_tokens,
        max_step_rows,
        max_batch_total_tokens: budget.max_batch_total_tokens,
        max_total_tokens: budget.max_total_tokens,
        available_bytes,
        kv_element_bytes: HOST_KV_ELEMENT_BYTES,
        workspace_bytes: memory_plan::host_workspace_bytes(config, max_step_tokens, max_step_rows),
        kv_default: KvDefault::Few,
    }
}

/// What one row of a step gave so far.
#[derive(Debug, Clone, Default)]
struct RowResult {
    outcome: Option<Result<Sampled, String>>,
    scores: Vec<Score>,
}

fn step_outcome(step_id: u64, rows: impl Iterator<Item = (u64, RowResult)>) -> StepOutcome {
    let mut outcome = StepOutcome { step_id, results: Vec::new(), scores: Vec::new() };
    for (sequence_id, RowResult { outcome: result, scores }) in rows {
        if !scores.is_empty() && !matches!(result, Some(Err(_))) {
            outcome.scores.push(RowScores { sequence_id, scores });
        }
        outcome.results.extend(result.map(|result| RowOutcome { sequence_id, result }));
    }
    outcome
}

/// Chooses the sequence's next token.
fn sample(
    sampler: &mut Sampler,
    sequence: &mut Sequence,
    allowed: &[u8],
    logits: &[f32],
) -> Result<Sampled, String> {
    let draw = Draw {
        parameters: &sequence.sampling,
        counts: &sequence.counts,
        bias: &sequence.bias,
        allowed,
        position: sequence.n_tokens,
    };
    let sampled = sampler.sample(logits, &draw);
    sequence.last_sampled = match &sampled {
        Ok(sampled) => LastSampled::Token(sampled.token.id),
        Err(_) => LastSampled::Nothing,
    };
    sampled.map_err(|error| error.to_string())
}

/// What one micro-batch works with.
struct Run<'a, O: Ops> {
    decoder: &'a mut Decoder<O>,
    planned: &'a mut Planned<O>,
    sequences: &'a mut SequenceTable,
    sampler: &'a mut Sampler,
}

impl<O: Ops> Run<'_, O> {
    /// Runs the forward pass, then logits and sampling a few rows at a time.
    fn micro_batch(
        &mut self,
        micro_batch: &MicroBatch,
        rows: &[AdmittedRow],
        results: &mut [RowResult],
    ) -> Result<(), StepError> {
        let (max, memory) = (self.planned.max_logits_rows, &mut self.planned.memory);
        self.decoder.forward(memory, &micro_batch.batch)?;
        let chunks = micro_batch.batch.logits_rows.chunks(max).zip(micro_batch.wanted.chunks(max));
        for (logits_rows, wanted) in chunks {
            self.decoder.logits(memory, logits_rows)?;
            for (i, wanted) in wanted.iter().enumerate() {
                let row = &rows[wanted.row];
                let logits = self.decoder.read_logits(memory, i)?;
                let result = &mut results[row.index];
                if let Some(token) = wanted.score {
                    match sampler::score(&logits, token) {
                        Ok(score) => result.scores.push(score),
                        Err(error) => result.outcome = Some(Err(error.to_string())),
                    }
                }
                let Some(sequence) = self.sequences.get_mut(row.sequence_id) else { continue };
                if wanted.sample && result.outcome.is_none() {
                    result.outcome = Some(sample(self.sampler, sequence, &row.allowed, &logits));
                }
            }
        }
        Ok(())
    }
}
