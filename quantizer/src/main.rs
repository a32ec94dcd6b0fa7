//! `text-generation-quantizer IN OUT`: quantises a checkpoint folder. The launcher's `quantize` calls it; people may too.
//!
//! Exit codes: 0 when OUT is written, 1 after an error, which is one last line `Error: ...` on stderr, 2 for a
//! command line that cannot be parsed.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use text_generation_quantizer::args::Args;
use text_generation_quantizer::run;

fn main() -> ExitCode {
    let args = Args::parse();
    log_to_stdout(args.json_output);
    match run(&args) {
        Ok(report) => {
            // The folder is written, whether or not somebody reads this.
            let _ = writeln!(std::io::stdout(), "{}: {report}", args.out.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "Error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn log_to_stdout(json: bool) {
    let filter = std::env::var("LOG_LEVEL").ok().and_then(|level| level.parse().ok());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|| tracing_subscriber::EnvFilter::new("info")))
        .with_writer(std::io::stdout)
        .with_ansi(false)
        .log_internal_errors(false);
    if json { builder.json().init() } else { builder.init() }
}
