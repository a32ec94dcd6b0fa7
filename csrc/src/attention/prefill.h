// The two prefill attention kernels, as their entry point sees them.
#pragma once

#include "attention/prefill_common.cuh"

namespace quern {

int32_t prefill_mma_prepare(const QuernDevice &device);
int32_t prefill_mma(const QuernDevice &device, const PrefillParams &params, void *stream);

/// sm_90 only.
int32_t prefill_wgmma_prepare(const QuernDevice &device);
int32_t prefill_wgmma(const QuernDevice &device, const PrefillParams &params, void *stream);

}  // namespace quern
