//! One vector vocabulary for every kernel: 16 float32 or 16 int32 lanes, whatever the processor.
//!
//! A kernel is written once, generic over `Simd`, and compiled once a level. All levels do the same
//! IEEE operations on the same 16 lanes in the same order, so their results are bit-identical; the
//! tests rely on it. A value of an implementing type is the proof that the processor has the
//! instructions, which is why the methods are safe to call. Everything here must be
//! `#[inline(always)]`: the instructions are only emitted inside `Level::run`'s compiled copy.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod portable;

pub use portable::Portable;

/// Lanes of a vector.
pub const LANES: usize = 16;

/// Sixteen lanes of arithmetic.
pub trait Simd: Copy + Send + Sync + 'static {
    /// 16 float32.
    type F: Copy;
    /// 16 int32, also seen as 16 x 4 bytes or 16 x 2 int16.
    type I: Copy;

    fn splat(self, x: f32) -> Self::F;
    fn load(self, x: &[f32; 16]) -> Self::F;
    fn store(self, v: Self::F, to: &mut [f32; 16]);
    /// 16 little-endian float16.
    fn load_f16(self, x: &[u8; 32]) -> Self::F;
    /// 16 little-endian bfloat16.
    fn load_bf16(self, x: &[u8; 32]) -> Self::F;
    /// 16 little-endian float32 at any alignment.
    fn load_f32_bytes(self, x: &[u8; 64]) -> Self::F;
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`: a NaN in either gives `b`.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// Sum of the lanes in one fixed order: halves are folded onto each other, 16, 8, 4, 2, 1.
    fn sum(self, v: Self::F) -> f32;
    /// `sum` of four vectors.
    fn sums(self, v: [Self::F; 4]) -> [f32; 4];
    /// Nearest integer, ties to even; unspecified outside int32.
    fn round(self, a: Self::F) -> Self::I;
    fn to_f32(self, a: Self::I) -> Self::F;
    /// `2^n` for n in -126..=127.
    fn exp2i(self, n: Self::I) -> Self::F;

    fn isplat(self, x: u32) -> Self::I;
    fn iload(self, x: &[u8; 64]) -> Self::I;
    fn istore(self, a: Self::I, to: &mut [u8; 64]);
    /// Bytewise, without carries between bytes.
    fn add_bytes(self, a: Self::I, b: Self::I) -> Self::I;
    /// Sixteen bytes, zero-extended into the lanes.
    fn widen_u8(self, x: &[u8; 16]) -> Self::I;
    /// Low four bits of every byte.
    fn low_nibbles(self, a: Self::I) -> Self::I;
    /// High four bits of every byte.
    fn high_nibbles(self, a: Self::I) -> Self::I;
    /// In every lane `acc + sum of 4 (u8 w * i8 d)`. `w` must be at most 127 (int16 sums must not saturate).
    fn dot_bytes(self, acc: Self::I, w: Self::I, d: Self::I) -> Self::I;
    /// In every lane `acc + sum of 2 (i16 a * i16 b)`.
    fn dot_words(self, acc: Self::I, a: Self::I, b: Self::I) -> Self::I;
    /// `(a << 8) + b`.
    fn shift_add(self, a: Self::I, b: Self::I) -> Self::I;
    /// Splits 24-bit integers into balanced signed bytes `a = d2 * 65536 + d1 * 256 + d0`, regrouped so
    /// that lane `4i + t` holds digit `t` of lanes `4i..4i+4`; lanes `4i + 3` are zero.
    fn digits(self, a: Self::I) -> Self::I;
    /// Stores the result of `digits` without its zero lanes.
    fn store_digits(self, planes: Self::I, to: &mut [u32; 12]);
    fn to_array(self, a: Self::I) -> [i32; 16];

    /// Asks for the cache line of the first byte; nothing else happens.
    fn prefetch(self, bytes: &[u8]);

    /// Runs `kernel` compiled for this level.
    fn run<K: Kernel>(self, kernel: K) -> K::Output;
}

/// Work that is generic over the level; `run` and all it calls must be `#[inline(always)]`.
pub trait Kernel {
    type Output;
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// The instruction sets there are kernels for, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    Portable(Portable),
}

impl Level {
    /// The levels that this processor can run, best first; the portable one is always last.
    pub fn available() -> Vec<Level> {
        let mut levels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            levels.extend(avx512::Avx512::detect().map(Level::Avx512));
            levels.extend(avx2::Avx2::detect().map(Level::Avx2));
        }
        levels.push(Level::Portable(Portable));
        levels
    }

    pub fn best() -> Level {
        Self::available()[0]
    }

    /// For logs.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(_) => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_) => "avx2",
            Level::Portable(_) => "portable",
        }
    }

    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(s) => s.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(s) => s.run(kernel),
            Level::Portable(s) => s.run(kernel),
        }
    }
}

/// `x` as a vector, zeros behind its end; `x` must not be longer than 16.
#[inline(always)]
pub fn load_partial<S: Simd>(s: S, x: &[f32]) -> S::F {
    let mut a = [0.0; 16];
    a[..x.len()].copy_from_slice(x);
    s.load(&a)
}

/// Writes the first `to.len()` lanes; at most 16.
#[inline(always)]
pub fn store_partial<S: Simd>(s: S, v: S::F, to: &mut [f32]) {
    if let Ok(whole) = <&mut [f32; 16]>::try_from(&mut *to) {
        return s.store(v, whole);
    }
    let mut a = [0.0; 16];
    s.store(v, &mut a);
    to.copy_from_slice(&a[..to.len()]);
}
