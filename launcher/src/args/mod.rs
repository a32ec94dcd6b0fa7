//! The command line: every flag of TGI's launcher with its environment twin, and our own.
//!
//! Called by `main` alone; the rest of the crate reads the parsed structs. A flag wins over its
//! environment variable, which wins over the default. A flag that moves from "accepted" to "works"
//! moves from `accepted.rs` to one of the other files: that is what stops its warning. Parsing must
//! never fail on a flag that TGI knows, and never print a secret.

mod accepted;
mod limits;
mod model;
mod server;
mod values;

use clap::builder::BoolishValueParser;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args as ClapArgs, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::convert::ConvertArgs;
pub use accepted::AcceptedArgs;
pub use limits::LimitArgs;
pub use model::ModelArgs;
pub use server::ServerArgs;
pub use values::{Device, Dtype, KvCacheDtype, OpsChoice, Quantization, RopeScaling, Secret, UsageStats};

/// Serves a large language model over the HTTP APIs of text-generation-inference and OpenAI.
#[derive(Debug, Parser)]
#[command(name = "text-generation-launcher", version, args_conflicts_with_subcommands = true)]
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
    pub accepted: AcceptedArgs,
    /// Log events as JSON, one object a line.
    #[arg(long, env, value_parser = BoolishValueParser::new())]
    pub json_output: bool,
    /// Log the runtime environment (target, version, processor, GPUs) before launching.
    #[arg(long, short)]
    pub env: bool,
}

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

/// Flags of [`AcceptedArgs`] that came from the command line or the environment.
fn set_without_effect(matches: &ArgMatches) -> Vec<String> {
    let known = AcceptedArgs::augment_args(clap::Command::new("accepted"));
    let silent = |id: &str| id == "usage_stats";
    let explicit = |id: &str| {
        matches!(matches.value_source(id), Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    };
    known
        .get_arguments()
        .filter(|arg| explicit(arg.get_id().as_str()) && !silent(arg.get_id().as_str()))
        .filter_map(|arg| arg.get_long().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests;
