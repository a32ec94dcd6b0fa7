// The output head's kernels, and launching one of them for rows of one's own choice. Called by the entry point
// (head_decode.cu), which picks by device, and by tests and benches.
#pragma once

#include "quern_kernels.h"

namespace quern {

constexpr int kHopperHeadRows = 64;  // rows of x that one launch of the sm_90a kernel takes

/// Rows [first, first + m) of args, 1 <= m <= kHopperHeadRows, after the entry point's checks. sm_90 only.
int32_t launch_hopper_head(const QuernDevice &device, const QuernHead &args, int first, int m, void *stream);
/// Rows [first, first + m), 1 <= m <= 16, and no more than shared memory holds.
int32_t launch_portable_head(const QuernDevice &device, const QuernHead &args, int first, int m, void *stream);

int32_t hopper_head_prepare(const QuernDevice &device);

}  // namespace quern
