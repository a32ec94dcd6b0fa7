//! A checkpoint folder as named tensors, mapped into memory, and the linear layers made of them.
//!
//! Only safetensors is opened, never a pickle. Every size in a header is checked against the file
//! before it is used. Callers: `model::load` asks for tensors by name and shape.

use std::ops::Range;
use std::sync::Arc;

/// Element type of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DType {
    F16,
    BF16,
    F32,
    I32,
}

impl DType {
    pub fn size(self) -> usize {
        match self {
            DType::F16 | DType::BF16 => 2,
            DType::F32 | DType::I32 => 4,
        }
    }
}

/// A row-major tensor inside a mapped file. Cheap to clone; keeps the mapping alive.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<usize>,
    /// The mapped file (or, in tests, owned bytes).
    pub data: Arc<dyn AsRef<[u8]> + Send + Sync>,
    /// This tensor's bytes in `data`; its length is `shape.product() * dtype.size()`.
    pub range: Range<usize>,
}

impl Tensor {
    pub fn bytes(&self) -> &[u8] {
        &(*self.data).as_ref()[self.range.clone()]
    }
}

/// The stored form of one linear layer `y = x W + b`, `in_features` K, `out_features` N.
#[derive(Clone)]
pub enum LinearWeight {
    /// `[N, K]` float16, bfloat16 or float32.
    Plain(Tensor),
    /// AutoAWQ "gemm": `qweight` int32 `[K, N/8]`, `qzeros` int32 `[K/g, N/8]`, `scales` float16 `[K/g, N]`;
    /// nibble i of a word (bits 4i..4i+3) is column `8c + [0,2,4,6,1,3,5,7][i]`; `w = (q - z) * s`.
    Awq { qweight: Tensor, qzeros: Tensor, scales: Tensor, group_size: usize },
}

/// One linear layer as found in the checkpoint; shapes are checked when it is made.
#[derive(Clone)]
pub struct LinearSource {
    pub name: String,
    pub in_features: usize,
    pub out_features: usize,
    pub weight: LinearWeight,
    /// `[N]`, any float dtype.
    pub bias: Option<Tensor>,
}
