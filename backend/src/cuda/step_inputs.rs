//! Everything that the host tells the device about one step, as one block of bytes: one copy brings it.
//! A decode bucket has one layout for ever, so that a captured graph finds each array where it was; other
//! steps have a layout each. Pure: `Layout` computes places, `Writer` fills a host block by them.

use std::ops::Range;

use super::sys;

/// The sizes that a layout depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepShape {
    /// Input tokens.
    pub rows: usize,
    /// Sequences; the first `decode_spans` have one row each.
    pub spans: usize,
    pub decode_spans: usize,
    /// Rows whose logits are computed.
    pub logits_rows: usize,
    /// Rows after which the log-probability of a given token is wanted.
    pub score_rows: usize,
    /// Blocks a row of the block tables.
    pub table_stride: usize,
    /// Of decode attention's plans.
    pub plan_ints: usize,
    /// 32-bit words of a row's mask of allowed tokens.
    pub mask_words: usize,
}

/// Offsets in bytes of the arrays of a step; names as in the kernels' header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub shape: StepShape,
    pub tokens: usize,
    pub row_span: usize,
    pub count_rows: usize,
    pub logits_rows: usize,
    pub first_row: usize,
    pub n_rows: usize,
    pub position: usize,
    pub theta: usize,
    pub tables: usize,
    pub sampling: usize,
    pub plan: usize,
    pub score_rows: usize,
    pub score_ids: usize,
    /// A row for each logits row, the last array: of most steps none is written, and none is copied.
    pub masks: usize,
    pub bytes: usize,
}

/// Arrays start at multiples of this, as decode attention's plan must.
const ALIGNMENT: usize = 32;

impl Layout {
    pub fn new(shape: StepShape) -> Layout {
        let mut bytes = 0;
        let mut place = |elements: usize, size: usize| {
            let offset = bytes;
            bytes = (bytes + elements * size).next_multiple_of(ALIGNMENT);
            offset
        };
        let StepShape { rows, spans, logits_rows, score_rows, table_stride, plan_ints, mask_words, .. } =
            shape;
        Layout {
            shape,
            tokens: place(rows, 4),
            row_span: place(rows, 4),
            count_rows: place(rows, 4),
            logits_rows: place(logits_rows, 4),
            first_row: place(spans, 4),
            n_rows: place(spans, 4),
            position: place(spans, 4),
            theta: place(spans, 8),
            tables: place(spans * table_stride, 4),
            sampling: place(logits_rows, size_of::<sys::QuernSamplingRow>()),
            plan: place(plan_ints, 4),
            score_rows: place(score_rows, 4),
            score_ids: place(score_rows, 4),
            masks: place(logits_rows * mask_words, 4),
            bytes,
        }
    }

    /// How much of the block a step with so many masks fills.
    pub fn used_bytes(&self, n_masks: usize) -> usize {
        self.masks + n_masks.min(self.shape.logits_rows) * self.shape.mask_words * 4
    }
}

/// One sequence's share of a step.
#[derive(Debug, Clone, Copy)]
pub struct SpanInput<'a> {
    pub first_row: usize,
    pub n_rows: usize,
    /// Of the first row.
    pub position: usize,
    pub theta: f64,
    pub blocks: &'a [u32],
}

/// Fills the arrays of one step in host memory. Starts as padding everywhere: rows that count nothing,
/// spans without a sequence, logits that nobody samples.
pub struct Writer<'a> {
    layout: &'a Layout,
    bytes: &'a mut [u8],
}

