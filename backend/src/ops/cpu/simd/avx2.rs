//! The `Simd` vocabulary on AVX2 with FMA and F16C: two registers a vector, low lanes first.
//! Made only by `detect`; nothing else may construct an `Avx2`.

use super::{Kernel, Simd};
use std::arch::x86_64::*;

/// Proof that the processor has AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Avx2(());

impl Avx2 {
    pub fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        all.then_some(Avx2(()))
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn compiled<K: Kernel>(s: Avx2, kernel: K) -> K::Output {
    kernel.run(s)
}

/// 16 lanes folded to 4.
#[inline]
#[target_feature(enable = "avx2")]
fn fold(v: [__m256; 2]) -> __m128 {
    let x = _mm256_add_ps(v[0], v[1]);
    _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x))
}

/// Four vectors of 4 lanes folded to one lane each: `(x0 + x2) + (x1 + x3)`.
#[inline]
#[target_feature(enable = "sse2")]
pub fn fold4(a: __m128, b: __m128, c: __m128, d: __m128) -> __m128 {
    let ab = _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
    let cd = _mm_add_ps(_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
    _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab))
}

/// The same register-only intrinsic on both halves.
macro_rules! both {
    (|$i:ident| $e:expr) => {{
        // SAFETY: `self` proves that the processor has the instruction; registers only.
        unsafe {
            [
                {
                    let $i = 0usize;
                    $e
                },
                {
                    let $i = 1usize;
                    $e
                },
            ]
        }
    }};
}
/// The same load on both halves of the array behind `p`; `$p` is the half's first byte.
macro_rules! halves {
    ($x:ident, |$p:ident| $e:expr) => {{
        let start = $x.as_ptr().cast::<u8>();
        // SAFETY: `self` proves the instruction; the halves lie inside the array that `$x` refers to,
        // and the intrinsics used allow any alignment.
        unsafe {
            [
                {
                    let $p = start;
                    $e
                },
                {
                    let $p = start.add(size_of_val($x) / 2);
                    $e
                },
            ]
        }
    }};
}

