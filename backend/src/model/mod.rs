//! The model: what its tensors are called (`names`), how they become packed layers (`load`), the one
//! forward pass (`decoder`), and the rotary base of a sequence (`rope`). Families differ in data only.

pub mod decoder;
pub mod load;
pub mod names;
pub mod rope;

#[cfg(test)]
pub(crate) mod tiny;

#[cfg(test)]
mod tests;
