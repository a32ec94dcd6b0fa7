//! `text-generation-launcher`: the program that people start. Parses, then serves, or does what a subcommand says.
//!
//! Exit codes as TGI's: 0 after a signal or a finished subcommand, 1 after an error, which is one
//! last line `Error: ...` on stderr, 2 for a command line that cannot be parsed.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use text_generation_launcher::args::{Args, Command, Invocation, parse};
use text_generation_launcher::convert::{self, ConvertArgs};
use text_generation_launcher::download::{self, DownloadArgs};
use text_generation_launcher::plan::{self, PlanArgs};
use text_generation_launcher::programs::Companion;
use text_generation_launcher::{launch, logging};

fn main() -> ExitCode {
    let Invocation { cli, without_effect } = parse();
    let in_json = matches!(&cli.command, Some(Command::DownloadWeights(arguments)) if arguments.json_output);
    // A plan's own output may be read by a program.
    if !matches!(&cli.command, Some(Command::Plan(_))) {
        logging::init(cli.args.json_output || in_json);
    }
    let done = match &cli.command {
        Some(Command::Convert(arguments)) => convert(arguments),
        Some(Command::DownloadWeights(arguments)) => download(arguments),
        Some(Command::Quantize(arguments)) => Err(Companion::Quantizer.become_it(arguments).into()),
        Some(Command::Plan(arguments)) => plan(arguments),
        None => serve(&cli.args, &without_effect),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            // Nobody may be left to read it: the exit code says it too.
            let _ = writeln!(std::io::stderr(), "Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn convert(arguments: &ConvertArgs) -> anyhow::Result<ExitCode> {
    let report = convert::run(arguments)?;
    // The folder is made, whether or not somebody reads this.
    let _ = writeln!(std::io::stdout(), "{}: {report}", arguments.out.display());
    Ok(ExitCode::SUCCESS)
}

fn download(arguments: &DownloadArgs) -> anyhow::Result<ExitCode> {
    let folder = download::run(arguments)?;
    // The model is there, whether or not somebody reads this.
    let _ = writeln!(std::io::stdout(), "{}", folder.display());
    Ok(ExitCode::SUCCESS)
}

fn plan(arguments: &PlanArgs) -> anyhow::Result<ExitCode> {
    // A plan that does not fit was printed, and the reason after it.
    let fits = plan::run(arguments)?;
    Ok(if fits { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// On a runtime of this one thread: children ask for a signal when the thread that started them ends.
fn serve(args: &Args, without_effect: &[String]) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(launch::serve(args, without_effect));
    // A conversion that a signal interrupted must not keep the process alive.
    runtime.shutdown_background();
    served?;
    Ok(ExitCode::SUCCESS)
}
