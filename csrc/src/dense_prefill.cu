// Entry point of dense fp16 layers for many rows on sm_90: checks, picks the cheaper plan, launches.
#include <algorithm>

#include "common/launch.h"
#include "common/tensor_map.h"
#include "dense_prefill/kernel.cuh"
#include "device.h"
#include "int4_prefill/variants.h"

namespace quern {
namespace {

constexpr int kMinRows = 17, kMaxRows = 1 << 20, kMaxSize = 1 << 20;

struct Instance {
  void (*kernel)(DenseParams);
  PrefillVariant variant;
  int threads, smem_bytes;
};
template <int kTokens, int kCluster>
constexpr Instance instance() {
  using Config = DenseConfig<kTokens, kCluster>;
  return {dense_prefill_kernel<Config>, {kTokens, kCluster}, Config::kThreads, Config::kSmemBytes};
}
const Instance kInstances[] = {instance<128, 2>(), instance<256, 2>()};

int32_t check(const QuernDevice &device, const QuernDense &args) {
  if (device.compute_capability != 90) return QUERN_UNSUPPORTED;
  const bool silu = args.epilogue == QUERN_SILU_MUL_F16, f16_out = silu || args.epilogue == QUERN_STORE_F16;
  if (args.epilogue < QUERN_STORE_F16 || args.epilogue > QUERN_SILU_MUL_F16) return QUERN_UNSUPPORTED;
  if (args.m < kMinRows || args.m > kMaxRows || args.k <= 0 || args.k > kMaxSize || args.k % 64 != 0) return QUERN_BAD_SHAPE;
  if (args.n <= 0 || args.n > kMaxSize || args.n % (silu ? 16 : 8) != 0) return QUERN_BAD_SHAPE;
  if (args.ldx < args.k || args.ldx % 8 != 0 || args.ldo < (silu ? args.n / 2 : args.n)) return QUERN_BAD_SHAPE;
  if (!is_aligned(args.weight, 16) || !is_aligned(args.x, 16) || !is_aligned(args.out, f16_out ? 2 : 4) ||
      !is_aligned(args.workspace, 16) || reinterpret_cast<uintptr_t>(args.bias) % 2 != 0) {
    return QUERN_BAD_POINTER;
  }
  return QUERN_OK;
}

/// The layer as the planner and the epilogues know layers.
QuernLinear as_linear(const QuernDense &args) {
  const int32_t pair_stride = args.epilogue == QUERN_SILU_MUL_F16 ? args.n / 2 : 0;
  return {{nullptr, args.k, args.n, kTileK, pair_stride}, args.x, args.bias, args.out, args.workspace, args.m, args.ldx,
          args.ldo, args.epilogue, {}, {}};
}

}  // namespace

int32_t dense_prefill_prepare(const QuernDevice &device) {
  if (device.compute_capability != 90) return QUERN_OK;
  for (const Instance &instance : kInstances) {
    const int32_t status = raise_smem_limit(instance.kernel, device);
    if (status != QUERN_OK) return status;
  }
  return tensor_maps_prepare();
}

int32_t launch_dense(const QuernDevice &device, const QuernDense &args, int variant, PrefillSplit split, void *stream) {
  const Instance &instance = kInstances[variant];
  const QuernLinear linear = as_linear(args);
  const PrefillPlan plan = plan_prefill(device, linear, instance.variant, split).plan;
  DenseParams params = {{}, {}, prefill_params(device, linear, plan)};
  const int box_rows = params.p.pair_stride > 0 ? 8 : kTileN;
  int32_t status = make_tensor_map({args.weight, args.n, args.k, args.k, box_rows}, &params.weight_map);
  if (status == QUERN_OK) {
    status = make_tensor_map({args.x, args.m, args.k, args.ldx, plan.tokens / plan.cluster}, &params.x_map);
  }
  if (status != QUERN_OK) return status;
  const LaunchShape shape = {unsigned(plan.workers * plan.cluster), unsigned(instance.threads), unsigned(instance.smem_bytes),
                             unsigned(plan.cluster), device.pdl != 0};
  return launch(instance.kernel, shape, stream, params);
}

int dense_variants() { return int(sizeof kInstances / sizeof kInstances[0]); }

}  // namespace quern

extern "C" int32_t quern_dense_linear(const QuernDevice *device, const QuernDense *args, void *stream) {
  using namespace quern;
  if (device == nullptr || args == nullptr) return QUERN_BAD_POINTER;
  const int32_t status = check(*device, *args);
  if (status != QUERN_OK) return status;
  int best = 0;
  double cost = 0.0;
  for (int i = 0; i < dense_variants(); ++i) {
    const double of_this = plan_prefill(*device, as_linear(*args), kInstances[i].variant, PrefillSplit::kBest).cost;
    if (i == 0 || of_this < cost) best = i, cost = of_this;
  }
  return launch_dense(*device, *args, best, PrefillSplit::kBest, stream);
}
