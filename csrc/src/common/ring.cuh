// A place in a ring of stages whose barriers are mbarriers.
#pragma once

#include <stdint.h>

namespace quern {

/// The stage in turn, and the parity of its phase: waiting for `full` takes the parity, waiting for `empty` its opposite.
template <int kStages>
struct RingPosition {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
  /// The stage `back` (at most kStages) steps before.
  __device__ __forceinline__ int before(int back) const { return stage >= back ? stage - back : stage - back + kStages; }
};

}  // namespace quern
