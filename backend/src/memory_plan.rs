//! How much memory a model needs beside its weights, and how many KV blocks fit: pure arithmetic.
//!
//! `plan` is called by the executor for every `Plan` request, with the limits the router asked for
//! and the memory that `available` measured. Nothing here allocates or looks at the machine.

mod available;
#[cfg(test)]
mod tests;

pub use available::available_bytes;

use crate::config::ModelConfig;
use crate::error::LoadError;

/// Tokens a KV block.
pub const BLOCK_SIZE: usize = 32;

/// The CPU's activations are float32.
const ACTIVATION_BYTES: usize = size_of::<f32>();

/// Sequences of the longest kind that `KvDefault::Few` makes room for.
const DEFAULT_SEQUENCES: usize = 16;

/// How large the KV cache is where nobody says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvDefault {
    /// As fits into half of the available memory, at most 16 of the longest sequences: a CPU is shared.
    Few,
    /// All of the available memory: a GPU is not.
    All,
}

/// What the router asked for, and what the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanInputs {
    /// Input tokens of one step, all rows together.
    pub max_step_tokens: usize,
    /// Rows (sequences) of one step, which is how many logits it computes.
    pub max_step_rows: usize,
    /// KV tokens wanted; 0 = as many as suit the machine.
    pub max_batch_total_tokens: usize,
    /// Longest sequence, prompt and generated tokens together.
    pub max_total_tokens: usize,
    /// Bytes free for the KV cache and the workspace, weights being loaded already.
    pub available_bytes: usize,
    /// Bytes of one stored K or V element.
    pub kv_element_bytes: usize,
    /// Bytes that steps need beside the KV cache; `None`: more than 64 bits can say.
    pub workspace_bytes: Option<usize>,
    pub kv_default: KvDefault,
}

/// The sizes that the executor allocates, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// KV blocks of `BLOCK_SIZE` tokens.
    pub n_blocks: usize,
    /// `n_blocks * BLOCK_SIZE`.
    pub max_batch_total_tokens: usize,
    pub kv_bytes: usize,
    pub workspace_bytes: usize,
    /// What captured graphs take of the device's memory: an estimate until they are captured, then what they took.
    pub graph_bytes: usize,
}

/// Bytes of K and V of one token in all layers, elements of `element_bytes`.
pub fn kv_bytes_per_token(config: &ModelConfig, element_bytes: usize) -> usize {
    (2 * config.n_layers * config.n_kv_heads * config.head_dim).saturating_mul(element_bytes)
}

/// Fails when weights of `weight_bytes` cannot fit into the `available_bytes` that there are `of_what`
/// ("of memory", "on the GPU"); for before they are loaded.
pub fn check_weights_fit(
    weight_bytes: usize,
    available_bytes: usize,
    of_what: &str,
) -> Result<(), LoadError> {
    if weight_bytes <= available_bytes {
        return Ok(());
    }
    Err(LoadError::Plan(format!(
        "the weights take {}, but only {} {of_what} is available: {} are missing; use a smaller or quantized model",
        mib(weight_bytes),
        mib(available_bytes),
        mib(weight_bytes - available_bytes)
    )))
}

/// Sizes the KV cache and the workspace.
///
/// Without a wanted number of KV tokens it takes what `kv_default` says, and room for one of the longest
/// sequences at least.
///
/// # Errors
/// A limit of zero, sequences longer than the model's positions, a KV budget below one sequence,
/// sizes that do not fit into the available memory.
pub fn plan(config: &ModelConfig, inputs: &PlanInputs) -> Result<MemoryPlan, LoadError> {
    check_limits(config, inputs)?;
    let block_bytes = kv_bytes_per_token(config, inputs.kv_element_bytes).saturating_mul(BLOCK_SIZE);
    let workspace_bytes = inputs.workspace_bytes.ok_or_else(|| too_large("workspace", inputs))?;
    let least = inputs.max_total_tokens.div_ceil(BLOCK_SIZE);
    let n_blocks = match inputs.max_batch_total_tokens {
        0 => {
            let (budget, most) = match inputs.kv_default {
                KvDefault::Few => (inputs.available_bytes / 2, DEFAULT_SEQUENCES * least),
                KvDefault::All => (inputs.available_bytes, u32::MAX as usize),
            };
            (budget.saturating_sub(workspace_bytes) / block_bytes).clamp(least, most.max(least))
        }
        wanted => wanted.div_ceil(BLOCK_SIZE),
    };
    let kv_bytes = n_blocks.checked_mul(block_bytes).ok_or_else(|| too_large("KV cache", inputs))?;
    let fits = kv_bytes.checked_add(workspace_bytes).is_some_and(|all| all <= inputs.available_bytes);
    if !fits {
        return Err(does_not_fit(inputs, kv_bytes, workspace_bytes, block_bytes));
    }
    if u32::try_from(n_blocks).is_err() {
        return Err(too_large("block table", inputs));
    }
    let max_batch_total_tokens = n_blocks * BLOCK_SIZE;
    Ok(MemoryPlan { n_blocks, max_batch_total_tokens, kv_bytes, workspace_bytes, graph_bytes: 0 })
}

