//! Linear layers on the GPU: int4 in the packed layout, with the kernel that suits the number of rows, and dense ones in
//! float16, the output head among them. Called by `CudaOps`; knows sizes and addresses, never models.

use std::collections::HashMap;

use super::{CudaAct, CudaOps, Element, F16, pointer};
use crate::cuda::arena::Arena;
use crate::cuda::driver::{CudaError, check};
use crate::cuda::sys;
use crate::error::LoadError;

/// Most rows of the int4 decode kernel.
const DECODE_ROWS: usize = 16;
/// Rows of a dense layer whose sums are kept at once.
const DENSE_ROWS: usize = 256;
/// Most rows of a dense layer for which the output head's kernels are best, on `DENSE_CAPABILITY`; elsewhere there is no other.
const FEW_DENSE_ROWS: usize = 64;
/// Compute capability that has a kernel for many rows.
const DENSE_CAPABILITY: i32 = 90;
/// Most rows with which products wait for memory rather than compute.
const PREFETCH_ROWS: usize = 64;
/// Of the next matrix, brought to L2 while a product ends: what memory delivers meanwhile.
const PREFETCH_BYTES: u64 = 12 << 20;

/// A packed layer.
pub enum CudaLinear {
    Int4 {
        weight: sys::QuernInt4,
        /// float16 `[N]`, or 0.
        bias: u64,
        /// int32 `[K]`, the input feature of each row, or 0: in order.
        inputs: u64,
    },
    /// float16 `[N, K]`, bias float16 `[N]` or 0.
    Dense { address: u64, bias: u64, k: usize, n: usize },
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
    /// Widest dense layer that is not the output head.
    dense_columns: usize,
    /// Sums of `DENSE_ROWS` rows of it, float32.
    dense: u64,
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
        if self.dense_columns > 0 {
            self.dense = arena.take("dense products", DENSE_ROWS * self.dense_columns * size_of::<f32>())?;
        }
        Ok(())
    }

    /// Notes a dense layer that `allocate` will make room for.
    pub fn note_dense(&mut self, columns: usize) {
        self.dense_columns = self.dense_columns.max(columns);
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

    /// Whether a layer of the model is dense, and not the output head.
    pub fn has_dense(&self) -> bool {
        self.dense_columns > 0
    }

    /// Forgets the addresses, not the shapes.
    pub fn clear(&mut self) {
        self.decode.clear();
        self.prefill = 0;
        self.gathered = 0;
        self.dense = 0;
    }
}

/// Which matrix is multiplied after which: they are loaded in the order in which a step needs them.
#[derive(Default)]
pub(super) struct Order {
    last: u64,
    /// By the address of the one before.
    next: HashMap<u64, sys::QuernInt4>,
}

impl Order {
    pub fn note(&mut self, weight: &sys::QuernInt4) {
        self.next.insert(self.last, *weight);
        self.last = weight.tiles as u64;
    }

    /// Of the matrix after the one at `tiles`; nothing after the last one.
    fn prefetch(&self, tiles: u64) -> sys::QuernPrefetch {
        let none = sys::QuernPrefetch::default();
        // SAFETY: a function of the matrix's address and sizes.
        self.next.get(&tiles).map_or(none, |next| unsafe { sys::quern_int4_prefetch(next, PREFETCH_BYTES) })
    }
}

impl CudaOps {
    /// `out = epilogue(x W + b)`, where x may carry a norm.
    pub(super) fn multiply(
        &self,
        x: &CudaAct,
        layer: &CudaLinear,
        out: &CudaAct,
        epilogue: sys::QuernEpilogue,
    ) -> Result<(), CudaError> {
        self.multiply_carrying(x, layer, out, (epilogue, self.norm.read(&self.places.carry, x)))
    }

