//! Where everything lies on the device: weights, activations, the cache and what steps need beside them. With
//! measuring arenas the same code only adds up, so that a plan can be made before anything is loaded, and on a
//! machine without a GPU. Owned by `CudaOps`; launches nothing.

use std::collections::HashMap;
use std::ops::Range;

use super::carry::CarryMemory;
use super::linear::Workspaces;
use super::{CudaAct, CudaEmbedding, CudaKv, CudaLinear, CudaNorm, Element, F16, pointer};
use crate::config::ModelConfig;
use crate::cuda::arena::Arena;
use crate::cuda::sys;
use crate::error::LoadError;
use crate::ops::{ActKind, Allocate, Footprint, KvShape, Pack};
use crate::weights::{LinearSource, LinearWeight, Tensor};

/// See the module.
pub struct Places {
    /// The GPU's facts, on which the sizes of workspaces depend.
    pub device: sys::QuernDevice,
    weights: Arena,
    /// Where activations and the cache come from.
    pub arena: Arena,
    pub(super) workspaces: Workspaces,
    pub(super) carry: CarryMemory,
    /// float64 `[rope_dim / 2]` of the rotary embedding's frequencies, or 0.
    pub(super) rope_factors: u64,
    /// Float tensors by name: a tied head shares the embedding.
    halves: HashMap<String, u64>,
    /// Of the layers' attention, each once, 0 for none: decode attention has a plan for each.
    windows: Vec<i32>,
    n_heads: usize,
    pub(super) n_kv_heads: usize,
    head_dim: usize,
    /// 32-bit words of a mask of the vocabulary.
    pub mask_words: usize,
    vocab: usize,
}

/// Input features of a dense layer come in multiples of this.
const DENSE_K: usize = 64;

/// A place of its own, or one that an earlier tensor of this name has.
pub(super) struct Half {
    pub address: u64,
    pub is_new: bool,
}

impl Places {
    /// Measures what a model of `config` takes on `device`.
    pub fn measuring(device: sys::QuernDevice, config: &ModelConfig) -> Result<Places, LoadError> {
        Places::within(device, config, Arena::measuring())
    }

    /// Places in `bytes` of device memory for the weights, as many as a measuring one has counted.
    pub fn new(device: sys::QuernDevice, config: &ModelConfig, bytes: usize) -> Result<Places, LoadError> {
        Places::within(device, config, Arena::new("the weights", bytes)?)
    }

    fn within(
        device: sys::QuernDevice,
        config: &ModelConfig,
        mut weights: Arena,
    ) -> Result<Places, LoadError> {
        let rope_factors = match config.rope.scaling.factors.len() {
            0 => 0,
            n => weights.take("rotary frequencies", n * size_of::<f64>())?,
        };
        Ok(Places {
            device,
            weights,
            arena: Arena::measuring(),
            rope_factors,
            workspaces: Workspaces::default(),
            carry: CarryMemory::default(),
            halves: HashMap::new(),
            windows: config.windows().into_iter().map(window_argument).collect(),
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            mask_words: config.vocab.div_ceil(32),
            vocab: config.vocab,
        })
    }

    /// Bytes of weights so far.
    pub fn weight_bytes(&self) -> usize {
        self.weights.used()
    }

    /// Place of a float tensor as float16, one for each name.
    pub(super) fn half(&mut self, tensor: &Tensor) -> Result<Half, LoadError> {
        if let Some(&address) = self.halves.get(&tensor.name) {
            return Ok(Half { address, is_new: false });
        }
        let elements: usize = tensor.shape.iter().product();
        let address = self.weights.take("weights", elements * F16)?;
        self.halves.insert(tensor.name.clone(), address);
        Ok(Half { address, is_new: true })
    }

    /// Place of parts that share their input, joined; `pairs`: gate and up, for the joined SiLU.
    pub(super) fn linear(&mut self, parts: &[LinearSource], pairs: bool) -> Result<CudaLinear, LoadError> {
        if parts.iter().all(|part| matches!(part.weight, LinearWeight::Plain(_))) {
            return self.dense(parts);
        }
        let group = int4_group(parts)?;
        let (k, n) = (parts[0].int4().map_or(0, |shape| shape.rows), out_features(parts));
        let tiles = self.weights.take("weights", int4_bytes(k, n, group)?)?;
        let weight = sys::QuernInt4 {
            tiles: pointer(tiles),
            k: k as i32,
            n: n as i32,
            group: group as i32,
            pair_stride: if pairs { n as i32 / 2 } else { 0 },
        };
        self.workspaces.note(weight.k, weight.n);
        let bias = self.bias(parts)?;
        let inputs = match parts.iter().any(|part| part.int4().is_some_and(|shape| shape.gathers)) {
            true => {
                self.workspaces.note_gathered(k);
                self.weights.take("weights", k * size_of::<u32>())?
            }
            false => 0,
        };
        Ok(CudaLinear::Int4 { weight, bias, inputs })
    }