fn check_limits(config: &ModelConfig, inputs: &PlanInputs) -> Result<(), LoadError> {
    let limits = [
        ("max_step_tokens", inputs.max_step_tokens),
        ("max_step_rows", inputs.max_step_rows),
        ("max_total_tokens", inputs.max_total_tokens),
        ("kv_element_bytes", inputs.kv_element_bytes),
    ];
    if let Some((name, _)) = limits.iter().find(|(_, value)| *value == 0) {
        return Err(LoadError::Plan(format!("{name}: expected at least 1, got 0")));
    }
    let PlanInputs { max_total_tokens, max_batch_total_tokens, .. } = *inputs;
    if max_total_tokens > config.max_positions {
        return Err(LoadError::Plan(format!(
            "max_total_tokens: expected at most the model's {} positions, got {max_total_tokens}; lower --max-total-tokens",
            config.max_positions
        )));
    }
    if max_batch_total_tokens != 0 && max_batch_total_tokens < max_total_tokens {
        return Err(LoadError::Plan(format!(
            "max_batch_total_tokens: expected at least max_total_tokens ({max_total_tokens}), got \
             {max_batch_total_tokens}; raise --max-batch-total-tokens or lower --max-total-tokens"
        )));
    }
    Ok(())
}

/// Bytes of the CPU's activations for steps of `tokens` input tokens and `sequences` rows with logits;
/// `None` past 64 bits. Of each token: the residual, its norm and a projection's output, q with k and v,
/// attention's output, gate with up and their product; of each sequence: the last hidden state and the
/// logits.
pub fn host_workspace_bytes(config: &ModelConfig, tokens: usize, sequences: usize) -> Option<usize> {
    let attention = config.qkv_width() + config.n_heads * config.head_dim;
    let per_token = 3 * config.hidden + attention + 3 * config.intermediate;
    let per_sequence = config.hidden + config.vocab;
    let tokens = tokens.checked_mul(per_token)?;
    let sequences = sequences.checked_mul(per_sequence)?;
    tokens.checked_add(sequences)?.checked_mul(ACTIVATION_BYTES)
}

fn too_large(what: &str, inputs: &PlanInputs) -> LoadError {
    LoadError::Plan(format!("the {what} for {inputs:?} is larger than any machine; lower the limits"))
}

fn does_not_fit(
    inputs: &PlanInputs,
    kv_bytes: usize,
    workspace_bytes: usize,
    block_bytes: usize,
) -> LoadError {
    let room = inputs.available_bytes.saturating_sub(workspace_bytes) / block_bytes * BLOCK_SIZE;
    let missing = kv_bytes.saturating_add(workspace_bytes).saturating_sub(inputs.available_bytes);
    let (name, tokens) = match inputs.max_batch_total_tokens {
        0 => ("max_total_tokens", inputs.max_total_tokens),
        wanted => ("max_batch_total_tokens", wanted),
    };
    LoadError::Plan(format!(
        "{name}: {tokens} tokens need {} of KV cache beside {} of workspace, but only {} of memory is available: \
         {} are missing; there is room for {room} tokens; lower --{}",
        mib(kv_bytes),
        mib(workspace_bytes),
        mib(inputs.available_bytes),
        mib(missing),
        name.replace('_', "-")
    ))
}

/// A size for a message.
pub fn mib(bytes: usize) -> String {
    match bytes >= 10 << 30 {
        true => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
        false => format!("{} MiB", bytes.div_ceil(1 << 20)),
    }
}
