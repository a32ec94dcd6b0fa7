//! Attention on the GPU: its plan, its arguments, and the two kernels, one for sequences with one new token and
//! one for prompts. Called by `Ops for CudaOps`; knows sizes and addresses, never models.

use super::places::window_argument;
use super::{CudaAct, CudaKv, CudaOps, pointer};
use crate::cuda::driver::{CudaError, check};
use crate::cuda::sys;
use crate::ops::AttentionShape;

impl CudaOps {
    /// How decode attention shares out the work of sequences at `positions`, for each window that layers have; `plans` has
    /// room for `Places::plan_ints`.
    pub fn plan_decode(
        &self,
        positions: &[i32],
        max_tokens: usize,
        plans: &mut [i32],
    ) -> Result<(), CudaError> {
        let shape = self.places.decode_shape(positions.len(), max_tokens);
        for (window, ints) in self.places.plans(plans.len()) {
            let shape = sys::QuernDecodeShape { window, ..shape };
            // SAFETY: one position a span, and as many integers as `quern_decode_plan_ints` says.
            let items = unsafe {
                let plan = plans[ints].as_mut_ptr();
                sys::quern_decode_plan(&self.gpu.device, &shape, positions.as_ptr(), plan)
            };
            if items < 0 {
                let detail = "a sequence is longer than planned".to_owned();
                return Err(CudaError { op: "plan decode", detail });
            }
        }
        Ok(())
    }

    /// Spans `from..` of the step.
    pub(super) fn spans(&self, from: usize, n: usize) -> Result<sys::QuernSpans, CudaError> {
        let (memory, layout) = (self.memory()?, self.layout()?);
        let ints = |offset: usize, index: usize| pointer(memory.inputs + (offset + 4 * index) as u64).cast();
        let stride = layout.shape.table_stride;
        Ok(sys::QuernSpans {
            first_row: ints(layout.first_row, from),
            n_rows: ints(layout.n_rows, from),
            position: ints(layout.position, from),
            block_tables: ints(layout.tables, from * stride),
            n_spans: n as i32,
            table_stride: stride as i32,
        })
    }

    pub(super) fn attention_args(
        &self,
        (qkv, out): (&CudaAct, u64),
        (kv, layer): (&CudaKv, usize),
        spans: sys::QuernSpans,
        shape: &AttentionShape,
    ) -> Result<sys::QuernAttention, CudaError> {
        let memory = self.memory()?;
        Ok(sys::QuernAttention {
            cache: kv.0,
            spans,
            qkv: pointer(qkv.address),
            bias: std::ptr::null(),
            angles: pointer(memory.angles).cast(),
            query_factors: pointer(memory.query_factors).cast(),
            out: pointer(out),
            layer: layer as i32,
            n_heads: shape.n_heads as i32,
            rope_dim: shape.rope_dim as i32,
            window: window_argument(shape.window),
        })
    }

    pub(super) fn decode_attention(&self, args: &sys::QuernAttention) -> Result<(), CudaError> {
        let (memory, layout) = (self.memory()?, self.layout()?);
        // Counters end where the largest bucket's do: what lies behind them is never taken for counters.
        let counters = self.places.decode_counter_bytes(layout.shape.decode_spans, memory.max_tokens);
        let workspace = memory.attention_workspace + (memory.attention_counters - counters) as u64;
        let mut plans = self.places.plans(layout.shape.plan_ints);
        let Some((_, ints)) = plans.find(|(window, _)| *window == args.window) else {
            let detail = format!("no plan for a window of {}", args.window);
            return Err(CudaError { op: "decode_attention", detail });
        };
        let plan = pointer(memory.inputs + (layout.plan + 4 * ints.start) as u64).cast();
        // SAFETY: the arrays hold this step's sizes, the cache all of its blocks, the workspace the largest bucket.
        check("decode_attention", unsafe {
            sys::quern_decode_attention(
                &self.gpu.device,
                args,
                plan,
                pointer(workspace),
                memory.max_tokens as i32,
                self.gpu.stream_pointer(),
            )
        })
    }

    pub(super) fn prefill_attention(&self, args: &sys::QuernAttention) -> Result<(), CudaError> {
        // SAFETY: as above; no span has more rows than that.
        check("prefill_attention", unsafe {
            sys::quern_prefill_attention(
                &self.gpu.device,
                args,
                self.max_prefill_rows as i32,
                self.gpu.stream_pointer(),
            )
        })
    }
}
