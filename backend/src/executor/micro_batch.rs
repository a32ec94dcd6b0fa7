//! Cuts the rows of a step into micro-batches, so that the workspace is small however large the
//! step. A sequence's tokens may end up in several; they run in order, and results do not depend
//! on where the cut falls. Pure.

use std::collections::VecDeque;
use std::ops::Range;

use super::admission::{AdmittedRow, RowTokens};
use super::sequence::SequenceTable;
use crate::batch::{Batch, Span};

/// One forward pass, and whose logits it gives.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MicroBatch {
    pub batch: Batch,
    /// For each of `batch.logits_rows`.
    pub wanted: Vec<Wanted>,
}

/// Why the logits of a batch's row are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Index into the admitted rows.
    pub row: usize,
    pub sample: bool,
    /// The token whose log-probability is asked for.
    pub score: Option<u32>,
}

/// Micro-batches of at most `max_rows` rows that together hold all tokens of `rows`, in order.
pub fn cut(rows: &[AdmittedRow], table: &SequenceTable, max_rows: usize) -> VecDeque<MicroBatch> {
    let mut done = VecDeque::new();
    let mut current = MicroBatch::default();
    for (index, row) in rows.iter().enumerate() {
        let (Some(sequence), RowTokens::Ids(ids)) = (table.get(row.sequence_id), &row.tokens) else {
            continue;
        };
        let mut position = row.position;
        let mut rest = &ids[..];
        while !rest.is_empty() {
            if current.batch.n_rows() == max_rows {
                done.push_back(std::mem::take(&mut current));
            }
            let first_row = current.batch.n_rows();
            let (piece, after) = rest.split_at(rest.len().min(max_rows - first_row));
            current.want(index, row, position - row.position..position - row.position + piece.len());
            current.batch.tokens.extend_from_slice(piece);
            current.batch.spans.push(Span {
                first_row,
                n_rows: piece.len(),
                position,
                blocks: sequence.blocks.clone(),
                rope_theta: sequence.rope_theta,
            });
            position += piece.len();
            rest = after;
        }
    }
    if current.batch.n_rows() > 0 {
        done.push_back(current);
    }
    done
}

impl MicroBatch {
    /// Notes whose logits `row` wants among its tokens `piece`, which are appended next.
    fn want(&mut self, index: usize, row: &AdmittedRow, piece: Range<usize>) {
        for (batch_row, token) in (self.batch.n_rows()..).zip(piece) {
            let sample = row.sample && token + 1 == row.tokens.len();
            let score = row.score_ids.get(token).copied();
            if sample || score.is_some() {
                self.batch.logits_rows.push(batch_row);
                self.wanted.push(Wanted { row: index, sample, score });
            }
        }
    }
}
