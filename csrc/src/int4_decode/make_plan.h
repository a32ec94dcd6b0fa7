// Host side of plan.h: chooses how a shape is cut on a device. Pure; called at every launch and by tests.
#pragma once

#include "int4_decode/plan.h"
#include "quern_kernels.h"

namespace quern {

/// How `weight` times m rows is cut. What is summed in which order does not depend on m or on N.
DecodePlan make_decode_plan(const QuernDevice &device, const QuernInt4 &weight, int m);

/// Bytes of the portable kernel's workspace: counters (first, a multiple of 256), then sums.
uint64_t decode_counter_bytes(const DecodePlan &plan);
uint64_t decode_sums_bytes(const DecodePlan &plan);

}  // namespace quern
