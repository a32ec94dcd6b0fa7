//! Weights on their way to the GPU: copied through page-locked memory, or made up there, then packed into the
//! int4 layout by a kernel. One copy of every weight stays on the device; what it was made of does not.

use std::sync::Arc;

use super::transfer::Transfer;
use super::{CudaLinear, CudaOps, F16, Raw, pointer};
use crate::cuda::arena::rounded;
use crate::cuda::driver::{CudaError, Gpu, check};
use crate::cuda::sys;
use crate::error::LoadError;
use crate::weights::{Fill, LinearSource, LinearWeight, Tensor};

/// Memory that only loading needs.
pub(super) struct Loader {
    pub transfer: Transfer,
    /// AutoAWQ tensors of one layer.
    raw: Option<Raw>,
}

impl Loader {
    pub fn new() -> Result<Loader, LoadError> {
        Ok(Loader { transfer: Transfer::new()?, raw: None })
    }

    /// Writes a tensor's elements at `to`, floats as float16.
    fn write(&mut self, gpu: &Gpu, tensor: &Tensor, to: u64, finite: bool) -> Result<(), LoadError> {
        match tensor.data.fill() {
            Some(fill) => Ok(make_up(gpu, fill, (to, tensor.range.len()))?),
            None => self.transfer.copy(gpu, tensor, to, finite),
        }
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
            loader.write(gpu, tensor, half.address, false)?;
        }
        Ok(half.address)
    }

    /// Packs parts that share their input; `pairs`: gate and up, for the joined SiLU.
    pub(super) fn load_parts(
        &mut self,
        parts: &[LinearSource],
        pairs: bool,
    ) -> Result<CudaLinear, LoadError> {
        // Asked for before the layer has its place: a tied head is there already.
        let shared = match parts {
            [LinearSource { weight: LinearWeight::Plain(weight), .. }] => Some(self.load_half(weight)?),
            _ => None,
        };
        let linear = self.places.linear(parts, pairs)?;
        match &linear {
            CudaLinear::Int4 { weight, bias, inputs } => {
                let parts = parts.iter().map(LinearSource::converted).collect::<Result<Vec<_>, _>>()?;
                let tensors = parts.iter().map(awq_tensors).collect::<Result<Vec<_>, _>>()?;
                self.pack(&tensors, weight)?;
                self.load_bias(&parts, *bias)?;
                self.load_inputs(&parts, *inputs)?;
                self.order.note(weight);
            }
            &CudaLinear::Dense { address, bias, .. } => {
                if shared.is_none() {
                    self.load_rows(parts, address)?;
                }
                self.load_bias(parts, bias)?;
            }
        }
        Ok(linear)
    }

    /// Plain parts' rows one after the other.
    fn load_rows(&mut self, parts: &[LinearSource], address: u64) -> Result<(), LoadError> {
        let (gpu, loader) = self.loader()?;
        let mut at = address;
        for part in parts {
            if let LinearWeight::Plain(weight) = &part.weight {
                loader.write(gpu, weight, at, false)?;
            }
            at += (part.in_features * part.out_features * F16) as u64;
        }
        Ok(())
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
                // Infinities or NaNs among the scales would spread to every token.
                loader.write(gpu, tensor, next, true)?;
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
        loader.transfer.copy_bytes(gpu, bytemuck::cast_slice(&first), address)
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
                loader.write(gpu, bias, at, false)?;
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
            Ok(AwqTensors { qweight, qzeros, scales, n: part.out_features })
        }
        LinearWeight::Plain(_) | LinearWeight::Other(_) => {
            Err(LoadError::Unsupported(format!("layer `{}` is not AWQ", part.name)))
        }
    }
}
