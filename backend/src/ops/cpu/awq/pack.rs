//! Weights of AWQ layers in the order in which the kernel reads them.
//!
//! Columns are vector lanes. A tile is 32 columns by all of K; for every 8 input features it has two
//! 64-byte lines (16 columns each), 4 bytes a column, byte b holding feature b in its low four bits and
//! feature 4 + b in its high four. So a thread reads one forward stream. Scales and zero points lie
//! beside it in the same order. Made once while loading; only read afterwards.

use super::TILE;
use crate::error::LoadError;
use crate::ops::cpu::grid::{Cuts, Rect};
use crate::ops::cpu::memory::zeroed;
use crate::ops::cpu::pool::Pool;
use crate::weights::awq::{COLUMN_OF_NIBBLE, COLUMNS, check_scales, unpack};
use crate::weights::{DType, LinearSource, LinearWeight, Tensor};

/// The low four bits of every byte.
const LOW: u32 = 0x0f0f_0f0f;

/// 64 bytes that begin a cache line.
#[derive(Clone, Copy, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub struct Line(pub [u8; 64]);

/// Layers of the same input and group size, joined along N.
pub struct AwqMatrix {
    pub k: usize,
    pub n: usize,
    pub group: usize,
    /// `[tiles, k / 8, 2]`.
    lines: Box<[Line]>,
    /// float16 bits, `[tiles, k / group, TILE]`, little-endian.
    scales: Box<[[[u8; 32]; 2]]>,
    /// `[tiles, k / group, TILE]`.
    zeros: Box<[[[u8; 16]; 2]]>,
}

/// One tile: what `kernel` multiplies by.
#[derive(Clone, Copy)]
pub struct Tile<'a> {
    pub group: usize,
    pub lines: &'a [[Line; 2]],
    /// The lines of all tiles from this one's on, for prefetching.
    pub stream: &'a [[Line; 2]],
    pub scales: &'a [[[u8; 32]; 2]],
    pub zeros: &'a [[[u8; 16]; 2]],
}

/// The three stored tensors of one part.
struct Part<'a> {
    n: usize,
    weights: &'a [u8],
    zeros: &'a [u8],
    scales: &'a [u8],
}

impl AwqMatrix {
    /// Packs `parts`, all AWQ with `k` rows in groups of `group`, and lets go of their mapped pages.
    ///
    /// # Errors
    /// Other inputs or groups, tensors of another type or size, scales that are not finite, no memory.
    pub fn pack(pool: &mut Pool, parts: &[LinearSource], k: usize, group: usize) -> Result<Self, LoadError> {
        let checked = parts.iter().map(|p| Part::check(p, k, group)).collect::<Result<Vec<_>, _>>()?;
        let n = checked.iter().map(|p| p.n).sum::<usize>();
        let (tiles, groups) = (n.div_ceil(TILE), k / group);
        let mut lines = zeroed::<Line>("packed weights", tiles * k / 4)?;
        let mut scales = zeroed::<[[u8; 32]; 2]>("packed scales", tiles * groups)?;
        let mut zeros = zeroed::<[[u8; 16]; 2]>("packed zero points", tiles * groups)?;
        let source = Source { parts: &checked };
        let whole_tiles = (Cuts::Every(1), Cuts::Every(usize::MAX));
        pool.grid(&mut lines, k / 4, whole_tiles, |_, rect| pack_lines(&source, rect));
        for tile in 0..tiles {
            for g in 0..groups {
                let at = tile * groups + g;
                source.scales(tile * TILE, g, &mut scales[at]);
                source.zeros(tile * TILE, g, &mut zeros[at]);
            }
        }
        parts.iter().for_each(LinearSource::release);
        Ok(AwqMatrix { k, n, group, lines, scales, zeros })
    }

    /// Bytes of the three arrays of a `[k, n]` matrix.
    pub fn packed_bytes(k: usize, n: usize, group: usize) -> usize {
        let groups = k / group.max(1) * (size_of::<[[u8; 32]; 2]>() + size_of::<[[u8; 16]; 2]>());
        n.div_ceil(TILE) * (k / 4 * size_of::<Line>() + groups)
    }

    /// Bytes that it has allocated.
    #[cfg(test)]
    pub fn allocated_bytes(&self) -> usize {
        size_of_val(&*self.lines) + size_of_val(&*self.scales) + size_of_val(&*self.zeros)
    }

    pub fn n_tiles(&self) -> usize {
        self.n.div_ceil(TILE)
    }

    #[inline(always)]
    pub fn tile(&self, t: usize) -> Tile<'_> {
        let (lines, groups) = (self.k / 8, self.k / self.group);
        let range = t * groups..(t + 1) * groups;
        let stream = &self.lines.as_chunks().0[t * lines..];
        Tile {
            group: self.group,
            lines: &stream[..lines],
            stream,
            scales: &self.scales[range.clone()],
            zeros: &self.zeros[range],
        }
    }
}

