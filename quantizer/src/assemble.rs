//! The finished folder: finished blocks and float tensors streamed into one safetensors file, configuration, tokenizer.
//!
//! Called by `run` at the end. Holds one block in memory at a time; the folder appears by one rename.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use safetensors::Dtype;
use serde_json::{Value, json};
use text_generation_backend::weights::Tensor;
use text_generation_checkpoint::layout::{Entry, Layout};
use text_generation_checkpoint::{Staging, to_python_json};

use crate::args::Args;
use crate::error::QuantizeError;
use crate::quantized::NewTensor;
use crate::source::Source;
use crate::work::Work;

const WEIGHTS: &str = "model.safetensors";
/// Elements of a float tensor that are converted at a time.
const CHUNK: usize = 1 << 20;
/// What is not copied from the float folder: weights in any format, and what is written anew.
const NOT_COPIED: [&str; 9] = [
    ".safetensors",
    ".safetensors.index.json",
    ".bin",
    ".bin.index.json",
    ".pt",
    ".pth",
    ".gguf",
    "quant_config.json",
    "quantize_config.json",
];
/// Largest file that is copied along: tokenizers stay far below.
const LARGEST_COPY: u64 = 1 << 28;

/// Writes the folder; returns the size of its weights in bytes.
pub(crate) fn write(args: &Args, source: &Source, work: &Work) -> Result<u64, QuantizeError> {
    let staging = Staging::new(&args.out)?;
    let n_bytes = write_weights(&staging.path(WEIGHTS), source, work)?;
    write_json(&staging, "config.json", &config(&args.input, args.group_size)?)?;
    let quant_config =
        json!({"zero_point": true, "q_group_size": args.group_size, "w_bit": 4, "version": "GEMM"});
    write_json(&staging, "quant_config.json", &quant_config)?;
    copy_others(&args.input, &staging)?;
    staging.publish()?;
    Ok(n_bytes)
}

fn write_json(staging: &Staging, name: &str, value: &Value) -> Result<(), QuantizeError> {
    let text = to_python_json(value).map_err(|error| QuantizeError::Numbers(error.to_string()))?;
    Ok(staging.write(name, &text)?)
}

/// The model's config.json with the quantisation added, in AutoAWQ's words.
fn config(input: &Path, group_size: usize) -> Result<Value, QuantizeError> {
    let path = input.join("config.json");
    let text = fs::read_to_string(&path).map_err(QuantizeError::io(&path))?;
    let mut config: Value = serde_json::from_str(&text)
        .map_err(|error| QuantizeError::Numbers(format!("{}: {error}", path.display())))?;
    config["quantization_config"] = json!({
        "quant_method": "awq",
        "bits": 4,
        "group_size": group_size,
        "zero_point": true,
        "version": "gemm",
        "modules_to_not_convert": null,
    });
    // What is not 4-bit is float16 now.
    for key in ["torch_dtype", "dtype"] {
        if config.get(key).is_some() {
            config[key] = json!("float16");
        }
    }
    if config.get("bf16").is_some() {
        // The original Qwen's own keys.
        (config["bf16"], config["fp16"]) = (json!(false), json!(true));
    }
    Ok(config)
}

fn copy_others(input: &Path, staging: &Staging) -> Result<(), QuantizeError> {
    for entry in fs::read_dir(input).map_err(QuantizeError::io(input))? {
        let path = entry.map_err(QuantizeError::io(input))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let metadata = fs::metadata(&path).map_err(QuantizeError::io(&path))?;
        let skipped = name == "config.json"
            || name.starts_with('.')
            || NOT_COPIED.iter().any(|end| name.ends_with(end));
        if metadata.is_file() && metadata.len() <= LARGEST_COPY && !skipped {
            fs::copy(&path, staging.path(name)).map_err(QuantizeError::io(&path))?;
        }
    }
    Ok(())
}

fn write_weights(path: &Path, source: &Source, work: &Work) -> Result<u64, QuantizeError> {
    let outside = source.outside()?;
    let mut entries: Vec<Entry> =
        outside.iter().map(|tensor| (tensor.name.clone(), Dtype::F16, tensor.shape.clone())).collect();
    let n_blocks = source.config.n_layers;
    for index in 0..n_blocks {
        entries.extend(work.read(index)?.into_iter().map(|t| (t.name, t.dtype, t.shape)));
    }
    let layout = Layout::new(entries).map_err(|error| QuantizeError::Numbers(error.to_string()))?;
    let file = File::create(path).map_err(QuantizeError::io(path))?;
    let put = |at: u64, bytes: &[u8]| file.write_all_at(bytes, at).map_err(QuantizeError::io(path));
    put(0, &layout.header)?;
    for tensor in &outside {
        put_float(tensor, layout.offset(&tensor.name), put)?;
    }
    for index in 0..n_blocks {
        for tensor in work.read(index)? {
            put(layout.offset(&tensor.name), &tensor.bytes)?;
        }
    }
    file.sync_all().map_err(QuantizeError::io(path))?;
    Ok(layout.n_bytes)
}

/// Writes a float tensor as float16, piece by piece.
fn put_float(
    tensor: &Tensor,
    at: u64,
    put: impl Fn(u64, &[u8]) -> Result<(), QuantizeError>,
) -> Result<(), QuantizeError> {
    let (n, size) = (tensor.shape.iter().product::<usize>(), tensor.dtype.size());
    for first in (0..n).step_by(CHUNK) {
        let end = n.min(first + CHUNK);
        let range = tensor.range.start + first * size..tensor.range.start + end * size;
        let piece = Tensor { shape: vec![end - first], range, ..tensor.clone() };
        let halves = NewTensor::halves(tensor.name.clone(), piece.shape.clone(), &piece.to_f32())?;
        put(at + 2 * first as u64, &halves.bytes)?;
    }
    tensor.release();
    Ok(())
}
