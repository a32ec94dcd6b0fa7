//! The rotary base of one sequence. Called by the executor when a sequence starts; the base stays
//! with the sequence however long it grows, so that its cached keys stay valid.

use crate::config::RopeConfig;

/// Rotary base of a sequence whose prompt has `prompt_length` tokens: `theta`, or with Qwen v1's
/// dynamic NTK (`modeling_qwen.py`) `theta * alpha^(dim / (dim - 2))`.
pub fn theta(rope: &RopeConfig, prompt_length: usize) -> f64 {
    match rope.ntk_seq_length {
        // With two dimensions there is one frequency, base^0: the base does not matter.
        Some(seq_length) if rope.dim > 2 => {
            let dim = rope.dim as f64;
            rope.theta * ntk_alpha(prompt_length, seq_length).powf(dim / (dim - 2.0))
        }
        _ => rope.theta,
    }
}

/// `max(2^ceil(log2(L / seq_length) + 1) - 1, 1)`
fn ntk_alpha(prompt_length: usize, seq_length: usize) -> f64 {
    let doublings = (prompt_length as f64 / seq_length as f64).log2() + 1.0;
    (doublings.ceil().exp2() - 1.0).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_grows_at_powers_of_two() {
        let cases = [
            (1, 1.0),
            (2047, 1.0),
            (2048, 1.0),
            (2049, 3.0),
            (4096, 3.0),
            (4097, 7.0),
            (8192, 7.0),
            (8193, 15.0),
        ];
        for (prompt_length, alpha) in cases {
            assert_eq!(ntk_alpha(prompt_length, 2048), alpha, "prompt of {prompt_length}");
        }
        assert_eq!(ntk_alpha(144, 16), 31.0);
        assert_eq!(ntk_alpha(0, 16), 1.0);
    }

    #[test]
    fn theta_follows_alpha_only_with_dynamic_ntk() {
        let plain = RopeConfig { dim: 64, theta: 1e4, ntk_seq_length: None, logn_seq_length: None };
        assert_eq!(theta(&plain, 100_000), 1e4);
        let ntk = RopeConfig { ntk_seq_length: Some(2048), ..plain };
        assert_eq!(theta(&ntk, 2048), 1e4);
        let expected = 1e4 * 3f64.powf(64.0 / 62.0);
        assert!((theta(&ntk, 3000) / expected - 1.0).abs() < 1e-12);
    }
}
