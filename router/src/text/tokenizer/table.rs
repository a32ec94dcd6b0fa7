//! The exact bytes of every token, for decoding and streaming.
//!
//! Built once by the vocabulary readers; read on each sampled token, so it is one flat buffer.

/// Real vocabularies stay below 300,000 tokens; the bound keeps a lying file from exhausting memory.
pub const MAX_TOKENS: usize = 1 << 22;

/// Bytes and special flag of the ids `0..len`.
#[derive(Default)]
pub struct TokenTable {
    bytes: Vec<u8>,
    /// End of each id's bytes in `bytes`; each begins where the one before ends.
    ends: Vec<usize>,
    special: Vec<bool>,
}

/// One token as a vocabulary reader found it.
#[derive(Clone, Default)]
pub struct TokenEntry {
    pub bytes: Vec<u8>,
    pub is_special: bool,
}

impl FromIterator<TokenEntry> for TokenTable {
    /// The entries in order of their ids, from 0 and without gaps (an unused id: an empty entry).
    fn from_iter<I: IntoIterator<Item = TokenEntry>>(entries: I) -> Self {
        let mut table = Self::default();
        for entry in entries {
            table.bytes.extend_from_slice(&entry.bytes);
            table.ends.push(table.bytes.len());
            table.special.push(entry.is_special);
        }
        table
    }
}

impl TokenTable {
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
