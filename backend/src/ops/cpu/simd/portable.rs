//! The `Simd` vocabulary in plain Rust: any processor, and the definition that the tests hold the
//! other levels to. No unsafe code.

use super::{Kernel, Simd};
use half::{bf16, f16};
use std::array::from_fn;

/// Needs nothing of the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Portable;

/// The four bytes of a lane.
#[inline(always)]
fn lane(x: &[u8], i: usize) -> [u8; 4] {
    [x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]]
}

impl Simd for Portable {
    type F = [f32; 16];
    type I = [i32; 16];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; 16]
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> Self::F {
        *x
    }
    #[inline(always)]
    fn store(self, v: Self::F, to: &mut [f32; 16]) {
        *to = v;
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 32]) -> Self::F {
        from_fn(|i| f16::from_le_bytes([x[2 * i], x[2 * i + 1]]).to_f32())
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 32]) -> Self::F {
        from_fn(|i| bf16::from_le_bytes([x[2 * i], x[2 * i + 1]]).to_f32())
    }
    #[inline(always)]
    fn load_f32_bytes(self, x: &[u8; 64]) -> Self::F {
        from_fn(|i| f32::from_le_bytes(lane(x, i)))
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn sum(self, mut v: Self::F) -> f32 {
        for width in [8, 4, 2, 1] {
            for i in 0..width {
                v[i] += v[i + width];
            }
        }
        v[0]
    }
    #[inline(always)]
    fn sums(self, v: [Self::F; 4]) -> [f32; 4] {
        v.map(|v| self.sum(v))
    }
    #[inline(always)]
    fn round(self, a: Self::F) -> Self::I {
        from_fn(|i| a[i].round_ties_even() as i32)
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::F {
        from_fn(|i| a[i] as f32)
    }
    #[inline(always)]
    fn exp2i(self, n: Self::I) -> Self::F {
        from_fn(|i| f32::from_bits((n[i].wrapping_add(127) as u32) << 23))
    }
    #[inline(always)]
    fn isplat(self, x: u32) -> Self::I {
        [x as i32; 16]
    }
    #[inline(always)]
    fn iload(self, x: &[u8; 64]) -> Self::I {
        from_fn(|i| i32::from_le_bytes(lane(x, i)))
    }
    #[inline(always)]
    fn istore(self, a: Self::I, to: &mut [u8; 64]) {
        for (to, a) in to.as_chunks_mut::<4>().0.iter_mut().zip(a) {
            *to = a.to_le_bytes();
        }
    }
    #[inline(always)]
    fn add_bytes(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| {
            let (a, b) = (a[i].to_le_bytes(), b[i].to_le_bytes());
            i32::from_le_bytes(from_fn(|k| a[k].wrapping_add(b[k])))
        })
    }
    #[inline(always)]
    fn widen_u8(self, x: &[u8; 16]) -> Self::I {
        from_fn(|i| i32::from(x[i]))
    }
    #[inline(always)]
    fn low_nibbles(self, a: Self::I) -> Self::I {
        from_fn(|i| a[i] & 0x0f0f_0f0f)
    }
    #[inline(always)]
    fn high_nibbles(self, a: Self::I) -> Self::I {
        from_fn(|i| (a[i] >> 4) & 0x0f0f_0f0f)
    }
    #[inline(always)]
    fn dot_bytes(self, acc: Self::I, w: Self::I, d: Self::I) -> Self::I {
        from_fn(|i| {
            let (w, d) = (w[i].to_le_bytes(), d[i].to_le_bytes());
            (0..4).fold(acc[i], |sum, b| sum + i32::from(w[b]) * i32::from(d[b] as i8))
        })
    }
    #[inline(always)]
    fn dot_words(self, acc: Self::I, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| {
            let low = i32::from(a[i] as i16) * i32::from(b[i] as i16);
            let high = i32::from((a[i] >> 16) as i16) * i32::from((b[i] >> 16) as i16);
            acc[i] + low + high
        })
    }
    #[inline(always)]
    fn shift_add(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| (a[i] << 8) + b[i])
    }
    #[inline(always)]
    fn digits(self, a: Self::I) -> Self::I {
        let bytes = a.map(|x| ((x + 0x0080_8080) ^ 0x0080_8080).to_le_bytes());
        from_fn(|i| match i % 4 {
            3 => 0,
            digit => i32::from_le_bytes(from_fn(|k| bytes[i - digit + k][digit])),
        })
    }
    #[inline(always)]
    fn store_digits(self, planes: Self::I, to: &mut [u32; 12]) {
        for (i, word) in to.iter_mut().enumerate() {
            *word = planes[i / 3 * 4 + i % 3] as u32;
        }
    }
    #[inline(always)]
    fn to_array(self, a: Self::I) -> [i32; 16] {
        a
    }
    #[inline(always)]
    fn prefetch(self, _: &[u8]) {}
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
}
