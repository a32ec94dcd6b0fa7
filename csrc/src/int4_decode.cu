// Entry point of the int4 decode GEMM: picks a plan from the shape and the device, never from M, checks, launches.
#include <algorithm>

#include "common/carry.h"
#include "common/launch.h"
#include "device.h"
#include "int4_decode/cluster_kernel.cuh"
#include "int4_decode/make_plan.h"
#include "int4_decode/portable_kernel.cuh"

namespace quern {
namespace {

template <int kRowBlocks, int kGroups>
using ClusterConfig = DecodeConfig<kRowBlocks, kGroups, kClusterTeams>;
template <int kRowBlocks, int kGroups>
using PortableConfig = DecodeConfig<kRowBlocks, kGroups, kPortableTeams>;

using Kernel = void (*)(DecodeParams);
struct Variant {
  Kernel kernel;
  int threads;
};

template <int kRowBlocks, int kGroups>
Variant variant_of(bool portable) {
  using Cluster = ClusterConfig<kRowBlocks, kGroups>;
  using Portable = PortableConfig<kRowBlocks, kGroups>;
  return portable ? Variant{int4_decode_portable_kernel<Portable>, PortableLaunch<Portable>::kThreads}
                  : Variant{int4_decode_cluster_kernel<Cluster>, ClusterLaunch<Cluster>::kThreads};
}
Variant find_variant(int m, int group, bool portable) {
  if (m <= 8) {
    return group == 128 ? variant_of<1, 1>(portable) : group == 64 ? variant_of<1, 2>(portable)
                                                                   : variant_of<1, 4>(portable);
  }
  return group == 128 ? variant_of<2, 1>(portable) : group == 64 ? variant_of<2, 2>(portable)
                                                                 : variant_of<2, 4>(portable);
}

int32_t check(const QuernDevice *device, const QuernLinear *args) {
  if (device == nullptr || args == nullptr) return QUERN_BAD_POINTER;
  const QuernInt4 &w = args->weight;
  if (!int4_shape_ok(w.k, w.n, w.group) || !pair_stride_ok(w.n, w.pair_stride)) return QUERN_BAD_SHAPE;
  if (args->m < 1 || args->m > kMaxDecodeRows || args->ldx < w.k || args->ldx % 8 != 0) return QUERN_BAD_SHAPE;
  const bool silu = args->epilogue == QUERN_SILU_MUL_F16;
  if (args->epilogue < QUERN_STORE_F16 || args->epilogue > QUERN_SILU_MUL_F16) return QUERN_UNSUPPORTED;
  if (silu && 2 * w.pair_stride != w.n) return QUERN_BAD_SHAPE;
  if (args->ldo < (silu ? w.n / 2 : w.n)) return QUERN_BAD_SHAPE;
  const bool f16_out = silu || args->epilogue == QUERN_STORE_F16;
  if (!is_aligned(w.tiles, 128) || !is_aligned(args->x, 16) || !is_aligned(args->out, f16_out ? 2 : 4)) {
    return QUERN_BAD_POINTER;
  }
  return reinterpret_cast<uintptr_t>(args->bias) % 2 == 0 ? check_carry(*args) : QUERN_BAD_POINTER;
}

}  // namespace

int32_t int4_decode_prepare(const QuernDevice &device) {
  for (int portable = device.compute_capability >= 90 ? 0 : 1; portable < 2; ++portable) {
    for (int group : {32, 64, 128}) {
      for (int m : {1, kMaxDecodeRows}) {
        const int32_t status = raise_smem_limit(find_variant(m, group, portable != 0).kernel, device);
        if (status != QUERN_OK) return status;
      }
    }
  }
  return QUERN_OK;
}

int32_t int4_decode_max_clusters(int32_t size, int32_t smem_bytes) {
  const Variant variant = find_variant(1, 128, false);
  cudaLaunchAttribute attributes[2];
  const LaunchShape shape = {unsigned(size), unsigned(variant.threads), unsigned(smem_bytes - 1024),
                             unsigned(size), false};
  const cudaLaunchConfig_t config = launch_config(shape, nullptr, attributes);
  int clusters = 0;
  if (cudaOccupancyMaxActiveClusters(&clusters, reinterpret_cast<const void *>(variant.kernel), &config) !=
      cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return clusters;
}

}  // namespace quern

extern "C" uint64_t quern_int4_linear_decode_workspace(const QuernDevice *device, int32_t k, int32_t n) {
  using namespace quern;
  if (device == nullptr || !int4_shape_ok(k, n, 32)) return 0;
  uint64_t most = 0;
  for (int group : {32, 64, 128}) {
    const DecodePlan plan = make_decode_plan(*device, {nullptr, k, n, group, 0}, kMaxDecodeRows);
    if (plan.portable) most = std::max(most, decode_counter_bytes(plan) + decode_sums_bytes(plan));
  }
  return most;
}

extern "C" int32_t quern_int4_linear_decode(const QuernDevice *device, const QuernLinear *args, void *stream) {
  using namespace quern;
  const int32_t status = check(device, args);
  if (status != QUERN_OK) return status;
  const QuernInt4 &w = args->weight;
  DecodeParams params = {};
  params.plan = make_decode_plan(*device, w, args->m);
  if (params.plan.portable) {
    if (!is_aligned(args->workspace, 16)) return QUERN_BAD_POINTER;
    params.counters = static_cast<int *>(args->workspace);
    params.sums = reinterpret_cast<float2 *>(static_cast<uint8_t *>(args->workspace) + decode_counter_bytes(params.plan));
  }
  params.tiles = static_cast<const uint8_t *>(w.tiles);
  params.x = static_cast<const __half *>(args->x);
  params.bias = static_cast<const __half *>(args->bias);
  params.out = args->out;
  params.m = args->m;
  params.k = w.k;
  params.n = w.n;
  params.ldx = args->ldx;
  params.ldo = args->ldo;
  params.pair_stride = w.pair_stride;
  params.epilogue = args->epilogue;
  params.prefetch = args->prefetch;
  params.carry = args->carry;
  const Variant variant = find_variant(args->m, w.group, params.plan.portable);
  const LaunchShape shape = {unsigned(params.plan.groups * params.plan.split), unsigned(variant.threads),
                             unsigned(params.plan.smem_bytes),
                             params.plan.portable ? 1u : unsigned(params.plan.split), device->pdl != 0};
  return launch(variant.kernel, shape, stream, params);
}
