//! Weights on their way to the GPU: copied through page-locked memory, or made up there, then packed into the
//! int4 layout by a kernel. One copy of every weight stays on the device; what it was made of does not.

use std::sync::Arc;

use half::f16;

use super::{CudaLinear, CudaOps, F16, Raw, pointer};
use crate::cuda::arena::rounded;
use crate::cuda::driver::{CudaError, Gpu, PinnedMemory, check, named};
use crate::cuda::sys;
use crate::error::LoadError;
use crate::weights::{DType, Fill, LinearSource, LinearWeight, Tensor, awq};
use cudarc::driver::CudaEvent;

/// Bytes copied at once: while one buffer travels, the other is filled.
const CHUNK_BYTES: usize = 16 << 20;

/// Memory that only loading needs.
pub(super) struct Loader {
    buffers: [Buffer; 2],
    turn: usize,
    /// AutoAWQ tensors of one layer.
    raw: Option<Raw>,
}

struct Buffer {
    memory: PinnedMemory,
    /// When the last copy out of it was done.
    copied: Option<CudaEvent>,
}

impl Loader {
    pub fn new() -> Result<Loader, LoadError> {
        let buffer = || Ok::<_, LoadError>(Buffer { memory: PinnedMemory::new(CHUNK_BYTES)?, copied: None });
        Ok(Loader { buffers: [buffer()?, buffer()?], turn: 0, raw: None })
    }

    /// Copies bytes to the device through page-locked memory.
    fn copy(&mut self, gpu: &Gpu, bytes: &[u8], to: u64) -> Result<(), CudaError> {
        for (index, chunk) in bytes.chunks(CHUNK_BYTES).enumerate() {
            self.turn = 1 - self.turn;
            let buffer = &mut self.buffers[self.turn];
            if let Some(copied) = &buffer.copied {
                named("wait for a copy", copied.synchronize())?;
            }
            buffer.memory[..chunk.len()].copy_from_slice(chunk);
            // SAFETY: the caller's range holds all bytes; the buffer is not written before `copied`.
            unsafe { gpu.upload(&buffer.memory[..chunk.len()], to + (index * CHUNK_BYTES) as u64) }?;
            buffer.copied = Some(named("mark a copy", gpu.stream.record_event(None))?);
        }
        Ok(())
    }

    /// Writes a tensor's bytes at `to`, floats as float16.
    fn write(&mut self, gpu: &Gpu, tensor: &Tensor, to: u64) -> Result<(), LoadError> {
        if let Some(fill) = tensor.data.fill() {
            return Ok(make_up(gpu, fill, (to, tensor.range.len()))?);
        }
        match tensor.dtype {
            DType::F16 | DType::I16 | DType::I32 => self.copy(gpu, tensor.bytes(), to)?,
            DType::BF16 | DType::F32 => {
                let halves: Vec<f16> = tensor.to_f32().into_iter().map(f16::from_f32).collect();
                if let Some(i) = halves.iter().position(|x| !x.is_finite()) {
                    let detail = format!("element {i} is not finite in float16, which the GPU computes with");
                    return Err(LoadError::Tensor { name: tensor.name.clone(), detail });
                }
                self.copy(gpu, bytemuck::cast_slice(&halves), to)?;
            }
        }
        Ok(())
    }

    /// Device memory for one layer's raw tensors. Growing waits until the old ones are packed.
    fn raw(&mut self, bytes: usize) -> Result<u64, LoadError> {
        if self.raw.as_ref().is_none_or(|raw| raw.bytes < bytes) {
            self.raw = None;
            self.raw = Some(Raw::new("a layer's tensors", bytes)?);
        }
        Ok(self.raw.as_ref().map_or(0, |raw| raw.address))
    }
}

fn make_up(gpu: &Gpu, fill: Fill, (to, bytes): (u64, usize)) -> Result<(), CudaError> {
    let (kind, seed, low, high) = match fill {
        Fill::Bits { seed } => (sys::QUERN_FILL_BITS, seed, 0.0, 0.0),
        Fill::Uniform { seed, low, high } => (sys::QUERN_FILL_F16, seed, low, high),
    };
    let args = sys::QuernFill { data: pointer(to), bytes: bytes as u64, seed, kind: kind as i32, low, high };
    // SAFETY: the caller's range holds these bytes.
    check("fill", unsafe { sys::quern_fill(&gpu.device, &args, gpu.stream_pointer()) })
}

impl CudaOps {
    fn loader(&mut self) -> Result<(&Gpu, &mut Loader), LoadError> {
        match &mut self.loader {
            Some(loader) => Ok((&self.gpu, loader)),
            None => Err(LoadError::Unsupported("weights are loaded once".to_owned())),
        }
    }

    /// A float tensor as float16, once for each name.
    pub(super) fn load_half(&mut self, tensor: &Tensor) -> Result<u64, LoadError> {
        let half = self.places.half(tensor)?;
        if half.is_new {
            let (gpu, loader) = self.loader()?;
            loader.write(gpu, tensor, half.address)?;
        }
        Ok(half.address)
    }

