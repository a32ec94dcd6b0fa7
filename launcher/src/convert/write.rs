//! Streams the planned tensors into `model.safetensors`, several at once, each at its place.
//! Called by `run`. Must never hold more than a few tensors in memory: a thread reads some rows, converts, writes.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use safetensors::tensor::Dtype;
use text_generation_checkpoint::awq::{AwqLinear, LinearShape, PACK};
use text_generation_checkpoint::layout::{Entry, Layout};

use super::gguf::Gguf;
use super::plan::Planned;
use super::source::half_rows;
use super::{ConvertError, Format};

/// Weights that a thread converts at a time.
const CHUNK: usize = 1 << 19;
/// More threads would only wait for the disk, each with its own buffers.
const MAX_THREADS: usize = 16;

/// One piece of work: some rows of a float16 tensor, or a whole linear layer.
struct Job<'a> {
    tensor: &'a Planned<'a>,
    rows: Range<usize>,
    awq: Option<LinearShape>,
}

/// The weights of one conversion.
pub(super) struct Weights<'a> {
    gguf: &'a Gguf,
    jobs: Vec<Job<'a>>,
    layout: Layout,
    n_tensors: usize,
    /// Linear layers written in 4 bits.
    pub n_quantized: usize,
}

impl<'a> Weights<'a> {
    /// Lays the file out; fails before anything is written if a layer does not suit `format`.
    pub(super) fn new(gguf: &'a Gguf, plan: &'a [Planned<'a>], format: Format) -> Result<Self, ConvertError> {
        let (mut entries, mut jobs) = (Vec::new(), Vec::new());
        for tensor in plan {
            let awq = linear_shape(tensor, format)?;
            entries.extend(entries_of(tensor, awq));
            jobs.extend(jobs_of(tensor, awq));
        }
        let layout = Layout::new(entries).map_err(|e| ConvertError::Damaged(e.to_string()))?;
        let n_quantized = jobs.iter().filter(|job| job.awq.is_some()).count();
        Ok(Self { gguf, jobs, layout, n_tensors: plan.len(), n_quantized })
    }

    /// Size of the file in bytes.
    pub(super) fn n_bytes(&self) -> u64 {
        self.layout.n_bytes
    }

    /// Writes the file at `path` with `n_threads` threads.
    pub(super) fn write(&self, path: &Path, n_threads: usize) -> Result<(), ConvertError> {
        let file = File::create(path).map_err(ConvertError::io(path))?;
        let out = Output { file, path, weights: self, progress: Progress::new(self.n_tensors) };
        out.file.set_len(self.n_bytes()).map_err(ConvertError::io(path))?;
        out.put(0, &self.layout.header)?;
        out.run_jobs(n_threads.clamp(1, MAX_THREADS))?;
        out.file.sync_all().map_err(ConvertError::io(path))
    }
}

/// The 4-bit shape of `tensor`, if `format` quantises it.
fn linear_shape(tensor: &Planned<'_>, format: Format) -> Result<Option<LinearShape>, ConvertError> {
    let Format::Awq { group_size } = format else { return Ok(None) };
    if !tensor.is_linear {
        return Ok(None);
    }
    let shape = LinearShape::new(tensor.source.n_cols(), tensor.source.n_rows(), group_size);
    shape.map(Some).map_err(|reason| ConvertError::Weight { tensor: tensor.source.name.clone(), reason })
}

fn entries_of(tensor: &Planned<'_>, awq: Option<LinearShape>) -> Vec<Entry> {
    let Some(shape) = awq else {
        return vec![(tensor.name.clone(), Dtype::F16, tensor.source.shape.clone())];
    };
    vec![
        (part(tensor, "qweight"), Dtype::I32, vec![shape.k, shape.n_words()]),
        (part(tensor, "qzeros"), Dtype::I32, vec![shape.n_groups(), shape.n_words()]),
        (part(tensor, "scales"), Dtype::F16, vec![shape.n_groups(), shape.n]),
    ]
}

/// The name of one of the tensors that replace a quantised weight.
fn part(tensor: &Planned<'_>, suffix: &str) -> String {
    format!("{}.{suffix}", tensor.name.trim_end_matches(".weight"))
}

fn jobs_of<'a>(tensor: &'a Planned<'a>, awq: Option<LinearShape>) -> Vec<Job<'a>> {
    let n_rows = tensor.source.n_rows();
    if awq.is_some() {
        return vec![Job { tensor, rows: 0..n_rows, awq }];
    }
    let step = rows_at_once(tensor, tensor.row_unit());
    (0..n_rows).step_by(step).map(|at| Job { tensor, rows: at..n_rows.min(at + step), awq }).collect()
}

/// Rows to convert together: about [`CHUNK`] weights, a multiple of `unit`.
fn rows_at_once(tensor: &Planned<'_>, unit: usize) -> usize {
    (CHUNK / tensor.source.n_cols()).next_multiple_of(unit).max(unit)
}

/// The file being written, shared by the threads.
struct Output<'a> {
    file: File,
    path: &'a Path,
    weights: &'a Weights<'a>,
    progress: Progress,
}

