//! A plan beforehand against what a loaded model's device plans; limits that do not fit; the search for the longest.

use std::path::PathBuf;

use text_generation_limits::LimitFlags;

use super::*;
use crate::device_thread::{Command, DeviceKind, DeviceThread};
use crate::memory_plan::MemoryPlan;
use crate::model::tiny::{KINDS, Tiny};

const GIB: usize = 1 << 30;

fn flags() -> LimitFlags {
    LimitFlags {
        max_total_tokens: Some(200),
        max_batch_prefill_tokens: Some(64),
        max_concurrent_requests: 4,
        ..LimitFlags::default()
    }
}

fn planned(tiny: &Tiny, flags: &LimitFlags, bytes: usize) -> anyhow::Result<Report> {
    let source = crate::weights::Checkpoint::open(tiny.dir.path()).unwrap();
    plan(&tiny.config, &source, flags, &mut HostMachine::new(bytes))
}

/// What the device thread says once the model is loaded: bytes of weights, and its plan.
async fn real(path: PathBuf, budget: Budget) -> (usize, MemoryPlan) {
    let device = DeviceKind::Cpu { n_threads: 1 };
    let options = Options { model_path: path, quantize: None, device, dummy_weights: false };
    let (device, _thread) = DeviceThread::spawn(options).unwrap().ready().await.unwrap();
    let (reply, answer) = flume::bounded(1);
    device.commands.send_async(Command::Plan { budget, reply }).await.unwrap();
    (device.info.weight_bytes, answer.recv_async().await.unwrap().unwrap().plan)
}

#[tokio::test]
async fn what_is_planned_is_what_is_taken() {
    for kind in KINDS {
        let tiny = Tiny::new(kind);
        for batch_total in [None, Some(320)] {
            let flags = LimitFlags { max_batch_total_tokens: batch_total, ..flags() };
            let report = planned(&tiny, &flags, 64 * GIB).unwrap();
            let budget = budget(&report.limits, report.limits.max_total_tokens);
            let (weight_bytes, plan) = real(tiny.dir.path().to_path_buf(), budget).await;
            assert_eq!(report.weight_bytes, weight_bytes, "{kind:?}");
            assert_eq!(report.planned.as_ref().unwrap(), &plan, "{kind:?}");
            assert_eq!(plan.kv_bytes, plan.max_batch_total_tokens * report.kv_bytes_per_token);
            assert_eq!(report.all_bytes(), Some(weight_bytes + plan.kv_bytes + plan.workspace_bytes));
        }
    }
}

#[test]
fn too_little_memory_is_part_of_the_report() {
    let tiny = Tiny::new(KINDS[0]);
    let enough = planned(&tiny, &flags(), 64 * GIB).unwrap();
    assert_eq!(enough.longest_total_tokens, 512, "the model's positions");
    let plan = enough.planned.unwrap();
    let least = enough.weight_bytes + plan.workspace_bytes + 7 * 32 * enough.kv_bytes_per_token;
    let fits = planned(&tiny, &flags(), least).unwrap();
    assert_eq!((fits.planned.unwrap().max_batch_total_tokens, fits.longest_total_tokens), (224, 224));
    let short = planned(&tiny, &flags(), least - 1).unwrap();
    assert_eq!(short.longest_total_tokens, 192);
    assert!(short.planned.as_ref().unwrap_err().contains("there is room for 192 tokens"), "{short}");
    assert!(short.to_string().contains("does not fit: max_total_tokens: 200 tokens need"), "{short}");
    let none = planned(&tiny, &flags(), 1000).unwrap();
    assert_eq!(none.longest_total_tokens, 0);
    assert!(none.planned.as_ref().unwrap_err().contains("the weights take"), "{none}");
    assert_eq!(none.json()["kv_bytes"], serde_json::Value::Null);
}

#[test]
fn impossible_limits_are_refused() {
    let tiny = Tiny::new(KINDS[0]);
    let cases = [
        (LimitFlags { max_total_tokens: Some(513), ..flags() }, "must be <= 512"),
        (LimitFlags { max_input_tokens: Some(200), ..flags() }, "must be < `max_total_tokens`(200)"),
    ];
    for (flags, part) in cases {
        let error = planned(&tiny, &flags, GIB).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn the_table_and_the_json_say_the_same() {
    let report = planned(&Tiny::new(KINDS[1]), &flags(), 64 * GIB).unwrap();
    let (text, json) = (report.to_string(), report.json());
    for key in ["weight_bytes", "kv_bytes", "workspace_bytes", "kv_bytes_per_token", "all_bytes"] {
        assert!(text.contains(&format!(" {} bytes", json[key])), "{key}: {text}");
    }
    assert!(
        text.contains(&format!("--max-batch-total-tokens {}\n", json["max_batch_total_tokens"])),
        "{text}"
    );
    assert!(text.starts_with("Qwen2ForCausalLM, 2 layers, AWQ, groups of 32\n"), "{text}");
}

#[test]
fn the_longest_is_found() {
    for most in [0, 1, 2, 7, 100, u32::MAX] {
        for limit in [0, 1, 2, 6, 7, 8, 99, 100, u32::MAX] {
            assert_eq!(longest(most, |n| n <= limit), most.min(limit).min(u32::MAX - 1), "{most} {limit}");
        }
    }
}
