//! `text-generation-launcher convert GGUF OUT`: turns a GGUF file into a Hugging Face checkpoint folder.
//!
//! Called by the launcher for the subcommand and once for the starter model. Streams tensor by tensor, so memory
//! stays small whatever the model's size. Must never leave a half-written OUT: the folder appears by one rename.

mod config;
mod dequantize;
mod error;
mod gguf;
mod plan;
mod source;
#[cfg(test)]
mod tests;
mod tokenizer;
mod write;

use std::fmt;
use std::path::PathBuf;
use std::thread::available_parallelism;

use serde_json::Value;

use config::Dims;
pub use error::ConvertError;
use gguf::{Gguf, Header};
use text_generation_checkpoint::{Staging, to_python_json};
use tokenizer::Tokenizer;
use write::Weights;

/// Group sizes that the shard's kernels read.
const GROUP_SIZES: [usize; 3] = [32, 64, 128];

/// Arguments of the `convert` subcommand.
#[derive(Clone, Debug, clap::Args)]
pub struct ConvertArgs {
    /// GGUF file to read (version 2 or 3, little endian; llama or qwen2)
    pub gguf: PathBuf,
    /// Folder to create; must not exist or be empty
    pub out: PathBuf,
    /// Input features that share one scale and zero point of the 4-bit weights: 32, 64 or 128
    #[arg(long, default_value_t = 64, alias = "group-size", conflicts_with = "fp16")]
    pub awq_group_size: usize,
    /// Write float16 weights instead of 4-bit AWQ
    #[arg(long)]
    pub fp16: bool,
}

/// How the weights of the linear layers are written. Embeddings, `lm_head`, norms and biases are always float16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Plain float16.
    Fp16,
    /// AutoAWQ's 4-bit "gemm" layout, rounded to nearest in groups of `group_size` input features.
    Awq { group_size: usize },
}

impl ConvertArgs {
    /// The weight format that the flags name.
    pub fn format(&self) -> Format {
        if self.fp16 { Format::Fp16 } else { Format::Awq { group_size: self.awq_group_size } }
    }
}

/// What a conversion wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvertReport {
    /// GGUF tensors read.
    pub n_tensors: usize,
    /// Linear layers written in 4 bits.
    pub n_quantized: usize,
    /// Weights of the model.
    pub n_parameters: u64,
    /// Size of `model.safetensors` in bytes.
    pub n_bytes: u64,
}

impl fmt::Display for ConvertReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (millions, megabytes) = (self.n_parameters as f64 / 1e6, self.n_bytes as f64 / 1e6);
        write!(
            f,
            "{} tensors, {millions:.1} M parameters, {} linear layers in 4 bits, {megabytes:.1} MB",
            self.n_tensors, self.n_quantized
        )
    }
}

/// Converts `args.gguf` into the folder `args.out`.
///
/// # Errors
/// [`ConvertError`] when the GGUF is damaged or of an unsupported kind, or a file cannot be read or written;
/// `args.out` is then as it was before.
pub fn run(args: &ConvertArgs) -> Result<ConvertReport, ConvertError> {
    check_format(args.format())?;
    let staging = Staging::new(&args.out)?;
    let report = fill(&staging, args).map_err(|e| e.in_file(&args.gguf))?;
    staging.publish()?;
    Ok(report)
}

/// Writes every file of the checkpoint into `staging`.
fn fill(staging: &Staging, args: &ConvertArgs) -> Result<ConvertReport, ConvertError> {
    let format = args.format();
    let gguf = Gguf::open(&args.gguf)?;
    let dims = Dims::read(&gguf.header)?;
    let plan = plan::plan(&dims, &gguf.header)?;
    let texts = text_files(&gguf.header, &dims, format)?;
    let weights = Weights::new(&gguf, &plan, format)?;
    tracing::info!("Converting {} to {}", args.gguf.display(), args.out.display());
    for (name, value) in texts {
        staging.write(name, &to_python_json(&value).map_err(|e| ConvertError::Damaged(e.to_string()))?)?;
    }
    let n_threads = available_parallelism().map_or(1, usize::from);
    weights.write(&staging.path("model.safetensors"), n_threads)?;
    Ok(ConvertReport {
        n_tensors: plan.len(),
        n_quantized: weights.n_quantized,
        n_parameters: plan.iter().map(|t| (t.source.n_rows() * t.source.n_cols()) as u64).sum(),
        n_bytes: weights.n_bytes(),
    })
}

fn check_format(format: Format) -> Result<(), ConvertError> {
    match format {
        Format::Awq { group_size } if !GROUP_SIZES.contains(&group_size) => Err(ConvertError::Argument(
            format!("--awq-group-size: expected one of {GROUP_SIZES:?}, got {group_size}"),
        )),
        _ => Ok(()),
    }
}

/// Every file but the weights.
fn text_files(
    header: &Header,
    dims: &Dims,
    format: Format,
) -> Result<Vec<(&'static str, Value)>, ConvertError> {
    let tokenizer = Tokenizer::read(header, dims)?;
    let mut files = vec![
        ("config.json", config::config(dims, header, format)?),
        ("tokenizer.json", tokenizer.tokenizer_json()),
        ("tokenizer_config.json", tokenizer.tokenizer_config(dims)?),
        ("generation_config.json", config::generation_config(dims, header)?),
    ];
    if let Format::Awq { group_size } = format {
        files.push(("quant_config.json", config::quant_config(group_size)));
    }
    Ok(files)
}
