// The sm_90a prefill kernels: one instance a width, cluster and group kind.
#include "common/launch.h"
#include "common/tensor_map.h"
#include "device.h"
#include "int4_prefill/few_kernel.cuh"
#include "int4_prefill/hopper_kernel.cuh"
#include "int4_prefill/variants.h"

namespace quern {
namespace {

struct Instance {
  void (*kernel)(HopperParams);
  int tokens, cluster;
  int groups[2];  // a tile's quantization groups that it is for, one or two numbers
  int threads, smem_bytes;
};
template <int kTokens, int kGroups>
constexpr Instance few() {
  using Config = FewConfig<kTokens, kGroups>;
  return {int4_prefill_few_kernel<Config>, kTokens, 1, {kGroups, kGroups}, Config::kThreads, Config::kSmemBytes};
}
template <int kTokens, int kCluster, bool kFine>
constexpr Instance instance() {
  using Config = HopperConfig<kTokens, kCluster, kFine>;
  return {int4_prefill_hopper_kernel<Config>, kTokens, kCluster, {kFine ? 4 : 1, kFine ? 4 : 2}, Config::kThreads, Config::kSmemBytes};
}
const Instance kInstances[] = {
    few<32, 1>(), few<32, 2>(), few<32, 4>(),
    few<64, 1>(), few<64, 2>(), few<64, 4>(),
    instance<64, 2, false>(), instance<64, 2, true>(),
    instance<96, 2, false>(), instance<96, 2, true>(),
    instance<128, 1, false>(), instance<128, 1, true>(),
    instance<160, 2, false>(), instance<160, 2, true>(),
    instance<176, 2, false>(), instance<176, 2, true>(),
    instance<192, 2, false>(), instance<192, 2, true>(),
    instance<224, 2, false>(), instance<224, 2, true>(),
    instance<256, 2, false>(), instance<256, 2, true>(),
};

}  // namespace

int32_t hopper_prefill_prepare(const QuernDevice &device) {
  for (const Instance &instance : kInstances) {
    const int32_t status = raise_smem_limit(instance.kernel, device);
    if (status != QUERN_OK) return status;
  }
  return tensor_maps_prepare();
}

int32_t launch_hopper_prefill(const QuernDevice &device, const PrefillParams &params, void *stream) {
  const PrefillPlan &plan = params.plan;
  for (const Instance &instance : kInstances) {
    if (instance.tokens != plan.tokens || instance.cluster != plan.cluster) continue;
    if (instance.groups[0] != params.groups && instance.groups[1] != params.groups) continue;
    HopperParams hopper = {{}, params};
    const SwizzledMatrix x = {params.x, params.m, params.k, params.ldx, plan.tokens / plan.cluster};
    const int32_t status = make_tensor_map(x, &hopper.x_map);
    if (status != QUERN_OK) return status;
    const LaunchShape shape = {unsigned(plan.workers * plan.cluster), unsigned(instance.threads),
                               unsigned(instance.smem_bytes), unsigned(plan.cluster), device.pdl != 0};
    return launch(instance.kernel, shape, stream, hopper);
  }
  return QUERN_UNSUPPORTED;
}

}  // namespace quern