impl<'a> Part<'a> {
    fn check(source: &'a LinearSource, k: usize, group: usize) -> Result<Self, LoadError> {
        let fail = |detail: String| LoadError::Tensor { name: source.name.clone(), detail };
        let LinearWeight::Awq { qweight, qzeros, scales, group_size, .. } = &source.weight else {
            return Err(fail("is not 4-bit, but is joined to layers that are".into()));
        };
        let n = source.out_features;
        if ![32, 64, 128].contains(group_size) || *group_size != group || k == 0 || !k.is_multiple_of(group) {
            let got = format!("group size {group_size} and {k} inputs");
            return Err(fail(format!(
                "{got}; expected whole groups of 32, 64 or 128, the same in joined layers"
            )));
        }
        let rows = source.int4().map_or(0, |shape| shape.rows);
        if rows != k || n == 0 || !n.is_multiple_of(COLUMNS) {
            return Err(fail(format!("is {rows}x{n}; expected {k} inputs and a multiple of 8 outputs")));
        }
        let expect = |t: &'a Tensor, dtype: DType, rows: usize, cols: usize| match t.bytes() {
            bytes if t.dtype == dtype && bytes.len() == rows * cols * dtype.size() => Ok(bytes),
            _ => Err(fail(format!(
                "`{}` is {:?} {:?}; expected {dtype:?} [{rows}, {cols}]",
                t.name, t.dtype, t.shape
            ))),
        };
        check_scales(scales)?;
        Ok(Part {
            n,
            weights: expect(qweight, DType::I32, k, n / COLUMNS)?,
            zeros: expect(qzeros, DType::I32, k / group, n / COLUMNS)?,
            scales: expect(scales, DType::F16, k / group, n)?,
        })
    }
}

#[inline(always)]
fn word(bytes: &[u8], i: usize) -> u32 {
    let b = &bytes[4 * i..4 * i + 4];
    u32::from_le_bytes([b[0], b[1], b[2], b[3]])
}

/// The parts as one matrix.
struct Source<'a> {
    parts: &'a [Part<'a>],
}

impl Source<'_> {
    /// The part that holds column `n`, and the column inside it.
    fn find(&self, mut n: usize) -> Option<(&Part<'_>, usize)> {
        for part in self.parts {
            if n < part.n {
                return Some((part, n));
            }
            n -= part.n;
        }
        None
    }

    /// Scales of group `g`, columns `n..n + TILE`; zero behind the last column.
    fn scales(&self, n: usize, g: usize, to: &mut [[u8; 32]; 2]) {
        for (i, to) in to.as_flattened_mut().chunks_exact_mut(2).enumerate() {
            if let Some((part, col)) = self.find(n + i) {
                to.copy_from_slice(&part.scales[2 * (g * part.n + col)..][..2]);
            }
        }
    }

    fn zeros(&self, n: usize, g: usize, to: &mut [[u8; 16]; 2]) {
        for (i, to) in to.as_flattened_mut().chunks_exact_mut(COLUMNS).enumerate() {
            if let Some((part, col)) = self.find(n + i * COLUMNS) {
                let w = word(part.zeros, (g * part.n + col) / COLUMNS);
                to.copy_from_slice(&unpack(w));
            }
        }
    }
}

/// The lines of the one tile in `rect`.
fn pack_lines(source: &Source<'_>, mut rect: Rect<'_, Line>) {
    let tile = rect.rows().start;
    for chunk in 0..TILE / COLUMNS {
        let Some((part, col)) = source.find(tile * TILE + chunk * COLUMNS) else { continue };
        let (words, first) = (part.n / COLUMNS, col / COLUMNS);
        let at = chunk % 2 * 32;
        for (k8, lines) in rect.row(tile).chunks_exact_mut(2).enumerate() {
            let to = &mut lines[chunk / 2].0[at..at + 32];
            for b in 0..4 {
                let w = |feature: usize| word(part.weights, (k8 * 8 + feature) * words + first);
                spread(w(b), w(4 + b), b, to);
            }
        }
    }
}

/// Puts the 8 columns of `low` and `high` into byte `b` of the 8 lanes of `to`.
#[inline(always)]
fn spread(low: u32, high: u32, b: usize, to: &mut [u8]) {
    let even = ((low & LOW) | (high & LOW) << 4).to_le_bytes();
    let odd = ((low >> 4 & LOW) | (high & !LOW)).to_le_bytes();
    for i in 0..4 {
        to[4 * COLUMN_OF_NIBBLE[2 * i] + b] = even[i];
        to[4 * COLUMN_OF_NIBBLE[2 * i + 1] + b] = odd[i];
    }
}
