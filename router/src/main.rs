//! `text-generation-router`: flags, logs, then `server::run`. A fatal error is one last line on stderr.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use text_generation_router::args::Args;
use text_generation_router::server::{self, logging, parent};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    let args = Args::parse();
    parent::die_with_parent()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let telemetry = {
        let _on_runtime = runtime.enter();
        logging::init(args.json_output, args.otlp().as_ref())?
    };
    let result = runtime.block_on(server::run(args));
    telemetry.flush();
    // Long tokenizations may still run on blocking threads: the process does not wait for them.
    runtime.shutdown_background();
    result
}