impl Simd for Avx2 {
    type F = [__m256; 2];
    type I = [__m256i; 2];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        both!(|_i| _mm256_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> Self::F {
        halves!(x, |p| _mm256_loadu_ps(p.cast()))
    }
    #[inline(always)]
    fn store(self, v: Self::F, to: &mut [f32; 16]) {
        let p = to.as_mut_ptr();
        // SAFETY: `self` proves the instruction; both halves lie inside `to`; any alignment is allowed.
        unsafe {
            _mm256_storeu_ps(p, v[0]);
            _mm256_storeu_ps(p.add(8), v[1]);
        }
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 32]) -> Self::F {
        halves!(x, |p| _mm256_cvtph_ps(_mm_loadu_si128(p.cast())))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 32]) -> Self::F {
        halves!(x, |p| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(
            p.cast()
        )))))
    }
    #[inline(always)]
    fn load_f32_bytes(self, x: &[u8; 64]) -> Self::F {
        halves!(x, |p| _mm256_loadu_ps(p.cast()))
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        both!(|i| _mm256_add_ps(a[i], b[i]))
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        both!(|i| _mm256_sub_ps(a[i], b[i]))
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        both!(|i| _mm256_mul_ps(a[i], b[i]))
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        both!(|i| _mm256_div_ps(a[i], b[i]))
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        both!(|i| _mm256_fmadd_ps(a[i], b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        both!(|i| _mm256_max_ps(a[i], b[i]))
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        both!(|i| _mm256_min_ps(a[i], b[i]))
    }
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        // SAFETY: `self` proves the instructions; registers only.
        unsafe {
            let x = fold(v);
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        }
    }
    #[inline(always)]
    fn sums(self, v: [Self::F; 4]) -> [f32; 4] {
        let mut out = [0.0; 4];
        // SAFETY: `self` proves the instructions; the store fills `out`.
        unsafe { _mm_storeu_ps(out.as_mut_ptr(), fold4(fold(v[0]), fold(v[1]), fold(v[2]), fold(v[3]))) };
        out
    }
    #[inline(always)]
    fn round(self, a: Self::F) -> Self::I {
        both!(|i| _mm256_cvtps_epi32(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(
            a[i]
        )))
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::F {
        both!(|i| _mm256_cvtepi32_ps(a[i]))
    }
    #[inline(always)]
    fn exp2i(self, n: Self::I) -> Self::F {
        both!(|i| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(
            n[i],
            _mm256_set1_epi32(127)
        ))))
    }
    #[inline(always)]
    fn isplat(self, x: u32) -> Self::I {
        both!(|_i| _mm256_set1_epi32(x as i32))
    }
    #[inline(always)]
    fn iload(self, x: &[u8; 64]) -> Self::I {
        halves!(x, |p| _mm256_loadu_si256(p.cast()))
    }
    #[inline(always)]
    fn istore(self, a: Self::I, to: &mut [u8; 64]) {
        let p = to.as_mut_ptr();
        // SAFETY: `self` proves the instruction; both halves lie inside `to`; any alignment is allowed.
        unsafe {
            _mm256_storeu_si256(p.cast(), a[0]);
            _mm256_storeu_si256(p.add(32).cast(), a[1]);
        }
    }
    #[inline(always)]
    fn add_bytes(self, a: Self::I, b: Self::I) -> Self::I {
        both!(|i| _mm256_add_epi8(a[i], b[i]))
    }
    #[inline(always)]
    fn widen_u8(self, x: &[u8; 16]) -> Self::I {
        halves!(x, |p| _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())))
    }
    #[inline(always)]
    fn low_nibbles(self, a: Self::I) -> Self::I {
        both!(|i| _mm256_and_si256(a[i], _mm256_set1_epi8(15)))
    }
    #[inline(always)]
    fn high_nibbles(self, a: Self::I) -> Self::I {
        both!(|i| _mm256_and_si256(_mm256_srli_epi32::<4>(a[i]), _mm256_set1_epi8(15)))
    }
    #[inline(always)]
    fn dot_bytes(self, acc: Self::I, w: Self::I, d: Self::I) -> Self::I {
        both!(|i| _mm256_add_epi32(
            acc[i],
            _mm256_madd_epi16(_mm256_maddubs_epi16(w[i], d[i]), _mm256_set1_epi16(1))
        ))
    }
    #[inline(always)]
    fn dot_words(self, acc: Self::I, a: Self::I, b: Self::I) -> Self::I {
        both!(|i| _mm256_add_epi32(acc[i], _mm256_madd_epi16(a[i], b[i])))
    }
    #[inline(always)]
    fn shift_add(self, a: Self::I, b: Self::I) -> Self::I {
        both!(|i| _mm256_add_epi32(_mm256_slli_epi32::<8>(a[i]), b[i]))
    }
    #[inline(always)]
    fn digits(self, a: Self::I) -> Self::I {
        both!(|i| {
            let bias = _mm256_set1_epi32(0x0080_8080);
            let order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, -1, -1, -1, -1);
            let bytes = _mm256_xor_si256(_mm256_add_epi32(a[i], bias), bias);
            _mm256_shuffle_epi8(bytes, _mm256_broadcastsi128_si256(order))
        })
    }
    #[inline(always)]
    fn store_digits(self, planes: Self::I, to: &mut [u32; 12]) {
        let words = self.to_array(planes);
        for (three, four) in to.chunks_exact_mut(3).zip(words.chunks_exact(4)) {
            for (t, &f) in three.iter_mut().zip(four) {
                *t = f as u32;
            }
        }
    }
    #[inline(always)]
    fn to_array(self, a: Self::I) -> [i32; 16] {
        let mut out = [0; 16];
        let p = out.as_mut_ptr();
        // SAFETY: `self` proves the instruction; both halves lie inside `out`; any alignment is allowed.
        unsafe {
            _mm256_storeu_si256(p.cast(), a[0]);
            _mm256_storeu_si256(p.add(8).cast(), a[1]);
        }
        out
    }
    #[inline(always)]
    fn prefetch(self, bytes: &[u8]) {
        // SAFETY: a prefetch reads nothing that a program can see, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().cast()) }
    }
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: `self` proves that the processor has the features `compiled` is compiled for.
        unsafe { compiled(self, kernel) }
    }
}
