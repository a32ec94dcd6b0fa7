//! A block with its scales searched for and folded in, and its linear layers in 4 bits.
//!
//! Called by `run` once a block. The order matters: a layer's scale changes the rows of the layer before it, so what
//! feeds another is rounded after that other's scale is known.

use half::f16;
use ndarray::{Array1, Axis, s};
use safetensors::Dtype;
use text_generation_backend::config::ModelConfig;
use text_generation_checkpoint::awq::LinearShape;

use crate::block::{Block, Inputs, Linear};
use crate::error::QuantizeError;
use crate::search::{Rounding, Tied, choose_scale};
use crate::statistics::Statistics;

/// A tensor of the new checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NewTensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl NewTensor {
    /// A float16 vector or matrix.
    ///
    /// # Errors
    /// [`QuantizeError::Numbers`] for a value that float16 cannot hold.
    pub(crate) fn halves(name: String, shape: Vec<usize>, values: &[f32]) -> Result<Self, QuantizeError> {
        let halves: Vec<f16> = values.iter().map(|&value| f16::from_f32(value)).collect();
        if let Some(i) = halves.iter().position(|half| !half.is_finite()) {
            return Err(QuantizeError::Numbers(format!(
                "{name}: {} at element {i} is beyond float16, in which AWQ checkpoints are",
                values[i]
            )));
        }
        Ok(Self { name, dtype: Dtype::F16, shape, bytes: bytemuck::cast_slice(&halves).to_vec() })
    }
}

/// Quantises `block`; `inputs` is what flowed into it.
pub(crate) fn quantize(
    mut block: Block,
    inputs: &Inputs,
    config: &ModelConfig,
    group_size: usize,
) -> Result<Vec<NewTensor>, QuantizeError> {
    let round = |linears: &[&Linear], scale: &Array1<f32>, statistics: Statistics| {
        let rounding = Rounding::new(&statistics, scale, group_size);
        drop(statistics);
        let mut tensors = Vec::new();
        for linear in linears {
            tensors.extend(in_four_bits(linear, &rounding, group_size)?);
        }
        Ok::<_, QuantizeError>(tensors)
    };

    let down = Statistics::of(&inputs.down);
    let scale = choose_scale(&[block.down.weight.view()], &down, group_size, None);
    divide_rows(&mut block.up, &scale);
    let mut tensors = round(&[&block.down], &scale, down)?;

    let mlp = Statistics::of(&inputs.mlp);
    let scale = choose_scale(&[block.gate.weight.view(), block.up.weight.view()], &mlp, group_size, None);
    block.mlp_norm.weight /= &scale;
    tensors.extend(round(&[&block.gate, &block.up], &scale, mlp)?);

    let out = Statistics::of(&inputs.out);
    let scale = choose_scale(&[block.out.weight.view()], &out, group_size, Some(Tied::by_values(config)));
    divide_values(&mut block, config, &scale);
    tensors.extend(round(&[&block.out], &scale, out)?);

    let qkv = Statistics::of(&inputs.qkv);
    let weights: Vec<_> = block.qkv.iter().map(|linear| linear.weight.view()).collect();
    let scale = choose_scale(&weights, &qkv, group_size, None);
    block.input_norm.weight /= &scale;
    tensors.extend(round(&block.qkv.iter().collect::<Vec<_>>(), &scale, qkv)?);
    for norm in [&block.input_norm, &block.mlp_norm] {
        let values = norm.weight.to_vec();
        tensors.push(NewTensor::halves(norm.name.clone(), vec![values.len()], &values)?);
    }
    Ok(tensors)
}

/// Lets the layer's outputs be divided by `scale`.
fn divide_rows(linear: &mut Linear, scale: &Array1<f32>) {
    linear.weight /= &scale.view().insert_axis(Axis(1));
    if let Some(bias) = &mut linear.bias {
        *bias /= scale;
    }
}

/// The same for the values that attention mixes; `scale` is of its output, equal for heads that share values.
fn divide_values(block: &mut Block, config: &ModelConfig, scale: &Array1<f32>) {
    let ModelConfig { n_heads, n_kv_heads, head_dim, .. } = *config;
    let stride = n_heads / n_kv_heads * head_dim;
    let of_values: Array1<f32> = (0..n_kv_heads)
        .flat_map(|head| scale.slice(s![head * stride..head * stride + head_dim]).to_vec())
        .collect();
    if let Some((mut weight, bias)) = block.values(of_values.len()) {
        weight /= &of_values.view().insert_axis(Axis(1));
        if let Some(mut bias) = bias {
            bias /= &of_values;
        }
    }
}

fn in_four_bits(
    linear: &Linear,
    rounding: &Rounding<'_>,
    group_size: usize,
) -> Result<Vec<NewTensor>, QuantizeError> {
    let (n, k) = linear.weight.dim();
    let shape = LinearShape::new(k, n, group_size).map_err(QuantizeError::Numbers)?;
    let packed = rounding.round(&linear.weight.view()).pack(shape);
    let name = |part: &str| format!("{}.{part}", linear.prefix);
    let tensor = |part, dtype, shape: [usize; 2], bytes: &[u8]| NewTensor {
        name: name(part),
        dtype,
        shape: shape.to_vec(),
        bytes: bytes.to_vec(),
    };
    let groups = shape.n_groups();
    let mut tensors = vec![
        tensor("qweight", Dtype::I32, [k, shape.n_words()], bytemuck::cast_slice(&packed.qweight)),
        tensor("qzeros", Dtype::I32, [groups, shape.n_words()], bytemuck::cast_slice(&packed.qzeros)),
        tensor("scales", Dtype::F16, [groups, n], bytemuck::cast_slice(&packed.scales)),
    ];
    if let Some(bias) = &linear.bias {
        tensors.push(NewTensor::halves(name("bias"), vec![n], &bias.to_vec())?);
    }
    Ok(tensors)
}
