// The checks of a QuernCarry that every linear entry point makes. Host code; launches nothing.
#pragma once

#include "common/launch.h"
#include "quern_kernels.h"

namespace quern {

inline int32_t check_carry(const QuernLinear &args) {
  const QuernCarry &carry = args.carry;
  if (carry.squares == nullptr) return carry.next_squares == nullptr ? QUERN_OK : QUERN_BAD_POINTER;
  if (args.m > QUERN_CARRY_ROWS) return QUERN_BAD_SHAPE;
  if (!is_aligned(carry.squares, 4) || !is_aligned(carry.scales, 4)) return QUERN_BAD_POINTER;
  if (carry.next_squares == nullptr) return QUERN_OK;
  if (args.epilogue != QUERN_ADD_F32 || args.weight.pair_stride != 0) return QUERN_UNSUPPORTED;
  const bool aligned = is_aligned(carry.next_squares, 4) && is_aligned(carry.weight, 8) && is_aligned(carry.normed, 8);
  return aligned ? QUERN_OK : QUERN_BAD_POINTER;
}

}  // namespace quern
