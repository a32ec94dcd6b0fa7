//! The `Simd` vocabulary on AVX-512 F/BW/VL/DQ with VNNI: one register a vector.
//! Made only by `detect`; nothing else may construct an `Avx512`.

use super::{Kernel, Simd};
use std::arch::x86_64::*;

/// Proof that the processor has AVX-512 F, BW, VL, DQ, VNNI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Avx512(());

impl Avx512 {
    pub fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni");
        all.then_some(Avx512(()))
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn compiled<K: Kernel>(s: Avx512, kernel: K) -> K::Output {
    kernel.run(s)
}

/// 16 lanes folded to 4.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn fold(v: __m512) -> __m128 {
    let x = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
    _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x))
}

/// An intrinsic that touches registers only.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: `self` proves that the processor has the instruction; registers only.
        unsafe { $e }
    };
}
/// An intrinsic that reads or writes exactly the array behind the reference it is given.
macro_rules! mem {
    ($e:expr) => {
        // SAFETY: `self` proves the instruction; the reference is to an array of the vector's size and
        // the intrinsic allows any alignment.
        unsafe { $e }
    };
}

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        op!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> __m512 {
        mem!(_mm512_loadu_ps(x.as_ptr()))
    }
    #[inline(always)]
    fn store(self, v: __m512, to: &mut [f32; 16]) {
        mem!(_mm512_storeu_ps(to.as_mut_ptr(), v))
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 32]) -> __m512 {
        mem!(_mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 32]) -> __m512 {
        mem!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(
            x.as_ptr().cast()
        )))))
    }
    #[inline(always)]
    fn load_f32_bytes(self, x: &[u8; 64]) -> __m512 {
        mem!(_mm512_loadu_ps(x.as_ptr().cast()))
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        op!({
            let x = fold(v);
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        })
    }
    #[inline(always)]
    fn sums(self, v: [__m512; 4]) -> [f32; 4] {
        let mut out = [0.0; 4];
        // SAFETY: `self` proves the instructions; the store fills `out`.
        unsafe {
            _mm_storeu_ps(
                out.as_mut_ptr(),
                super::avx2::fold4(fold(v[0]), fold(v[1]), fold(v[2]), fold(v[3])),
            )
        };
        out
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512i {
        op!(_mm512_cvt_roundps_epi32::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn to_f32(self, a: __m512i) -> __m512 {
        op!(_mm512_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn exp2i(self, n: __m512i) -> __m512 {
        op!(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(n, _mm512_set1_epi32(127)))))
    }
    #[inline(always)]
    fn isplat(self, x: u32) -> __m512i {
        op!(_mm512_set1_epi32(x as i32))
    }
    #[inline(always)]
    fn iload(self, x: &[u8; 64]) -> __m512i {
        mem!(_mm512_loadu_si512(x.as_ptr().cast()))
    }
    #[inline(always)]
    fn istore(self, a: __m512i, to: &mut [u8; 64]) {
        mem!(_mm512_storeu_si512(to.as_mut_ptr().cast(), a))
    }
    #[inline(always)]
    fn add_bytes(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_add_epi8(a, b))
    }
    #[inline(always)]
    fn widen_u8(self, x: &[u8; 16]) -> __m512i {
        mem!(_mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast())))
    }
    #[inline(always)]
    fn low_nibbles(self, a: __m512i) -> __m512i {
        op!(_mm512_and_si512(a, _mm512_set1_epi8(15)))
    }
    #[inline(always)]
    fn high_nibbles(self, a: __m512i) -> __m512i {
        op!(_mm512_and_si512(_mm512_srli_epi32::<4>(a), _mm512_set1_epi8(15)))
    }
    #[inline(always)]
    fn dot_bytes(self, acc: __m512i, w: __m512i, d: __m512i) -> __m512i {
        op!(_mm512_dpbusd_epi32(acc, w, d))
    }
    #[inline(always)]
    fn dot_words(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_dpwssd_epi32(acc, a, b))
    }
    #[inline(always)]
    fn shift_add(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_add_epi32(_mm512_slli_epi32::<8>(a), b))
    }
    #[inline(always)]
    fn digits(self, a: __m512i) -> __m512i {
        op!({
            let bias = _mm512_set1_epi32(0x0080_8080);
            let bytes = _mm512_xor_si512(_mm512_add_epi32(a, bias), bias);
            let order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, -1, -1, -1, -1);
            _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(order))
        })
    }
    #[inline(always)]
    fn store_digits(self, planes: __m512i, to: &mut [u32; 12]) {
        // SAFETY: `self` proves the instructions; the mask keeps the store to the 12 words of `to`.
        unsafe {
            let order = _mm512_setr_epi32(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 0, 0, 0, 0);
            let packed = _mm512_permutexvar_epi32(order, planes);
            _mm512_mask_storeu_epi32(to.as_mut_ptr().cast(), 0x0fff, packed);
        }
    }
    #[inline(always)]
    fn to_array(self, a: __m512i) -> [i32; 16] {
        let mut out = [0; 16];
        mem!(_mm512_storeu_si512(out.as_mut_ptr().cast(), a));
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
