//! Linear layers as the operations take them: plain or AWQ "gemm", with or without bias.
//! Other 4- and 8-bit layouts (`gemv`, `gptq`) are read only when `converted` turns them into "gemm".
//!
//! `Checkpoint::linear` is called by `model::load` for every projection; the result goes to
//! `Ops::load_linear`. Shapes, types and groups are checked here and need no second look.

use std::sync::Arc;

use super::checkpoint::Checkpoint;
use super::tensor::{DType, Tensor};
use super::{awq, gemv, gptq};
use crate::config::{AwqLayout, Quantization};
use crate::error::LoadError;

/// The output head, which quantisers leave plain without listing it.
const LM_HEAD: &str = "lm_head";

/// The stored form of one linear layer `y = x W + b`, `in_features` K, `out_features` N.
#[derive(Debug, Clone)]
pub enum LinearWeight {
    /// `[N, K]` float16, bfloat16 or float32.
    Plain(Tensor),
    /// AutoAWQ "gemm": `qweight` int32 `[R, N/8]`, `qzeros` int32 `[R/g, N/8]`, `scales` float16 `[R/g, N]`;
    /// nibble i of a word (bits 4i..4i+3) is column `8c + [0,2,4,6,1,3,5,7][i]`; `w = (q - z) * s`.
    /// Without `inputs` row r is multiplied by input feature r, and R is K.
    Awq { qweight: Tensor, qzeros: Tensor, scales: Tensor, group_size: usize, inputs: Option<Box<Inputs>> },
    /// 4 or 8 bits in another layout: what `LinearSource::converted` is for.
    Other(Arc<dyn OtherLayout>),
}

/// Which input feature each row of a 4-bit weight is multiplied by.
#[derive(Debug, Clone, PartialEq)]
pub struct Inputs {
    /// `[R]`, each below K.
    pub order: Arc<[u32]>,
    /// Whether it may differ from that of other layers of the same input.
    pub is_own: bool,
}

/// What is known of a 4-bit weight before it is read; weights of equal shapes can be joined unless `own_order`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Int4Shape {
    /// R: input features, or as many as `Inputs` names.
    pub rows: usize,
    pub group_size: usize,
    /// There are `Inputs`.
    pub gathers: bool,
    /// They are the layer's own.
    pub own_order: bool,
}

/// A layer in a layout that no operation reads.
pub trait OtherLayout: std::fmt::Debug + Send + Sync {
    /// Of the layer that `convert` makes.
    fn shape(&self) -> Int4Shape;
    /// The same layer as `LinearWeight::Awq`.
    ///
    /// # Errors
    /// Values that the layout does not have.
    fn convert(&self) -> Result<LinearWeight, LoadError>;
    /// Lets go of the mapped pages.
    fn release(&self);
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
            LinearWeight::Awq { qweight, qzeros, scales, group_size, inputs } => {
                let rows = awq::dequantize(qweight, qzeros, scales, *group_size)?;
                Ok(match inputs {
                    None => rows,
                    Some(inputs) => by_feature(&rows, &inputs.order, self.in_features),
                })
            }
            LinearWeight::Other(_) => self.converted()?.weight_to_f32(),
        }
    }

    /// What is known of a 4-bit weight without reading it.
    pub fn int4(&self) -> Option<Int4Shape> {
        match &self.weight {
            LinearWeight::Plain(_) => None,
            LinearWeight::Awq { group_size, inputs, .. } => Some(Int4Shape {
                rows: inputs.as_ref().map_or(self.in_features, |inputs| inputs.order.len()),
                group_size: *group_size,
                gathers: inputs.is_some(),
                own_order: inputs.as_ref().is_some_and(|inputs| inputs.is_own),
            }),
            LinearWeight::Other(layout) => Some(layout.shape()),
        }
    }

    /// The same layer in a form that operations read. Converted weights lie in memory of their own.
    ///
    /// # Errors
    /// Values that the layout does not have, an input feature that there is not.
    pub fn converted(&self) -> Result<LinearSource, LoadError> {
        let weight = match &self.weight {
            LinearWeight::Other(layout) => layout.convert()?,
            other => other.clone(),
        };
        Ok(LinearSource { weight, ..self.clone() })
    }

    /// Lets go of the mapped pages of all its tensors, once they have been repacked.
    pub fn release(&self) {
        match &self.weight {
            LinearWeight::Plain(weight) => weight.release(),
            LinearWeight::Other(layout) => layout.release(),
            LinearWeight::Awq { qweight, qzeros, scales, .. } => {
                [qweight, qzeros, scales].into_iter().for_each(Tensor::release);
            }
        }
        self.bias.iter().for_each(Tensor::release);
    }
}

/// Rows `[N, R]` added up by their input features, `[N, K]`.
fn by_feature(rows: &[f32], inputs: &[u32], k: usize) -> Vec<f32> {
    let mut weight = vec![0.0; rows.len() / inputs.len().max(1) * k];
    for (weight, rows) in weight.chunks_exact_mut(k).zip(rows.chunks_exact(inputs.len())) {
        for (&input, value) in inputs.iter().zip(rows) {
            weight[input as usize] += value;
        }
    }
    weight
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
            Quantization::Awq { layout, group_size, not_converted }
                if self.is_quantized(prefix, not_converted)? =>
            {
                self.awq(prefix, (in_features, out_features), *layout, *group_size)?
            }
            Quantization::Gptq(format) if self.is_quantized(prefix, &format.not_converted)? => {
                LinearWeight::Other(gptq::open(self, prefix, (in_features, out_features), format)?)
            }
            _ => LinearWeight::Plain(self.tensor(&format!("{prefix}.weight"), &[out_features, in_features])?),
        };
        let bias = format!("{prefix}.bias");
        let bias = self.has(&bias).then(|| self.tensor(&bias, &[out_features])).transpose()?;
        Ok(LinearSource { name: prefix.to_owned(), in_features, out_features, weight, bias })
    }

    /// Whether a layer of a quantised checkpoint is itself quantised. One that is not stored at all counts as
    /// such, so that the error names the tensor that was expected.
    fn is_quantized(&self, prefix: &str, not_converted: &[String]) -> Result<bool, LoadError> {
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
            "the layer is stored plain in a quantised checkpoint; expected `{prefix}.qweight`, or the layer named in \
             `modules_to_not_convert`"
        );
        Err(LoadError::Tensor { name: plain, detail })
    }

    fn awq(
        &self,
        prefix: &str,
        (k, n): (usize, usize),
        layout: AwqLayout,
        group_size: usize,
    ) -> Result<LinearWeight, LoadError> {
        if group_size == 0 || !k.is_multiple_of(group_size) || !n.is_multiple_of(awq::COLUMNS) {
            let detail = format!(
                "expected input features in whole groups of {group_size} and output features in multiples of {}, \
                 got {k} and {n}",
                awq::COLUMNS
            );
            return Err(LoadError::Tensor { name: format!("{prefix}.qweight"), detail });
        }
        match layout {
            AwqLayout::Gemm => self.gemm(prefix, (k, n), group_size),
            AwqLayout::Gemv => {
                gemv::gemv(self, prefix, gemv::Shape { k, n, group_size }).map(LinearWeight::Other)
            }
            AwqLayout::GemvFast => {
                gemv::gemv_fast(self, prefix, gemv::Shape { k, n, group_size }).map(LinearWeight::Other)
            }
        }
    }

    fn gemm(
        &self,
        prefix: &str,
        (k, n): (usize, usize),
        group_size: usize,
    ) -> Result<LinearWeight, LoadError> {
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
            inputs: None,
        })
    }
}
