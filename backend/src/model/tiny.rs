//! Tiny random checkpoints for tests, written to disk as a real one is, and the forward pass by its
//! definition in float64. Used by the tests of the decoder, the executor and the service.

use std::collections::HashMap;
use std::path::Path;

use half::f16;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use tempfile::TempDir;

use crate::config::ModelConfig;
use crate::model::decoder::Decoder;
use crate::model::load;
use crate::ops::Ops;
use crate::sampler::philox::uniform;
use crate::weights::{Checkpoint, awq};

const GROUP: usize = 32;
pub(crate) const NTK_SEQ_LENGTH: usize = 16;

/// A family of checkpoints that differs from the others in all that a family may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// AWQ, fused c_attn with bias, untied, partial rotation, dynamic NTK, log-n attention.
    Qwen,
    /// AWQ with a plain head, separate q, k and v with bias, grouped-query attention.
    Qwen2,
    /// Plain, tied, grouped-query attention, no bias.
    Llama,
}

pub(crate) const KINDS: [Kind; 3] = [Kind::Qwen, Kind::Qwen2, Kind::Llama];

/// A checkpoint folder and its tensors as float64, linear weights `[N, K]` by prefix.
pub(crate) struct Tiny {
    pub dir: TempDir,
    pub config: ModelConfig,
    kind: Kind,
    values: HashMap<String, Vec<f64>>,
}

impl Tiny {
    pub fn new(kind: Kind) -> Tiny {
        let dir = tempfile::tempdir().unwrap();
        let json = match kind {
            Kind::Qwen => json!({
                "architectures": ["QWenLMHeadModel"], "model_type": "qwen", "hidden_size": 64,
                "intermediate_size": 192, "kv_channels": 16, "layer_norm_epsilon": 1e-5,
                "max_position_embeddings": 512, "num_attention_heads": 4, "num_hidden_layers": 2,
                "rotary_emb_base": 1000, "rotary_pct": 0.5, "seq_length": NTK_SEQ_LENGTH,
                "use_dynamic_ntk": true, "use_logn_attn": true, "tie_word_embeddings": false,
                "vocab_size": 80, "no_bias": true,
                "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": true},
            }),
            Kind::Qwen2 => json!({
                "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 64,
                "intermediate_size": 96, "num_attention_heads": 8, "num_key_value_heads": 2,
                "num_hidden_layers": 2, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
                "max_position_embeddings": 512, "tie_word_embeddings": false, "vocab_size": 88,
                "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": true},
            }),
            Kind::Llama => json!({
                "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 48,
                "intermediate_size": 80, "num_attention_heads": 6, "num_key_value_heads": 3,
                "num_hidden_layers": 3, "rms_norm_eps": 1e-5, "rope_theta": 100.0,
                "max_position_embeddings": 512, "tie_word_embeddings": true, "vocab_size": 72,
            }),
        };
        std::fs::write(dir.path().join("config.json"), json.to_string()).unwrap();
        let config = ModelConfig::from_dir(dir.path(), None).unwrap();
        let mut writer =
            Writer { kind, seed: kind as u64, n_drawn: 0, tensors: Vec::new(), values: HashMap::new() };
        writer.write_all(&config, dir.path());
        Tiny { dir, config, kind, values: writer.values }
    }

    pub fn decoder<O: Ops>(&self, mut ops: O) -> Decoder<O> {
        let checkpoint = Checkpoint::open(self.dir.path()).unwrap();
        let weights = load::load(&mut ops, &self.config, &checkpoint, &mut |_, _| ()).unwrap();
        Decoder::new(ops, self.config.clone(), weights)
    }

    fn vector(&self, name: &str) -> &[f64] {
        &self.values[name]
    }

    fn linear(&self, prefix: &str, x: &[f64]) -> Vec<f64> {
        let weight = self.vector(prefix);
        let bias = self.values.get(&format!("{prefix}.bias"));
        let dot = |(n, row): (usize, &[f64])| {
            row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + bias.map_or(0.0, |bias| bias[n])
        };
        weight.chunks_exact(x.len()).enumerate().map(dot).collect()
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let scale = (mean + f64::from(self.config.norm_eps)).sqrt();
        x.iter().zip(self.vector(name)).map(|(x, w)| x / scale * w).collect()
    }

    /// Logits `[len, vocab]` of every position, from the definition.
    pub fn logits(&self, ids: &[u32], prompt_length: usize) -> Vec<Vec<f64>> {
        let ModelConfig { hidden, .. } = self.config;
        let names = Naming::of(self.kind);
        let table = self.vector(names.embedding);
        let row = |&id: &u32| table[id as usize * hidden..][..hidden].to_vec();
        let mut residual: Vec<Vec<f64>> = ids.iter().map(row).collect();
        for layer in 0..self.config.n_layers {
            let full = |name: &str| format!("{}{layer}.{name}", names.layers);
            let normed = residual.iter().map(|x| self.norm(&full(names.norms[0]), x));
            let qkv: Vec<Vec<f64>> = normed
                .map(|x| names.qkv.iter().flat_map(|part| self.linear(&full(part), &x)).collect())
                .collect();
            for (x, mixed) in residual.iter_mut().zip(self.attention(&qkv, prompt_length)) {
                add(x, &self.linear(&full(names.out), &mixed));
                let normed = self.norm(&full(names.norms[1]), x);
                let gate = self.linear(&full(names.gate), &normed);
                let up = self.linear(&full(names.up), &normed);
                let inner: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                add(x, &self.linear(&full(names.down), &inner));
            }
        }
        residual.iter().map(|x| self.linear(names.head, &self.norm(names.final_norm, x))).collect()
    }

    fn attention(&self, qkv: &[Vec<f64>], prompt_length: usize) -> Vec<Vec<f64>> {
        let ModelConfig { n_heads, n_kv_heads, head_dim, .. } = self.config;
        let head = |p: usize, index: usize| {
            let head = &qkv[p][index * head_dim..][..head_dim];
            if index < n_heads + n_kv_heads { self.rotate(head, p, prompt_length) } else { head.to_vec() }
        };
        let logn = |p: usize| match self.config.rope.logn_seq_length {
            Some(length) => (((p + 1) as f64).ln() / (length as f64).ln()).max(1.0),
            None => 1.0,
        };
        let mix = |p: usize, h: usize| {
            let (q, kv) = (head(p, h), h / (n_heads / n_kv_heads));
            let score = |t: usize| {
                let k = head(t, n_heads + kv);
                logn(p) * q.iter().zip(&k).map(|(q, k)| q * k).sum::<f64>() / (head_dim as f64).sqrt()
            };
            let weights: Vec<f64> = (0..=p).map(|t| score(t).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut out = vec![0.0; head_dim];
            for (t, weight) in weights.iter().enumerate() {
                let v = head(t, n_heads + n_kv_heads + kv);
                out.iter_mut().zip(v).for_each(|(out, v)| *out += weight / total * v);
            }
            out
        };
        (0..qkv.len()).map(|p| (0..n_heads).flat_map(|h| mix(p, h)).collect()).collect()
    }

    fn rotate(&self, head: &[f64], position: usize, prompt_length: usize) -> Vec<f64> {
        let rope = &self.config.rope;
        let half = rope.dim / 2;
        let mut base = rope.theta;
        if let Some(length) = rope.ntk_seq_length {
            let doublings = (0..).find(|c| length << c >= prompt_length).unwrap();
            let alpha = ((2usize << doublings) - 1) as f64;
            base *= alpha.powf(rope.dim as f64 / (rope.dim - 2) as f64);
        }
        let mut out = head.to_vec();
        for i in 0..half {
            let angle = position as f64 / base.powf(2.0 * i as f64 / rope.dim as f64);
            out[i] = head[i] * angle.cos() - head[i + half] * angle.sin();
            out[i + half] = head[i + half] * angle.cos() + head[i] * angle.sin();
        }
        out
    }
}

