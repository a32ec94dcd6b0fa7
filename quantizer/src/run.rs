//! A quantisation from its flags to the finished folder. Called by `main` and by tests.

use std::fmt;
use std::time::{Duration, Instant};

use ndarray::Array2;
use text_generation_checkpoint::Staging;
use tracing::info;

use crate::args::Args;
use crate::assemble;
use crate::calibration;
use crate::error::QuantizeError;
use crate::progress::Progress;
use crate::quantized::quantize;
use crate::source::Source;
use crate::work::{Fingerprint, Work};

/// What a run made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Blocks of the model.
    pub n_blocks: usize,
    /// Tokens that activations were measured on.
    pub n_tokens: usize,
    /// Size of the weights in bytes.
    pub n_bytes: u64,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (megabytes, seconds) = (self.n_bytes as f64 / 1e6, self.took.as_secs_f64());
        write!(
            f,
            "{} blocks in 4 bits by {} tokens, {megabytes:.1} MB, {seconds:.0} s",
            self.n_blocks, self.n_tokens
        )
    }
}

/// Quantises `args.input` into the folder `args.out`.
///
/// # Errors
/// [`QuantizeError`]; finished blocks stay beside `args.out` for the next run.
pub fn run(args: &Args) -> Result<Report, QuantizeError> {
    let started = Instant::now();
    args.check()?;
    let mut threads = rayon::ThreadPoolBuilder::new();
    if let Some(n) = args.threads {
        threads = threads.num_threads(n.get());
    }
    let pool = threads.build().map_err(|error| QuantizeError::Argument(format!("--threads: {error}")))?;
    let (n_blocks, n_tokens, n_bytes) = pool.install(|| quantize_all(args))?;
    Ok(Report { n_blocks, n_tokens, n_bytes, took: started.elapsed() })
}

fn quantize_all(args: &Args) -> Result<(usize, usize, u64), QuantizeError> {
    Staging::check(&args.out)?;
    let source = Source::open(&args.input, args.group_size)?;
    let text = calibration::text(args.calibration.as_deref())?;
    let windows = calibration::windows(&args.input, &text, args.calibration_tokens)?;
    let n_tokens = windows.iter().map(Vec::len).sum();
    let settings = format!("{} {}", args.group_size, args.calibration_tokens);
    let fingerprint =
        Fingerprint::new().add(settings.as_bytes()).add(text.as_bytes()).add_model(&args.input)?;
    let work = Work::open(&args.out, fingerprint)?;
    let (n_blocks, n_found) = (source.config.n_layers, work.n_found(source.config.n_layers));
    info!("Quantising {n_blocks} blocks in groups of {}, measured on {n_tokens} tokens", args.group_size);
    let mut progress = Progress::new(n_blocks, n_found, args.json_output);
    let mut hidden: Vec<Array2<f32>> =
        windows.iter().map(|ids| source.embed(ids)).collect::<Result<_, _>>()?;
    for index in 0..n_blocks {
        let block = source.block(index)?;
        // Scales cancel out, so what flows on is that of the float model, whichever run finished the block.
        let inputs = block.forward(&source.config, &mut hidden, index >= n_found);
        if let Some(inputs) = inputs {
            work.keep(index, &quantize(block, &inputs, &source.config, args.group_size)?)?;
        }
        progress.done();
    }
    let n_bytes = assemble::write(args, &source, &work)?;
    work.finish()?;
    Ok((n_blocks, n_tokens, n_bytes))
}
