//! Writing checkpoint folders: AutoAWQ's 4-bit packing, safetensors laid out ahead of its data, JSON as Python spells it,
//! and a folder that appears whole or not at all.
//!
//! Used by the launcher's `convert` and by the quantizer. Knows no model and no tensor name, and reads nothing.
#![forbid(unsafe_code)]

pub mod awq;
mod error;
mod json;
pub mod layout;
mod staging;

pub use error::WriteError;
pub use json::to_python_json;
pub use staging::Staging;
