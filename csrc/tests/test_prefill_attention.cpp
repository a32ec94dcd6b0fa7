// Prefill attention on ragged spans with and without a past: right, the same bits in repeats and however a prompt is
// cut into spans; the portable kernel as well as the device's own.
#include "attention_case.h"

namespace quern::test {
namespace {

std::vector<Half> run(const QuernDevice &device, AttentionCase &c, uint32_t poison, Checks &checks) {
  c.reset(poison);
  c.run_angles(device);
  const QuernAttention args = c.args();
  STATUS_OK(quern_rope_store(&device, &args, c.row_span(), 0, c.rows(), nullptr));
  STATUS_OK(quern_prefill_attention(&device, &args, c.max_rows(), nullptr));
  CUDA_OK(cudaDeviceSynchronize());
  checks.expect(c.guards_intact(), c.name() + " guards");
  return c.out();
}

void check_case(TestContext &context, const AttentionDims &dims, const std::vector<SpanSpec> &spans, int repeats) {
  AttentionCase c(dims, spans, context.rng);
  QuernDevice portable = context.device;
  portable.force_portable = 1;
  for (const QuernDevice &device : {context.device, portable}) {
    const std::vector<Half> first = run(device, c, kPoison[0], context.checks);
    c.expect_out(context.checks);
    for (int i = 1; i < repeats; ++i) {
      context.checks.expect(run(device, c, kPoison[0], context.checks) == first, c.name() + " repeat");
    }
  }
}

/// One prompt as one span and in pieces.
void check_cuts(TestContext &context, const AttentionDims &dims, const std::vector<int> &cuts, int length) {
  const Rng start = context.rng;
  std::vector<SpanSpec> pieces;
  for (size_t i = 0; i < cuts.size(); ++i) {
    const int end = i + 1 < cuts.size() ? cuts[i + 1] : length;
    pieces.push_back({0, cuts[i], end - cuts[i]});
  }
  QuernDevice portable = context.device;
  portable.force_portable = 1;
  for (const QuernDevice &device : {context.device, portable}) {
    Rng a = start, b = start;
    AttentionCase whole(dims, {{0, 0, length}}, a), cut(dims, pieces, b);
    const std::vector<Half> expected = run(device, whole, kPoison[0], context.checks);
    context.checks.expect(run(device, cut, kPoison[0], context.checks) == expected, cut.name() + " cut differs from whole");
  }
  context.rng.next();
}

/// With a window; whole runs of 128 tokens, the most that a kernel takes together, are not read before it.
AttentionDims windowed(AttentionDims dims, int window) {
  dims.window = window;
  dims.run = 128;
  return dims;
}

}  // namespace

void test_prefill_attention(TestContext &context) {
  check_case(context, {4, 2, 64, 64, true, 16}, {{0, 0, 5}, {1, -1, 2}, {2, 31, 100}}, 2);
  check_case(context, {2, 2, 128, 128}, {{0, 0, 130}, {1, 40, 33}}, 2);
  check_case(context, windowed({4, 2, 64, 64}, 50), {{0, 0, 140}, {1, -1, 2}, {2, 290, 40}}, 2);
  check_case(context, windowed({2, 2, 128, 128, true}, 7), {{0, 0, 130}, {1, 300, 33}}, 2);
  if (context.small) return;
  check_case(context, {8, 8, 128, 128, true, 2048}, {{0, 0, 1}, {1, 0, 31}, {2, 0, 32}, {3, 0, 33}, {4, 0, 128}, {5, 0, 129}}, 5);
  check_case(context, {8, 2, 128, 128}, {{0, 0, 2048}, {1, 1000, 257}, {2, 8100, 92}, {3, -1, 7}}, 50);
  check_case(context, {6, 2, 64, 32, true}, {{0, 0, 700}, {1, 63, 1}, {2, 64, 65}, {3, 4000, 200}}, 5);
  check_cuts(context, {4, 2, 128, 128}, {0, 1, 100, 128, 129, 511}, 700);
  check_cuts(context, {4, 4, 64, 64, true}, {0, 64, 130}, 333);
  // Shorter and longer than a tile, a block of queries, a chunk and the whole sequence; chunks that begin anywhere.
  for (int window : {1, 2, 31, 32, 63, 64, 65, 127, 128, 129, 200, 256, 1000, 1 << 20}) {
    const std::vector<SpanSpec> spans = {{0, 0, 700}, {1, 63, 1}, {2, 64, 65}, {3, 1000, 257}, {4, 8100, 92}, {5, -1, 7}, {6, 127, 130}};
    check_case(context, windowed({8, 2, 128, 128}, window), spans, 2);
    check_case(context, windowed({3, 3, 64, 32, true}, window), spans, 2);
    check_cuts(context, windowed({4, 2, 128, 128}, window), {0, 1, 100, 128, 129, 511}, 700);
    check_cuts(context, windowed({4, 4, 64, 64, true}, window), {0, 64, 130}, 333);
  }
  check_case(context, windowed({4, 4, 128, 128, true, 2048}, 4096), {{0, 4000, 600}, {1, 8200, 100}, {2, 0, 4200}}, 2);
}

}  // namespace quern::test
