//! Linear layers as a checkpoint stores them: plain or AWQ, with or without bias.
//!
//! `Checkpoint::linear` is called by `model::load` for every projection; the result goes to
//! `Ops::load_linear`. Shapes, types and groups are checked here and need no second look.

use super::awq;
use super::checkpoint::Checkpoint;
use super::tensor::{DType, Tensor};
use crate::config::Quantization;
use crate::error::LoadError;

/// The output head, which AWQ converters leave plain without listing it.
const LM_HEAD: &str = "lm_head";

/// The stored form of one linear layer `y = x W + b`, `in_features` K, `out_features` N.
#[derive(Debug, Clone)]
pub enum LinearWeight {
    /// `[N, K]` float16, bfloat16 or float32.
    Plain(Tensor),
    /// AutoAWQ "gemm": `qweight` int32 `[K, N/8]`, `qzeros` int32 `[K/g, N/8]`, `scales` float16 `[K/g, N]`;
    /// nibble i of a word (bits 4i..4i+3) is column `8c + [0,2,4,6,1,3,5,7][i]`; `w = (q - z) * s`.
    Awq { qweight: Tensor, qzeros: Tensor, scales: Tensor, group_size: usize },
}

/// One linear layer as found in the checkpoint; shapes are checked when it is made.
#[derive(Debug, Clone)]
pub struct LinearSource {
    pub name: String,
    pub in_features: usize,
    pub out_features: usize,
    pub weight: LinearWeight,
    /// `[N]`, any float dtype.
    pub bias: Option<Tensor>,
}

impl LinearSource {
    /// The weight as float32 `[N, K]`, dequantized.
    ///
    /// # Errors
    /// A scale that is not finite.
    pub fn weight_to_f32(&self) -> Result<Vec<f32>, LoadError> {
        match &self.weight {
            LinearWeight::Plain(weight) => Ok(weight.to_f32()),
            LinearWeight::Awq { qweight, qzeros, scales, group_size } => {
                awq::dequantize(qweight, qzeros, scales, *group_size)
            }
        }
    }

    /// Lets go of the mapped pages of all its tensors, once they have been repacked.
    pub fn release(&self) {
        match &self.weight {
            LinearWeight::Plain(weight) => weight.release(),
            LinearWeight::Awq { qweight, qzeros, scales, .. } => {
                [qweight, qzeros, scales].into_iter().for_each(Tensor::release);
            }
        }
        self.bias.iter().for_each(Tensor::release);
    }
}

impl Checkpoint {
    /// The layer whose tensors start with `prefix` (`"model.layers.0.mlp.up_proj"`), quantized as
    /// `quantization` says; its bias, if there is one.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape or type, sizes that do not divide into groups of
    /// rows and words of columns, a plain layer where a quantized one is expected.
    pub fn linear(
        &self,
        prefix: &str,
        in_features: usize,
        out_features: usize,
        quantization: &Quantization,
    ) -> Result<LinearSource, LoadError> {
        let weight = match quantization {
            Quantization::Awq { group_size, not_converted } if self.is_awq(prefix, not_converted)? => {
                self.awq(prefix, in_features, out_features, *group_size)?
            }
            _ => LinearWeight::Plain(self.tensor(&format!("{prefix}.weight"), &[out_features, in_features])?),
        };
        let bias = format!("{prefix}.bias");
        let bias = self.has(&bias).then(|| self.tensor(&bias, &[out_features])).transpose()?;
        Ok(LinearSource { name: prefix.to_owned(), in_features, out_features, weight, bias })
    }

    /// Whether a layer of an AWQ checkpoint is itself AWQ. One that is not stored at all counts as AWQ,
    /// so that the error names the tensor that was expected.
    fn is_awq(&self, prefix: &str, not_converted: &[String]) -> Result<bool, LoadError> {
        if not_converted.iter().any(|part| prefix.contains(part.as_str())) {
            return Ok(false);
        }
        let plain = format!("{prefix}.weight");
        if self.has(&format!("{prefix}.qweight")) || !self.has(&plain) {
            return Ok(true);
        }
        if prefix == LM_HEAD {
            return Ok(false);
        }
        let detail = format!(
            "the layer is stored plain in an AWQ checkpoint; expected `{prefix}.qweight`, or the layer named in \
             `modules_to_not_convert`"
        );
        Err(LoadError::Tensor { name: plain, detail })
    }

    fn awq(&self, prefix: &str, k: usize, n: usize, group_size: usize) -> Result<LinearWeight, LoadError> {
        if group_size == 0 || !k.is_multiple_of(group_size) || !n.is_multiple_of(awq::COLUMNS) {
            let detail = format!(
                "expected input features in whole groups of {group_size} and output features in multiples of {}, \
                 got {k} and {n}",
                awq::COLUMNS
            );
            return Err(LoadError::Tensor { name: format!("{prefix}.qweight"), detail });
        }
        let (groups, words) = (k / group_size, n / awq::COLUMNS);
        let hint =
            format!("the model's configuration says AWQ \"gemm\" in groups of {group_size}; correct it");
        let of = |part: &str, shape: [usize; 2], dtype| {
            self.typed_tensor(&format!("{prefix}.{part}"), &shape, &[dtype], &hint)
        };
        Ok(LinearWeight::Awq {
            qweight: of("qweight", [k, words], DType::I32)?,
            qzeros: of("qzeros", [groups, words], DType::I32)?,
            scales: of("scales", [groups, n], DType::F16)?,
            group_size,
        })
    }
}
