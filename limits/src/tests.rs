//! Limits by example: each case names the flags it gives and what they come to.

use super::*;

fn info(max_positions: u32, device_type: &str) -> ModelFacts {
    ModelFacts { max_positions, on_cpu: device_type == "cpu" }
}

fn flags(edit: impl FnOnce(&mut LimitFlags)) -> LimitFlags {
    let mut flags = LimitFlags { max_concurrent_requests: 128, ..LimitFlags::default() };
    edit(&mut flags);
    flags
}

/// Limits on a CPU model of 8192 positions whose plan has `kv` tokens (0: as many as asked for).
fn serve(flags: LimitFlags, kv: u64) -> Result<(u32, u32, u32), String> {
    let run = || {
        flags.check()?;
        let wanted = flags.wanted(info(8192, "cpu"))?;
        let kv = if kv == 0 { wanted.max_batch_total_tokens.max(10_000) } else { kv };
        flags.resolve(Limits { max_batch_total_tokens: kv, ..wanted })
    };
    run()
        .map(|l| (l.max_input_tokens, l.max_total_tokens, l.max_batch_prefill_tokens))
        .map_err(|error: LimitError| error.to_string())
}

#[test]
fn limits() {
    type Edit = fn(&mut LimitFlags);
    let cases: &[(Edit, u64, (u32, u32, u32))] = &[
        (|_| {}, 0, (4095, 4096, 4096)),
        (|_| {}, 1000, (999, 1000, 4096)),
        (|f| f.max_total_tokens = Some(8192), 0, (8191, 8192, 4096)),
        (|f| f.max_total_tokens = Some(300), 0, (299, 300, 300)),
        (|f| f.max_input_tokens = Some(200), 0, (200, 4096, 4096)),
        (|f| f.max_input_tokens = Some(5000), 0, (5000, 8192, 4096)),
        (|f| f.max_batch_prefill_tokens = Some(64), 0, (4095, 4096, 64)),
        (|f| f.max_batch_total_tokens = Some(512), 512, (511, 512, 512)),
        (
            |f| {
                (f.max_input_length, f.max_total_tokens, f.max_batch_prefill_tokens) =
                    (Some(3696), Some(4096), Some(4096))
            },
            4096,
            (3696, 4096, 4096),
        ),
    ];
    for (index, (edit, kv, expected)) in cases.iter().enumerate() {
        assert_eq!(serve(flags(edit), *kv), Ok(*expected), "case {index}");
    }
}

#[test]
fn contradictions() {
    type Edit = fn(&mut LimitFlags);
    let cases: &[(Edit, u64, &str)] = &[
        (
            |f| (f.max_input_tokens, f.max_input_length) = (Some(5), Some(6)),
            0,
            "Both `max_input_tokens` (5) and `max_input_length` (6) are set. ",
        ),
        (
            |f| (f.max_input_length, f.max_total_tokens) = (Some(4096), Some(4096)),
            0,
            "`max_input_tokens`(4096) must be < `max_total_tokens`(4096)",
        ),
        (
            |f| (f.max_total_tokens, f.max_batch_total_tokens) = (Some(400), Some(300)),
            0,
            "`max_total_tokens` must be <= `max_batch_total_tokens`. Given: 400 and 300",
        ),
        (
            |f| (f.max_batch_prefill_tokens, f.max_batch_total_tokens) = (Some(400), Some(300)),
            0,
            "`max_batch_prefill_tokens` must be <= `max_batch_total_tokens`. Given: 400 and 300",
        ),
        (|f| f.max_batch_size = Some(0), 0, "`max_batch_size` must be > 0"),
        (|f| f.max_total_tokens = Some(0), 0, "`max_total_tokens` must be > 0"),
        (|f| f.max_total_tokens = Some(1), 0, "`max_input_tokens`(1) must be < `max_total_tokens`(1)"),
        (
            |f| f.max_total_tokens = Some(100_000),
            0,
            "`max_total_tokens` must be <= 8192, the longest sequence of this model. Given: 100000",
        ),
        (
            |f| f.max_input_tokens = Some(9000),
            0,
            "`max_input_tokens`(9000) must be < `max_total_tokens`(8192)",
        ),
        (|f| f.max_total_tokens = Some(4096), 4000, "Not enough memory to handle `max_total_tokens=4096`"),
        (
            |f| f.max_input_tokens = Some(500),
            400,
            "`max_input_tokens`(500) must be < `max_total_tokens`(400)",
        ),
        (|_| {}, 1, "Not enough memory"),
    ];
    for (index, (edit, kv, expected)) in cases.iter().enumerate() {
        let error = serve(flags(edit), *kv).expect_err(expected);
        assert!(error.starts_with(expected), "case {index}: {error}");
    }
}

#[test]
fn off_the_cpu_the_model_decides() {
    let wanted = flags(|_| {}).wanted(info(8192, "cuda")).unwrap();
    assert_eq!(
        (wanted.max_total_tokens, wanted.max_batch_total_tokens, wanted.max_batch_size),
        (8192, 0, 128)
    );
}
