//! The fast operations against plain float64 arithmetic, and against themselves: the same bits on every
//! level, for any number of threads and any company of rows.

mod attention;
mod awq;
mod elementwise;
mod plain;
mod pool;
mod sizes;

use super::simd::Level;
use super::{CpuAct, CpuOps};
use crate::ops::ActKind;
use crate::ops::{Allocate, Ops, Pack};
use crate::weights::{DType, Tensor};
use std::sync::Arc;

/// A small generator, the same numbers in every run (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// In -1..1.
    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    /// Like activations: a few elements are far larger than the others.
    pub fn activations(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float() * if self.below(50) == 0 { 100.0 } else { 1.0 }).collect()
    }
}

pub fn tensor(name: &str, dtype: DType, shape: &[usize], bytes: Vec<u8>) -> Tensor {
    let range = 0..bytes.len();
    assert_eq!(bytes.len(), shape.iter().product::<usize>() * dtype.size());
    Tensor { name: name.into(), dtype, shape: shape.to_vec(), data: Arc::new(bytes), range }
}

pub fn float_tensor(dtype: DType, shape: &[usize], values: &[f32]) -> Tensor {
    let bytes = match dtype {
        DType::F16 => values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    };
    tensor("weight", dtype, shape, bytes)
}

pub fn act(ops: &mut CpuOps, cols: usize, values: &[f32]) -> CpuAct {
    let rows = values.len() / cols;
    let mut act = ops.new_act(ActKind::Hidden, rows, cols).unwrap();
    ops.set_rows(&mut act, rows);
    act.values_mut().copy_from_slice(values);
    act
}

/// Every level with one, two and three threads.
pub fn all_ops() -> Vec<CpuOps> {
    let levels = Level::available();
    levels.iter().flat_map(|&level| (1..=3).map(move |n| CpuOps::with_level(n, level))).collect()
}

pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Asserts `|got - want| <= relative * magnitude` elementwise.
pub fn assert_close(got: &[f32], want: &[f64], magnitude: &[f64], relative: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, ((&g, &w), &m)) in got.iter().zip(want).zip(magnitude).enumerate() {
        let error = (f64::from(g) - w).abs();
        assert!(error <= relative * m, "{what}: element {i} is {g}, expected {w}, off by {}", error / m);
    }
}
