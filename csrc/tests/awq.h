// AWQ matrices on the host: random ones in AutoAWQ's layout, the CPU packer that the repack kernel is tested against,
// and y = x W in float64. Slow and clear.
#pragma once

#include <cstdint>
#include <vector>

#include "half.h"
#include "layout.h"
#include "rng.h"

namespace quern::test {

/// One layer as AutoAWQ stores it, and the same values unpacked.
struct AwqMatrix {
  int k, n, group;
  std::vector<uint32_t> qweight;  // [k, n/8]
  std::vector<uint32_t> qzeros;   // [k/group, n/8]
  std::vector<Half> scales;       // [k/group, n]

  int q(int row, int column) const { return nibble(qweight[size_t(row) * (n / 8) + column / 8], column % 8); }
  int z(int row, int column) const { return nibble(qzeros[size_t(row / group) * (n / 8) + column / 8], column % 8); }
  Half scale(int row, int column) const { return scales[size_t(row / group) * n + column]; }
  /// The exact weight.
  double weight(int row, int column) const {
    return double(q(row, column) - z(row, column)) * to_float(scale(row, column));
  }

 private:
  static int nibble(uint32_t word, int column) {
    constexpr int kNibbleOfColumn[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    return int(word >> (4 * kNibbleOfColumn[column]) & 0xf);
  }
};

/// Random q and z, among them columns of all 0 and all 15; scales log-uniform in 1e-4..0.1, a few of them subnormal.
AwqMatrix random_awq(int k, int n, int group, Rng &rng);
/// The columns of all matrices, side by side. Same k and group.
AwqMatrix join(const std::vector<AwqMatrix> &parts);
/// The packed layout by its definition (layout.h), nibble by nibble.
std::vector<uint8_t> pack(const AwqMatrix &matrix, int pair_stride);

/// y and what bounds its rounding, both [m, n].
struct Product {
  std::vector<double> y;
  std::vector<double> magnitude;  // sum of |x| |w|
};
/// y = x W in float64, x [m, k].
Product multiply(const std::vector<double> &x, int m, const AwqMatrix &matrix);
/// y = x W^T in float64, W fp16 [v, k].
Product multiply_rows(const std::vector<double> &x, int m, const std::vector<Half> &weight, int k);

/// Rows of x: normal-sized values; row 0 with a channel near fp16's limit when `outliers`.
std::vector<Half> random_rows(int m, int k, bool outliers, Rng &rng);

}  // namespace quern::test