impl<'a> Writer<'a> {
    /// `bytes` has room for `layout.bytes` and is aligned to 32.
    pub fn new(layout: &'a Layout, bytes: &'a mut [u8]) -> Writer<'a> {
        let shape = layout.shape;
        let mut writer = Writer { layout, bytes: &mut bytes[..layout.bytes] };
        writer.bytes[..layout.masks].fill(0);
        writer.ints(layout.count_rows, shape.rows).fill(-1);
        writer.ints(layout.position, shape.spans).fill(-1);
        // Padding of a decode bucket: each span has its own row, and each row its logits.
        let rows = shape.rows as i32;
        for at in [layout.row_span, layout.first_row, layout.logits_rows] {
            let n = if at == layout.row_span {
                shape.rows
            } else if at == layout.first_row {
                shape.spans
            } else {
                shape.logits_rows
            };
            writer.ints(at, n).iter_mut().zip(0..).for_each(|(value, i)| *value = i.min(rows - 1));
        }
        writer.ints(layout.n_rows, shape.spans).fill(1);
        writer.doubles(layout.theta, shape.spans).fill(10_000.0);
        for i in 0..shape.logits_rows {
            let padding =
                sys::QuernSamplingRow { slot: -1, count_slot: -1, temperature: 1.0, ..Default::default() };
            writer.sampling(i, &padding);
        }
        writer
    }

    /// The input of a row: a token, or `-1 - slot` for what was sampled last there; and where it is counted.
    pub fn row(&mut self, row: usize, token: i32, count_row: i32) {
        self.ints(self.layout.tokens + 4 * row, 1)[0] = token;
        self.ints(self.layout.count_rows + 4 * row, 1)[0] = count_row;
    }

    pub fn span(&mut self, index: usize, span: &SpanInput) {
        let layout = self.layout;
        self.ints(layout.first_row + 4 * index, 1)[0] = span.first_row as i32;
        self.ints(layout.n_rows + 4 * index, 1)[0] = span.n_rows as i32;
        self.ints(layout.position + 4 * index, 1)[0] = span.position as i32;
        self.doubles(layout.theta + 8 * index, 1)[0] = span.theta;
        self.ints(layout.row_span + 4 * span.first_row, span.n_rows).fill(index as i32);
        let stride = layout.shape.table_stride;
        let table = self.ints(layout.tables + 4 * stride * index, stride);
        table.iter_mut().zip(span.blocks).for_each(|(to, &block)| *to = block as i32);
    }

    /// The `index`-th logits: of which row, and how to sample from them.
    pub fn logits(&mut self, index: usize, row: usize, sampling: &sys::QuernSamplingRow) {
        self.ints(self.layout.logits_rows + 4 * index, 1)[0] = row as i32;
        self.sampling(index, sampling);
    }

    /// The `index`-th score: of which row, and of which token.
    pub fn score(&mut self, index: usize, row: usize, id: u32) {
        self.ints(self.layout.score_rows + 4 * index, 1)[0] = row as i32;
        self.ints(self.layout.score_ids + 4 * index, 1)[0] = id as i32;
    }

    /// The `index`-th mask: a bit for each token, in whole words.
    pub fn mask(&mut self, index: usize, allowed: &[u8]) {
        let words = self.layout.shape.mask_words;
        let row = &mut self.bytes[range(self.layout.masks + 4 * words * index, words, 4)];
        let n = allowed.len().min(row.len());
        row[..n].copy_from_slice(&allowed[..n]);
        row[n..].fill(0);
    }

    /// Positions of the decode spans, and the room for decode attention's plans.
    pub fn decode_plans(&mut self) -> (&[i32], &mut [i32]) {
        let shape = self.layout.shape;
        let (before, after) = self.bytes.split_at_mut(self.layout.plan);
        let positions = &before[self.layout.position..][..4 * shape.decode_spans];
        (bytemuck::cast_slice(positions), bytemuck::cast_slice_mut(&mut after[..4 * shape.plan_ints]))
    }

    fn sampling(&mut self, index: usize, row: &sys::QuernSamplingRow) {
        let size = size_of::<sys::QuernSamplingRow>();
        let at = self.layout.sampling + size * index;
        // SAFETY: the struct is plain numbers without padding (16 + 14 * 4 bytes).
        let bytes = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(row).cast::<u8>(), size) };
        self.bytes[at..at + size].copy_from_slice(bytes);
    }

    fn ints(&mut self, at: usize, n: usize) -> &mut [i32] {
        bytemuck::cast_slice_mut(&mut self.bytes[range(at, n, 4)])
    }

    fn doubles(&mut self, at: usize, n: usize) -> &mut [f64] {
        bytemuck::cast_slice_mut(&mut self.bytes[range(at, n, 8)])
    }
}

fn range(at: usize, n: usize, size: usize) -> Range<usize> {
    at..at + n * size
}

