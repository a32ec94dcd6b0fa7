//! `text-generation-shard plan`: says what a model takes in memory, and what fits, before anything is loaded. Config and
//! safetensors headers are read, no weight, and no GPU is needed for a GPU's plan.
//!
//! Called by `main`. Counts with the code that loads and allocates (`Footprint`, `memory_plan`, `cuda::Machine`); what is
//! here only asks it and shows the answers.

mod args;
mod machine;
mod report;
#[cfg(test)]
mod tests;

use text_generation_limits::{LimitFlags, Limits, ModelFacts};

pub use args::PlanArgs;
pub use machine::{HostMachine, Machine, Memory};
pub use report::Report;

use crate::config::ModelConfig;
use crate::device_thread::{self, Options};
use crate::error::LoadError;
use crate::executor::Budget;
use crate::memory_plan::{MemoryPlan, kv_bytes_per_token};
use crate::weights::WeightSource;

/// Plans the model of `args`.
///
/// # Errors
/// What would stop the server before it loads: a folder that cannot be served, limits that contradict each other or
/// the model. Too little memory is part of the report.
pub fn run(args: &PlanArgs) -> anyhow::Result<Report> {
    let (flags, options) = (args.limits(), args.options());
    flags.check()?;
    let config = ModelConfig::from_dir(&options.model_path, options.quantize.as_deref())?;
    let source = device_thread::open_weights(&options, &config)?;
    let mut machine = args.machine(&config)?;
    plan(&config, &*source, &flags, &mut *machine)
}

/// The same for a model that is open, on `machine`.
pub fn plan(
    config: &ModelConfig,
    source: &dyn WeightSource,
    flags: &LimitFlags,
    machine: &mut dyn Machine,
) -> anyhow::Result<Report> {
    let memory = machine.memory();
    let weight_bytes = machine.weight_bytes(config, source)?;
    let model = ModelFacts {
        max_positions: u32::try_from(config.max_positions).unwrap_or(u32::MAX),
        on_cpu: memory.device == "cpu",
    };
    let limits = flags.wanted(model)?;
    let mut attempt =
        |max_total_tokens: u32| machine.plan(config, &budget(&limits, max_total_tokens), weight_bytes);
    let planned = attempt(limits.max_total_tokens);
    let longest = longest(model.max_positions, |tokens| attempt(tokens).is_ok());
    Ok(Report {
        architecture: config.architecture.clone(),
        layers: config.n_layers,
        quantization: config.quantization.name(),
        max_positions: config.max_positions,
        memory,
        weight_bytes,
        kv_bytes_per_token: kv_bytes_per_token(config, machine.kv_element_bytes()),
        limits,
        planned: planned.map_err(|error: LoadError| error.to_string()),
        longest_total_tokens: longest,
    })
}

fn budget(limits: &Limits, max_total_tokens: u32) -> Budget {
    Budget {
        max_step_tokens: limits.max_step_tokens() as usize,
        max_step_rows: limits.max_batch_size as usize,
        max_batch_total_tokens: usize::try_from(limits.max_batch_total_tokens).unwrap_or(usize::MAX),
        max_total_tokens: max_total_tokens as usize,
    }
}

/// The largest of `1..=most` for which `fits`, which holds up to some number; 0 if for none.
fn longest(most: u32, mut fits: impl FnMut(u32) -> bool) -> u32 {
    let (mut fit, mut end) = (0, most.saturating_add(1));
    while end - fit > 1 {
        let middle = fit + (end - fit) / 2;
        match fits(middle) {
            true => fit = middle,
            false => end = middle,
        }
    }
    fit
}

/// What a plan fixes, or why it cannot be.
type Planned = Result<MemoryPlan, String>;

/// `Options` of the device thread that `plan` reads a folder by.
fn options(args: &PlanArgs) -> Options {
    Options {
        model_path: args.model_path.clone(),
        quantize: args.quantize.clone(),
        device: device_thread::DeviceKind::Reference,
        dummy_weights: args.dummy_weights,
    }
}
