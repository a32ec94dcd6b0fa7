// Angles against float64 up to position 131004, with two rotary bases, plain and with stretched frequencies; bias, rotation and cache write of prefill rows:
// every element in its place, nothing else touched, padding skipped.
#include "attention_case.h"

namespace quern::test {
namespace {

void check_case(TestContext &context, const AttentionDims &dims, const std::vector<SpanSpec> &spans) {
  AttentionCase c(dims, spans, context.rng);
  for (uint32_t poison : kPoison) {
    c.reset(poison);
    c.run_angles(context.device);
    const QuernAttention args = c.args();
    // In two launches, as when decode rows lie between.
    const int cut = c.rows() / 3;
    if (cut > 0) STATUS_OK(quern_rope_store(&context.device, &args, c.row_span(), 0, cut, nullptr));
    STATUS_OK(quern_rope_store(&context.device, &args, c.row_span(), cut, c.rows() - cut, nullptr));
    CUDA_OK(cudaDeviceSynchronize());
    c.expect_angles(context.checks);
    c.expect_queries(context.checks);
    c.expect_cache(context.checks);
    context.checks.expect(c.guards_intact(), c.name() + " guards");
  }
}

}  // namespace

void test_rope(TestContext &context) {
  check_case(context, {4, 2, 64, 64, true, 16}, {{0, 0, 5}, {1, -1, 2}, {2, 31, 3}});
  check_case(context, {4, 2, 64, 64, false, 0, true}, {{0, 7, 3}, {1, 40, 2}});
  if (context.small) return;
  check_case(context, {40, 40, 128, 128, true, 2048}, {{0, 2040, 33}, {1, 0, 1}, {2, 8160, 32}});
  check_case(context, {32, 8, 128, 128}, {{0, 100, 64}, {1, -1, 3}, {2, 0, 65}});
  check_case(context, {9, 3, 64, 32, true}, {{0, 5, 70}, {1, 4095, 1}});
  check_case(context, {32, 8, 128, 128, true, 0, true}, {{0, 8150, 40}, {1, 0, 1}, {2, 131000, 5}});
}

}  // namespace quern::test
