//! Plans by table: sizes computed by hand, limits that cannot be met, and properties of every plan.

use proptest::prelude::*;

use super::*;
use crate::config::testing::smollm2;

/// A block of SmolLM2: 46,080 bytes of K and V a token.
const BLOCK_BYTES: usize = 32 * 46_080;
/// 512 rows of 3*576 + 15*64 + 9*64 + 3*1536 floats, and 8 of 576 + 49,152.
const WORKSPACE: usize = 4 * (512 * (1728 + 960 + 576 + 4608) + 8 * 49_728);
const GIB: usize = 1 << 30;

fn inputs() -> PlanInputs {
    PlanInputs {
        max_step_tokens: 512,
        max_step_rows: 8,
        max_batch_total_tokens: 0,
        max_total_tokens: 2048,
        available_bytes: 8 * GIB,
        kv_element_bytes: 4,
        workspace_bytes: host_workspace_bytes(&smollm2(), 512, 8),
        kv_default: KvDefault::Few,
    }
}

#[test]
fn sizes_follow_from_the_limits() {
    let tight = WORKSPACE + 64 * BLOCK_BYTES;
    let cases = [
        // Much memory: 16 of the longest sequences; little: half of what there is; least: one sequence.
        (inputs(), 16 * 64),
        (PlanInputs { available_bytes: GIB, ..inputs() }, (GIB / 2 - WORKSPACE) / BLOCK_BYTES),
        (PlanInputs { available_bytes: tight, ..inputs() }, 64),
        (PlanInputs { max_total_tokens: 33, available_bytes: 64 * GIB, ..inputs() }, 16 * 2),
        (PlanInputs { kv_default: KvDefault::All, ..inputs() }, (8 * GIB - WORKSPACE) / BLOCK_BYTES),
        (PlanInputs { kv_default: KvDefault::All, available_bytes: tight, ..inputs() }, 64),
        (PlanInputs { max_batch_total_tokens: 4096, ..inputs() }, 128),
        (PlanInputs { max_batch_total_tokens: 4097, ..inputs() }, 129),
        (PlanInputs { max_batch_total_tokens: 2048, available_bytes: tight, ..inputs() }, 64),
    ];
    for (inputs, n_blocks) in cases {
        let expected = MemoryPlan {
            n_blocks,
            max_batch_total_tokens: n_blocks * 32,
            kv_bytes: n_blocks * BLOCK_BYTES,
            workspace_bytes: WORKSPACE,
            graph_bytes: 0,
        };
        assert_eq!(plan(&smollm2(), &inputs).unwrap(), expected, "{inputs:?}");
    }
    assert_eq!(kv_bytes_per_token(&smollm2(), 4), 46_080);
    assert_eq!(kv_bytes_per_token(&smollm2(), 2), 23_040);
}

#[test]
fn limits_that_cannot_be_met_are_refused() {
    let short = WORKSPACE + 64 * BLOCK_BYTES - 1;
    let cases = [
        (PlanInputs { max_step_tokens: 0, ..inputs() }, "max_step_tokens: expected at least 1, got 0"),
        (PlanInputs { max_step_rows: 0, ..inputs() }, "max_step_rows: expected at least 1, got 0"),
        (PlanInputs { max_total_tokens: 0, ..inputs() }, "max_total_tokens: expected at least 1, got 0"),
        (PlanInputs { kv_element_bytes: 0, ..inputs() }, "kv_element_bytes: expected at least 1, got 0"),
        (
            PlanInputs { max_total_tokens: 8193, ..inputs() },
            "expected at most the model's 8192 positions, got 8193; lower --max-total-tokens",
        ),
        (
            PlanInputs { max_batch_total_tokens: 2047, ..inputs() },
            "expected at least max_total_tokens (2048), got 2047; raise --max-batch-total-tokens",
        ),
        (
            PlanInputs { available_bytes: short, ..inputs() },
            "max_total_tokens: 2048 tokens need 90 MiB of KV cache beside 17 MiB of workspace, but only 107 MiB of memory is available: 1 MiB are missing; there is room for 2016 tokens; lower --max-total-tokens",
        ),
        (
            PlanInputs { max_batch_total_tokens: 1 << 20, ..inputs() },
            "max_batch_total_tokens: 1048576 tokens need 45.0 GiB of KV cache",
        ),
        (
            PlanInputs { available_bytes: 0, ..inputs() },
            "there is room for 0 tokens; lower --max-total-tokens",
        ),
        (
            PlanInputs { max_batch_total_tokens: usize::MAX, available_bytes: usize::MAX, ..inputs() },
            "KV cache for",
        ),
        (
            PlanInputs { workspace_bytes: host_workspace_bytes(&smollm2(), usize::MAX, 8), ..inputs() },
            "workspace for",
        ),
        (
            PlanInputs { max_batch_total_tokens: 1 << 38, available_bytes: usize::MAX, ..inputs() },
            "block table for",
        ),
    ];
    for (inputs, expected) in cases {
        let error = plan(&smollm2(), &inputs).unwrap_err().to_string();
        assert!(error.contains(expected), "expected {expected}\ngot {error}");
    }
    check_weights_fit(10, 10, "of memory").unwrap();
    let error = check_weights_fit(3 * GIB, 2 * GIB, "of memory").unwrap_err().to_string();
    assert_eq!(
        error,
        "the weights take 3072 MiB, but only 2048 MiB of memory is available: 1024 MiB are missing; use a smaller or quantized model"
    );
}

/// Small numbers and any numbers.
fn amount() -> impl Strategy<Value = usize> {
    prop_oneof![0usize..10_000, any::<usize>()]
}

proptest! {
    #[test]
    fn a_plan_fits_and_holds_a_sequence(tokens in amount(), rows in amount(), wanted in amount(), longest in 0usize..9000, available in any::<usize>(), kv_element_bytes in amount(), all: bool) {
        let inputs = PlanInputs {
            max_step_tokens: tokens,
            max_step_rows: rows,
            max_batch_total_tokens: wanted,
            max_total_tokens: longest,
            available_bytes: available,
            kv_element_bytes,
            workspace_bytes: host_workspace_bytes(&smollm2(), tokens, rows),
            kv_default: if all { KvDefault::All } else { KvDefault::Few },
        };
        if let Ok(plan) = plan(&smollm2(), &inputs) {
            prop_assert!(plan.kv_bytes.checked_add(plan.workspace_bytes).unwrap() <= available);
            prop_assert!(plan.max_batch_total_tokens >= longest.max(wanted));
            prop_assert_eq!(plan.max_batch_total_tokens, plan.n_blocks * BLOCK_SIZE);
        }
    }
}
