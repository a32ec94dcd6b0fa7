//! Zeroed memory that the system hands out page by page as it is first touched.

use crate::error::LoadError;
use bytemuck::Zeroable;

/// `n` zeros.
///
/// # Errors
/// More bytes than the system grants or an address can count.
pub fn zeroed<T: Zeroable>(what: &'static str, n: usize) -> Result<Box<[T]>, LoadError> {
    let bytes = n.saturating_mul(size_of::<T>());
    let fail = LoadError::Memory { what, bytes };
    if isize::try_from(bytes).is_err() {
        return Err(fail);
    }
    bytemuck::allocation::try_zeroed_slice_box(n).map_err(|()| fail)
}

/// `a * b * ...`, or the largest number, which `zeroed` refuses.
pub fn product(factors: &[usize]) -> usize {
    factors.iter().fold(1, |p: usize, &f| p.saturating_mul(f))
}