    /// The same with a norm to be carried, by int4 layers alone.
    pub(super) fn multiply_carrying(
        &self,
        x: &CudaAct,
        layer: &CudaLinear,
        out: &CudaAct,
        (epilogue, carry): (sys::QuernEpilogue, sys::QuernCarry),
    ) -> Result<(), CudaError> {
        match layer {
            CudaLinear::Int4 { weight, bias, inputs: 0 } => {
                self.int4((x.address, x.rows, x.cols), (weight, *bias), out, (epilogue, carry))
            }
            CudaLinear::Int4 { weight, bias, inputs } => {
                let cols = weight.k as usize;
                let gathered = self.gather_columns(x, *inputs, cols)?;
                self.int4((gathered, x.rows, cols), (weight, *bias), out, (epilogue, carry))
            }
            &CudaLinear::Dense { address, bias: 0, k, n } if epilogue == sys::QUERN_STORE_F32 => {
                let rows = Rows { x: x.address, out: out.address, rows: x.rows };
                self.head((address, k, n), (rows, x.cols, out.cols))
            }
            &CudaLinear::Dense { address, bias, k, n } => {
                let has_kernel =
                    self.gpu.device.compute_capability == DENSE_CAPABILITY && n.is_multiple_of(16);
                match has_kernel && x.rows > FEW_DENSE_ROWS {
                    true => self.dense_prefill(x, (address, bias, k, n), out, epilogue),
                    false => self.dense(x, (address, bias, k, n), out, epilogue),
                }
            }
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
        (epilogue, carry): (sys::QuernEpilogue, sys::QuernCarry),
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
            prefetch: match rows <= PREFETCH_ROWS && epilogue != sys::QUERN_STORE_F16 {
                true => self.order.prefetch(weight.tiles as u64),
                // Attention follows, and reads more than L2 holds.
                false => sys::QuernPrefetch::default(),
            },
            carry,
        };
        let (device, stream) = (&self.gpu.device, self.gpu.stream_pointer());
        // SAFETY: the matrices have these rows and columns (the entry point checks them against the weight's),
        // and one stream uses the workspaces.
        match decodes {
            true => check("int4_decode", unsafe { sys::quern_int4_linear_decode(device, &args, stream) }),
            false => check("int4_prefill", unsafe { sys::quern_int4_linear_prefill(device, &args, stream) }),
        }
    }

    fn dense_prefill(
        &self,
        x: &CudaAct,
        (weight, bias, k, n): (u64, u64, usize, usize),
        out: &CudaAct,
        epilogue: sys::QuernEpilogue,
    ) -> Result<(), CudaError> {
        let args = sys::QuernDense {
            weight: pointer(weight),
            x: pointer(x.address),
            bias: pointer(bias),
            out: pointer(out.address),
            workspace: pointer(self.places.workspaces.prefill),
            m: x.rows as i32,
            k: k as i32,
            n: n as i32,
            ldx: x.cols as i32,
            ldo: out.cols as i32,
            epilogue: epilogue as i32,
        };
        // SAFETY: the matrices have these rows and columns, and one stream uses the workspace.
        let status = unsafe { sys::quern_dense_linear(&self.gpu.device, &args, self.gpu.stream_pointer()) };
        check("dense_linear", status)
    }

    /// A few rows at a time: their sums in float32, then what the layer's output is made of them.
    fn dense(
        &self,
        x: &CudaAct,
        (weight, bias, k, n): (u64, u64, usize, usize),
        out: &CudaAct,
        epilogue: sys::QuernEpilogue,
    ) -> Result<(), CudaError> {
        let sums = self.places.workspaces.dense;
        if sums == 0 || n > self.places.workspaces.dense_columns {
            let detail = format!("no room was planned for a dense layer of {n} outputs");
            return Err(CudaError { op: "dense layer", detail });
        }
        let element = if out.element == Element::F32 { 4 } else { F16 };
        for first in (0..x.rows).step_by(DENSE_ROWS) {
            let rows = DENSE_ROWS.min(x.rows - first);
            let from = Rows { x: x.address + (first * x.cols * F16) as u64, out: sums, rows };
            self.head((weight, k, n), (from, x.cols, n))?;
            let args = sys::QuernDenseOutput {
                sums: pointer(sums).cast(),
                bias: pointer(bias),
                out: pointer(out.address + (first * out.cols * element) as u64),
                rows: rows as i32,
                n: n as i32,
                ld_sums: n as i32,
                ldo: out.cols as i32,
                epilogue: epilogue as i32,
            };
            // SAFETY: the sums of these rows were just written, and `out` has as many rows from there on.
            let status =
                unsafe { sys::quern_dense_output(&self.gpu.device, &args, self.gpu.stream_pointer()) };
            check("dense_output", status)?;
        }
        Ok(())
    }

    /// `out = x W^T` in float32; row distances `ldx` and `ldo`.
    fn head(
        &self,
        (weight, k, n): (u64, usize, usize),
        (at, ldx, ldo): (Rows, usize, usize),
    ) -> Result<(), CudaError> {
        let args = sys::QuernHead {
            weight: pointer(weight),
            x: pointer(at.x),
            logits: pointer(at.out).cast(),
            m: at.rows as i32,
            k: k as i32,
            v: n as i32,
            ldx: ldx as i32,
            ldo: ldo as i32,
        };
        // SAFETY: both matrices have their rows.
        let status = unsafe { sys::quern_head_decode(&self.gpu.device, &args, self.gpu.stream_pointer()) };
        check("head_decode", status)
    }
}

/// Where some rows are read and written.
struct Rows {
    x: u64,
    out: u64,
    rows: usize,
}
