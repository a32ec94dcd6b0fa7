//! A plan as a table and as JSON.

use std::fmt;

use serde_json::{Value, json};
use text_generation_limits::Limits;

use super::Planned;
use super::machine::Memory;

/// What `plan` found out.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub architecture: String,
    pub layers: usize,
    pub quantization: String,
    pub max_positions: usize,
    pub memory: Memory,
    pub weight_bytes: usize,
    pub kv_bytes_per_token: usize,
    pub limits: Limits,
    /// What `limits` take, or why they do not fit.
    pub planned: Planned,
    /// The largest `--max-total-tokens` that fits.
    pub longest_total_tokens: u32,
}

impl Report {
    /// Bytes in use once the server is ready.
    pub fn all_bytes(&self) -> Option<usize> {
        let plan = self.planned.as_ref().ok()?;
        let memory = &self.memory;
        Some(memory.used_bytes + self.weight_bytes + plan.kv_bytes + plan.workspace_bytes + plan.graph_bytes)
    }

    /// All numbers, in bytes and tokens.
    pub fn json(&self) -> Value {
        let plan = self.planned.as_ref().ok();
        json!({
            "architecture": self.architecture,
            "layers": self.layers,
            "quantization": self.quantization,
            "max_positions": self.max_positions,
            "device": self.memory.device,
            "memory_bytes": self.memory.total_bytes,
            "usable_bytes": self.memory.usable_bytes,
            "used_bytes": self.memory.used_bytes,
            "weight_bytes": self.weight_bytes,
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "kv_bytes": plan.map(|plan| plan.kv_bytes),
            "workspace_bytes": plan.map(|plan| plan.workspace_bytes),
            "graph_bytes": plan.map(|plan| plan.graph_bytes),
            "reserve_bytes": self.memory.reserve_bytes,
            "all_bytes": self.all_bytes(),
            "max_input_tokens": self.limits.max_input_tokens,
            "max_total_tokens": self.limits.max_total_tokens,
            "max_batch_prefill_tokens": self.limits.max_batch_prefill_tokens,
            "max_batch_size": self.limits.max_batch_size,
            "max_batch_total_tokens": plan.map(|plan| plan.max_batch_total_tokens),
            "longest_total_tokens": self.longest_total_tokens,
            "error": self.planned.as_ref().err(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { memory, limits, .. } = self;
        writeln!(f, "{}, {} layers, {}", self.architecture, self.layers, self.quantization)?;
        writeln!(
            f,
            "{}: {} of {} GiB may be used",
            memory.name,
            gib(memory.usable_bytes),
            gib(memory.total_bytes)
        )?;
        line(f, "in use before", memory.used_bytes, "driver, context, other processes")?;
        line(f, "weights", self.weight_bytes, "")?;
        line(f, "KV cache of a token", self.kv_bytes_per_token, "")?;
        match &self.planned {
            Ok(plan) => {
                let tokens = format!("{} tokens", plan.max_batch_total_tokens);
                line(f, "KV cache", plan.kv_bytes, &tokens)?;
                line(f, "workspace", plan.workspace_bytes, "")?;
                line(f, "graphs, about", plan.graph_bytes, "")?;
                line(f, "in all", self.all_bytes().unwrap_or_default(), "")?;
                line(f, "kept free", memory.reserve_bytes, "for graphs and the driver")?;
                writeln!(f, "--max-batch-total-tokens {}", plan.max_batch_total_tokens)?;
            }
            Err(reason) => writeln!(f, "does not fit: {reason}")?,
        }
        writeln!(
            f,
            "--max-total-tokens {} (up to {} fit)",
            limits.max_total_tokens, self.longest_total_tokens
        )?;
        writeln!(f, "--max-input-tokens {}", limits.max_input_tokens)?;
        writeln!(f, "--max-batch-prefill-tokens {}", limits.max_batch_prefill_tokens)?;
        write!(f, "--max-batch-size {}", limits.max_batch_size)
    }
}

/// One size; nothing where there is none.
fn line(f: &mut fmt::Formatter<'_>, what: &str, bytes: usize, note: &str) -> fmt::Result {
    if bytes == 0 {
        return Ok(());
    }
    writeln!(f, "{}", format!("{what:<20}{bytes:>16} bytes{:>10} GiB  {note}", gib(bytes)).trim_end())
}

fn gib(bytes: usize) -> String {
    format!("{:.3}", bytes as f64 / f64::from(1 << 30))
}
