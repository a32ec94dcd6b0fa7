//! Other layouts of 4-bit weights, rearranged into the words of AutoAWQ's "gemm".
//!
//! Called by `gemv` and `gptq` while a layer is opened, on all cores. Pure: moves bits, computes nothing.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use bytemuck::Pod;

use super::awq::{COLUMN_OF_NIBBLE, COLUMNS};
use super::tensor::{DType, Storage, Tensor};

/// Nibbles of a 32-bit word.
pub const NIBBLES: usize = 8;
/// Output words for which another thread is worth starting.
const TASK_WORDS: usize = 1 << 16;

/// Nibble i of word j becomes nibble j of word i.
pub fn transpose(mut words: [u32; NIBBLES]) -> [u32; NIBBLES] {
    // Swaps the off-diagonal quarters of blocks of 8, 4 and 2.
    for (distance, low) in [(4, 0x0000_ffff), (2, 0x00ff_00ff), (1, 0x0f0f_0f0f)] {
        for i in (0..NIBBLES).filter(|i| i & distance == 0) {
            let swapped = ((words[i] >> (4 * distance)) ^ words[i + distance]) & low;
            words[i] ^= swapped << (4 * distance);
            words[i + distance] ^= swapped;
        }
    }
    words
}

/// Words `[8 n_blocks, n / 8]` in the order of "gemm". `word(block, column)` holds the nibbles of that column in
/// rows `8 block..8 block + 8`, lowest first.
pub fn rows(n_blocks: usize, n: usize, word: impl Fn(usize, usize) -> u32 + Sync) -> Vec<u32> {
    let n_words = n / COLUMNS;
    let mut rows = vec![0; n_blocks * NIBBLES * n_words];
    for_each(&mut rows, NIBBLES * n_words, |block, rows| {
        for c in 0..n_words {
            let words = transpose(COLUMN_OF_NIBBLE.map(|column| word(block, c * COLUMNS + column)));
            for (row, word) in words.into_iter().enumerate() {
                rows[row * n_words + c] = word;
            }
        }
    });
    rows
}

/// The rows `order` of `[_, n_words]`.
pub fn reordered(rows: &[u32], n_words: usize, order: &[u32]) -> Vec<u32> {
    let mut moved = vec![0; order.len() * n_words];
    for_each(&mut moved, n_words, |row, to| {
        let from = order[row] as usize * n_words;
        to.copy_from_slice(&rows[from..from + n_words]);
    });
    moved
}

/// Calls `task(index, piece)` for every `stride` elements of `out`, on several threads if there is enough to do.
fn for_each(out: &mut [u32], stride: usize, task: impl Fn(usize, &mut [u32]) + Sync) {
    let n_threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let n_threads = n_threads.min(out.len() / TASK_WORDS).max(1);
    let share = out.len().div_ceil(stride).div_ceil(n_threads).max(1);
    let work = |first: usize, pieces: &mut [u32]| {
        pieces.chunks_mut(stride).enumerate().for_each(|(i, piece)| task(first + i, piece));
    };
    std::thread::scope(|scope| {
        for (i, pieces) in out.chunks_mut(share * stride).enumerate() {
            let work = &work;
            if n_threads == 1 {
                work(i * share, pieces);
            } else {
                scope.spawn(move || work(i * share, pieces));
            }
        }
    });
}

/// Elements in memory of their own.
struct Owned<T>(Vec<T>);

impl<T: Pod> AsRef<[u8]> for Owned<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl<T: Pod + Send + Sync> Storage for Owned<T> {}

/// A tensor of converted elements.
pub fn tensor<T: Pod + Send + Sync>(name: String, dtype: DType, shape: [usize; 2], values: Vec<T>) -> Tensor {
    let range: Range<usize> = 0..size_of_val(&values[..]);
    Tensor { name, dtype, shape: shape.to_vec(), data: Arc::new(Owned(values)), range }
}
