//! A checkpoint folder as named tensors, mapped into memory, and the linear layers made of them.
//!
//! Only safetensors is opened, never a pickle. Every size in a header is checked against the file
//! before it is used. Callers: `model::load` asks for tensors by name and shape.

pub mod awq;
mod checkpoint;
mod files;
mod header;
mod linear;
mod mmap;
mod tensor;
#[cfg(test)]
mod tests;

pub use checkpoint::Checkpoint;
pub use linear::{LinearSource, LinearWeight};
pub use mmap::MappedFile;
pub use tensor::{DType, Storage, Tensor};
