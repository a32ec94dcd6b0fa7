//! Linear layers on the GPU: int4 in the packed layout, with the kernel that suits the number of rows, and
//! the float16 output head. Called by `CudaOps`; knows sizes and addresses, never models.

use std::collections::HashMap;

use super::{CudaAct, CudaOps, Element, F16, pointer};
use crate::cuda::arena::Arena;
use crate::cuda::driver::{CudaError, check};
use crate::cuda::sys;
use crate::error::LoadError;

/// Most rows of the int4 decode kernel.
const DECODE_ROWS: usize = 16;

/// A packed layer.
pub enum CudaLinear {
    Int4 {
        weight: sys::QuernInt4,
        /// float16 `[N]`, or 0.
        bias: u64,
        /// int32 `[K]`, the input feature of each row, or 0: in order.
        inputs: u64,
    },
    /// float16 `[N, K]`.
    Head { address: u64, k: usize, n: usize },
}

/// Scratch memory of the int4 kernels, zeroed once; kernels leave it so. A shape has its own, since the
/// places of the counters differ.
#[derive(Default)]
pub(super) struct Workspaces {
    shapes: Vec<(i32, i32)>,
    decode: HashMap<(i32, i32), u64>,
    prefill: u64,
    /// Most columns of reordered inputs, and float16 `[rows, columns]` for them.
    gathered_cols: usize,
    gathered: u64,
}

impl Workspaces {
    pub fn allocate(
        &mut self,
        device: &sys::QuernDevice,
        arena: &mut Arena,
        max_rows: usize,
    ) -> Result<(), LoadError> {
        for &(k, n) in &self.shapes {
            // SAFETY: the device is readable.
            let bytes = unsafe { sys::quern_int4_linear_decode_workspace(device, k, n) };
            let address = if bytes == 0 { 0 } else { arena.take("int4 products", bytes as usize)? };
            self.decode.insert((k, n), address);
        }
        // SAFETY: the device is readable.
        let bytes = unsafe { sys::quern_int4_linear_prefill_workspace(device) };
        self.prefill = arena.take("int4 products", bytes as usize)?;
        let elements = max_rows.saturating_mul(self.gathered_cols);
        self.gathered = arena.take("reordered inputs", elements.saturating_mul(F16))?;
        Ok(())
    }

    /// Notes a shape that `allocate` will make room for.
    pub fn note(&mut self, k: i32, n: i32) {
        if !self.shapes.contains(&(k, n)) {
            self.shapes.push((k, n));
        }
    }

    /// Notes that inputs of as many columns will be reordered.
    pub fn note_gathered(&mut self, cols: usize) {
        self.gathered_cols = self.gathered_cols.max(cols);
    }

    /// Forgets the addresses, not the shapes.
    pub fn clear(&mut self) {
        self.decode.clear();
        self.prefill = 0;
        self.gathered = 0;
    }
}

impl CudaOps {
    /// `out = epilogue(x W + b)`.
    pub(super) fn multiply(
        &self,
        x: &CudaAct,
        layer: &CudaLinear,
        out: &CudaAct,
        epilogue: sys::QuernEpilogue,
    ) -> Result<(), CudaError> {
        match layer {
            CudaLinear::Int4 { weight, bias, inputs: 0 } => {
                self.int4((x.address, x.rows, x.cols), (weight, *bias), out, epilogue)
            }
            CudaLinear::Int4 { weight, bias, inputs } => {
                let cols = weight.k as usize;
                let gathered = self.gather_columns(x, *inputs, cols)?;
                self.int4((gathered, x.rows, cols), (weight, *bias), out, epilogue)
            }
            &CudaLinear::Head { address, k, n } => self.head(x, (address, k, n), out),
        }
    }

    /// `x`'s columns `inputs`, in memory that the next call overwrites.
    fn gather_columns(&self, x: &CudaAct, inputs: u64, cols: usize) -> Result<u64, CudaError> {
        let out = self.places.workspaces.gathered;
        let args = sys::QuernGatherColumns {
            x: pointer(x.address),
            index: pointer(inputs).cast(),
            out: pointer(out),
            rows: x.rows as i32,
            ldx: x.cols as i32,
            cols: cols as i32,
        };
        // SAFETY: the indices were checked against the input's columns, and the memory is for as many rows and columns.
        let status = unsafe { sys::quern_gather_columns(&self.gpu.device, &args, self.gpu.stream_pointer()) };
        check("gather_columns", status).map(|()| out)
    }

    /// `x` is (address, rows, columns).
    fn int4(
        &self,
        (x, rows, cols): (u64, usize, usize),
        (weight, bias): (&sys::QuernInt4, u64),
        out: &CudaAct,
        epilogue: sys::QuernEpilogue,
    ) -> Result<(), CudaError> {
        let decodes = rows <= DECODE_ROWS;
        let workspace = match decodes {
            true => self.places.workspaces.decode.get(&(weight.k, weight.n)).copied().unwrap_or(0),
            false => self.places.workspaces.prefill,
        };
        let args = sys::QuernLinear {
            weight: *weight,
            x: pointer(x),
            bias: pointer(bias),
            out: pointer(out.address),
            workspace: pointer(workspace),
            m: rows as i32,
            ldx: cols as i32,
            ldo: out.cols as i32,
            epilogue: epilogue as i32,
        };
        let (device, stream) = (&self.gpu.device, self.gpu.stream_pointer());
        // SAFETY: the matrices have these rows and columns (the entry point checks them against the weight's),
        // and one stream uses the workspaces.
        match decodes {
            true => check("int4_decode", unsafe { sys::quern_int4_linear_decode(device, &args, stream) }),
            false => check("int4_prefill", unsafe { sys::quern_int4_linear_prefill(device, &args, stream) }),
        }
    }

    fn head(&self, x: &CudaAct, (weight, k, n): (u64, usize, usize), out: &CudaAct) -> Result<(), CudaError> {
        if out.element != Element::F32 {
            let detail = "a plain layer can only be the output head".to_owned();
            return Err(CudaError { op: "head_decode", detail });
        }
        let args = sys::QuernHead {
            weight: pointer(weight),
            x: pointer(x.address),
            logits: pointer(out.address).cast(),
            m: x.rows as i32,
            k: k as i32,
            v: n as i32,
            ldx: x.cols as i32,
            ldo: out.cols as i32,
        };
        // SAFETY: both matrices have their rows.
        let status = unsafe { sys::quern_head_decode(&self.gpu.device, &args, self.gpu.stream_pointer()) };
        check("head_decode", status)
    }
}
