//! The tensor types of a GGUF that can be read: their numbers and block sizes, from the ggml project.
//! Called by `gguf` and `dequantize`. Must never name a type that `dequantize` cannot decode.

use crate::convert::ConvertError;

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)] // the field's names
pub(in crate::convert) enum TensorType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

/// Type, its number in the file, elements a block, bytes a block.
const TYPES: [(TensorType, u32, usize, usize); 11] = [
    (TensorType::F32, 0, 1, 4),
    (TensorType::F16, 1, 1, 2),
    (TensorType::BF16, 30, 1, 2),
    (TensorType::Q4_0, 2, 32, 18),
    (TensorType::Q4_1, 3, 32, 20),
    (TensorType::Q5_0, 6, 32, 22),
    (TensorType::Q5_1, 7, 32, 24),
    (TensorType::Q8_0, 8, 32, 34),
    (TensorType::Q4_K, 12, 256, 144),
    (TensorType::Q5_K, 13, 256, 176),
    (TensorType::Q6_K, 14, 256, 210),
];

impl TensorType {
    /// The type with number `id`; `tensor` is for the message.
    pub(super) fn from_id(id: u32, tensor: &str) -> Result<Self, ConvertError> {
        TYPES.iter().find(|t| t.1 == id).map(|t| t.0).ok_or_else(|| {
            let names: Vec<_> = Self::all().map(|t| format!("{t:?}")).collect();
            ConvertError::Unsupported(format!(
                "tensor {tensor:?} has type number {id}; supported are {}",
                names.join(", ")
            ))
        })
    }

    /// Every supported type.
    pub(in crate::convert) fn all() -> impl Iterator<Item = Self> {
        TYPES.iter().map(|t| t.0)
    }

    /// Elements in a block.
    pub(in crate::convert) fn block_len(self) -> usize {
        TYPES[self as usize].2
    }

    /// Bytes in a block.
    pub(in crate::convert) fn block_bytes(self) -> usize {
        TYPES[self as usize].3
    }
}