impl Output<'_> {
    fn run_jobs(&self, n_threads: usize) -> Result<(), ConvertError> {
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = || {
            while !failed.load(Ordering::Relaxed) {
                let Some(job) = self.weights.jobs.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                self.run_job(job).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..n_threads).map(|_| scope.spawn(work)).collect();
            let mut joined = threads.into_iter().map(|t| t.join());
            joined.try_for_each(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }

    fn run_job(&self, job: &Job<'_>) -> Result<(), ConvertError> {
        let tensor = job.tensor;
        match job.awq {
            Some(shape) => self.write_awq(tensor, shape)?,
            None => {
                let halves = half_rows(self.weights.gguf, tensor, job.rows.clone())?;
                let at = self.weights.layout.offset(&tensor.name);
                let before = job.rows.start * tensor.source.n_cols() * 2;
                self.put(at + before as u64, bytemuck::cast_slice(&halves))?;
            }
        }
        if job.rows.end == tensor.source.n_rows() {
            self.progress.done(&tensor.name);
        }
        Ok(())
    }

    fn write_awq(&self, tensor: &Planned<'_>, shape: LinearShape) -> Result<(), ConvertError> {
        let mut layer = AwqLinear::zeros(shape);
        let step = rows_at_once(tensor, tensor.row_unit() * PACK);
        for start in (0..shape.n).step_by(step) {
            let rows = half_rows(self.weights.gguf, tensor, start..shape.n.min(start + step))?;
            layer.set_rows(start, &rows);
        }
        let offset = |suffix| self.weights.layout.offset(&part(tensor, suffix));
        self.put(offset("qweight"), bytemuck::cast_slice(&layer.qweight))?;
        self.put(offset("qzeros"), bytemuck::cast_slice(&layer.qzeros))?;
        self.put(offset("scales"), bytemuck::cast_slice(&layer.scales))
    }

    fn put(&self, at: u64, bytes: &[u8]) -> Result<(), ConvertError> {
        self.file.write_all_at(bytes, at).map_err(ConvertError::io(self.path))
    }
}

/// Counts finished tensors and logs every tenth part.
struct Progress {
    n_done: AtomicUsize,
    n_tensors: usize,
}

impl Progress {
    fn new(n_tensors: usize) -> Self {
        Self { n_done: AtomicUsize::new(0), n_tensors }
    }

    fn done(&self, name: &str) {
        let n_done = self.n_done.fetch_add(1, Ordering::Relaxed) + 1;
        let tenth = |n: usize| n * 10 / self.n_tensors;
        if tenth(n_done) > tenth(n_done - 1) {
            tracing::info!("Converted tensor {n_done}/{}: {name}", self.n_tensors);
        }
    }
}
