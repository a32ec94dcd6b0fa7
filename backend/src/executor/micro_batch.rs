//! Cuts the rows of a step into micro-batches, so that the workspace is small however large the
//! step. A sequence's tokens may end up in several; they run in order, and results do not depend
//! on where the cut falls. Pure.

use std::collections::VecDeque;

use super::admission::{AdmittedRow, RowTokens};
use super::sequence::SequenceTable;
use crate::batch::{Batch, Span};

/// One forward pass, and whose logits it gives.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MicroBatch {
    pub batch: Batch,
    /// For each of `batch.logits_rows`, the index into the admitted rows.
    pub sampling: Vec<usize>,
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
        if row.sample {
            current.batch.logits_rows.push(current.batch.n_rows() - 1);
            current.sampling.push(index);
        }
    }
    if current.batch.n_rows() > 0 {
        done.push_back(current);
    }
    done
}
