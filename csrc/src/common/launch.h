// Host side of a launch: one function that adds the cluster and overlap attributes and turns CUDA's answer into a
// status. Used by every kernel's entry point.
#pragma once

#include <cuda_runtime_api.h>

#include "quern_kernels.h"

namespace quern {

struct LaunchShape {
  unsigned blocks;
  unsigned threads;
  unsigned smem_bytes;
  unsigned cluster;  // 1: none
  bool overlap;      // may start before the kernel ahead of it in the stream has ended
  unsigned blocks_y = 1;
};

inline bool is_aligned(const void *pointer, uintptr_t bytes) {
  return pointer != nullptr && reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

/// The launch configuration; `attributes` (room for two) must outlive it.
inline cudaLaunchConfig_t launch_config(const LaunchShape &shape, void *stream, cudaLaunchAttribute *attributes) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(shape.blocks, shape.blocks_y);
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.smem_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = attributes;
  if (shape.cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs].val.clusterDim = {shape.cluster, 1, 1};
    ++config.numAttrs;
  }
  if (shape.overlap) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs].val.programmaticStreamSerializationAllowed = 1;
    ++config.numAttrs;
  }
  return config;
}

/// Launches `kernel(params)`.
template <typename Params>
int32_t launch(void (*kernel)(Params), const LaunchShape &shape, void *stream, Params params) {
  cudaLaunchAttribute attributes[2];
  const cudaLaunchConfig_t config = launch_config(shape, stream, attributes);
  void *arguments[] = {&params};
  const cudaError_t error = cudaLaunchKernelExC(&config, reinterpret_cast<const void *>(kernel), arguments);
  if (error == cudaSuccess) return QUERN_OK;
  cudaGetLastError();
  return QUERN_LAUNCH_FAILED;
}

}  // namespace quern
