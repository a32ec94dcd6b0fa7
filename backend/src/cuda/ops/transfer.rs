//! Weights' bytes to the GPU: several threads read them into page-locked memory, one buffer travels while the next is
//! filled. Floats arrive as float16. Used by the loader alone; knows tensors, never layers.

use std::time::{Duration, Instant};

use cudarc::driver::CudaEvent;
use half::{bf16, f16};

use crate::cuda::driver::{CudaError, Gpu, PinnedMemory, named};
use crate::error::LoadError;
use crate::weights::{DType, Tensor};

/// Bytes that travel at once.
const BUFFER_BYTES: usize = 32 << 20;
/// Threads that fill a buffer: one cannot read the page cache as fast as the GPU takes it.
const READERS: usize = 8;
/// Bytes for which a thread is worth starting.
const PART_BYTES: usize = 1 << 20;

/// Two buffers, and where the time went.
pub struct Transfer {
    buffers: [Buffer; 2],
    turn: usize,
    /// Filling buffers, the GPU meanwhile having the other one.
    pub reading: Duration,
}

struct Buffer {
    memory: PinnedMemory,
    /// When the last copy out of it was done.
    copied: Option<CudaEvent>,
}

impl Transfer {
    pub fn new() -> Result<Transfer, LoadError> {
        let buffer = || Ok::<_, LoadError>(Buffer { memory: PinnedMemory::new(BUFFER_BYTES)?, copied: None });
        Ok(Transfer { buffers: [buffer()?, buffer()?], turn: 0, reading: Duration::ZERO })
    }

    /// Copies a tensor's elements to the device, floats as float16; with `finite`, refuses infinities and NaNs.
    pub fn copy(&mut self, gpu: &Gpu, tensor: &Tensor, to: u64, finite: bool) -> Result<(), LoadError> {
        let size = element_bytes(tensor);
        let n = tensor.range.len() / tensor.dtype.size();
        for first in (0..n).step_by(BUFFER_BYTES / size) {
            let bytes = size * (n - first).min(BUFFER_BYTES / size);
            let buffer = self.next_buffer()?;
            let began = Instant::now();
            fill_in_parts(tensor, first, &mut buffer.memory[..bytes], finite)?;
            let took = began.elapsed();
            // SAFETY: the caller's range holds all elements; the buffer is not written before `copied`.
            unsafe { gpu.upload(&buffer.memory[..bytes], to + (first * size) as u64) }?;
            buffer.copied = Some(named("mark a copy", gpu.stream.record_event(None))?);
            self.reading += took;
        }
        Ok(())
    }

    /// Copies bytes that the host made.
    pub fn copy_bytes(&mut self, gpu: &Gpu, bytes: &[u8], to: u64) -> Result<(), LoadError> {
        for (i, chunk) in bytes.chunks(BUFFER_BYTES).enumerate() {
            let buffer = self.next_buffer()?;
            buffer.memory[..chunk.len()].copy_from_slice(chunk);
            // SAFETY: the caller's range holds all bytes; the buffer is not written before `copied`.
            unsafe { gpu.upload(&buffer.memory[..chunk.len()], to + (i * BUFFER_BYTES) as u64) }?;
            buffer.copied = Some(named("mark a copy", gpu.stream.record_event(None))?);
        }
        Ok(())
    }

    /// The buffer that is free first.
    fn next_buffer(&mut self) -> Result<&mut Buffer, CudaError> {
        self.turn = 1 - self.turn;
        let buffer = &mut self.buffers[self.turn];
        if let Some(copied) = &buffer.copied {
            named("wait for a copy", copied.synchronize())?;
        }
        Ok(buffer)
    }
}

/// Bytes of an element on the device: floats are float16 there.
fn element_bytes(tensor: &Tensor) -> usize {
    match tensor.dtype {
        DType::I32 => 4,
        DType::I16 | DType::F16 | DType::BF16 | DType::F32 => 2,
    }
}

/// Fills `to` with the elements from `first` on, by as many threads as are worth it.
fn fill_in_parts(tensor: &Tensor, first: usize, to: &mut [u8], finite: bool) -> Result<(), LoadError> {
    let size = element_bytes(tensor);
    let part = to.len().div_ceil(READERS).max(PART_BYTES).next_multiple_of(4096);
    let parts: Vec<_> =
        to.chunks_mut(part).enumerate().map(|(i, to)| (first + i * part / size, to)).collect();
    if parts.len() <= 1 {
        return parts.into_iter().try_for_each(|(first, to)| fill(tensor, first, to, finite));
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = parts
            .into_iter()
            .map(|(first, to)| scope.spawn(move || fill(tensor, first, to, finite)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(damaged(tensor, "could not be read".to_owned())))
        })
    })
}

