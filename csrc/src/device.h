// What device.cu asks of each kernel family when a device is opened: raise the shared-memory limits of its kernels.
// A new family adds one function here and one call in quern_device_open.
#pragma once

#include <cuda_runtime_api.h>

#include "quern_kernels.h"

namespace quern {

int32_t int4_decode_prepare(const QuernDevice &device);
int32_t int4_decode_max_clusters(int32_t size, int32_t smem_bytes);
int32_t head_decode_prepare(const QuernDevice &device);
int32_t decode_attention_prepare();
int32_t prefill_attention_prepare(const QuernDevice &device);
int32_t sample_prepare(const QuernDevice &device);
int32_t int4_prefill_prepare(const QuernDevice &device);
int32_t dense_prefill_prepare(const QuernDevice &device);

/// Raises one kernel's dynamic shared memory to the device's limit.
template <typename Params>
int32_t raise_smem_limit(void (*kernel)(Params), const QuernDevice &device) {
  cudaFuncAttributes attributes;
  const void *function = reinterpret_cast<const void *>(kernel);
  if (cudaFuncGetAttributes(&attributes, function) == cudaSuccess &&
      cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           device.smem_per_block - int(attributes.sharedSizeBytes)) == cudaSuccess) {
    return QUERN_OK;
  }
  cudaGetLastError();
  return QUERN_UNSUPPORTED;
}

}  // namespace quern
