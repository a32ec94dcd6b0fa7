//! Norms, SiLU, embedding rows: everything that works on one row at a time.
//!
//! `CpuOps` calls these for all rows of a matrix, through `each_row`. A row is one task's work, so its
//! result cannot depend on the others.

use super::math::exp;
use super::simd::{Kernel, LANES, Simd, load_partial, store_partial};
use super::stored::{BF16, F16, F32, Stored};
use crate::weights::DType;

/// `out = x / sqrt(mean(x^2) + eps) * weight`, all `[hidden]`; squares are summed by lane, then by
/// `Simd::sum`.
pub struct RmsNorm<'a> {
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub eps: f32,
    pub out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut squares = s.splat(0.0);
        let (whole, rest) = self.x.as_chunks::<LANES>();
        for x in whole {
            let x = s.load(x);
            squares = s.fma(x, x, squares);
        }
        let x = load_partial(s, rest);
        squares = s.fma(x, x, squares);
        let mean = s.sum(squares) / self.x.len() as f32;
        let factor = 1.0 / (mean + self.eps).sqrt();
        for ((out, x), weight) in self.out.iter_mut().zip(self.x).zip(self.weight) {
            *out = x * factor * weight;
        }
    }
}

/// `residual += delta`.
pub struct Add<'a> {
    pub residual: &'a mut [f32],
    pub delta: &'a [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (residual, delta) in self.residual.iter_mut().zip(self.delta) {
            *residual += delta;
        }
    }
}

/// `out = gate / (1 + e^-gate) * up`.
pub struct SiluMul<'a> {
    pub gate: &'a [f32],
    pub up: &'a [f32],
    pub out: &'a mut [f32],
}

impl Kernel for SiluMul<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (gates, gate_rest) = self.gate.as_chunks::<LANES>();
        let (ups, up_rest) = self.up.as_chunks::<LANES>();
        let (outs, out_rest) = self.out.as_chunks_mut::<LANES>();
        for ((out, gate), up) in outs.iter_mut().zip(gates).zip(ups) {
            s.store(silu_mul(s, s.load(gate), s.load(up)), out);
        }
        if !out_rest.is_empty() {
            store_partial(s, silu_mul(s, load_partial(s, gate_rest), load_partial(s, up_rest)), out_rest);
        }
    }
}

#[inline(always)]
fn silu_mul<S: Simd>(s: S, gate: S::F, up: S::F) -> S::F {
    let below = s.add(s.splat(1.0), exp(s, s.sub(s.splat(0.0), gate)));
    s.mul(s.div(gate, below), up)
}

/// A stored row as float32.
pub struct Widen<'a> {
    pub row: &'a [u8],
    pub dtype: DType,
    pub out: &'a mut [f32],
}

impl Kernel for Widen<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.dtype {
            DType::F16 => widen::<S, F16>(s, self.row, self.out),
            DType::BF16 => widen::<S, BF16>(s, self.row, self.out),
            DType::F32 | DType::I16 | DType::I32 => widen::<S, F32>(s, self.row, self.out),
        }
    }
}

#[inline(always)]
fn widen<S: Simd, W: Stored>(s: S, row: &[u8], out: &mut [f32]) {
    let (whole, rest) = W::chunks(row);
    let (out_whole, out_rest) = out.as_chunks_mut::<LANES>();
    for (out, chunk) in out_whole.iter_mut().zip(whole) {
        s.store(W::load(s, chunk), out);
    }
    if !out_rest.is_empty() {
        store_partial(s, W::load_rest(s, rest), out_rest);
    }
}
