//! Steps on a GPU: checks the rows, writes what the device must know into one block, launches the forward
//! pass and the sampler, and goes on without waiting. The token that a step samples stays on the device as
//! the next step's input, so the next step can be set going before this one is read.
//!
//! Owned by the device thread. A decode step replays a captured graph of its bucket; any other step is
//! launched kernel by kernel. All memory is taken by `plan`; a step allocates none on the device.

mod buckets;
mod completion;
mod memory;
pub mod sizes;
mod slots;
mod step_batch;

use std::time::{Duration, Instant};

use super::driver::CudaError;
use super::ops::CudaOps;
use super::step_inputs::{Layout, StepShape, Writer};
use super::sys;
use crate::batch::Batch;
use crate::error::{LoadError, StepError};
use crate::executor::admission::{Admission, AdmittedRow};
use crate::executor::sequence::SequenceTable;
use crate::executor::{Budget, Done, Row, Start, Step, StepExecutor};
use crate::memory_plan::MemoryPlan;
use crate::model::decoder::Decoder;
use completion::{Completion, Finished, Transfer};
use memory::Planned;
use slots::Slots;
use step_batch::StepBatch;

/// A model on a GPU, its memory and its sequences.
pub struct CudaExecutor {
    planned: Option<Planned>,
    decoder: Decoder<CudaOps>,
    sequences: SequenceTable,
    last_step_id: Option<u64>,
    completion: Completion,
    /// Share of the GPU's memory that may be used.
    memory_fraction: f64,
}

impl CudaExecutor {
    /// `memory_fraction` of the GPU is for the model, its cache and its workspace.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn new(decoder: Decoder<CudaOps>, memory_fraction: f64) -> std::io::Result<CudaExecutor> {
        Ok(CudaExecutor {
            planned: None,
            decoder,
            sequences: SequenceTable::default(),
            last_step_id: None,
            completion: Completion::start()?,
            memory_fraction,
        })
    }

    /// Launches the captured step of `rows` sequences `times` times with the last step's inputs, and waits: what decode
    /// steps take when the device never waits for the host. For benchmarks; what those sequences say from then on means
    /// nothing.
    ///
    /// # Errors
    /// There is no such captured step, or the device fails.
    pub fn replay(&mut self, rows: usize, times: usize) -> Result<Duration, StepError> {
        let buckets = self.planned.iter().flat_map(|planned| &planned.buckets);
        let Some(bucket) = buckets.into_iter().find(|bucket| bucket.rows == rows) else {
            return Err(StepError::Device {
                op: "replay",
                detail: format!("no step of {rows} rows is captured"),
            });
        };
        let gpu = &self.decoder.ops().gpu;
        gpu.synchronize()?;
        let started = Instant::now();
        for _ in 0..times {
            bucket.launch()?;
        }
        gpu.synchronize()?;
        Ok(started.elapsed())
    }

    /// Checks the step and sets it going; what is read when it is done.
    fn submit(&mut self, step: Step) -> Result<Finished, StepError> {
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
        planned.slots.forget(&step.forget);

        let mut finished = Finished::new(step_id, step.rows.iter().map(|row| row.sequence_id).collect());
        let mut admission = Admission::new(self.decoder.config(), &planned.limits);
        let mut rows = Vec::with_capacity(step.rows.len());
        for (index, row) in step.rows.into_iter().enumerate() {
            match admit(row, &mut admission, &mut self.sequences, &mut planned.slots) {
                Ok((row, None)) => rows.push(row),
                Ok((row, Some(new))) => {
                    new.prepare(planned, self.decoder.ops())?;
                    rows.push(row);
                }
                Err(fault) => finished.fail(index, fault),
            }
        }
        if rows.is_empty() {
            return Ok(finished);
        }
        let batch = StepBatch::new(rows, &mut self.sequences, &planned.slots);
        finished.expect(&batch.outputs, &batch.scores);
        let mut transfer = self.completion.transfer()?;
        let launched = launch(planned, &mut self.decoder, &batch, &mut transfer);
        finished.transfer = Some(transfer);
        finished.launched = launched;
        Ok(finished)
    }
}

impl StepExecutor for CudaExecutor {
    fn plan(&mut self, budget: &Budget) -> Result<MemoryPlan, LoadError> {
        self.reset();
        self.completion.drain();
        self.planned = None;
        self.decoder.ops_mut().free();
        let planned = Planned::new(&mut self.decoder, budget, self.memory_fraction)?;
        self.completion.prepare(planned.transfer_bytes)?;
        let plan = planned.plan;
        self.planned = Some(planned);
        Ok(plan)
    }

    fn capture_time(&self) -> Duration {
        self.planned.as_ref().map_or(Duration::ZERO, |planned| planned.capture_time)
    }

    fn reset(&mut self) {
        self.sequences.clear();
        self.last_step_id = None;
        if let Some(planned) = &mut self.planned {
            planned.slots.clear();
        }
    }

    fn step(&mut self, step: Step, done: Done) {
        let outcome = self.submit(step);
        self.completion.send(outcome, done);
    }
}

/// A sequence that begins, in a row of the counts and biases of its own.
struct NewSequence {
    counts: i32,
    start: Start,
    bias: Vec<(u32, f32)>,
}

