//! Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy
//! as 1, 2, 3" (SC 2011). Called by `choose` with the request's seed as key and the position as
//! counter, so that a replayed sequence draws the same numbers. It has no state and must get none.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Golden ratio and sqrt(3) - 1, as 32-bit fractions: the key schedule.
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The 128 random bits that belong to `counter` under `key`.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..ROUNDS {
        if round > 0 {
            key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
        }
        let products = [
            u64::from(MULTIPLIERS[0]) * u64::from(counter[0]),
            u64::from(MULTIPLIERS[1]) * u64::from(counter[2]),
        ];
        let high = products.map(|p| (p >> 32) as u32);
        let low = products.map(|p| p as u32);
        counter = [high[1] ^ counter[1] ^ key[0], low[1], high[0] ^ counter[3] ^ key[1], low[0]];
    }
    counter
}

/// A number in [0, 1), a multiple of 2^-53, that depends on the seed and the position only.
pub fn uniform(seed: u64, position: u64) -> f64 {
    let counter = [position as u32, (position >> 32) as u32, 0, 0];
    let bits = philox4x32(counter, [seed as u32, (seed >> 32) as u32]);
    let word = u64::from(bits[0]) << 32 | u64::from(bits[1]);
    (word >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer vectors published with Random123 (`kat_vectors`, philox4x32 10).
    #[test]
    fn matches_the_published_vectors() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32(counter, key), expected, "counter {counter:x?} key {key:x?}");
        }
    }

    #[test]
    fn uniform_uses_all_bits_of_seed_and_position() {
        let base = uniform(1, 1);
        for (seed, position) in [(2, 1), (1 | 1 << 40, 1), (1, 2), (1, 1 | 1 << 40)] {
            assert_ne!(base, uniform(seed, position), "seed {seed} position {position}");
        }
    }

    #[test]
    fn uniform_is_flat() {
        let mut histogram = [0usize; 10];
        for position in 0..100_000 {
            histogram[(uniform(7, position) * 10.0) as usize] += 1;
        }
        // Standard deviation of a cell is 95; five of them.
        for (cell, &count) in histogram.iter().enumerate() {
            assert!(count.abs_diff(10_000) < 475, "cell {cell}: {count}");
        }
    }
}
