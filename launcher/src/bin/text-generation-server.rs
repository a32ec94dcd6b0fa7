//! `text-generation-server download-weights MODEL`: TGI's spelling, which images and init containers call.
//!
//! The same as `text-generation-launcher download-weights`. The rest of TGI's program has no counterpart:
//! the launcher starts the shard and the router by itself.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use text_generation_launcher::download::{self, DownloadArgs};
use text_generation_launcher::logging;

/// Downloads models; to serve one, run text-generation-launcher.
#[derive(Debug, Parser)]
#[command(name = "text-generation-server", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Download a model of the Hugging Face Hub into the cache.
    DownloadWeights(DownloadArgs),
}

fn main() -> ExitCode {
    let Command::DownloadWeights(arguments) = Cli::parse().command;
    logging::init(arguments.json_output);
    match download::run(&arguments) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be left to read it: the exit code says it too.
            let _ = writeln!(std::io::stderr(), "Error: {error}");
            ExitCode::FAILURE
        }
    }
}