const _: () = assert!(size_of::<sys::QuernSamplingRow>() == 72);

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: StepShape = StepShape {
        rows: 7,
        spans: 3,
        decode_spans: 2,
        logits_rows: 3,
        score_rows: 5,
        table_stride: 4,
        plan_ints: 8,
        mask_words: 2,
    };

    fn ints(bytes: &[u8], at: usize, n: usize) -> &[i32] {
        bytemuck::cast_slice(&bytes[range(at, n, 4)])
    }

    /// Memory aligned as page-locked memory is.
    fn block(layout: &Layout) -> Vec<u64> {
        vec![u64::MAX; layout.bytes.div_ceil(8)]
    }

    #[test]
    fn arrays_are_aligned_and_apart() {
        let layout = Layout::new(SHAPE);
        let places = [
            (layout.tokens, 7 * 4),
            (layout.row_span, 7 * 4),
            (layout.count_rows, 7 * 4),
            (layout.logits_rows, 3 * 4),
            (layout.first_row, 3 * 4),
            (layout.n_rows, 3 * 4),
            (layout.position, 3 * 4),
            (layout.theta, 3 * 8),
            (layout.tables, 12 * 4),
            (layout.sampling, 3 * 72),
            (layout.plan, 8 * 4),
            (layout.score_rows, 5 * 4),
            (layout.score_ids, 5 * 4),
            (layout.masks, 6 * 4),
        ];
        for (index, (offset, bytes)) in places.into_iter().enumerate() {
            assert_eq!(offset % ALIGNMENT, 0, "array {index}");
            let next = places.get(index + 1).map_or(layout.bytes, |(next, _)| *next);
            assert!(offset + bytes <= next, "array {index}");
        }
    }

    #[test]
    fn what_is_not_written_is_padding() {
        let layout = Layout::new(StepShape { rows: 3, spans: 3, decode_spans: 3, logits_rows: 3, ..SHAPE });
        let mut memory = block(&layout);
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut memory);
        let mut writer = Writer::new(&layout, bytes);
        writer.row(0, 42, 5);
        writer.span(0, &SpanInput { first_row: 0, n_rows: 1, position: 9, theta: 1.0, blocks: &[8] });
        let bytes: &[u8] = bytemuck::cast_slice(&memory);
        assert_eq!(ints(bytes, layout.tokens, 3), [42, 0, 0]);
        assert_eq!(ints(bytes, layout.count_rows, 3), [5, -1, -1]);
        assert_eq!(ints(bytes, layout.position, 3), [9, -1, -1]);
        assert_eq!(ints(bytes, layout.first_row, 3), [0, 1, 2]);
        assert_eq!(ints(bytes, layout.row_span, 3), [0, 1, 2]);
        assert_eq!(ints(bytes, layout.logits_rows, 3), [0, 1, 2]);
        assert_eq!(ints(bytes, layout.n_rows, 3), [1, 1, 1]);
        for row in 0..3 {
            let slot = layout.sampling + 72 * row + std::mem::offset_of!(sys::QuernSamplingRow, slot);
            assert_eq!(ints(bytes, slot, 1), [-1], "row {row}");
        }
    }

    #[test]
    fn a_mixed_step_is_written_as_it_is() {
        let layout = Layout::new(SHAPE);
        let mut memory = block(&layout);
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut memory);
        let mut writer = Writer::new(&layout, bytes);
        let spans = [(0, 1, 30, &[1u32, 2][..]), (1, 1, 5, &[3]), (2, 5, 64, &[4, 5, 6, 7])];
        for (index, (first_row, n_rows, position, blocks)) in spans.into_iter().enumerate() {
            writer.span(index, &SpanInput { first_row, n_rows, position, theta: 2.0, blocks });
        }
        let sampling = sys::QuernSamplingRow { seed: 7, slot: 3, ..Default::default() };
        writer.logits(2, 6, &sampling);
        let (positions, plan) = writer.decode_plans();
        assert_eq!(positions, [30, 5]);
        assert_eq!(plan.len(), 8);
        plan.fill(11);
        writer.mask(1, &[1, 2, 3, 4]);
        writer.score(0, 2, 77);
        writer.score(4, 5, 88);
        let bytes: &[u8] = bytemuck::cast_slice(&memory);
        assert_eq!(ints(bytes, layout.row_span, 7), [0, 1, 2, 2, 2, 2, 2]);
        assert_eq!(ints(bytes, layout.tables, 12), [1, 2, 0, 0, 3, 0, 0, 0, 4, 5, 6, 7]);
        assert_eq!(ints(bytes, layout.logits_rows, 3)[2], 6);
        assert_eq!(bytes[layout.sampling + 144], 7);
        assert_eq!(ints(bytes, layout.plan, 8), [11; 8]);
        assert_eq!(ints(bytes, layout.masks + 8, 2), [0x0403_0201, 0]);
        assert_eq!(ints(bytes, layout.score_rows, 5), [2, 0, 0, 0, 5]);
        assert_eq!(ints(bytes, layout.score_ids, 5), [77, 0, 0, 0, 88]);
        assert_eq!([0, 1, 3, 9].map(|n| layout.used_bytes(n) - layout.masks), [0, 8, 24, 24]);
    }
}