    /// Packs parts that share their input; `pairs`: gate and up, for the joined SiLU.
    pub(super) fn load_parts(
        &mut self,
        parts: &[LinearSource],
        pairs: bool,
    ) -> Result<CudaLinear, LoadError> {
        if let [LinearSource { weight: LinearWeight::Plain(weight), bias: None, .. }] = parts {
            self.load_half(weight)?;
            return self.places.linear(parts, pairs);
        }
        let linear = self.places.linear(parts, pairs)?;
        let parts = parts.iter().map(LinearSource::converted).collect::<Result<Vec<_>, _>>()?;
        if let CudaLinear::Int4 { weight, bias, inputs } = &linear {
            let tensors = parts.iter().map(awq_tensors).collect::<Result<Vec<_>, _>>()?;
            self.pack(&tensors, weight)?;
            self.load_bias(&parts, *bias)?;
            self.load_inputs(&parts, *inputs)?;
        }
        Ok(linear)
    }

    fn pack(&mut self, parts: &[AwqTensors], packed: &sys::QuernInt4) -> Result<(), LoadError> {
        let bytes = parts.iter().flat_map(AwqTensors::each).map(|tensor| rounded(tensor.range.len())).sum();
        let (gpu, loader) = self.loader()?;
        let mut next = loader.raw(bytes)?;
        let empty = sys::QuernAwqPart { qweight: pointer(0), qzeros: pointer(0), scales: pointer(0), n: 0 };
        let mut source = sys::QuernAwqSource {
            parts: [empty; sys::QUERN_MAX_PARTS as usize],
            n_parts: parts.len() as i32,
        };
        for (part, to) in parts.iter().zip(&mut source.parts) {
            let mut addresses = [0; 3];
            for (tensor, address) in part.each().into_iter().zip(&mut addresses) {
                *address = next;
                loader.write(gpu, tensor, next)?;
                next += rounded(tensor.range.len()) as u64;
            }
            let [qweight, qzeros, scales] = addresses.map(|address| pointer(address).cast_const());
            *to = sys::QuernAwqPart { qweight, qzeros, scales, n: part.n as i32 };
        }
        // SAFETY: the raw tensors and the tiles have the sizes that the shapes ask for.
        Ok(check("awq_repack", unsafe { sys::quern_awq_repack(&source, packed, gpu.stream_pointer()) })?)
    }

    /// The one order of the parts' inputs at `address`; nothing at 0.
    fn load_inputs(&mut self, parts: &[LinearSource], address: u64) -> Result<(), LoadError> {
        if address == 0 {
            return Ok(());
        }
        let order = |part: &LinearSource| match &part.weight {
            LinearWeight::Awq { inputs: Some(inputs), .. } => Some(Arc::clone(&inputs.order)),
            _ => None,
        };
        let first = order(&parts[0]).unwrap_or_default();
        if let Some(other) = parts.iter().find(|part| order(part).as_ref() != Some(&first)) {
            return Err(LoadError::Unsupported(format!(
                "layers `{}` and `{}` share their input, but their \"g_idx\" differ, for which there is no CUDA kernel; \
                 use --device cpu",
                parts[0].name, other.name
            )));
        }
        if let Some(input) = first.iter().find(|&&input| input as usize >= parts[0].in_features) {
            let detail =
                format!("a row is of input feature {input}, expected one below {}", parts[0].in_features);
            return Err(LoadError::Tensor { name: parts[0].name.clone(), detail });
        }
        let (gpu, loader) = self.loader()?;
        Ok(loader.copy(gpu, bytemuck::cast_slice(&first), address)?)
    }

    /// The parts' biases side by side at `address`, zeros where a part has none; nothing at 0.
    fn load_bias(&mut self, parts: &[LinearSource], address: u64) -> Result<(), LoadError> {
        if address == 0 {
            return Ok(());
        }
        let n: usize = parts.iter().map(|part| part.out_features).sum();
        let (gpu, loader) = self.loader()?;
        // SAFETY: the range was taken for this bias.
        unsafe { gpu.zero(address, n * F16) }?;
        let mut at = address;
        for part in parts {
            if let Some(bias) = &part.bias {
                loader.write(gpu, bias, at)?;
            }
            at += (part.out_features * F16) as u64;
        }
        Ok(())
    }
}

/// One AWQ layer's tensors.
struct AwqTensors<'a> {
    qweight: &'a Tensor,
    qzeros: &'a Tensor,
    scales: &'a Tensor,
    n: usize,
}

impl AwqTensors<'_> {
    fn each(&self) -> [&Tensor; 3] {
        [self.qweight, self.qzeros, self.scales]
    }
}

fn awq_tensors(part: &LinearSource) -> Result<AwqTensors<'_>, LoadError> {
    match &part.weight {
        LinearWeight::Awq { qweight, qzeros, scales, .. } => {
            if scales.data.fill().is_none() {
                awq::check_scales(scales)?;
            }
            Ok(AwqTensors { qweight, qzeros, scales, n: part.out_features })
        }
        LinearWeight::Plain(_) | LinearWeight::Other(_) => {
            Err(LoadError::Unsupported(format!("layer `{}` is not AWQ", part.name)))
        }
    }
}