fn add(x: &mut [f64], delta: &[f64]) {
    x.iter_mut().zip(delta).for_each(|(x, delta)| *x += delta);
}

/// The families' names once more, as their checkpoints have them.
struct Naming {
    embedding: &'static str,
    layers: &'static str,
    norms: [&'static str; 2],
    qkv: &'static [&'static str],
    out: &'static str,
    gate: &'static str,
    up: &'static str,
    down: &'static str,
    final_norm: &'static str,
    /// Prefix of the head, which a tied model takes from the embedding.
    head: &'static str,
}

impl Naming {
    fn of(kind: Kind) -> Naming {
        match kind {
            Kind::Qwen => Naming {
                embedding: "transformer.wte.weight",
                layers: "transformer.h.",
                norms: ["ln_1.weight", "ln_2.weight"],
                qkv: &["attn.c_attn"],
                out: "attn.c_proj",
                gate: "mlp.w2",
                up: "mlp.w1",
                down: "mlp.c_proj",
                final_norm: "transformer.ln_f.weight",
                head: "lm_head",
            },
            Kind::Qwen2 | Kind::Llama => Naming {
                embedding: "model.embed_tokens.weight",
                layers: "model.layers.",
                norms: ["input_layernorm.weight", "post_attention_layernorm.weight"],
                qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
                out: "self_attn.o_proj",
                gate: "mlp.gate_proj",
                up: "mlp.up_proj",
                down: "mlp.down_proj",
                final_norm: "model.norm.weight",
                head: if kind == Kind::Llama { "model.embed_tokens.weight" } else { "lm_head" },
            },
        }
    }
}

