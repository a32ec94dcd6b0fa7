// The kernel families' tests, each a function that runs its cases and records checks. Called by test_main.cpp.
#pragma once

#include "check.h"
#include "device.h"
#include "rng.h"

namespace quern::test {

struct TestContext {
  QuernDevice device;
  Rng rng;
  bool small;  // few and small shapes, for compute-sanitizer
  Checks checks;
};

void test_plan(TestContext &context);
void test_repack(TestContext &context);
void test_int4_decode(TestContext &context);
void test_int4_prefill(TestContext &context);
void test_carry(TestContext &context);
void test_head(TestContext &context);
void test_dense(TestContext &context);
void test_elementwise(TestContext &context);
void test_rope(TestContext &context);
void test_decode_attention(TestContext &context);
void test_prefill_attention(TestContext &context);
void test_sample(TestContext &context);
void test_score(TestContext &context);

}  // namespace quern::test
