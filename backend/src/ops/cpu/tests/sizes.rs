//! What is counted beforehand is what is allocated.

use super::*;
use crate::config::Quantization;
use crate::model::load;
use crate::model::tiny::{KINDS, Tiny};
use crate::ops::cpu::{CpuLinear, CpuNorm, CpuSizes};
use crate::weights::Checkpoint;

#[test]
fn counted_bytes_are_allocated_bytes() {
    for kind in KINDS {
        let tiny = Tiny::new(kind);
        let checkpoint = Checkpoint::open(tiny.dir.path()).unwrap();
        let counted = load::weight_bytes(&mut CpuSizes::default(), &tiny.config, &checkpoint).unwrap();
        let weights = load::load(&mut CpuOps::new(2), &tiny.config, &checkpoint, &mut |_, _| ()).unwrap();
        let norm = |norm: &CpuNorm| size_of_val(&*norm.0);
        let mut bytes = norm(&weights.final_norm) + weights.lm_head.allocated_bytes();
        for layer in &weights.layers {
            bytes += norm(&layer.input_norm) + norm(&layer.mlp_norm);
            bytes += [&layer.qkv, &layer.attention_out, &layer.gate_up, &layer.down]
                .map(CpuLinear::allocated_bytes)
                .iter()
                .sum::<usize>();
        }
        // Plain layers are read where they are mapped, a tied head from the embedding's place.
        let norms = (2 * tiny.config.n_layers + 1) * tiny.config.hidden;
        bytes += match tiny.config.quantization {
            Quantization::None => checkpoint.total_bytes() - 2 * norms,
            Quantization::Awq { .. } | Quantization::Gptq(_) => {
                2 * 2 * tiny.config.vocab * tiny.config.hidden
            }
        };
        assert_eq!(counted, bytes, "{kind:?}");
    }
}
