//! Norms between two products that the products carry themselves, where a step has few rows: a kernel of its own would
//! only wait, for the one before and for what it reads. Called by `CudaOps`; knows addresses, never what is in them.

use super::{CudaAct, CudaNorm, pointer};
use crate::cuda::arena::Arena;
use crate::cuda::sys;
use crate::error::LoadError;

/// Most rows with which norms are carried.
pub(super) const CARRY_ROWS: usize = sys::QUERN_CARRY_ROWS as usize;

/// Device memory: sums of squares of two norms in turn, and the scales of the rows.
#[derive(Default)]
pub(super) struct CarryMemory {
    squares: [u64; 2],
    scales: u64,
}

impl CarryMemory {
    pub fn allocate(&mut self, arena: &mut Arena, hidden: usize) -> Result<(), LoadError> {
        // SAFETY: a function of a number.
        let bytes = unsafe { sys::quern_carry_bytes(i32::try_from(hidden).unwrap_or(0)) } as usize;
        for squares in &mut self.squares {
            *squares = arena.take("carried norms", bytes)?;
        }
        self.scales = arena.take("carried norms", CARRY_ROWS * size_of::<f32>())?;
        Ok(())
    }
}

/// The last norm of the step that is being launched.
#[derive(Default)]
pub(super) struct LastNorm {
    /// Where its output lies.
    out: u64,
    /// Which of the two has its sums of squares.
    slot: usize,
    /// The output lacks a factor a row, which the next product finds.
    carried: bool,
    eps: f32,
}

impl LastNorm {
    /// A norm that a kernel of its own makes. Where its sums of squares go.
    pub fn begin(&mut self, memory: &CarryMemory, out: &CudaAct, eps: f32) -> *mut f32 {
        *self = LastNorm { out: out.address, slot: 0, carried: false, eps };
        match out.rows <= CARRY_ROWS {
            true => pointer(memory.squares[0]).cast(),
            false => std::ptr::null_mut(),
        }
    }

    /// What a product that reads `x` must be told.
    pub fn read(&self, memory: &CarryMemory, x: &CudaAct) -> sys::QuernCarry {
        match self.carried && x.address == self.out {
            true => self.carry(memory),
            false => sys::QuernCarry::default(),
        }
    }

    /// What a product must be told that adds to the residual and carries its norm to `out`.
    pub fn write(
        &mut self,
        memory: &CarryMemory,
        (weight, eps): (&CudaNorm, f32),
        out: &CudaAct,
    ) -> sys::QuernCarry {
        let before = self.carry(memory);
        *self = LastNorm { out: out.address, slot: 1 - self.slot, carried: true, eps };
        sys::QuernCarry {
            next_squares: pointer(memory.squares[self.slot]).cast(),
            weight: pointer(weight.0),
            normed: pointer(out.address),
            ..before
        }
    }

    fn carry(&self, memory: &CarryMemory) -> sys::QuernCarry {
        sys::QuernCarry {
            squares: pointer(memory.squares[self.slot]).cast(),
            scales: pointer(memory.scales).cast(),
            eps: self.eps,
            ..sys::QuernCarry::default()
        }
    }
}
