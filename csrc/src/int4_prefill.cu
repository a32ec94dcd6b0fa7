// Entry point of the int4 prefill GEMM: checks, picks the cheapest plan for the shape and the device, launches.
#include <algorithm>

#include "common/carry.h"
#include "common/launch.h"
#include "device.h"
#include "int4_prefill/variants.h"

namespace quern {
namespace {

constexpr int kMinRows = 17;
constexpr int kMaxRows = 1 << 20;
constexpr int kWholeWorkers = 3;  // workers an output block from which on it has workers of its own
constexpr int kFlagBytes = 4096;  // room for four flags of each of 256 multiprocessors

// A model of a worker's time in clocks, measured on an H100; only comparisons matter.
double unit_clocks(PrefillVariant variant) {
  const double tokens = variant.tokens;
  if (variant.cluster == 0) return 32.0 * tokens + 400.0;
  if (teams_of(variant) == 4) return 980.0 + 12.8 * tokens;
  return std::max(8.0 * tokens + 40.0, 3.3 * tokens + 900.0);
}
double store_clocks(int tokens, int epilogue) {
  return epilogue == QUERN_STORE_F32 || epilogue == QUERN_ADD_F32 ? 1500.0 + 38.0 * tokens : 800.0 + 18.0 * tokens;
}
/// One partial sum written and one read, by a worker's first and last segment.
double exchange_clocks(int tokens) { return 5000.0 + 30.0 * tokens; }
/// Each further partial sum of an output block.
double contributor_clocks(int tokens) { return 1000.0 + 10.0 * tokens; }

PrefillPlan base_plan(const QuernDevice &device, const QuernLinear &args, PrefillVariant variant) {
  PrefillPlan plan = {};
  const bool portable = variant.cluster == 0;
  plan.tokens = variant.tokens;
  plan.cluster = portable ? 1 : variant.cluster;
  plan.k_tiles = ceil_div(args.weight.k, kTileK);
  plan.n_tiles = ceil_div(args.weight.n, kTileN);
  plan.teams = teams_of(variant);
  plan.n_blocks = ceil_div(plan.n_tiles, plan.teams * plan.cluster);
  plan.m_blocks = ceil_div(args.m, plan.tokens);
  const int room = portable ? device.sm_count : device.clusters[plan.cluster == 1 ? 0 : plan.cluster == 2 ? 1 : 2];
  plan.workers = std::max(1, room);
  plan.band = std::max(1, 1024 / plan.tokens);
  return plan;
}

double tile_clocks(const PrefillPlan &plan, PrefillVariant variant, int epilogue) {
  return plan.k_tiles * unit_clocks(variant) + store_clocks(plan.tokens, epilogue);
}
double whole_cost(const PrefillPlan &plan, double tile) { return ceil_div(tile_count(plan), plan.workers) * tile; }
double split_cost(const PrefillPlan &plan, double tile) {
  const double further = std::max(0.0, double(plan.workers) / tile_count(plan) - 1.0);
  return tile * tile_count(plan) / plan.workers + exchange_clocks(plan.tokens) + further * contributor_clocks(plan.tokens);
}

/// Output blocks beyond whole rounds are cut, together with one round, so that every share is at least a block long.
int split_tiles(const PrefillPlan &plan) {
  const int tiles = tile_count(plan);
  if (tiles % plan.workers == 0) return 0;
  return tiles < 2 * plan.workers ? tiles : tiles % plan.workers + plan.workers;
}

int32_t check(const QuernDevice *device, const QuernLinear *args) {
  if (device == nullptr || args == nullptr) return QUERN_BAD_POINTER;
  const QuernInt4 &w = args->weight;
  if (!int4_shape_ok(w.k, w.n, w.group) || !pair_stride_ok(w.n, w.pair_stride)) return QUERN_BAD_SHAPE;
  if (args->m < kMinRows || args->m > kMaxRows || args->ldx < w.k || args->ldx % 8 != 0) return QUERN_BAD_SHAPE;
  const bool silu = args->epilogue == QUERN_SILU_MUL_F16;
  if (args->epilogue < QUERN_STORE_F16 || args->epilogue > QUERN_SILU_MUL_F16) return QUERN_UNSUPPORTED;
  if (silu && 2 * w.pair_stride != w.n) return QUERN_BAD_SHAPE;
  if (args->ldo < (silu ? w.n / 2 : w.n)) return QUERN_BAD_SHAPE;
  const bool f16_out = silu || args->epilogue == QUERN_STORE_F16;
  if (!is_aligned(w.tiles, 128) || !is_aligned(args->x, 16) || !is_aligned(args->out, f16_out ? 2 : 4) ||
      !is_aligned(args->workspace, 16)) {
    return QUERN_BAD_POINTER;
  }
  return reinterpret_cast<uintptr_t>(args->bias) % 2 == 0 ? check_carry(*args) : QUERN_BAD_POINTER;
}

/// Of partial sums where each multiprocessor has one worker.
uint64_t partial_bytes(const QuernDevice &device, PrefillVariant variant) {
  return uint64_t(device.sm_count) * teams_of(variant) * partial_floats(variant.tokens) * 4;
}

}  // namespace

/// The flags, and what teams of few tokens send each other.
uint64_t zeroed_workspace(const QuernDevice &device) { return kFlagBytes + partial_bytes(device, {kFewTokens, 1}); }

PrefillChoice plan_prefill(const QuernDevice &device, const QuernLinear &args, PrefillVariant variant, PrefillSplit split) {
  PrefillChoice choice = {base_plan(device, args, variant), variant.cluster == 0, 0.0};
  PrefillPlan &plan = choice.plan;
  const double tile = tile_clocks(plan, variant, args.epilogue);
  choice.cost = whole_cost(plan, tile);
  const double split_price = split_cost(plan, tile);
  if (split == PrefillSplit::kAlways || (split == PrefillSplit::kBest && split_price < choice.cost)) {
    plan.split_tiles = split_tiles(plan);
    if (plan.split_tiles > 0) choice.cost = split_price;
  }
  // Workers without work are not launched; shares are cut for all.
  if (plan.split_tiles == 0) plan.workers = std::min(plan.workers, tile_count(plan));
  plan.share = plan.split_tiles * plan.k_tiles / plan.workers;
  plan.longer = plan.split_tiles * plan.k_tiles % plan.workers;
  plan.whole_workers = plan.split_tiles > 0 && plan.workers >= kWholeWorkers * plan.split_tiles &&
                       plan.workers <= plan.k_tiles * plan.split_tiles;
  return choice;
}

PrefillChoice choose_prefill(const QuernDevice &device, const QuernLinear &args) {
  const bool portable = device.compute_capability != 90 || device.force_portable != 0;
  PrefillChoice best = {};
  const auto consider = [&](PrefillVariant variant) {
    // The rows' factors have room for no more.
    if (args.carry.squares != nullptr && variant.tokens > QUERN_CARRY_ROWS) return;
    const PrefillChoice choice = plan_prefill(device, args, variant, PrefillSplit::kBest);
    if (best.cost == 0.0 || choice.cost < best.cost) best = choice;
  };
  if (portable) {
    for (const PrefillVariant variant : kPortableVariants) consider(variant);
  } else {
    for (const PrefillVariant variant : kHopperVariants) consider(variant);
  }
  return best;
}

PrefillParams prefill_params(const QuernDevice &device, const QuernLinear &args, const PrefillPlan &plan) {
  const QuernInt4 &w = args.weight;
  PrefillParams params = {};
  params.tiles = static_cast<const uint8_t *>(w.tiles);
  params.x = static_cast<const __half *>(args.x);
  params.bias = static_cast<const __half *>(args.bias);
  params.out = args.out;
  params.flags = static_cast<int *>(args.workspace);
  params.sent = static_cast<float *>(args.workspace) + kFlagBytes / 4;
  params.partials = static_cast<float *>(args.workspace) + zeroed_workspace(device) / 4;
  params.m = args.m;
  params.k = w.k;
  params.n = w.n;
  params.ldx = args.ldx;
  params.ldo = args.ldo;
  params.groups = groups_per_tile(w.group);
  params.pair_stride = w.pair_stride;
  params.epilogue = args.epilogue;
  const bool f16_out = args.epilogue == QUERN_STORE_F16 || args.epilogue == QUERN_SILU_MUL_F16;
  params.wide_stores = args.ldo % (f16_out ? 8 : 4) == 0 && is_aligned(args.out, 16);
  params.prefetch = args.prefetch;
  params.carry = args.carry;
  params.plan = plan;
  return params;
}

int32_t launch_prefill(const QuernDevice &device, const QuernLinear &args, const PrefillChoice &choice, void *stream) {
  const PrefillParams params = prefill_params(device, args, choice.plan);
  return choice.portable ? launch_portable_prefill(device, params, stream) : launch_hopper_prefill(device, params, stream);
}

int32_t int4_prefill_prepare(const QuernDevice &device) {
  const int32_t status = portable_prefill_prepare(device);
  return status == QUERN_OK && device.compute_capability == 90 ? hopper_prefill_prepare(device) : status;
}

}  // namespace quern

extern "C" uint64_t quern_int4_linear_prefill_workspace(const QuernDevice *device) {
  using namespace quern;
  if (device == nullptr) return 0;
  return zeroed_workspace(*device) + partial_bytes(*device, {kMaxTokens, 1});
}

extern "C" int32_t quern_int4_linear_prefill(const QuernDevice *device, const QuernLinear *args, void *stream) {
  using namespace quern;
  const int32_t status = check(device, args);
  return status == QUERN_OK ? launch_prefill(*device, *args, choose_prefill(*device, *args), stream) : status;
}
