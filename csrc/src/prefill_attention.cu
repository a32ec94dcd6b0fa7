// Entry point of prefill attention: checks, and the choice of the kernel for the device.
#include "attention/check.h"
#include "attention/prefill.h"
#include "device.h"

namespace quern {

int32_t prefill_attention_prepare(const QuernDevice &device) {
  const int32_t status = prefill_mma_prepare(device);
  return status == QUERN_OK && device.compute_capability == 90 ? prefill_wgmma_prepare(device) : status;
}

}  // namespace quern

using namespace quern;

extern "C" int32_t quern_prefill_attention(const QuernDevice *device, const QuernAttention *args, int32_t max_rows,
                                           void *stream) {
  if (!attention_shape_ok(*args) || max_rows <= 0) return QUERN_BAD_SHAPE;
  if (!attention_pointers_ok(*args) || !is_aligned(args->spans.n_rows, 4)) return QUERN_BAD_POINTER;
  const int n_tiles = ceil_div(max_rows, kPrefillQueries);
  const int64_t n_items = int64_t(n_tiles) * args->n_heads * args->spans.n_spans;
  if (n_items > INT32_MAX) return QUERN_BAD_SHAPE;
  const PrefillParams params = {*args, kPrefillLog2E / sqrtf(static_cast<float>(args->cache.head_dim)), n_tiles,
                                static_cast<int>(n_items)};
  const bool uses_wgmma = device->compute_capability == 90 && !device->force_portable;
  return uses_wgmma ? prefill_wgmma(*device, params, stream) : prefill_mma(*device, params, stream);
}
