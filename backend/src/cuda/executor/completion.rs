//! What happens when a step is done: a thread waits for the device, turns what was sampled into the step's
//! outcome and tells it, while the device thread goes on to the next step. Memory that travels to and from
//! the device goes round between the two threads.

use std::thread::JoinHandle;

use cudarc::driver::CudaEvent;

use crate::cuda::driver::{CudaError, Gpu, PinnedMemory, named};
use crate::cuda::sys;
use crate::error::{LoadError, StepError};
use crate::executor::{Done, RowOutcome, RowScores, StepOutcome};
use crate::sampler::{NotFinite, Sampled, Score, TokenLogprob};

/// Steps between their launch and their outcome, at most: one runs, one waits behind it, one is being told.
const MAX_IN_FLIGHT: usize = 3;

/// Page-locked memory of one step, and the mark behind it in the stream.
pub struct Transfer {
    pub inputs: PinnedMemory,
    pub outputs: PinnedMemory,
    done: Option<CudaEvent>,
}

impl Transfer {
    /// The step is done when the device gets here.
    pub fn mark(&mut self, gpu: &Gpu) -> Result<(), CudaError> {
        self.done = Some(named("mark a step", gpu.stream.record_event(None))?);
        Ok(())
    }
}

/// Bytes of a step's transfer.
#[derive(Debug, Clone, Copy)]
pub struct TransferBytes {
    pub inputs: usize,
    pub outputs: usize,
}

/// A step on its way to its outcome.
pub struct Finished {
    step_id: u64,
    sequence_ids: Vec<u64>,
    /// By row of the request.
    results: Vec<Option<Result<Sampled, String>>>,
    /// For each row of the outputs: the row of the request.
    outputs: Vec<Option<usize>>,
    /// For each row of the request that has scores, in the outputs' order: its index, and how many.
    scored: Vec<(usize, usize)>,
    /// By row of the request.
    scores: Vec<Vec<Score>>,
    /// `None`: nothing had to be launched.
    pub transfer: Option<Transfer>,
    pub launched: Result<(), CudaError>,
}

impl Finished {
    pub fn new(step_id: u64, sequence_ids: Vec<u64>) -> Finished {
        let (results, scores) = (vec![None; sequence_ids.len()], vec![Vec::new(); sequence_ids.len()]);
        Finished {
            step_id,
            sequence_ids,
            results,
            outputs: Vec::new(),
            scored: Vec::new(),
            scores,
            transfer: None,
            launched: Ok(()),
        }
    }

    pub fn fail(&mut self, row: usize, fault: String) {
        self.results[row] = Some(Err(fault));
    }

    /// What the step will give: as `StepBatch` has them.
    pub fn expect(&mut self, outputs: &[Option<usize>], scored: &[(usize, usize)]) {
        self.outputs = outputs.to_vec();
        self.scored = scored.to_vec();
    }

    /// Reads what the device sampled, and the scores behind it.
    fn read(&mut self, outputs: &[u8]) {
        let size = size_of::<sys::QuernSampled>();
        let (sampled, scores) = outputs.split_at((self.outputs.len() * size).min(outputs.len()));
        for (bytes, row) in sampled.chunks_exact(size).zip(&self.outputs) {
            let Some(result) = row.and_then(|row| self.results.get_mut(row)) else { continue };
            // SAFETY: the chunk is as long as the struct, which is plain numbers.
            let sampled = unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast::<sys::QuernSampled>()) };
            *result = Some(outcome(&sampled));
        }
        let mut scores = scores.chunks_exact(size_of::<sys::QuernScored>()).map(score);
        for &(row, n) in &self.scored {
            let scores: Vec<Score> = scores.by_ref().take(n).collect();
            let (Some(result), Some(of_row)) = (self.results.get_mut(row), self.scores.get_mut(row)) else {
                continue;
            };
            match scores.iter().any(|score| score.logprob.is_nan()) {
                true => *result = Some(Err(NotFinite.to_string())),
                false => *of_row = scores,
            }
        }
    }

    fn outcome(self) -> StepOutcome {
        let mut outcome = StepOutcome { step_id: self.step_id, results: Vec::new(), scores: Vec::new() };
        let rows = self.sequence_ids.into_iter().zip(self.results).zip(self.scores);
        for ((sequence_id, result), scores) in rows {
            if !scores.is_empty() && !matches!(result, Some(Err(_))) {
                outcome.scores.push(RowScores { sequence_id, scores });
            }
            outcome.results.extend(result.map(|result| RowOutcome { sequence_id, result }));
        }
        outcome
    }
}

