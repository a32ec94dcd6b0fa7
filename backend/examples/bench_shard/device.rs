//! What the machine says about itself: the device's name and the memory in use. Asks nvidia-smi, not CUDA, because the
//! figures are to hold from outside of the process that is measured.

use std::process::Command;

use crate::shard_client::process::ShardProcess;

/// The GPU's or the processor's name.
pub fn name(device_type: &str) -> String {
    let name = match device_type {
        "cuda" => nvidia_smi("name"),
        _ => std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        }),
    };
    name.unwrap_or_else(|| device_type.to_owned())
}

/// Memory in use by a shard: what the GPU has in use above what it had before, or the process's resident memory.
pub struct Memory {
    before: u64,
}

impl Memory {
    /// Call before the shard is started.
    pub fn new() -> Self {
        Self { before: gpu_bytes().unwrap_or(0) }
    }

    pub fn used(&self, device_type: &str, process: &ShardProcess) -> u64 {
        match device_type {
            "cuda" => gpu_bytes().unwrap_or(0).saturating_sub(self.before),
            _ => process.resident_bytes(),
        }
    }
}

fn gpu_bytes() -> Option<u64> {
    nvidia_smi("memory.used")?.parse::<u64>().ok().map(|mib| mib << 20)
}

/// One property of GPU 0.
fn nvidia_smi(property: &str) -> Option<String> {
    let query = format!("--query-gpu={property}");
    let output =
        Command::new("nvidia-smi").args([&query, "--format=csv,noheader,nounits", "--id=0"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
