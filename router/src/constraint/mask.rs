//! Which tokens may come next: one bit a token. Made by `progress`, carried by the engine, sent to the shard.

use std::sync::Arc;

/// A bit for every row of the model's logits: bit `i % 8` of byte `i / 8` allows token `i`. The length is a
/// multiple of four bytes. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenMask(Arc<[u8]>);

impl TokenMask {
    /// `words` hold 32 tokens each, the first in the lowest bit; there are as many as `vocab_size` needs.
    pub fn new(words: &[u32], vocab_size: usize) -> Self {
        let words = words.iter().copied().chain(std::iter::repeat(0)).take(vocab_size.div_ceil(32));
        Self(words.flat_map(u32::to_le_bytes).collect())
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether token `id` may come next.
    pub fn allows(&self, id: u32) -> bool {
        self.0.get(id as usize / 8).is_some_and(|byte| byte >> (id % 8) & 1 == 1)
    }

    /// How many tokens may come next.
    pub fn n_allowed(&self) -> u32 {
        self.0.iter().map(|byte| byte.count_ones()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_little_endian_and_cover_the_vocabulary() {
        for (words, vocab_size, bytes) in [
            (&[1u32, 2][..], 40, &[1u8, 0, 0, 0, 2, 0, 0, 0][..]),
            (&[0x8000_0001], 33, &[1, 0, 0, 0x80, 0, 0, 0, 0]),
            (&[5, 7], 32, &[5, 0, 0, 0]),
        ] {
            let mask = TokenMask::new(words, vocab_size);
            assert_eq!(mask.bytes(), bytes);
            for id in 0..70 {
                let bit = words.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1);
                assert_eq!(mask.allows(id), bit && (id as usize) < vocab_size.div_ceil(32) * 32, "{id}");
            }
        }
    }
}