/// `bytes` are a `QuernScored`.
fn score(bytes: &[u8]) -> Score {
    // SAFETY: the chunk is as long as the struct, which is plain numbers.
    let scored = unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast::<sys::QuernScored>()) };
    Score { logprob: scored.logprob, best: token(&scored.best) }
}

fn token(t: &sys::QuernTokenLogprob) -> TokenLogprob {
    TokenLogprob { id: t.id as u32, logprob: t.logprob }
}

fn outcome(sampled: &sys::QuernSampled) -> Result<Sampled, String> {
    if sampled.not_finite != 0 {
        return Err(NotFinite.to_string());
    }
    let n_top = usize::try_from(sampled.n_top).unwrap_or(0).min(sampled.top.len());
    Ok(Sampled { token: token(&sampled.token), top: sampled.top[..n_top].iter().map(token).collect() })
}

type Item = (Result<Finished, StepError>, Done);

/// The thread, and the memory that goes round.
pub struct Completion {
    items: Option<flume::Sender<Item>>,
    spare: Vec<Transfer>,
    /// Disconnected when the thread has ended.
    returned: flume::Receiver<Transfer>,
    thread: Option<JoinHandle<()>>,
}

impl Completion {
    pub fn start() -> std::io::Result<Completion> {
        let (items, inbox) = flume::unbounded::<Item>();
        let (give_back, returned) = flume::unbounded();
        let body = move || {
            for (outcome, done) in inbox {
                done(outcome.and_then(|finished| finish(finished, &give_back)));
            }
        };
        let thread = std::thread::Builder::new().name("completion".to_owned()).spawn(body)?;
        Ok(Completion { items: Some(items), spare: Vec::new(), returned, thread: Some(thread) })
    }

    /// Outcomes are told in the order of these calls.
    pub fn send(&self, outcome: Result<Finished, StepError>, done: Done) {
        let lost = match &self.items {
            Some(items) => items.send((outcome, done)).err().map(|unsent| unsent.0.1),
            None => Some(done),
        };
        if let Some(done) = lost {
            done(Err(thread_lost()));
        }
    }

    /// Makes the memory of all steps that can be in flight; `drain` has been called.
    pub fn prepare(&mut self, bytes: TransferBytes) -> Result<(), LoadError> {
        for _ in 0..MAX_IN_FLIGHT {
            let (inputs, outputs) = (PinnedMemory::new(bytes.inputs)?, PinnedMemory::new(bytes.outputs)?);
            self.spare.push(Transfer { inputs, outputs, done: None });
        }
        Ok(())
    }

    /// Memory for a step; waits while all of it is on its way.
    pub fn transfer(&mut self) -> Result<Transfer, StepError> {
        match self.spare.pop() {
            Some(spare) => Ok(spare),
            None => self.returned.recv().map_err(|_| thread_lost()),
        }
    }

    /// Waits until all steps are done, and frees their memory.
    pub fn drain(&mut self) {
        let (told, all_told) = flume::bounded(1);
        self.send(
            Ok(Finished::new(0, Vec::new())),
            Box::new(move |_| {
                let _ = told.send(());
            }),
        );
        // An error says that the thread has ended: then there is nothing to wait for, either.
        let _ = all_told.recv();
        self.spare.clear();
        self.returned.drain();
    }
}

fn thread_lost() -> StepError {
    StepError::Device { op: "wait for a step", detail: "the completion thread has ended".to_owned() }
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.items = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits for the device and reads the results.
fn finish(mut finished: Finished, give_back: &flume::Sender<Transfer>) -> Result<StepOutcome, StepError> {
    if let Some(mut transfer) = finished.transfer.take() {
        let done = match transfer.done.take() {
            Some(done) => named("compute the step", done.synchronize()),
            None => Ok(()),
        };
        let launched = std::mem::replace(&mut finished.launched, Ok(()));
        if done.is_ok() && launched.is_ok() {
            finished.read(&transfer.outputs);
        }
        // Nobody takes it back when the executor is gone.
        let _ = give_back.send(transfer);
        launched.and(done)?;
    }
    Ok(finished.outcome())
}
