//! The quantizer's flags. Parsed by `main`; the launcher passes its subcommand's on as they are.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Parser;

use crate::error::QuantizeError;

/// Group sizes that the shard's kernels read.
const GROUP_SIZES: [usize; 3] = [32, 64, 128];

/// Quantises a float16, bfloat16 or float32 checkpoint folder to 4-bit AWQ.
#[derive(Debug, Clone, Parser)]
#[command(name = "text-generation-quantizer", version)]
pub struct Args {
    /// Folder of the float model: config.json, *.safetensors, tokenizer.
    pub input: PathBuf,
    /// Folder to create; must not exist or be empty. An interrupted run is continued when it is started again.
    pub out: PathBuf,
    /// Input features that share one scale and zero point: 32, 64 or 128.
    #[arg(long, default_value_t = 128)]
    pub group_size: usize,
    /// Text to measure activations on (UTF-8), instead of the built-in one: best what the model will be used for.
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
    /// Tokens of the calibration text to use, at most.
    #[arg(long, default_value_t = 8192, value_name = "N")]
    pub calibration_tokens: usize,
    /// Threads. Left out: one for each core that this process may use.
    #[arg(long)]
    pub threads: Option<NonZeroUsize>,
    /// Log events as JSON, one object a line.
    #[arg(long)]
    pub json_output: bool,
}

impl Args {
    /// Refuses what no model can be quantised with.
    ///
    /// # Errors
    /// [`QuantizeError::Argument`]
    pub fn check(&self) -> Result<(), QuantizeError> {
        if !GROUP_SIZES.contains(&self.group_size) {
            return Err(QuantizeError::Argument(format!(
                "--group-size: expected one of {GROUP_SIZES:?}, got {}",
                self.group_size
            )));
        }
        Ok(())
    }
}
