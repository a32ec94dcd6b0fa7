//! The rotary base of one sequence. Called by the executor when a sequence starts; the base stays
//! with the sequence however long it grows, so that its cached keys stay valid.

use crate::config::RopeConfig;

/// Rotary base of a sequence whose prompt has `prompt_length` tokens: `theta`, or with dynamic NTK
/// `theta * alpha^(dim / (dim - 2))`. Alpha is that of Qwen v1's `modeling_qwen.py`, or for the scaling "dynamic" that of
/// transformers for the model's positions doubled as often as the prompt needs: the sequence may then grow that far with
/// the keys that it has, and prompts of about the same length may share a beginning.
pub fn theta(rope: &RopeConfig, prompt_length: usize) -> f64 {
    let alpha = match (rope.ntk_seq_length, rope.dynamic_ntk) {
        (Some(seq_length), _) => ntk_alpha(prompt_length, seq_length),
        (None, Some(ntk)) => ntk.factor * stretch(prompt_length, ntk.positions) - (ntk.factor - 1.0),
        (None, None) => return rope.theta,
    };
    // With two dimensions there is one frequency, base^0: the base does not matter.
    match rope.dim {
        0..=2 => rope.theta,
        dim => rope.theta * alpha.powf(dim as f64 / (dim as f64 - 2.0)),
    }
}

/// `max(2^ceil(log2(L / seq_length) + 1) - 1, 1)`
fn ntk_alpha(prompt_length: usize, seq_length: usize) -> f64 {
    let doublings = (prompt_length as f64 / seq_length as f64).log2() + 1.0;
    (doublings.ceil().exp2() - 1.0).max(1.0)
}

/// The smallest power of two times `positions` that holds the prompt, over `positions`.
fn stretch(prompt_length: usize, positions: usize) -> f64 {
    let doublings = (prompt_length as f64 / positions as f64).log2();
    doublings.ceil().exp2().max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DynamicNtk;

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
        let plain = RopeConfig::plain(64, 1e4);
        assert_eq!(theta(&plain, 100_000), 1e4);
        let ntk = RopeConfig { ntk_seq_length: Some(2048), ..plain.clone() };
        assert_eq!(theta(&ntk, 2048), 1e4);
        let expected = 1e4 * 3f64.powf(64.0 / 62.0);
        assert!((theta(&ntk, 3000) / expected - 1.0).abs() < 1e-12);
    }

    #[test]
    fn dynamic_scaling_begins_behind_the_model_s_positions() {
        let ntk = DynamicNtk { factor: 4.0, positions: 2048 };
        let rope = RopeConfig { dynamic_ntk: Some(ntk), ..RopeConfig::plain(64, 1e4) };
        for (prompt_length, alpha) in
            [(0, 1.0), (1, 1.0), (2048, 1.0), (2049, 5.0), (4096, 5.0), (4097, 13.0)]
        {
            let expected = 1e4 * f64::powf(alpha, 64.0 / 62.0);
            assert!((theta(&rope, prompt_length) / expected - 1.0).abs() < 1e-12, "{prompt_length}");
        }
    }
}
