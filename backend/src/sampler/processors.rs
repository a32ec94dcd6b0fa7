//! The first changes to a row of logits: what a client adds to single tokens, and the tokens that a
//! constraint rules out. Called by `Sampler`, which has seen that the logits are finite.

/// Adds each token's bias; ids beyond the vocabulary have none.
pub fn add_bias(logits: &mut [f32], bias: &[(u32, f32)]) {
    for &(id, value) in bias {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit += value;
        }
    }
}

/// Removes (-inf) every token whose bit is not set; nothing when `allowed` is empty.
pub fn keep_allowed(logits: &mut [f32], allowed: &[u8]) {
    if allowed.is_empty() {
        return;
    }
    let bits = allowed.iter().copied().chain(std::iter::repeat(0));
    for (eight, byte) in logits.chunks_mut(8).zip(bits) {
        match byte {
            0 => eight.fill(f32::NEG_INFINITY),
            0xff => {}
            _ => {
                for (i, logit) in eight.iter_mut().enumerate() {
                    if byte >> i & 1 == 0 {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_choose_tokens() {
        const GONE: f32 = f32::NEG_INFINITY;
        for (allowed, expected) in [
            (&[][..], vec![1.0; 19]),
            (&[0xff, 0xff, 0xff, 0xff], vec![1.0; 19]),
            (&[0, 1, 4, 0], (0..19).map(|i| if [8, 18].contains(&i) { 1.0 } else { GONE }).collect()),
            (&[3], (0..19).map(|i| if i < 2 { 1.0 } else { GONE }).collect()),
        ] {
            let mut logits = vec![1.0; 19];
            keep_allowed(&mut logits, allowed);
            assert_eq!(logits, expected, "{allowed:?}");
        }
    }

    #[test]
    fn biases_are_added_where_there_is_a_token() {
        let mut logits = [1.0, 2.0, 3.0];
        add_bias(&mut logits, &[(0, -100.0), (2, 0.5), (3, 7.0)]);
        assert_eq!(logits, [-99.0, 2.0, 3.5]);
    }
}
