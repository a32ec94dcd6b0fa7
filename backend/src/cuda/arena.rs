//! One block of device memory, given out piece by piece and taken back as a whole. A measuring arena
//! gives out addresses that must not be used and only adds up: the same code that allocates then says
//! beforehand how much it will take. Used for the weights and for the memory of a plan.

use super::driver::DeviceMemory;
use crate::error::LoadError;

/// Pieces start at multiples of this: enough for bulk copies, vector accesses and the kernels' checks.
pub const ALIGNMENT: usize = 256;

/// Bytes that a piece takes.
pub fn rounded(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT)
}

/// See the module.
pub struct Arena {
    memory: Option<DeviceMemory>,
    used: usize,
}

impl Arena {
    pub fn measuring() -> Arena {
        Arena { memory: None, used: 0 }
    }

    pub fn new(what: &'static str, bytes: usize) -> Result<Arena, LoadError> {
        Ok(Arena { memory: Some(DeviceMemory::new(what, bytes)?), used: 0 })
    }

    /// The address of `bytes` fresh bytes, a multiple of `ALIGNMENT`.
    ///
    /// # Errors
    /// The block is used up: what was measured and what is allocated differ.
    pub fn take(&mut self, what: &'static str, bytes: usize) -> Result<u64, LoadError> {
        let too_much = LoadError::Memory { what, bytes };
        let Some(end) =
            bytes.checked_next_multiple_of(ALIGNMENT).and_then(|bytes| self.used.checked_add(bytes))
        else {
            return Err(too_much);
        };
        let base = match &self.memory {
            Some(memory) if end > memory.bytes => return Err(too_much),
            Some(memory) => memory.address,
            None => ALIGNMENT as u64,
        };
        let address = base + self.used as u64;
        self.used = end;
        Ok(address)
    }

    /// Bytes given out.
    pub fn used(&self) -> usize {
        self.used
    }

    /// The whole block.
    pub fn block(&self) -> Option<(u64, usize)> {
        self.memory.as_ref().map(|memory| (memory.address, memory.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measuring_adds_up_whole_pieces() {
        let mut arena = Arena::measuring();
        for (bytes, used) in [(1, 256), (256, 512), (0, 512), (257, 1024)] {
            assert_eq!(arena.take("x", bytes).unwrap() % ALIGNMENT as u64, 0);
            assert_eq!(arena.used(), used);
        }
        assert!(arena.take("x", usize::MAX).is_err());
        assert_eq!(arena.used(), 1024);
    }
}
