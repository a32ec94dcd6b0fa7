//! The exact bytes of every token, for decoding and streaming.
//!
//! Built once by the vocabulary readers; read on each sampled token, so it is one flat buffer.

/// Real vocabularies stay below 300,000 tokens; the bound keeps a lying file from exhausting memory.
pub const MAX_TOKENS: usize = 1 << 20;

/// Bytes and special flag of the ids `0..len`.
#[derive(Default)]
pub struct TokenTable {
    bytes: Vec<u8>,
    /// End of each id's bytes in `bytes`; each begins where the one before ends.
    ends: Vec<usize>,
    special: Vec<bool>,
}

impl TokenTable {
    /// Adds the token of the next id; an unused id has no bytes.
    pub fn push(&mut self, bytes: &[u8], is_special: bool) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
        self.special.push(is_special);
    }

    /// Empty for an id without a token.
    pub fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..end]
    }

    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }
}