/// The same by this thread.
fn fill(tensor: &Tensor, first: usize, to: &mut [u8], finite: bool) -> Result<(), LoadError> {
    match tensor.dtype {
        DType::I16 | DType::I32 => tensor.read(first, to),
        DType::F16 => {
            tensor.read(first, to)?;
            let not_finite = |bits: &[u8; 2]| u16::from_le_bytes(*bits) & 0x7c00 == 0x7c00;
            match to.as_chunks().0.iter().position(not_finite).filter(|_| finite) {
                Some(i) => Err(damaged(tensor, format!("element {} is not finite", first + i))),
                None => Ok(()),
            }
        }
        DType::BF16 => {
            tensor.read(first, to)?;
            narrow(tensor, first, to, |bits: &mut [u8; 2]| bf16::from_le_bytes(*bits).to_f32())
        }
        DType::F32 => {
            let mut wide = vec![0; 2 * to.len()];
            tensor.read(first, &mut wide)?;
            let mut values = wide.as_chunks().0.iter();
            narrow(tensor, first, to, |_| values.next().map_or(0.0, |bits| f32::from_le_bytes(*bits)))
        }
    }
}

/// Writes float16, which must hold every value.
fn narrow(
    tensor: &Tensor,
    first: usize,
    to: &mut [u8],
    mut value: impl FnMut(&mut [u8; 2]) -> f32,
) -> Result<(), LoadError> {
    for (i, to) in to.as_chunks_mut().0.iter_mut().enumerate() {
        let half = f16::from_f32(value(to));
        if !half.is_finite() {
            let detail =
                format!("element {} is not finite in float16, which the GPU computes with", first + i);
            return Err(damaged(tensor, detail));
        }
        *to = half.to_le_bytes();
    }
    Ok(())
}

fn damaged(tensor: &Tensor, detail: String) -> LoadError {
    LoadError::Tensor { name: tensor.name.clone(), detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn tensor(dtype: DType, bytes: Vec<u8>) -> Tensor {
        let (shape, range) = (vec![bytes.len() / dtype.size()], 0..bytes.len());
        Tensor { name: "t".to_owned(), dtype, shape, data: Arc::new(bytes), range }
    }

    #[test]
    fn parts_make_the_whole_in_every_type() {
        let n = 3 * PART_BYTES / 2 + 10;
        let values: Vec<f32> = (0..n).map(|i| (i % 977) as f32 / 8.0 - 50.0).collect();
        let halves: Vec<u8> = values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
        let brains: Vec<u8> = values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
        let of_brains: Vec<u8> =
            values.iter().flat_map(|&x| f16::from_f32(bf16::from_f32(x).to_f32()).to_le_bytes()).collect();
        let floats: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        for (dtype, stored, expected) in [
            (DType::F16, &halves, &halves),
            (DType::BF16, &brains, &of_brains),
            (DType::F32, &floats, &halves),
        ] {
            let tensor = tensor(dtype, stored.clone());
            let mut to = vec![0; 2 * n];
            fill_in_parts(&tensor, 0, &mut to, true).unwrap();
            assert!(to == *expected, "{dtype:?}");
            let mut rest = vec![0; 2 * (n - 7)];
            fill_in_parts(&tensor, 7, &mut rest, false).unwrap();
            assert!(rest == expected[14..], "{dtype:?} from 7 on");
        }
    }

    #[test]
    fn what_float16_does_not_hold_is_refused() {
        let f32s = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let bf16s = |x: f32| bf16::from_f32(x).to_le_bytes().to_vec();
        for (dtype, bytes, finite, expected) in [
            (DType::F32, f32s(&[1.0, 1e6]), false, Some("element 1 is not finite in float16")),
            (DType::F32, f32s(&[f32::NAN]), false, Some("element 0 is not finite in float16")),
            (DType::BF16, bf16s(1e30), false, Some("element 0 is not finite in float16")),
            (DType::F16, f16::NAN.to_le_bytes().to_vec(), true, Some("element 0 is not finite")),
            (DType::F16, f16::INFINITY.to_le_bytes().to_vec(), false, None),
        ] {
            let n = bytes.len() / dtype.size();
            let error = fill_in_parts(&tensor(dtype, bytes), 0, &mut vec![0; 2 * n], finite).err();
            assert_eq!(error.is_some(), expected.is_some());
            let text = error.map(|error| error.to_string()).unwrap_or_default();
            assert!(text.contains(expected.unwrap_or_default()), "{text}");
        }
    }
}
