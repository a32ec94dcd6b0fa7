//! Splits a matrix into rectangles that several threads write at once.
//!
//! `Pool::grid` is the only maker of a `Rect`, one for each crossing of a row range and a column
//! range, so no two rectangles share an element. A kernel writes its output only through `Rect::row`.

use super::pool::Pool;
use std::marker::PhantomData;
use std::ops::Range;

/// How one side of a matrix is cut.
#[derive(Debug, Clone, Copy)]
pub enum Cuts<'a> {
    /// Ranges of `step`, the last one shorter.
    Every(usize),
    /// Ranges of `step` inside `start..end`.
    Within { start: usize, end: usize, step: usize },
    /// `[a, b, c]` gives `a..b` and `b..c`; must ascend.
    At(&'a [usize]),
}

impl Cuts<'_> {
    fn count(self, len: usize) -> usize {
        match self {
            Cuts::Every(step) => len.div_ceil(step.max(1)),
            Cuts::Within { start, end, step } => end.saturating_sub(start).div_ceil(step.max(1)),
            Cuts::At(bounds) => bounds.len().saturating_sub(1),
        }
    }

    fn range(self, i: usize, len: usize) -> Range<usize> {
        match self {
            Cuts::Every(step) => Cuts::Within { start: 0, end: len, step }.range(i, len),
            Cuts::Within { start, end, step } => {
                let first = start + i * step.max(1);
                first..end.min(first.saturating_add(step.max(1)))
            }
            Cuts::At(bounds) => bounds[i]..bounds[i + 1],
        }
    }

    /// Whether the ranges are disjoint and inside `len`.
    fn fits(self, len: usize) -> bool {
        match self {
            Cuts::Every(_) => true,
            Cuts::Within { end, .. } => end <= len,
            Cuts::At(bounds) => bounds.is_sorted() && bounds.last().is_none_or(|&end| end <= len),
        }
    }
}

/// The exclusive right to write `rows` x `cols` of a row-major matrix.
pub struct Rect<'a, T> {
    start: *mut T,
    stride: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    matrix: PhantomData<&'a mut [T]>,
}

impl<T> Rect<'_, T> {
    pub fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    pub fn cols(&self) -> Range<usize> {
        self.cols.clone()
    }

    /// This rectangle's columns of the matrix's row `row`, which must be one of `rows`.
    #[inline(always)]
    pub fn row(&mut self, row: usize) -> &mut [T] {
        assert!(self.rows.contains(&row), "invariant: a task writes its own rows");
        // SAFETY: `Pool::grid` checked that rows x cols lies inside the matrix, which stays borrowed
        // while this rectangle lives, and no other rectangle holds any of these elements.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.start.add(row * self.stride + self.cols.start),
                self.cols.len(),
            )
        }
    }
}

/// The matrix's first element, shareable: the threads touch disjoint rectangles.
struct Start<T>(*mut T);
// SAFETY: the pointer is only used to make `Rect`s, which are disjoint, and `T: Send` lets another
// thread write them.
unsafe impl<T: Send> Sync for Start<T> {}

impl<T> Start<T> {
    fn get(&self) -> *mut T {
        self.0
    }
}

impl Pool {
    /// Calls `task(worker, rect)` for every crossing of `rows` and `cols` over `matrix`, a row-major
    /// `[_, width]` of which the cuts may leave a part out. Rectangles of one row range follow each other.
    pub fn grid<T: Send, F: Fn(usize, Rect<'_, T>) + Sync>(
        &mut self,
        matrix: &mut [T],
        width: usize,
        (rows, cols): (Cuts<'_>, Cuts<'_>),
        task: F,
    ) {
        let n_rows = matrix.len().checked_div(width).unwrap_or(0);
        assert!(rows.fits(n_rows) && cols.fits(width), "invariant: cuts ascend inside the matrix");
        let n_cols = cols.count(width);
        let start = Start(matrix.as_mut_ptr());
        // By value, so that the threads find it all in one place.
        self.run(rows.count(n_rows) * n_cols, move |worker, i| {
            let rect = Rect {
                start: start.get(),
                stride: width,
                rows: rows.range(i / n_cols, n_rows),
                cols: cols.range(i % n_cols, width),
                matrix: PhantomData,
            };
            task(worker, rect);
        });
    }
}