    /// Rows of the parts one after the other, which is how they are joined along N.
    fn dense(&mut self, parts: &[LinearSource]) -> Result<CudaLinear, LoadError> {
        let (k, n) = (parts.first().map_or(0, |part| part.in_features), out_features(parts));
        if k == 0 || !k.is_multiple_of(DENSE_K) {
            let name = parts.first().map_or("", |part| &part.name);
            return Err(LoadError::Unsupported(format!(
                "layer `{name}` has {k} input features: a plain layer has a CUDA kernel for multiples of {DENSE_K}; use \
                 --device cpu"
            )));
        }
        let bias = self.bias(parts)?;
        let address = match parts {
            [LinearSource { weight: LinearWeight::Plain(weight), .. }] => self.half(weight)?.address,
            _ => self.weights.take("weights", n * k * F16)?,
        };
        // The output head writes its sums, which are the logits, where they stay.
        if parts.len() > 1 || bias != 0 || n != self.vocab {
            self.workspaces.note_dense(n);
        }
        Ok(CudaLinear::Dense { address, bias, k, n })
    }

    /// Place of the joined biases; 0 if no part has one.
    fn bias(&mut self, parts: &[LinearSource]) -> Result<u64, LoadError> {
        match parts.iter().any(|part| part.bias.is_some()) {
            true => self.weights.take("weights", out_features(parts) * F16),
            false => Ok(0),
        }
    }

    /// Sizes of decode attention for a number of sequences.
    pub fn decode_shape(&self, n_spans: usize, max_tokens: usize) -> sys::QuernDecodeShape {
        sys::QuernDecodeShape {
            n_spans: n_spans as i32,
            max_tokens: max_tokens as i32,
            n_heads: self.n_heads as i32,
            n_kv_heads: self.n_kv_heads as i32,
            head_dim: self.head_dim as i32,
            window: 0,
        }
    }

    /// Bytes of the counters in front of decode attention's workspace.
    pub(super) fn decode_counter_bytes(&self, n_spans: usize, max_tokens: usize) -> usize {
        // SAFETY: a function of numbers.
        unsafe { sys::quern_decode_counter_bytes(&self.decode_shape(n_spans, max_tokens)) as usize }
    }

    /// Integers of decode attention's plans, one behind the other.
    pub fn plan_ints(&self, n_spans: usize, max_tokens: usize) -> usize {
        let of_one = match n_spans {
            0 => 0,
            // SAFETY: both structs are readable.
            n => unsafe {
                sys::quern_decode_plan_ints(&self.device, &self.decode_shape(n, max_tokens)).max(0) as usize
            },
        };
        of_one * self.windows.len()
    }

    /// The windows that plans are made for, with the integers of each; `all` are those of all plans.
    pub(super) fn plans(&self, all: usize) -> impl Iterator<Item = (i32, Range<usize>)> {
        let of_one = all / self.windows.len().max(1);
        self.windows.iter().enumerate().map(move |(i, &window)| (window, i * of_one..(i + 1) * of_one))
    }
}

/// A layer's window as the kernels take it.
pub(super) fn window_argument(window: Option<usize>) -> i32 {
    window.map_or(0, |tokens| i32::try_from(tokens).unwrap_or(i32::MAX))
}

fn out_features(parts: &[LinearSource]) -> usize {
    parts.iter().map(|part| part.out_features).sum()
}

/// The one group size of int4 `parts`.
fn int4_group(parts: &[LinearSource]) -> Result<usize, LoadError> {
    let of_part = |part: &LinearSource| match part.int4() {
        Some(shape) => Ok(shape.group_size),
        None => Err(LoadError::Unsupported(format!(
            "layer `{}` is stored plain, and its neighbours are quantized, with which it cannot be joined on a GPU; use \
             --device cpu",
            part.name
        ))),
    };
    let groups = parts.iter().map(of_part).collect::<Result<Vec<_>, _>>()?;
    match groups.split_first() {
        Some((first, others))
            if others.iter().all(|group| group == first) && parts.len() <= sys::QUERN_MAX_PARTS as usize =>
        {
            Ok(*first)
        }
        _ => {
            let names: Vec<&str> = parts.iter().map(|part| &*part.name).collect();
            Err(LoadError::Unsupported(format!("layers {names:?} cannot be joined; use --device cpu")))
        }
    }
}

