// What every kernel shares on the host: opening a device and naming a status. Called once at start-up.
#include "device.h"

namespace quern {
namespace {

/// Clusters of `size` blocks that fit at once with one block an SM; 0 without clusters.
int32_t clusters_at_once(int32_t size, const QuernDevice &device) {
  if (device.compute_capability < 90) return 0;
  return size == 1 ? device.sm_count : int4_decode_max_clusters(size, device.smem_per_block);
}

int32_t read_attribute(cudaDeviceAttr attribute, int32_t ordinal) {
  int value = 0;
  return cudaDeviceGetAttribute(&value, attribute, ordinal) == cudaSuccess ? value : 0;
}

}  // namespace
}  // namespace quern

extern "C" const char *quern_status_message(int32_t status) {
  switch (status) {
    case QUERN_OK: return "ok";
    case QUERN_BAD_SHAPE: return "a size is outside what the kernel supports";
    case QUERN_BAD_POINTER: return "a pointer is NULL or not aligned as the kernel needs";
    case QUERN_UNSUPPORTED: return "no kernel for this device or combination of options";
    case QUERN_NO_DEVICE: return "no usable CUDA device (driver missing, too old, or ordinal too high)";
    case QUERN_LAUNCH_FAILED: return "CUDA refused a kernel launch";
    default: return "unknown status";
  }
}

extern "C" int32_t quern_device_open(int32_t ordinal, QuernDevice *device) {
  using namespace quern;
  if (device == nullptr) return QUERN_BAD_POINTER;
  *device = {};
  if (cudaSetDevice(ordinal) != cudaSuccess || cudaFree(nullptr) != cudaSuccess) {
    cudaGetLastError();
    return QUERN_NO_DEVICE;
  }
  device->ordinal = ordinal;
  device->compute_capability = 10 * read_attribute(cudaDevAttrComputeCapabilityMajor, ordinal) +
                               read_attribute(cudaDevAttrComputeCapabilityMinor, ordinal);
  device->sm_count = read_attribute(cudaDevAttrMultiProcessorCount, ordinal);
  device->smem_per_block = read_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal);
  device->l2_bytes = read_attribute(cudaDevAttrL2CacheSize, ordinal);
  if (device->compute_capability < 80) return QUERN_UNSUPPORTED;
  int32_t status = int4_decode_prepare(*device);
  if (status == QUERN_OK) status = head_decode_prepare(*device);
  if (status == QUERN_OK) status = decode_attention_prepare();
  if (status == QUERN_OK) status = prefill_attention_prepare(*device);
  if (status == QUERN_OK) status = sample_prepare(*device);
  if (status == QUERN_OK) status = int4_prefill_prepare(*device);
  if (status == QUERN_OK) status = dense_prefill_prepare(*device);
  if (status != QUERN_OK) return status;
  for (int32_t i = 0; i < 4; ++i) device->clusters[i] = clusters_at_once(1 << i, *device);
  device->pdl = device->compute_capability >= 90;
  return QUERN_OK;
}
