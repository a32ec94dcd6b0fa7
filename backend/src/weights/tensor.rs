//! A tensor of a checkpoint: name, type, shape and bytes.
//!
//! Made by `Checkpoint`, read by the packers of `ops`. A tensor's byte range has been checked
//! against its storage and its shape; nothing here allocates but `to_f32`.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::dummy::Fill;
use crate::error::LoadError;

#[cfg(target_endian = "big")]
compile_error!("checkpoints are little-endian and are read in place");

/// Element type of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DType {
    F16,
    BF16,
    F32,
    I16,
    I32,
}

impl DType {
    pub fn is_float(self) -> bool {
        matches!(self, DType::F16 | DType::BF16 | DType::F32)
    }

    pub fn size(self) -> usize {
        match self {
            DType::F16 | DType::BF16 | DType::I16 => 2,
            DType::F32 | DType::I32 => 4,
        }
    }
}

/// Bytes that tensors lie in: a mapped file, made-up weights, or in tests a `Vec<u8>`.
pub trait Storage: AsRef<[u8]> + Send + Sync {
    /// The rule that all bytes follow, if they are made up: a device may then make them itself.
    fn fill(&self) -> Option<Fill> {
        None
    }

    /// Copies the bytes from `from` on into `to`, which they fill.
    fn read(&self, from: usize, to: &mut [u8]) -> std::io::Result<()> {
        let end = from.checked_add(to.len());
        let bytes =
            end.and_then(|end| self.as_ref().get(from..end)).ok_or(std::io::ErrorKind::UnexpectedEof)?;
        to.copy_from_slice(bytes);
        Ok(())
    }

    /// Tells that the bytes in `range` are not needed soon. Their contents stay the same.
    fn release(&self, range: Range<usize>) {
        let _ = range;
    }
}

impl Storage for Vec<u8> {}

/// A row-major tensor inside a mapped file. Cheap to clone; keeps the mapping alive.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<usize>,
    /// The mapped file (or, in tests, owned bytes).
    pub data: Arc<dyn Storage>,
    /// This tensor's bytes in `data`; its length is `shape.product() * dtype.size()`.
    pub range: Range<usize>,
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?} {:?}", self.name, self.dtype, self.shape)
    }
}

impl Tensor {
    pub fn bytes(&self) -> &[u8] {
        &(*self.data).as_ref()[self.range.clone()]
    }

    /// Copies the stored elements from `first` on into `to`, which they fill: for devices that keep them elsewhere.
    ///
    /// # Errors
    /// A file that cannot be read, or has become shorter.
    pub fn read(&self, first: usize, to: &mut [u8]) -> Result<(), LoadError> {
        let from = self.range.start + first * self.dtype.size();
        let read = match from + to.len() <= self.range.end {
            true => self.data.read(from, to),
            false => Err(std::io::ErrorKind::UnexpectedEof.into()),
        };
        let error =
            |error| LoadError::Tensor { name: self.name.clone(), detail: format!("cannot be read: {error}") };
        read.map_err(error)
    }

    /// The elements as `T`, whose size must be the dtype's; copied only where the file has them unaligned.
    pub fn elements<T: bytemuck::Pod>(&self) -> Cow<'_, [T]> {
        assert_eq!(size_of::<T>(), self.dtype.size(), "invariant: elements are read as their own type");
        match bytemuck::try_cast_slice(self.bytes()) {
            Ok(elements) => Cow::Borrowed(elements),
            Err(_) => self.bytes().chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect(),
        }
    }

    /// All elements, row-major, as float32 (exact but for int32 past 2^24).
    pub fn to_f32(&self) -> Vec<f32> {
        match self.dtype {
            DType::F16 => self.elements::<f16>().to_f32_vec(),
            DType::BF16 => self.elements::<bf16>().to_f32_vec(),
            DType::F32 => self.elements::<f32>().into_owned(),
            DType::I16 => self.elements::<i16>().iter().map(|&n| f32::from(n)).collect(),
            DType::I32 => self.elements::<i32>().iter().map(|&n| n as f32).collect(),
        }
    }

    /// Lets go of the resident pages once the tensor has been repacked; it can still be read.
    pub fn release(&self) {
        self.data.release(self.range.clone());
    }
}
