//! A checkpoint folder as named tensors, mapped into memory, and the linear layers made of them.
//!
//! Only safetensors is opened, never a pickle. Every size in a header is checked against the file
//! before it is used. Callers: `model::load` asks for tensors by name and shape.

pub mod awq;
mod checkpoint;
mod dummy;
mod files;
mod gemv;
mod gptq;
mod header;
mod linear;
mod mmap;
mod nibbles;
mod tensor;
#[cfg(test)]
mod tests;

pub use checkpoint::Checkpoint;
pub use dummy::{DummyWeights, Fill};
pub use linear::{Inputs, Int4Shape, LinearSource, LinearWeight, OtherLayout};
pub use mmap::MappedFile;
pub use tensor::{DType, Storage, Tensor};

use crate::config::Quantization;
use crate::error::LoadError;

/// Where `model::load` finds tensors by name.
pub trait WeightSource {
    /// Tells that all weights will be read soon.
    fn read_ahead(&self) {}
    /// The float tensor `name`, which must have exactly this shape.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError>;
    /// The linear layer whose tensors start with `prefix`, stored as `quantization` says.
    fn linear(
        &self,
        prefix: &str,
        in_features: usize,
        out_features: usize,
        quantization: &Quantization,
    ) -> Result<LinearSource, LoadError>;
}

impl WeightSource for Checkpoint {
    fn read_ahead(&self) {
        Checkpoint::read_ahead(self);
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        Checkpoint::tensor(self, name, shape)
    }

    fn linear(
        &self,
        prefix: &str,
        in_features: usize,
        out_features: usize,
        quantization: &Quantization,
    ) -> Result<LinearSource, LoadError> {
        Checkpoint::linear(self, prefix, in_features, out_features, quantization)
    }
}
