// One int4 matrix with its inputs and float64 reference, and the checks every int4 linear kernel must pass. A kernel is
// a function of QuernLinear, so that decode and prefill are tested alike.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "awq.h"
#include "tests.h"

namespace quern::test {

struct LinearShape {
  int k, n, group;
  int epilogue = QUERN_STORE_F16;
  int pair_stride = 0;
  bool bias = false;
  bool outliers = false;
  std::vector<float> row_factors = {};  // of x W, before the bias; empty: none
};

using LinearKernel = std::function<int32_t(const QuernLinear &)>;

class LinearCase {
 public:
  /// `max_m` rows of x; the reference of those in `checked_rows` (ascending; empty: all).
  LinearCase(const LinearShape &shape, int max_m, Rng &rng, std::vector<int> checked_rows = {});

  /// Runs m rows into poisoned memory with a padded row distance; returns the bytes of out, [m, columns()].
  std::vector<uint8_t> run(const LinearKernel &kernel, int m, uint32_t poison, Checks &checks);
  /// The result of `run` against the reference. `scaled_weights`: the kernel rounds each weight to fp16.
  void expect_right(const std::vector<uint8_t> &out, int m, Checks &checks, bool scaled_weights = false) const;
  /// Runs [m, k] other rows and returns fp32 sums without an epilogue.
  std::vector<float> run_rows(const LinearKernel &kernel, const std::vector<Half> &x, int m, Checks &checks);

  std::string name() const;
  const AwqMatrix &matrix() const { return matrix_; }
  int columns() const { return shape_.epilogue == QUERN_SILU_MUL_F16 ? shape_.n / 2 : shape_.n; }
  int element_bytes() const {
    return shape_.epilogue == QUERN_STORE_F32 || shape_.epilogue == QUERN_ADD_F32 ? 4 : 2;
  }

 private:
  QuernInt4 weight() const {
    return {tiles_->data(), shape_.k, shape_.n, shape_.group, shape_.pair_stride};
  }
  void expect_padding(const std::vector<uint8_t> &rows, size_t row_bytes, uint32_t poison, Checks &checks) const;

  LinearShape shape_;
  AwqMatrix matrix_;
  std::vector<int> checked_rows_;
  int ldx_, ldo_;
  std::vector<Half> bias_host_;
  std::vector<float> residual_;  // [max_m, n], for QUERN_ADD_F32
  std::vector<double> expected_, magnitude_;  // [checked rows, columns]
  std::unique_ptr<DeviceBuffer> tiles_, x_, bias_;
};

}  // namespace quern::test
