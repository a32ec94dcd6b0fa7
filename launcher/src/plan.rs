//! `plan`: says what a model takes in memory and what fits, without a GPU and without its weights.
//!
//! Called by `main`. Finds the model as serving does, but brings only configuration and headers; the counting is the
//! shard's own (`text-generation-shard plan`), which prints the answer. Never loads or serves anything.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::args::{LimitArgs, ModelArgs};
use crate::checks;
use crate::error::LauncherError;
use crate::model::hub::{self, Description, HubModel, HubSettings};
use crate::model::{ModelSource, Weights, read_folder};
use crate::programs::Companion;

/// Arguments of the subcommand: those of serving that matter to memory, and the machine.
#[derive(Debug, Clone, clap::Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Memory of a GPU to plan for, which need not be here (nvidia-smi shows it in MiB).
    #[arg(long)]
    pub gpu_memory_gib: Option<f64>,
    /// Memory that a shard on the CPU may take, instead of what is free here.
    #[arg(long)]
    pub memory_gib: Option<f64>,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Prints the plan; whether the model fits.
///
/// # Errors
/// Flags that contradict each other, or a model that cannot be found or read.
pub fn run(args: &PlanArgs) -> Result<bool, LauncherError> {
    checks::check_limits(&args.limits)?;
    let shard = Companion::Shard.find()?;
    let id = args.model.model_id.as_deref();
    let description = match ModelSource::of(id)? {
        ModelSource::Folder(folder) => Description::Snapshot(folder),
        ModelSource::Hub(id) => describe(id, args)?,
        ModelSource::Starter => {
            return Err(LauncherError::argument(
                "`plan` needs --model-id: a folder, or the id of a model of the Hub",
            ));
        }
    };
    read_folder(description.path(), Weights::of(&args.model))
        .map_err(|reason| LauncherError::argument(format!("`model_id`: {reason}")))?;
    let status = Command::new(&shard).args(shard_arguments(args, description.path())).status();
    let status = status.map_err(|error| {
        LauncherError::argument(format!("{} cannot be started: {error}", shard.display()))
    })?;
    Ok(status.success())
}

fn describe(id: String, args: &PlanArgs) -> Result<Description, LauncherError> {
    let settings = HubSettings::from_environment(args.model.huggingface_hub_cache.as_deref());
    let model = HubModel {
        id,
        revision: args.model.revision.clone(),
        weights: Weights::of(&args.model),
        on_terminal: false,
    };
    hub::describe(&model, &settings)
}

fn shard_arguments(args: &PlanArgs, folder: &Path) -> Vec<OsString> {
    let mut line = vec![OsString::from("plan")];
    let mut value = |flag: &str, value: Option<OsString>| {
        if let Some(value) = value {
            let mut argument = OsString::from(format!("--{flag}="));
            argument.push(value);
            line.push(argument);
        }
    };
    fn text(value: impl ToString) -> OsString {
        value.to_string().into()
    }
    let ModelArgs { quantize, device, cuda_memory_fraction, .. } = &args.model;
    value("model-path", Some(PathBuf::from(folder).into()));
    value("quantize", quantize.map(text));
    value("device", Some(text(device)));
    value("cuda-memory-fraction", Some(text(cuda_memory_fraction)));
    value("gpu-memory-gib", args.gpu_memory_gib.map(text));
    value("memory-gib", args.memory_gib.map(text));
    value("max-input-tokens", args.limits.max_input().map(text));
    value("max-total-tokens", args.limits.max_total_tokens.map(text));
    value("max-batch-prefill-tokens", args.limits.max_batch_prefill_tokens.map(text));
    value("max-batch-total-tokens", args.limits.max_batch_total_tokens.map(text));
    value("max-batch-size", args.limits.max_batch_size.map(text));
    value("max-concurrent-requests", Some(text(args.limits.max_concurrent_requests)));
    line.extend(args.model.dummy_weights.then(|| "--dummy-weights".into()));
    line.extend(args.json.then(|| "--json".into()));
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Command, parse_from};

    #[test]
    fn flags_reach_the_shard() {
        let line = |flags: &[&str]| {
            let argv = ["launcher", "plan"].iter().chain(flags);
            let Some(Command::Plan(args)) = parse_from(argv).expect("flags parse").cli.command else {
                panic!("not a plan")
            };
            shard_arguments(&args, Path::new("/m"))
                .into_iter()
                .map(|part| part.into_string().expect("UTF-8"))
                .collect()
        };
        let defaults: Vec<String> = line(&[]);
        let expected = [
            "plan",
            "--model-path=/m",
            "--device=auto",
            "--cuda-memory-fraction=1",
            "--max-concurrent-requests=128",
        ];
        assert_eq!(defaults, expected);
        for (flag, expected) in [
            ("--quantize=awq", "--quantize=awq"),
            ("--device=cpu", "--device=cpu"),
            ("--cuda-memory-fraction=0.5", "--cuda-memory-fraction=0.5"),
            ("--gpu-memory-gib=79.2", "--gpu-memory-gib=79.2"),
            ("--memory-gib=8", "--memory-gib=8"),
            ("--max-input-length=5", "--max-input-tokens=5"),
            ("--max-total-tokens=9", "--max-total-tokens=9"),
            ("--max-batch-prefill-tokens=64", "--max-batch-prefill-tokens=64"),
            ("--max-batch-total-tokens=640", "--max-batch-total-tokens=640"),
            ("--max-batch-size=3", "--max-batch-size=3"),
            ("--max-concurrent-requests=4", "--max-concurrent-requests=4"),
            ("--dummy-weights", "--dummy-weights"),
            ("--json", "--json"),
        ] {
            let got: Vec<String> = line(&[flag]);
            assert!(got.iter().any(|part| part == expected), "{flag}: {got:?}");
        }
    }
}
