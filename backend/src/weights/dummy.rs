//! Made-up weights of a model's shape, for benchmarks without a checkpoint (`--dummy-weights`).
//!
//! Uniformly random integers and scales that keep activations finite and spread over their range, as
//! real weights do: zeros would run faster than anything real. Made by the device thread, read by
//! `model::load`; what such a model says means nothing. Deterministic: no random source.

use std::sync::{Arc, OnceLock};

use half::f16;

use super::tensor::{DType, Storage, Tensor};
use super::{LinearSource, LinearWeight, WeightSource, awq};
use crate::config::{Family, ModelConfig, Quantization};
use crate::error::LoadError;

/// How the elements of a tensor follow from their index: element i is drawn with `mix(seed + i)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fill {
    /// int32: the low 32 bits.
    Bits { seed: u64 },
    /// float16 between `low` and `high`, from the upper 24 of the low 32 bits.
    Uniform { seed: u64, low: f32, high: f32 },
}

impl Fill {
    /// The first `len` bytes.
    fn bytes(self, len: usize) -> Vec<u8> {
        match self {
            Fill::Bits { seed } => {
                (0..len as u64 / 4).flat_map(|i| draw(seed.wrapping_add(i)).to_le_bytes()).collect()
            }
            Fill::Uniform { seed, low, high } => {
                let element = |i: u64| {
                    let unit = (draw(seed.wrapping_add(i)) >> 8) as f32 * (1.0 / 16_777_216.0);
                    f16::from_f32(low + (high - low) * unit).to_le_bytes()
                };
                (0..len as u64 / 2).flat_map(element).collect()
            }
        }
    }
}

/// The low half of splitmix64's output function (Steele, Lea, Flood 2014).
fn draw(counter: u64) -> u32 {
    let mut z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as u32
}

/// Bytes that are made when somebody reads them.
struct DummyStorage {
    fill: Fill,
    len: usize,
    bytes: OnceLock<Vec<u8>>,
}

impl AsRef<[u8]> for DummyStorage {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get_or_init(|| self.fill.bytes(self.len))
    }
}

impl Storage for DummyStorage {
    fn fill(&self) -> Option<Fill> {
        Some(self.fill)
    }
}

/// Tensors of every name and shape that is asked for.
pub struct DummyWeights {
    has_qkv_bias: bool,
}

impl DummyWeights {
    pub fn new(config: &ModelConfig) -> DummyWeights {
        DummyWeights { has_qkv_bias: matches!(config.family, Family::Qwen | Family::Qwen2) }
    }

    fn is_qkv(prefix: &str) -> bool {
        ["c_attn", "q_proj", "k_proj", "v_proj"].iter().any(|name| prefix.ends_with(name))
    }
}

impl WeightSource for DummyWeights {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        let (low, high) = match shape.len() {
            1 if name.ends_with(".bias") => (-0.035, 0.035),
            1 => (0.9, 1.1),
            _ => (-0.035, 0.035),
        };
        made_up(name, DType::F16, shape, |seed| Fill::Uniform { seed, low, high })
    }

    fn linear(
        &self,
        prefix: &str,
        in_features: usize,
        out_features: usize,
        quantization: &Quantization,
    ) -> Result<LinearSource, LoadError> {
        let weight = match quantization {
            Quantization::Awq { group_size, .. } if prefix != "lm_head" => {
                quantized(prefix, in_features, out_features, *group_size)?
            }
            Quantization::Gptq(_) if prefix != "lm_head" => {
                return Err(LoadError::Unsupported(
                    "--dummy-weights makes up AWQ and plain layers, not GPTQ's; use a configuration of one of these"
                        .to_owned(),
                ));
            }
            _ => LinearWeight::Plain(self.tensor(&format!("{prefix}.weight"), &[out_features, in_features])?),
        };
        let has_bias = self.has_qkv_bias && DummyWeights::is_qkv(prefix);
        let bias = has_bias.then(|| self.tensor(&format!("{prefix}.bias"), &[out_features])).transpose()?;
        Ok(LinearSource { name: prefix.to_owned(), in_features, out_features, weight, bias })
    }
}

