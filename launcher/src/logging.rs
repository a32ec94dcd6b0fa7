//! Sets up the launcher's own log: TGI's line format on stdout, or JSON with `--json-output`.
//!
//! Called once by `main` before anything is logged. Level and filters come from `LOG_LEVEL`, as
//! with TGI; a filter that cannot be read must not stop a server, so it falls back to `info`.

use tracing_subscriber::EnvFilter;

/// Installs the global subscriber. A second call changes nothing.
pub fn init(json_output: bool) {
    let wanted = std::env::var("LOG_LEVEL").unwrap_or_default();
    let (filter, problem) = filter(&wanted);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stdout)
        .with_ansi(false)
        .log_internal_errors(false);
    let installed = if json_output { builder.json().try_init().is_ok() } else { builder.try_init().is_ok() };
    if let (true, Some(problem)) = (installed, problem) {
        tracing::warn!("LOG_LEVEL={wanted} cannot be read ({problem}), logging at level info");
    }
}

fn filter(wanted: &str) -> (EnvFilter, Option<String>) {
    if wanted.trim().is_empty() {
        return (EnvFilter::new("info"), None);
    }
    match EnvFilter::builder().parse(wanted) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        let cases = [
            ("", "info", false),
            (" ", "info", false),
            ("debug", "debug", false),
            ("text_generation_launcher=warn", "text_generation_launcher=warn", false),
            ("a=b=c", "info", true),
        ];
        for (wanted, expected, has_problem) in cases {
            let (filter, problem) = filter(wanted);
            assert_eq!(
                (filter.to_string().as_str(), problem.is_some()),
                (expected, has_problem),
                "{wanted:?}"
            );
        }
    }
}
