//! Logs: one event a line on stdout, as text or JSON. Set up once by `main`.
//!
//! `LOG_LEVEL` is a level or a filter expression; colours only on a terminal, `LOG_COLORIZE=0` never.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Installs the process's log output.
///
/// # Errors
/// When it is installed already.
pub fn init(json: bool) -> anyhow::Result<()> {
    let filter = filter(std::env::var("LOG_LEVEL").ok().as_deref());
    let colour = std::io::stdout().is_terminal() && std::env::var("LOG_COLORIZE").as_deref() != Ok("0");
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stdout);
    let installed = if json {
        builder.json().flatten_event(true).with_file(true).with_line_number(true).try_init()
    } else {
        builder.with_ansi(colour).try_init()
    };
    installed.map_err(|error| anyhow::anyhow!("logging: {error}"))
}

/// Info by default; an expression that cannot be read is no reason not to start.
fn filter(level: Option<&str>) -> EnvFilter {
    let level = level.filter(|level| !level.trim().is_empty());
    level.and_then(|level| EnvFilter::try_new(level).ok()).unwrap_or_else(|| EnvFilter::new("info"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        for (level, expected) in [
            (None, "info"),
            (Some(""), "info"),
            (Some("debug"), "debug"),
            (Some("text_generation_router=debug,info"), "text_generation_router=debug,info"),
            (Some("a=b=c"), "info"),
        ] {
            assert_eq!(filter(level).to_string(), expected);
        }
    }
}
