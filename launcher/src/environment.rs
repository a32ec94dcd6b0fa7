//! `--env`: what this program is and where it runs, for bug reports.
//!
//! Called by `launch`. Whatever cannot be found out is `N/A`; nothing here may fail a launch, and
//! no environment variable is shown.

use std::fmt::Write;
use std::fs;
use std::process::{Command, Stdio};

/// The report, several lines.
pub fn report() -> String {
    let mut text = String::from("Runtime environment:\n");
    let threads = std::thread::available_parallelism().map_or(0, usize::from);
    let lines = [
        ("Target", format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS)),
        ("Version", env!("CARGO_PKG_VERSION").to_owned()),
        ("Commit sha", option_env!("QUERN_COMMIT_SHA").unwrap_or("N/A").to_owned()),
        ("Docker label", option_env!("DOCKER_LABEL").unwrap_or("N/A").to_owned()),
        ("Processor", first_field("/proc/cpuinfo", "model name")),
        ("Processor features", features(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default())),
        ("Threads", threads.to_string()),
        ("Memory", first_field("/proc/meminfo", "MemTotal")),
        ("Memory available", first_field("/proc/meminfo", "MemAvailable")),
        ("nvidia-smi", nvidia_smi().unwrap_or_else(|| "N/A".to_owned())),
    ];
    for (name, value) in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name}: {value}");
    }
    text
}

fn first_field(path: &str, key: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    field(&text, key).unwrap_or("N/A").to_owned()
}

/// Value of the first `key : value` line.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == key)
        .map(|(_, v)| v.trim())
}

/// Those of the processor's features that decide which arithmetic the shard uses.
fn features(cpuinfo: &str) -> String {
    let known = [
        "avx2",
        "fma",
        "f16c",
        "avx512f",
        "avx512bw",
        "avx512_vnni",
        "avx512_bf16",
        "amx_tile",
        "amx_bf16",
        "amx_int8",
    ];
    let flags: Vec<&str> = field(cpuinfo, "flags").unwrap_or_default().split_whitespace().collect();
    let found: Vec<&str> = known.into_iter().filter(|name| flags.contains(name)).collect();
    if found.is_empty() { "N/A".to_owned() } else { found.join(" ") }
}

fn nvidia_smi() -> Option<String> {
    let output = Command::new("nvidia-smi").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| format!("\n{}", String::from_utf8_lossy(&output.stdout).trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_features() {
        let cpuinfo = "model name\t: Some CPU\nflags\t\t: fpu avx2 sse fma avx512f\nmodel name\t: Other\n";
        assert_eq!(field(cpuinfo, "model name"), Some("Some CPU"));
        assert_eq!(field(cpuinfo, "absent"), None);
        assert_eq!(features(cpuinfo), "avx2 fma avx512f");
        assert_eq!(features(""), "N/A");
    }

    #[test]
    fn the_report_names_this_version() {
        let report = report();
        assert!(report.starts_with("Runtime environment:\nTarget: "));
        assert!(report.contains(concat!("Version: ", env!("CARGO_PKG_VERSION"))));
    }
}