fn quantized(prefix: &str, k: usize, n: usize, group_size: usize) -> Result<LinearWeight, LoadError> {
    if group_size == 0 || !k.is_multiple_of(group_size) || !n.is_multiple_of(awq::COLUMNS) {
        let detail = format!("{k} x {n} is not in whole groups of {group_size} and columns of 8");
        return Err(LoadError::Tensor { name: format!("{prefix}.qweight"), detail });
    }
    let (groups, words) = (k / group_size, n / awq::COLUMNS);
    let bits = |part: &str, shape: [usize; 2]| {
        made_up(&format!("{prefix}.{part}"), DType::I32, &shape, |seed| Fill::Bits { seed })
    };
    Ok(LinearWeight::Awq {
        qweight: bits("qweight", [k, words])?,
        qzeros: bits("qzeros", [groups, words])?,
        scales: made_up(&format!("{prefix}.scales"), DType::F16, &[groups, n], |seed| Fill::Uniform {
            seed,
            low: 0.002,
            high: 0.004,
        })?,
        group_size,
        inputs: None,
    })
}

fn made_up(
    name: &str,
    dtype: DType,
    shape: &[usize],
    fill: impl Fn(u64) -> Fill,
) -> Result<Tensor, LoadError> {
    let len = shape.iter().try_fold(dtype.size(), |bytes, &n| bytes.checked_mul(n));
    let len = len.ok_or_else(|| LoadError::Tensor {
        name: name.to_owned(),
        detail: format!("{shape:?} is larger than any machine"),
    })?;
    // FNV-1a: tensors of different names differ.
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let data = DummyStorage { fill: fill(seed), len, bytes: OnceLock::new() };
    Ok(Tensor { name: name.to_owned(), dtype, shape: shape.to_vec(), data: Arc::new(data), range: 0..len })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AwqLayout;

    #[test]
    fn values_are_spread_over_their_range() {
        let weights = DummyWeights { has_qkv_bias: true };
        let quantization =
            Quantization::Awq { layout: AwqLayout::Gemm, group_size: 64, not_converted: vec![] };
        let layer = weights.linear("h.0.attn.c_attn", 128, 256, &quantization).unwrap();
        let LinearWeight::Awq { qweight, qzeros, scales, .. } = &layer.weight else { panic!("not AWQ") };
        assert_eq!(
            (&qweight.shape[..], &qzeros.shape[..], &scales.shape[..]),
            (&[128, 32][..], &[2, 32][..], &[2, 256][..])
        );
        let mut seen = [0; 16];
        for word in qweight.elements::<u32>().iter() {
            awq::unpack(*word).into_iter().for_each(|q| seen[q as usize] += 1);
        }
        assert!(seen.iter().all(|&n| (1850..2250).contains(&n)), "{seen:?}");
        let scales = scales.to_f32();
        assert!(scales.iter().all(|&s| (0.002..=0.004).contains(&s)));
        let mean = scales.iter().sum::<f32>() / scales.len() as f32;
        assert!((mean - 0.003).abs() < 1e-4, "{mean}");
        assert!(layer.bias.is_some());
        assert!(weights.linear("h.0.mlp.w1", 128, 256, &quantization).unwrap().bias.is_none());
        let head = weights.linear("lm_head", 128, 256, &quantization).unwrap();
        assert!(matches!(head.weight, LinearWeight::Plain(_)));
    }

    #[test]
    fn impossible_shapes_are_refused() {
        let weights = DummyWeights { has_qkv_bias: false };
        let quantization =
            Quantization::Awq { layout: AwqLayout::Gemm, group_size: 64, not_converted: vec![] };
        for (k, n) in [(100, 64), (64, 9), (usize::MAX / 64 * 64, 8)] {
            assert!(weights.linear("x", k, n, &quantization).is_err(), "{k} x {n}");
        }
        assert!(weights.tensor("x", &[usize::MAX, 2]).is_err());
    }
}