impl NewSequence {
    fn prepare(self, planned: &Planned, ops: &CudaOps) -> Result<(), CudaError> {
        planned.reset_counts(ops, self.counts, &self.start)?;
        match self.bias.is_empty() {
            true => Ok(()),
            false => planned.set_biases(ops, self.counts, &self.bias),
        }
    }
}

/// Takes a row into the step, and its sequence into the slots.
fn admit(
    row: Row,
    admission: &mut Admission,
    sequences: &mut SequenceTable,
    slots: &mut Slots,
) -> Result<(AdmittedRow, Option<NewSequence>), String> {
    let (sequence_id, start) = (row.sequence_id, row.start.clone());
    check_supported(&row)?;
    let row = sequences.admit(row, admission)?;
    let sequence = sequences.get(sequence_id).ok_or("no such sequence")?;
    let has_row = sequence.sampling.penalizes() || !sequence.bias.is_empty();
    let counts = slots.assign(sequence_id, has_row)?;
    let new =
        counts.zip(start).map(|(counts, start)| NewSequence { counts, start, bias: sequence.bias.clone() });
    Ok((row, new))
}

/// What a row may ask of the CPU, but not of a GPU.
fn check_supported(row: &Row) -> Result<(), String> {
    let most = sys::QUERN_MAX_TOP_TOKENS as usize;
    let wanted =
        row.start.as_ref().and_then(|start| start.sampling).map_or(0, |sampling| sampling.top_n_tokens);
    match wanted <= most {
        true => Ok(()),
        false => Err(format!("top_n_tokens must be at most {most} on a GPU, got {wanted}")),
    }
}

/// Copies the step's inputs, computes, and copies what it sampled back, all in the stream's order.
fn launch(
    planned: &mut Planned,
    decoder: &mut Decoder<CudaOps>,
    batch: &StepBatch,
    transfer: &mut Transfer,
) -> Result<(), CudaError> {
    let bucket = planned.buckets.iter().find(|bucket| batch.decodes_only() && bucket.rows >= batch.n_rows());
    let own;
    let layout = match bucket {
        Some(bucket) => &bucket.layout,
        None => {
            own = Layout::new(planned.shape(decoder.ops(), batch));
            &own
        }
    };
    let mut writer = Writer::new(layout, &mut transfer.inputs);
    batch.write(&mut writer);
    if layout.shape.decode_spans > 0 {
        let (positions, plan) = writer.decode_plans();
        decoder.ops().plan_decode(positions, planned.limits.max_total_tokens, plan)?;
    }
    let inputs = decoder.ops().memory()?.inputs;
    // SAFETY: the step memory holds the largest layout; the transfer is not touched until the step is done.
    unsafe { decoder.ops().gpu.upload(&transfer.inputs[..layout.used_bytes(batch.n_masks())], inputs) }?;
    match bucket {
        Some(bucket) => bucket.launch()?,
        None => {
            decoder.ops_mut().set_layout(layout, batch.max_prefill_rows());
            compute(decoder, &mut planned.memory, layout.shape)?;
        }
    }
    download(decoder.ops(), batch, transfer)
}

/// Copies a launched step's results back, and marks when they are there.
fn download(ops: &CudaOps, batch: &StepBatch, transfer: &mut Transfer) -> Result<(), CudaError> {
    let n_sampled = batch.outputs.len() * size_of::<sys::QuernSampled>();
    let (sampled, scores) = transfer.outputs.split_at_mut(n_sampled);
    let scores = &mut scores[..batch.n_scores() * size_of::<sys::QuernScored>()];
    for (from, to) in [(ops.memory()?.sampled, sampled), (ops.memory()?.scores, scores)] {
        if !to.is_empty() {
            // SAFETY: both sides hold as many results; nobody reads them before the mark.
            unsafe { ops.gpu.download(from, to) }?;
        }
    }
    transfer.mark(&ops.gpu)
}

/// Launches one step by the layout that is set.
fn compute(
    decoder: &mut Decoder<CudaOps>,
    memory: &mut crate::model::decoder::Memory<CudaOps>,
    shape: StepShape,
) -> Result<(), CudaError> {
    let failed = |error: StepError| match error {
        StepError::Device { op, detail } => CudaError { op, detail },
        other => CudaError { op: "step", detail: other.to_string() },
    };
    // The ops read the tokens and spans on the device: here only the numbers of rows count.
    let batch = Batch { tokens: vec![0; shape.rows], spans: vec![], logits_rows: vec![] };
    decoder.forward(memory, &batch).map_err(failed)?;
    if shape.logits_rows > 0 {
        decoder.logits(memory, &vec![0; shape.logits_rows]).map_err(failed)?;
        let (ops, logits) = decoder.ops_and_logits(memory);
        ops.sample(logits)?;
    }
    // As many rows of logits at a time as there is room for, after the sampler is done with it.
    let max_rows = decoder.ops().memory()?.max_logits_rows;
    for first in (0..shape.score_rows).step_by(max_rows) {
        let n_rows = max_rows.min(shape.score_rows - first);
        decoder.ops_mut().gather_for_scores(first);
        decoder.logits(memory, &vec![0; n_rows]).map_err(failed)?;
        let (ops, logits) = decoder.ops_and_logits(memory);
        ops.score(logits, first)?;
    }
    Ok(())
}
