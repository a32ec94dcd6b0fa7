//! Writes a checkpoint of a configuration's exact shape with made-up weights, for measurements of loading.
//!
//! `make_checkpoint --model-path DIR --out OUT`: every tensor that the model would load, with the numbers of
//! `--dummy-weights`, in one model.safetensors; DIR's other files are copied. Every run writes the same bytes.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::Context;
use clap::Parser;
use serde_json::{Map, json};
use text_generation_backend::config::ModelConfig;
use text_generation_backend::error::LoadError;
use text_generation_backend::model::load;
use text_generation_backend::ops::Pack;
use text_generation_backend::weights::{DType, DummyWeights, LinearSource, LinearWeight, Tensor};

#[derive(Parser)]
struct Args {
    /// Folder with config.json.
    #[arg(long)]
    model_path: PathBuf,
    /// Folder to make; one that is there already is left as it is.
    #[arg(long)]
    out: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.out.exists() {
        println!("{} is there", args.out.display());
        return Ok(());
    }
    let config = ModelConfig::from_dir(&args.model_path, None)?;
    let mut tensors = Tensors::default();
    load::load(&mut tensors, &config, &DummyWeights::new(&config), &mut |_, _| ())?;
    let partial = args.out.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial).with_context(|| partial.display().to_string())?;
    copy_others(&args.model_path, &partial)?;
    let bytes = write(tensors.0, &partial.join("model.safetensors"))?;
    fs::rename(&partial, &args.out)?;
    println!("{}: {bytes} bytes", args.out.display());
    Ok(())
}

/// Keeps what a model loads.
#[derive(Default)]
struct Tensors(Vec<Tensor>);

impl Tensors {
    fn add(&mut self, tensor: &Tensor) {
        if !self.0.iter().any(|known| known.name == tensor.name) {
            self.0.push(tensor.clone());
        }
    }
}

impl Pack for Tensors {
    type Linear = ();
    type Norm = ();
    type Embedding = ();

    fn load_linear(&mut self, parts: &[LinearSource]) -> Result<(), LoadError> {
        for part in parts {
            match &part.weight {
                LinearWeight::Plain(weight) => self.add(weight),
                LinearWeight::Awq { qweight, qzeros, scales, .. } => {
                    [qweight, qzeros, scales].into_iter().for_each(|tensor| self.add(tensor));
                }
                LinearWeight::Other(_) => {
                    let detail =
                        format!("layer `{}`: only AWQ's gemm layout and plain layers are made up", part.name);
                    return Err(LoadError::Unsupported(detail));
                }
            }
            part.bias.iter().for_each(|bias| self.add(bias));
        }
        Ok(())
    }

    fn load_norm(&mut self, weight: &Tensor) -> Result<(), LoadError> {
        self.add(weight);
        Ok(())
    }

    fn load_embedding(&mut self, weight: &Tensor) -> Result<(), LoadError> {
        self.add(weight);
        Ok(())
    }
}

fn copy_others(from: &Path, to: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_file() && path.extension().is_none_or(|extension| extension != "safetensors") {
            fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

/// Writes the tensors by all cores; the file's bytes.
fn write(tensors: Vec<Tensor>, path: &Path) -> anyhow::Result<usize> {
    let mut entries = Map::new();
    let mut end = 0;
    let mut places = Vec::new();
    for tensor in tensors {
        let begin = end;
        end += tensor.range.len();
        let dtype = if tensor.dtype == DType::I32 { "I32" } else { "F16" };
        entries.insert(
            tensor.name.clone(),
            json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [begin, end]}),
        );
        places.push((begin, tensor));
    }
    let mut header = serde_json::to_vec(&entries)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let data = 8 + header.len();
    let file = File::create_new(path).with_context(|| path.display().to_string())?;
    file.set_len((data + end) as u64)?;
    file.write_all_at(&(header.len() as u64).to_le_bytes(), 0)?;
    file.write_all_at(&header, 8)?;
    let queue = Mutex::new(places);
    let next = || queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop();
    let work = || -> std::io::Result<()> {
        while let Some((begin, tensor)) = next() {
            file.write_all_at(tensor.bytes(), (data + begin) as u64)?;
        }
        Ok(())
    };
    let n_threads = std::thread::available_parallelism()?.get();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..n_threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(written) => written.map_err(anyhow::Error::from),
            Err(_) => Err(anyhow::anyhow!("a thread panicked")),
        })
    })?;
    Ok(data + end)
}
