//! `download-weights`: brings a model of the Hub into the cache and ends, for images and init containers.
//!
//! Called by the launcher for its subcommand and by the program `text-generation-server`, which is TGI's spelling of
//! it. Takes TGI's options, those without a meaning here included. Serves nothing.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use tracing::info;

use crate::error::LauncherError;
use crate::model::hub::{self, HubModel, HubSettings};
use crate::model::{ModelSource, Weights, read_folder};

/// Arguments of the subcommand.
#[derive(Debug, Clone, clap::Args)]
pub struct DownloadArgs {
    /// Id of a model on the Hugging Face Hub (or a local folder, which is only checked).
    pub model_id: String,
    /// Branch, tag or commit.
    #[arg(long, env)]
    pub revision: Option<String>,
    /// Cache folder, instead of the one that HF_HOME names.
    #[arg(long, env)]
    pub huggingface_hub_cache: Option<PathBuf>,
    /// Log events as JSON, one object a line.
    #[arg(long, env, value_parser = BoolishValueParser::new())]
    pub json_output: bool,
    /// Only .safetensors is ever fetched.
    #[arg(long, default_value = ".safetensors", value_parser = [".safetensors"])]
    pub extension: String,
    #[command(flatten)]
    pub accepted: AcceptedOptions,
}

/// TGI's options that mean nothing here.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Accepted for compatibility, without effect")]
pub struct AcceptedOptions {
    #[arg(long, overrides_with = "no_auto_convert")]
    pub auto_convert: bool,
    #[arg(long)]
    pub no_auto_convert: bool,
    #[arg(long)]
    pub logger_level: Option<String>,
    #[arg(long)]
    pub trust_remote_code: bool,
    #[arg(long)]
    pub merge_lora: bool,
}

/// Downloads what is missing; the folder of the model.
///
/// # Errors
/// [`LauncherError::Download`], or [`LauncherError::ArgumentValidation`] for what is no model's id.
pub fn run(args: &DownloadArgs) -> Result<PathBuf, LauncherError> {
    let id = match ModelSource::of(Some(&args.model_id))? {
        ModelSource::Hub(id) => id,
        ModelSource::Folder(_) | ModelSource::Starter => {
            let folder = PathBuf::from(&args.model_id);
            read_folder(&folder, Weights::Whole).map_err(LauncherError::Download)?;
            info!("Files are already present on the host. Skipping download.");
            return Ok(folder);
        }
    };
    let settings = HubSettings::from_environment(args.huggingface_hub_cache.as_deref());
    let on_terminal = !args.json_output && std::io::stderr().is_terminal();
    let model = HubModel { id, revision: args.revision.clone(), weights: Weights::Whole, on_terminal };
    hub::prepare(&model, &settings, |_| Ok(()))
}
