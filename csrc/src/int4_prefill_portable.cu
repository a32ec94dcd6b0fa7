// The prefill kernels for sm_80 and up: one instance a width and group kind.
#include "common/launch.h"
#include "device.h"
#include "int4_prefill/portable_kernel.cuh"
#include "int4_prefill/variants.h"

namespace quern {
namespace {

struct Instance {
  void (*kernel)(PrefillParams);
  int tokens;
  bool fine;
  int threads, smem_bytes;
};
template <int kTokens, bool kFine>
constexpr Instance instance() {
  using Config = PortablePrefillConfig<kTokens, kFine>;
  return {int4_prefill_portable_kernel<Config>, kTokens, kFine, Config::kThreads, Config::kSmemBytes};
}
const Instance kInstances[] = {instance<32, false>(), instance<128, false>(), instance<32, true>(), instance<128, true>()};

}  // namespace

int32_t portable_prefill_prepare(const QuernDevice &device) {
  for (const Instance &instance : kInstances) {
    const int32_t status = raise_smem_limit(instance.kernel, device);
    if (status != QUERN_OK) return status;
  }
  return QUERN_OK;
}

int32_t launch_portable_prefill(const QuernDevice &device, const PrefillParams &params, void *stream) {
  for (const Instance &instance : kInstances) {
    if (instance.tokens != params.plan.tokens || instance.fine != (params.groups == 4)) continue;
    const LaunchShape shape = {unsigned(params.plan.workers), unsigned(instance.threads), unsigned(instance.smem_bytes), 1,
                               device.pdl != 0};
    return launch(instance.kernel, shape, stream, params);
  }
  return QUERN_UNSUPPORTED;
}

}  // namespace quern
