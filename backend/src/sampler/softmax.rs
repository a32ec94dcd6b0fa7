//! The exponential sums under every probability: a fast float32 `exp` and sums in float64.
//! Called by `choose` and `warp`. Sums run in a fixed order, so equal logits give equal bits.

/// Independent partial sums, so that the compiler can keep them in vector registers.
const LANES: usize = 16;
/// Below this, e^x is a denormal float32; it counts as zero.
const UNDERFLOW: f32 = -87.0;

/// e^x for x <= 0, within 2 ulp; 0 below -87 (and for -inf). Branch-free, so that loops over it
/// become vector code: x = n ln 2 + r, e^r by a polynomial (Cephes' `expf`), 2^n by exponent bits.
#[inline]
pub fn exp(x: f32) -> f32 {
    /// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    const ROUNDER: f32 = 12_582_912.0;
    /// ln 2 in two parts; the first has trailing zeros, so that n * LN2_HIGH is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const POLYNOMIAL: [f32; 6] =
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    let clamped = x.max(UNDERFLOW);
    let rounded = clamped * std::f32::consts::LOG2_E + ROUNDER;
    let n = rounded - ROUNDER;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let tail = POLYNOMIAL.iter().fold(0.0, |sum, c| sum * r + c);
    let fraction = tail * (r * r) + r + 1.0;
    // The low bits of `rounded` count up from those of ROUNDER: n as an integer, without a cast.
    let exponent = rounded.to_bits().wrapping_sub(ROUNDER.to_bits()).wrapping_add(127);
    let power = f32::from_bits(exponent << 23);
    if x < UNDERFLOW { 0.0 } else { fraction * power }
}

/// Sum of `exp(x - max)` over `logits`, in float64.
pub fn exp_sum(logits: &[f32], max: f32) -> f64 {
    let mut lanes = [0f64; LANES];
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        let mut terms = [0f32; LANES];
        for (term, x) in terms.iter_mut().zip(chunk) {
            *term = exp(x - max);
        }
        for (lane, term) in lanes.iter_mut().zip(terms) {
            *lane += f64::from(term);
        }
    }
    let tail: f64 = rest.iter().map(|x| f64::from(exp(x - max))).sum();
    lanes.iter().sum::<f64>() + tail
}

/// The largest value, or `None` when `logits` is empty or any value is NaN or infinite.
pub fn finite_max(logits: &[f32]) -> Option<f32> {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut finite = true;
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
            finite &= x.is_finite();
        }
    }
    let max = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    (finite && rest.iter().all(|x| x.is_finite()) && max.is_finite()).then_some(max)
}

/// The largest value where -inf stands for a token that was removed, or `None` when none is left or any value
/// is NaN or +inf.
pub fn possible_max(logits: &[f32]) -> Option<f32> {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut sound = true;
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
            sound &= x < f32::INFINITY;
        }
    }
    let max = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    (sound && rest.iter().all(|&x| x < f32::INFINITY) && max.is_finite()).then_some(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp_everywhere() {
        for step in 0..=870_000 {
            let x = step as f32 * -1e-4;
            let expected = f64::from(x).exp();
            let got = f64::from(exp(x));
            assert!((got - expected).abs() <= 2.5e-7 * expected, "exp({x}) = {got}, expected {expected}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-87.5), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn exp_sum_agrees_with_the_definition() {
        for n in [1, 15, 16, 17, 100, 1003] {
            let logits: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
            let max = finite_max(&logits).unwrap();
            let expected: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
            assert!((exp_sum(&logits, max) / expected - 1.0).abs() < 1e-6, "{n} logits");
        }
    }

    #[test]
    fn possible_max_knows_removed_tokens() {
        const GONE: f32 = f32::NEG_INFINITY;
        for (logits, expected) in [
            (&[1.0, GONE, 2.0][..], Some(2.0)),
            (&[GONE, GONE], None),
            (&[], None),
            (&[1.0, f32::NAN], None),
            (&[f32::INFINITY, 1.0], None),
        ] {
            assert_eq!(possible_max(logits), expected, "{logits:?}");
        }
    }

    #[test]
    fn finite_max_refuses_what_is_not_finite() {
        for n in [1usize, 16, 37] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in 0..n {
                    let mut logits = vec![-3.0; n];
                    assert_eq!(finite_max(&logits), Some(-3.0));
                    logits[at] = bad;
                    assert_eq!(finite_max(&logits), None, "{bad} at {at} of {n}");
                }
            }
        }
        assert_eq!(finite_max(&[]), None);
    }
}
