//! Elementary functions on vectors, the same bits on every level.

use super::simd::Simd;

/// Arguments outside are clamped: `e^LOWEST` is just above the smallest normal float32.
const LOWEST: f32 = -87.336;
const HIGHEST: f32 = 88.376;
/// ln 2 in two parts; the first has 10 bits, so that its products with exponents are exact.
const LN2_HIGH: f32 = 0.692_382_8;
const LN2_LOW: f32 = 7.643_680_6e-4;
/// (e^r - 1 - r) / r^2 on [-ln 2 / 2, ln 2 / 2], highest power first: fitted to the least relative error
/// of e^r, which is 3e-9 before rounding.
const POLYNOMIAL: [f32; 5] = [1.381_454e-3, 8.368_745e-3, 4.166_839e-2, 1.666_652_1e-1, 4.999_999_4e-1];

/// `e^x` with a relative error under 2e-7; NaN stays NaN; clamped where float32 would leave its range.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    // In this order both comparisons pass a NaN in x on.
    let x = s.min(s.splat(HIGHEST), s.max(s.splat(LOWEST), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let n_float = s.to_f32(n);
    let r = s.fma(n_float, s.splat(-LN2_HIGH), x);
    let r = s.fma(n_float, s.splat(-LN2_LOW), r);
    let mut p = s.splat(POLYNOMIAL[0]);
    for &c in &POLYNOMIAL[1..] {
        p = s.fma(p, r, s.splat(c));
    }
    let p = s.add(s.fma(p, s.mul(r, r), r), s.splat(1.0));
    s.mul(p, s.exp2i(n))
}
