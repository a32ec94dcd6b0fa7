//! The command line: every flag of TGI's launcher with its environment twin, and our own.
//!
//! Called by `main` alone; the rest of the crate reads the parsed structs. A flag wins over its
//! environment variable, which wins over the default. A flag that moves from "accepted" to "works"
//! moves from `accepted.rs` to one of the other files: that is what stops its warning. Parsing must
//! never fail on a flag that TGI knows, and never print a secret.

mod accepted;
mod limits;
mod model;
mod recovery;
mod server;
mod values;

use std::ffi::OsString;

use clap::builder::BoolishValueParser;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args as ClapArgs, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::convert::ConvertArgs;
use crate::download::DownloadArgs;
use crate::plan::PlanArgs;
use crate::programs::PassedOn;
pub use accepted::AcceptedArgs;
pub use limits::LimitArgs;
pub use model::ModelArgs;
pub use recovery::RecoveryArgs;
pub use server::ServerArgs;
pub use values::{
    Device, Dtype, KvCacheDtype, MetricsCompat, OpsChoice, Quantization, RopeScaling, Secret, TgiCompat,
    UsageStats,
};

const OTHER_VARIABLES: &str = "Other environment variables:
  LOG_LEVEL                            warn, info (default), debug, or a filter expression
  HF_HOME, HF_HUB_CACHE                where models of the Hub are kept, shared with Python's huggingface_hub
  HF_TOKEN                             access token for private and gated models (or the file HF_HOME/token)
  HF_ENDPOINT                          another Hub than https://huggingface.co
  HF_HUB_OFFLINE                       1: serve from the cache, never ask the network
  HF_HUB_DOWNLOAD_TIMEOUT              seconds that a download may bring nothing (10)
  HTTPS_PROXY, ALL_PROXY, NO_PROXY     proxies of downloads; SSL_CERT_FILE: certificates to trust instead
  XDG_CACHE_HOME                       where the starter model is kept, under quern/ (default ~/.cache)
  QUERN_SHARD_BIN, QUERN_ROUTER_BIN,   the other programs, when they are neither beside this one nor on PATH
  QUERN_QUANTIZER_BIN";

/// Serves a large language model over the HTTP APIs of text-generation-inference and OpenAI.
#[derive(Debug, Parser)]
#[command(name = "text-generation-launcher", version, args_conflicts_with_subcommands = true, after_help = OTHER_VARIABLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub args: Args,
}

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Turn a GGUF file into a Hugging Face folder that this server loads.
    Convert(ConvertArgs),
    /// Quantise a float model folder to 4-bit AWQ: activation-aware scales and clipping.
    #[command(disable_help_flag = true)]
    Quantize(PassedOn),
    /// Download a model of the Hugging Face Hub into the cache, and print its folder.
    DownloadWeights(DownloadArgs),
    /// Say what a model takes in memory, and which limits fit, from its configuration and the headers of its weights.
    Plan(Box<PlanArgs>),
}

/// Everything that serving needs to know.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub recovery: RecoveryArgs,
    #[command(flatten)]
    pub accepted: AcceptedArgs,
    /// Log events as JSON, one object a line.
    #[arg(long, env, value_parser = BoolishValueParser::new())]
    pub json_output: bool,
    /// Log the runtime environment (target, version, processor, GPUs) before launching. Without --model-id that is
    /// all, unless --tgi-compat is strict.
    #[arg(long, short)]
    pub env: bool,
}

/// Flags that /info reports but that steer nothing: prefill and decode share each step.
const REPORTED_ONLY: [&str; 2] = ["waiting_served_ratio", "max_waiting_tokens"];

/// A parsed command line, and which flags without effect it sets.
#[derive(Debug)]
pub struct Invocation {
    pub cli: Cli,
    /// Long names of the flags that somebody set although they do nothing in this release.
    pub without_effect: Vec<String>,
}

/// Parses the process's own arguments and environment; prints help or the error and exits on failure.
pub fn parse() -> Invocation {
    from_matches(Cli::command().get_matches()).unwrap_or_else(|error| error.exit())
}

/// Parses `argv` (program name first) as `parse` does.
///
/// # Errors
/// clap's own, for unknown flags and values out of their sets.
pub fn parse_from<I, T>(argv: I) -> Result<Invocation, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<std::ffi::OsString> + Clone,
{
    from_matches(Cli::command().try_get_matches_from(argv)?)
}

fn from_matches(matches: ArgMatches) -> Result<Invocation, clap::Error> {
    let cli = Cli::from_arg_matches(&matches)?;
    let without_effect = set_without_effect(&matches);
    Ok(Invocation { cli, without_effect })
}

/// Flags of [`AcceptedArgs`] and of [`REPORTED_ONLY`] that came from the command line or the environment.
fn set_without_effect(matches: &ArgMatches) -> Vec<String> {
    let accepted = AcceptedArgs::augment_args(clap::Command::new("accepted"));
    let is_silent = |id: &str| id == "usage_stats";
    let is_accepted = |id: &str| accepted.get_arguments().any(|arg| arg.get_id() == id) && !is_silent(id);
    let explicit = |id: &str| {
        matches!(matches.value_source(id), Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    };
    Cli::command()
        .get_arguments()
        .filter(|arg| {
            let id = arg.get_id().as_str();
            (is_accepted(id) || REPORTED_ONLY.contains(&id)) && explicit(id)
        })
        .filter_map(|arg| arg.get_long().map(str::to_owned))
        .collect()
}

/// The environment variables that set flags. The launcher has read them: a child must not read them again.
pub fn environment_names() -> Vec<OsString> {
    let command = Cli::command();
    command.get_arguments().filter_map(|arg| arg.get_env().map(OsString::from)).collect()
}

#[cfg(test)]
mod tests;