/// Makes the tensors of one checkpoint up.
struct Writer {
    kind: Kind,
    seed: u64,
    n_drawn: u64,
    tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
    values: HashMap<String, Vec<f64>>,
}

impl Writer {
    fn write_all(&mut self, config: &ModelConfig, dir: &Path) {
        let &ModelConfig { hidden, intermediate, n_heads, n_kv_heads, head_dim, vocab, .. } = config;
        let names = Naming::of(self.kind);
        let (q, kv) = (n_heads * head_dim, n_kv_heads * head_dim);
        let widths = if names.qkv.len() == 1 { vec![q + 2 * kv] } else { vec![q, kv, kv] };
        self.float(names.embedding, &[vocab, hidden], 1.0);
        for layer in 0..config.n_layers {
            let full = |name: &str| format!("{}{layer}.{name}", names.layers);
            for norm in names.norms {
                self.float(&full(norm), &[hidden], 1.5);
            }
            for (part, n) in names.qkv.iter().zip(&widths) {
                self.linear(&full(part), hidden, *n);
                if self.kind != Kind::Llama {
                    self.float(&full(&format!("{part}.bias")), &[*n], 0.5);
                }
            }
            self.linear(&full(names.out), q, hidden);
            self.linear(&full(names.gate), hidden, intermediate);
            self.linear(&full(names.up), hidden, intermediate);
            self.linear(&full(names.down), intermediate, hidden);
        }
        self.float(names.final_norm, &[hidden], 1.5);
        if self.kind != Kind::Llama {
            self.float("lm_head.weight", &[vocab, hidden], 0.4);
            let head = self.values["lm_head.weight"].clone();
            self.values.insert("lm_head".to_owned(), head);
        }
        let views = self.tensors.iter().map(|(name, dtype, shape, bytes)| {
            (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
    }

    /// A number in [0, 1).
    fn draw(&mut self) -> f64 {
        self.n_drawn += 1;
        uniform(self.seed, self.n_drawn)
    }

    /// A float16 tensor of values in ±`range`.
    fn float(&mut self, name: &str, shape: &[usize], range: f64) {
        let n = shape.iter().product();
        let values: Vec<f16> = (0..n).map(|_| f16::from_f64((self.draw() * 2.0 - 1.0) * range)).collect();
        self.values.insert(name.to_owned(), values.iter().map(|x| x.to_f64()).collect());
        self.push(name, Dtype::F16, shape, bytemuck::cast_slice(&values));
    }

    fn linear(&mut self, prefix: &str, k: usize, n: usize) {
        if self.kind == Kind::Llama {
            let name = format!("{prefix}.weight");
            self.float(&name, &[n, k], 0.5);
            let weight = self.values.remove(&name).unwrap();
            self.values.insert(prefix.to_owned(), weight);
            return;
        }
        let groups = k / GROUP;
        let mut nibbles = |rows: usize, low: f64, span: f64| -> Vec<u8> {
            (0..rows * n).map(|_| (low + self.draw() * span) as u8).collect()
        };
        let (q, z) = (nibbles(k, 0.0, 16.0), nibbles(groups, 6.0, 4.0));
        let scales: Vec<f16> = (0..groups * n).map(|_| f16::from_f64(0.01 + 0.05 * self.draw())).collect();
        let value = |k: usize, n_: usize| {
            let at = k / GROUP * n + n_;
            (f64::from(q[k * n + n_]) - f64::from(z[at])) * scales[at].to_f64()
        };
        let weight = (0..n).flat_map(|n_| (0..k).map(move |k| (k, n_))).map(|(k, n_)| value(k, n_));
        self.values.insert(prefix.to_owned(), weight.collect());
        let pack = |nibbles: &[u8]| -> Vec<u32> {
            nibbles.chunks_exact(awq::COLUMNS).map(|c| awq::pack(c.try_into().unwrap())).collect()
        };
        let words = n / awq::COLUMNS;
        self.push(&format!("{prefix}.qweight"), Dtype::I32, &[k, words], bytemuck::cast_slice(&pack(&q)));
        self.push(&format!("{prefix}.qzeros"), Dtype::I32, &[groups, words], bytemuck::cast_slice(&pack(&z)));
        self.push(&format!("{prefix}.scales"), Dtype::F16, &[groups, n], bytemuck::cast_slice(&scales));
    }

    fn push(&mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: &[u8]) {
        self.tensors.push((name.to_owned(), dtype, shape.to_vec(), bytes.to_vec()));
    }
}
