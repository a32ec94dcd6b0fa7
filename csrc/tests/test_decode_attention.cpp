// Decode attention on a ragged batch over shuffled blocks: right, written where it must be and nowhere else, the same
// bits in 50 repeats, alone, in company and whatever the longest sequence could be; counters back at zero.
#include <algorithm>

#include "attention_case.h"

namespace quern::test {
namespace {

struct Launch {
  int first_span, n_spans, max_tokens;
};

/// Runs decode over some spans; the parts of the workspace that need not be zero are poisoned.
void run(const QuernDevice &device, const AttentionCase &c, const AttentionDims &dims, Launch l, uint32_t poison,
         Checks &checks) {
  const QuernDecodeShape shape = {l.n_spans, l.max_tokens, dims.n_heads, dims.n_kv_heads, dims.head_dim, dims.window};
  const std::vector<int32_t> all = c.positions();
  std::vector<int32_t> plan(quern_decode_plan_ints(&device, &shape));
  const int n_items = quern_decode_plan(&device, &shape, all.data() + l.first_span, plan.data());
  checks.expect(n_items >= 0 && size_t(8 + 8 * n_items) <= plan.size(), c.name() + " plan");
  const DeviceBuffer d_plan(plan);
  DeviceBuffer space(quern_decode_workspace(&device, &shape), poison);
  const size_t counters = quern_decode_counter_bytes(&shape);
  CUDA_OK(cudaMemset(space.data(), 0, counters));
  const QuernAttention args = c.args(l.first_span, l.n_spans);
  STATUS_OK(quern_decode_attention(&device, &args, static_cast<int32_t *>(d_plan.data()), space.data(), l.max_tokens, nullptr));
  CUDA_OK(cudaDeviceSynchronize());
  const std::vector<uint32_t> words = space.download<uint32_t>();
  checks.expect(std::all_of(words.begin(), words.begin() + counters / 4, [](uint32_t w) { return w == 0; }),
                c.name() + " counters");
  checks.expect(space.guards_intact() && c.guards_intact(), c.name() + " guards");
}

void check_case(TestContext &context, const AttentionDims &dims, const std::vector<int> &lengths, int repeats) {
  std::vector<SpanSpec> spans;
  for (size_t i = 0; i < lengths.size(); ++i) spans.push_back({int(i), lengths[i] - 1, 1});
  AttentionCase c(dims, spans, context.rng);
  Checks &checks = context.checks;
  const int n = int(lengths.size()), longest = *std::max_element(lengths.begin(), lengths.end());
  c.reset(kPoison[0]);
  c.run_angles(context.device);
  run(context.device, c, dims, {0, n, longest}, kPoison[0], checks);
  c.expect_out(checks);
  c.expect_cache(checks);
  const std::vector<Half> first = c.out();
  for (int i = 1; i < repeats; ++i) {
    c.poison_out(kPoison[i % 2]);
    run(context.device, c, dims, {0, n, i % 2 == 0 ? longest : 2 * longest}, kPoison[i % 2], checks);
    const std::vector<Half> again = c.out();
    bool same = true;
    for (int span = 0; span < n; ++span) {
      const size_t width = size_t(dims.n_heads) * dims.head_dim;
      const Half expected = Half(i % 2 == 0 ? kPoison[0] : kPoison[1]);
      if (lengths[span] > 0) {
        same &= std::equal(first.begin() + span * width, first.begin() + (span + 1) * width, again.begin() + span * width);
      } else {
        same &= again[span * width] == expected;
      }
    }
    checks.expect(same, c.name() + " repeat");
  }
  c.reset(kPoison[1]);
  for (int span = 0; span < n; ++span) run(context.device, c, dims, {span, 1, longest}, kPoison[1], checks);
  c.expect_out(checks);
  // One or two sequences of a model with many KV heads are cut into smaller pieces.
  if (dims.n_kv_heads >= 24 && n > 2) return;
  const std::vector<Half> alone = c.out();
  bool same = true;
  for (size_t i = 0; i < alone.size(); ++i) {
    same &= lengths[i / (size_t(dims.n_heads) * dims.head_dim)] == 0 || alone[i] == first[i];
  }
  checks.expect(same, c.name() + " alone differs from in company");
}

/// Plans of many lengths: every token that is seen in exactly one item, no block before the window, sizes within bounds,
/// splits and slots in order, items sorted.
void check_plans(TestContext &context, int window) {
  Rng &rng = context.rng;
  for (int n_kv_heads : {1, 8, 12, 40, 64, 300}) {
    for (int max_tokens : {1, 33, 4096, 8192, 131072}) {
      const QuernDecodeShape shape = {17, max_tokens, n_kv_heads, n_kv_heads, 128, window};
      std::vector<int32_t> positions(shape.n_spans), plan(quern_decode_plan_ints(&context.device, &shape));
      for (int32_t &position : positions) position = rng.below(5) == 0 ? -1 : rng.below(max_tokens);
      positions[3] = max_tokens - 1;
      const int n_items = quern_decode_plan(&context.device, &shape, positions.data(), plan.data());
      bool right = n_items >= 0 && n_items == plan[0] && size_t(8 + 8 * n_items) <= plan.size();
      std::vector<int> covered(shape.n_spans, 0), hidden(shape.n_spans, 0), first_slot(shape.n_spans, -1);
      for (int span = 0; span < shape.n_spans && window > 0; ++span) hidden[span] = std::max(0, positions[span] + 1 - window);
      std::vector<bool> slots(std::max(n_items, 0), false);
      int before = 1 << 30;
      for (int i = 0; right && i < n_items; ++i) {
        const int32_t *item = plan.data() + 8 * (i + 1);
        const int span = item[0], first = item[1], end = item[2], slot = item[5], blocks = (end - first + 31) / 32;
        right = first % 32 == 0 && first < end && end - first <= 1024 && end <= positions[span] + 1 && blocks <= before &&
                slot < n_items && !slots[slot] && (item[3] + 1 == item[4]) == (end == positions[span] + 1);
        if (first_slot[span] < 0) first_slot[span] = slot - item[3];
        right = right && first_slot[span] == slot - item[3];
        right = right && item[6] == (item[3] == 0 ? hidden[span] % 32 : 0) && first >= hidden[span] - hidden[span] % 32;
        slots[slot] = true, before = blocks, covered[span] += end - first - item[6];
      }
      for (int span = 0; span < shape.n_spans; ++span) right &= covered[span] == positions[span] + 1 - hidden[span];
      context.checks.expect(right, "plan of " + std::to_string(n_kv_heads) + " heads, " + std::to_string(max_tokens) + " tokens, window " + std::to_string(window));
      positions[5] = max_tokens;
      context.checks.expect(quern_decode_plan(&context.device, &shape, positions.data(), plan.data()) == -1, "plan too long");
    }
  }
}

AttentionDims windowed(AttentionDims dims, int window) {
  dims.window = window;
  return dims;
}

}  // namespace

void test_decode_attention(TestContext &context) {
  for (int window : {0, 1, 2, 31, 32, 33, 1000, 4096}) check_plans(context, window);
  check_case(context, {4, 2, 64, 64, true, 16}, {1, 33, 0, 300}, 3);
  check_case(context, {3, 3, 128, 128}, {32, 257}, 3);
  check_case(context, windowed({4, 2, 64, 64, true}, 20), {1, 20, 0, 21, 84, 300}, 3);
  check_case(context, windowed({3, 3, 128, 128}, 70), {70, 257}, 2);
  if (context.small) return;
  const std::vector<int> ragged = {1, 31, 32, 33, 0, 2048, 255, 256, 257, 577, 8192, 15, 17, 0, 1024};
  check_case(context, {40, 40, 128, 128, true, 2048}, ragged, 50);
  check_case(context, {32, 8, 128, 128}, ragged, 5);
  check_case(context, {14, 2, 64, 64, true}, ragged, 5);
  check_case(context, {8, 1, 64, 32}, {1, 2, 3, 500, 16384}, 5);
  check_case(context, {9, 3, 64, 64}, std::vector<int>(70, 65), 5);
  check_case(context, {2, 1, 128, 96}, {40000}, 3);
  // Every place of the window's start in a block, and of the newest token after it.
  std::vector<int> borders;
  for (int length = 90; length < 90 + 66; ++length) borders.push_back(length);
  for (int window : {1, 2, 15, 16, 17, 31, 32, 33, 64, 100}) check_case(context, windowed({4, 2, 128, 128}, window), borders, 2);
  for (int window : {1, 33, 600, 4096, 1 << 20}) {
    check_case(context, windowed({32, 8, 128, 128, true}, window), ragged, 3);
    check_case(context, windowed({14, 2, 64, 64}, window), ragged, 3);
  }
  check_case(context, windowed({40, 40, 128, 128}, 1024), ragged, 3);
  check_case(context, windowed({8, 1, 64, 32}, 5000), {16384, 5000, 5001}, 3);
}

}  // namespace quern::test
