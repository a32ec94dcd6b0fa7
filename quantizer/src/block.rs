//! One block of the float decoder and what flows into its linear layers.
//!
//! Called by `run` for every block in turn. Plain float32 mathematics on whole windows, each by itself; the same
//! function as the served forward pass, without a cache. The windows of calibration are shorter than the sliding
//! windows that models use, which therefore play no part.

use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut1, ArrayViewMut2, Axis, s};
use rayon::prelude::*;
use text_generation_backend::config::ModelConfig;
use text_generation_backend::model::rope;

/// A linear layer `y = x Wᵀ + b`.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    /// Name of its tensors without `.weight`.
    pub prefix: String,
    /// `[N, K]`
    pub weight: Array2<f32>,
    /// `[N]`
    pub bias: Option<Array1<f32>>,
}

/// A norm and the name of its tensor.
#[derive(Debug, Clone)]
pub(crate) struct Norm {
    pub name: String,
    pub weight: Array1<f32>,
}

/// The weights of one block.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub input_norm: Norm,
    pub mlp_norm: Norm,
    /// q, k and v, or one layer with all three.
    pub qkv: Vec<Linear>,
    pub out: Linear,
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

/// What flowed into the linear layers, `[tokens, K]`.
#[derive(Debug)]
pub(crate) struct Inputs {
    /// Into q, k and v.
    pub qkv: Array2<f32>,
    /// Into attention's output projection.
    pub out: Array2<f32>,
    /// Into gate and up.
    pub mlp: Array2<f32>,
    /// Into down.
    pub down: Array2<f32>,
}

impl Linear {
    fn apply(&self, x: &ArrayView2<'_, f32>) -> Array2<f32> {
        let y = x.dot(&self.weight.t());
        match &self.bias {
            Some(bias) => y + bias,
            None => y,
        }
    }
}

impl Block {
    /// The rows of q, k and v that make the values, and their bias.
    pub(crate) fn values(
        &mut self,
        width: usize,
    ) -> Option<(ArrayViewMut2<'_, f32>, Option<ArrayViewMut1<'_, f32>>)> {
        let layer = self.qkv.last_mut()?;
        let first = layer.weight.nrows().checked_sub(width)?;
        let bias = layer.bias.as_mut().map(|bias| bias.slice_mut(s![first..]));
        Some((layer.weight.slice_mut(s![first.., ..]), bias))
    }

    /// Runs the block over `windows`, each `[tokens, hidden]`, in place.
    ///
    /// With `wanted`, returns what flowed into its linear layers.
    pub(crate) fn forward(
        &self,
        config: &ModelConfig,
        windows: &mut [Array2<f32>],
        wanted: bool,
    ) -> Option<Inputs> {
        let inputs: Vec<Inputs> = windows.par_iter_mut().map(|window| self.window(config, window)).collect();
        wanted.then(|| {
            let joined = |of: fn(&Inputs) -> &Array2<f32>| {
                let parts: Vec<_> = inputs.iter().map(|inputs| of(inputs).view()).collect();
                ndarray::concatenate(Axis(0), &parts).unwrap_or_default()
            };
            Inputs {
                qkv: joined(|inputs| &inputs.qkv),
                out: joined(|inputs| &inputs.out),
                mlp: joined(|inputs| &inputs.mlp),
                down: joined(|inputs| &inputs.down),
            }
        })
    }

    fn window(&self, config: &ModelConfig, hidden: &mut Array2<f32>) -> Inputs {
        let qkv = rms_norm(hidden, &self.input_norm.weight, config.norm_eps);
        let parts: Vec<Array2<f32>> = self.qkv.iter().map(|layer| layer.apply(&qkv.view())).collect();
        let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
        let joined = ndarray::concatenate(Axis(1), &views).unwrap_or_default();
        let out = attention(config, joined);
        *hidden += &self.out.apply(&out.view());
        let mlp = rms_norm(hidden, &self.mlp_norm.weight, config.norm_eps);
        let mut down = self.gate.apply(&mlp.view());
        down.mapv_inplace(|x| x / (1.0 + (-x).exp()));
        down *= &self.up.apply(&mlp.view());
        *hidden += &self.down.apply(&down.view());
        Inputs { qkv, out, mlp, down }
    }
}

fn rms_norm(x: &Array2<f32>, weight: &Array1<f32>, eps: f32) -> Array2<f32> {
    let mut y = x.clone();
    for mut row in y.outer_iter_mut() {
        let mean = row.iter().map(|v| f64::from(v * v)).sum::<f64>() / row.len() as f64;
        let scale = 1.0 / (mean + f64::from(eps)).sqrt();
        row.zip_mut_with(weight, |v, w| *v *= scale as f32 * w);
    }
    y
}

