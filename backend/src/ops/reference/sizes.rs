//! What weights take in memory on the reference device: float32, whatever they were. Counted without reading them.

use crate::error::LoadError;
use crate::ops::{Footprint, Pack};
use crate::weights::{LinearSource, Tensor};

/// See the module.
#[derive(Debug, Default)]
pub struct ReferenceSizes {
    elements: usize,
}

impl ReferenceSizes {
    fn add(&mut self, tensor: &Tensor) {
        self.elements += tensor.shape.iter().product::<usize>();
    }
}

impl Pack for ReferenceSizes {
    type Linear = ();
    type Norm = ();
    type Embedding = ();

    fn load_linear(&mut self, parts: &[LinearSource]) -> Result<(), LoadError> {
        self.elements += parts.iter().map(|part| (part.in_features + 1) * part.out_features).sum::<usize>();
        Ok(())
    }

    fn load_norm(&mut self, weight: &Tensor) -> Result<(), LoadError> {
        self.add(weight);
        Ok(())
    }

    fn load_embedding(&mut self, weight: &Tensor) -> Result<(), LoadError> {
        self.add(weight);
        Ok(())
    }
}

impl Footprint for ReferenceSizes {
    fn bytes(&self) -> usize {
        self.elements * size_of::<f32>()
    }
}
