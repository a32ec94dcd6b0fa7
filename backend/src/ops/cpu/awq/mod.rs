//! 4-bit linear layers (AWQ), multiplied in exact integer arithmetic.
//!
//! Activations are written as fixed-point numbers a quantisation group: `x = s_x X` with integer
//! `|X| <= 8355711`, as fine as float32 at the group's largest element, and X is split into three
//! signed bytes. Sums of weight times byte are exact in int32, so the only rounding left is one
//! conversion and three float32 operations a group, the same on every processor, for any number of
//! rows and threads. `activations` makes the bytes, `pack` the weights, `kernel` multiplies.

mod activations;
mod kernel;
mod pack;
mod packed;
mod unpacked;

pub use activations::{FixedPoint, row_words};
pub use kernel::multiply;
pub use pack::{AwqMatrix, Line};

/// Columns of a weight tile: two vectors.
pub const TILE: usize = 32;

/// Lines of scratch that a tile of `k` features unpacks to.
pub fn unpacked_lines(k: usize) -> usize {
    k / 2
}
