//! What weights take in memory on the CPU, counted without reading them: for plans, and for the check before
//! loading. `CpuOps` keeps packed copies of quantised layers and reads plain ones where they are mapped.

use std::collections::HashSet;

use super::linear::packed_bytes;
use crate::error::LoadError;
use crate::ops::{Footprint, Pack};
use crate::weights::{LinearSource, LinearWeight, Tensor};

/// See the module.
#[derive(Debug, Default)]
pub struct CpuSizes {
    bytes: usize,
    /// Tensors read in place: a tied head is the embedding.
    mapped: HashSet<String>,
}

impl CpuSizes {
    fn map(&mut self, tensor: &Tensor) {
        if self.mapped.insert(tensor.name.clone()) {
            self.bytes += tensor.range.len();
        }
    }
}

impl Pack for CpuSizes {
    type Linear = ();
    type Norm = ();
    type Embedding = ();

    fn load_linear(&mut self, parts: &[LinearSource]) -> Result<(), LoadError> {
        self.bytes += packed_bytes(parts);
        for part in parts {
            if let LinearWeight::Plain(weight) = &part.weight {
                self.map(weight);
            }
        }
        Ok(())
    }

    fn load_norm(&mut self, weight: &Tensor) -> Result<(), LoadError> {
        self.bytes += weight.shape.iter().product::<usize>() * size_of::<f32>();
        Ok(())
    }

    fn load_embedding(&mut self, weight: &Tensor) -> Result<(), LoadError> {
        self.map(weight);
        Ok(())
    }
}

impl Footprint for CpuSizes {
    fn bytes(&self) -> usize {
        self.bytes
    }
}