fn int4_bytes(k: usize, n: usize, group_size: usize) -> Result<usize, LoadError> {
    let int = |x: usize| i32::try_from(x).unwrap_or(0);
    // SAFETY: a function of numbers.
    match unsafe { sys::quern_int4_bytes(int(k), int(n), int(group_size)) } {
        0 => Err(LoadError::Unsupported(format!(
            "a layer of {k} x {n} in groups of {group_size} has no CUDA kernel: input features must be whole groups of \
             32, 64 or 128, output features a multiple of 8; use --device cpu"
        ))),
        bytes => Ok(bytes as usize),
    }
}

impl Pack for Places {
    type Linear = CudaLinear;
    type Norm = CudaNorm;
    type Embedding = CudaEmbedding;

    fn load_linear(&mut self, parts: &[LinearSource]) -> Result<CudaLinear, LoadError> {
        self.linear(parts, false)
    }

    fn load_gate_up(&mut self, parts: &[LinearSource]) -> Result<CudaLinear, LoadError> {
        self.linear(parts, true)
    }

    fn load_norm(&mut self, weight: &Tensor) -> Result<CudaNorm, LoadError> {
        self.half(weight).map(|half| CudaNorm(half.address))
    }

    fn load_embedding(&mut self, weight: &Tensor) -> Result<CudaEmbedding, LoadError> {
        let [vocab, hidden] = weight.shape[..] else {
            let detail = format!("expected shape [vocab, hidden], got {:?}", weight.shape);
            return Err(LoadError::Tensor { name: weight.name.clone(), detail });
        };
        Ok(CudaEmbedding { address: self.half(weight)?.address, vocab, hidden })
    }
}

impl Footprint for Places {
    fn bytes(&self) -> usize {
        self.weight_bytes()
    }
}

impl Allocate for Places {
    const KV_ELEMENT_BYTES: usize = F16;

    type Act = CudaAct;
    type Kv = CudaKv;

    fn new_act(&mut self, kind: ActKind, max_rows: usize, cols: usize) -> Result<CudaAct, LoadError> {
        let (element, bytes) = match kind {
            ActKind::Residual | ActKind::Logits => (Element::F32, 4),
            ActKind::Hidden => (Element::F16, F16),
            ActKind::Between => (Element::Nothing, 0),
        };
        let bytes = max_rows.checked_mul(cols).and_then(|n| n.checked_mul(bytes)).unwrap_or(usize::MAX);
        let address = self.arena.take("activations", bytes)?;
        Ok(CudaAct { address, element, rows: max_rows, cols, max_rows })
    }

    fn new_kv(&mut self, shape: KvShape) -> Result<CudaKv, LoadError> {
        let (blocks, heads, dim) = (shape.n_blocks as i32, shape.n_kv_heads as i32, shape.head_dim as i32);
        // SAFETY: a function of numbers.
        let layer = unsafe { sys::quern_kv_layer_bytes(blocks, heads, dim) };
        let address = self.arena.take("the KV cache", shape.n_layers * layer as usize)?;
        Ok(CudaKv(sys::QuernKvCache {
            data: pointer(address),
            n_blocks: blocks,
            n_kv_heads: heads,
            head_dim: dim,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{SlidingWindow, testing};
    use crate::cuda::machine::H100;

    #[test]
    fn every_window_has_a_plan() {
        let plans = |layers: &[bool]| {
            let window = Some(SlidingWindow { tokens: 512, layers: layers.to_vec() });
            let config = ModelConfig { n_layers: layers.len(), sliding_window: window, ..testing::smollm2() };
            let places = Places::measuring(H100, &config).unwrap();
            let all = places.plan_ints(4, 4096);
            (all, places.plans(all).collect::<Vec<_>>())
        };
        let (one, full) = plans(&[false, false]);
        assert!(one > 0 && one.is_multiple_of(8), "plans are 32-byte aligned");
        assert_eq!(full, [(0, 0..one)]);
        assert_eq!(plans(&[true, true]), (one, vec![(512, 0..one)]));
        assert_eq!(plans(&[true, false]), (2 * one, vec![(0, 0..one), (512, one..2 * one)]));
    }
}
