//! What one step computes, flattened: built by the executor, read by the decoder and the ops.
//!
//! A *row* here is one input token. The rows of one sequence are contiguous (a *span*), in
//! position order. Nothing here knows about sampling or about requests.

/// The new tokens of one sequence inside a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// First row of the span in the batch.
    pub first_row: usize,
    pub n_rows: usize,
    /// Position in the sequence of the span's first row; rows before it are in the KV cache.
    pub position: usize,
    /// Physical block ids of the sequence, enough for `position + n_rows` tokens.
    pub blocks: Vec<u32>,
    /// Rotary base after Qwen v1's dynamic NTK (equal to `theta` otherwise).
    pub rope_theta: f64,
}

/// One forward pass over `tokens.len()` rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Input token of each row, each < vocab (checked by the executor).
    pub tokens: Vec<u32>,
    /// Covers all rows, in order, without gaps.
    pub spans: Vec<Span>,
    /// Rows whose logits are wanted, ascending.
    pub logits_rows: Vec<usize>,
}

impl Batch {
    pub fn n_rows(&self) -> usize {
        self.tokens.len()
    }
}