/// Causal attention of one window: `[tokens, (heads + 2 kv heads) * head_dim]` to `[tokens, heads * head_dim]`.
fn attention(config: &ModelConfig, mut qkv: Array2<f32>) -> Array2<f32> {
    let ModelConfig { n_heads, n_kv_heads, head_dim, .. } = *config;
    let n_tokens = qkv.nrows();
    rotate(config, &mut qkv);
    let head = |index: usize| s![.., index * head_dim..(index + 1) * head_dim];
    let mut out = Array2::zeros((n_tokens, n_heads * head_dim));
    for query in 0..n_heads {
        let kv = query / (n_heads / n_kv_heads);
        let keys = qkv.slice(head(n_heads + kv));
        let mut scores = qkv.slice(head(query)).dot(&keys.t());
        for (position, mut row) in scores.outer_iter_mut().enumerate() {
            softmax_up_to(position, (head_dim as f32).sqrt(), &mut row);
        }
        out.slice_mut(head(query)).assign(&scores.dot(&qkv.slice(head(n_heads + n_kv_heads + kv))));
    }
    out
}

/// Softmax of `row / divisor` over the columns `0..=position`; the others become zero.
fn softmax_up_to(position: usize, divisor: f32, row: &mut ArrayViewMut1<'_, f32>) {
    let (mut seen, mut unseen) = row.view_mut().split_at(Axis(0), position + 1);
    let largest = seen.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    seen.mapv_inplace(|score| ((score - largest) / divisor).exp());
    let sum = seen.sum();
    seen /= sum;
    unseen.fill(0.0);
}

/// The rotary embedding of q and k, and log-n scaling of q.
fn rotate(config: &ModelConfig, qkv: &mut Array2<f32>) {
    let ModelConfig { n_heads, n_kv_heads, head_dim, ref rope, .. } = *config;
    let (n_tokens, half) = (qkv.nrows(), rope.dim / 2);
    let (base, scaling) = (rope::theta(rope, n_tokens), &rope.scaling);
    let frequency = |i: usize| base.powf(-2.0 * i as f64 / rope.dim as f64) * scaling.factor(i);
    let frequencies: Vec<f64> = (0..half).map(frequency).collect();
    for (position, mut row) in qkv.outer_iter_mut().enumerate() {
        let log_n = rope
            .logn_seq_length
            .map_or(1.0, |length| (((position + 1) as f64).ln() / (length as f64).ln()).max(1.0));
        let angle = |frequency: &f64| {
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            (sin * scaling.attention, cos * scaling.attention)
        };
        let angles: Vec<(f64, f64)> = frequencies.iter().map(angle).collect();
        for head in 0..n_heads + n_kv_heads {
            let scale = if head < n_heads { log_n } else { 1.0 };
            let mut of_head = row.slice_mut(s![head * head_dim..(head + 1) * head_dim]);
            for (i, (sin, cos)) in angles.iter().enumerate() {
                let (a, b) = (f64::from(of_head[i]), f64::from(of_head[i + half]));
                of_head[i] = ((a * cos - b * sin) * scale) as f32;
                of_head[i + half] = ((b * cos + a * sin) * scale) as f32;
            }
            of_head.slice_mut(s![rope.dim..]).mapv_inplace(|x| x * scale as f32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use text_generation_backend::config::{RopeConfig, RopeScaling};

    fn rotated(config: &ModelConfig, scaling: RopeScaling, n_tokens: usize) -> Array2<f32> {
        let rope = RopeConfig { scaling, ..config.rope.clone() };
        let config = ModelConfig { rope, ..config.clone() };
        let width = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim;
        let mut qkv = Array2::from_shape_fn((n_tokens, width), |(_, i)| (i as f32 * 0.37).sin());
        rotate(&config, &mut qkv);
        qkv
    }

    #[test]
    fn stretched_positions_are_rotated_as_they_are_served() {
        let dir = tempfile::tempdir().unwrap();
        let json = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 32, "num_attention_heads": 4,
            "num_key_value_heads": 2, "num_hidden_layers": 1, "intermediate_size": 64, "vocab_size": 64,
            "rms_norm_eps": 1e-6, "max_position_embeddings": 128, "hidden_act": "silu"}"#;
        std::fs::write(dir.path().join("config.json"), json).unwrap();
        let config = ModelConfig::from_dir(dir.path(), None).unwrap();
        let plain = rotated(&config, RopeScaling::NONE, 4);
        let factors = vec![0.5; config.rope.dim / 2];
        let linear = rotated(&config, RopeScaling { factors, attention: 1.0 }, 7);
        for position in 0..4 {
            let difference = &linear.row(2 * position) - &plain.row(position);
            assert!(difference.iter().all(|x| x.abs() < 1e-6), "position {position}: {difference}");
        }
        let yarn = rotated(&config, RopeScaling { factors: vec![], attention: 1.25 }, 4);
        let of_q_and_k = (config.n_heads + config.n_kv_heads) * config.head_dim;
        let expected = plain.slice(s![.., ..of_q_and_k]).mapv(|x| x * 1.25);
        let difference = &yarn.slice(s![.., ..of_q_and_k]) - &expected;
        assert!(difference.iter().all(|x| x.abs() < 1e-5), "{difference}");
    }
}
