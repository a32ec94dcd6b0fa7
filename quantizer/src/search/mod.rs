//! AWQ's searches, and the rounding after them.
//!
//! Called by `quantized` for the layers that share an input: `scale` chooses how far each input feature is scaled up,
//! `rounding` the levels of each group (`levels`: clipping) and of each weight (with `factor`). Pure: weights and
//! statistics in, scales and levels out; the same on any number of threads.

mod factor;
mod levels;
mod rounding;
mod scale;
#[cfg(test)]
mod tests;

pub(crate) use rounding::Rounding;
pub(crate) use scale::{Tied, choose as choose_scale};
