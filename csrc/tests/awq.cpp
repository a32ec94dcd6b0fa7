// See awq.h.
#include "awq.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <thread>

namespace quern::test {
namespace {

/// Calls body(begin, end) over [0, n) on all cores.
void parallel(int n, const std::function<void(int, int)> &body) {
  const int threads = std::max(1, std::min(n, int(std::thread::hardware_concurrency())));
  std::vector<std::thread> pool;
  for (int i = 0; i < threads; ++i) {
    pool.emplace_back(body, int(int64_t(n) * i / threads), int(int64_t(n) * (i + 1) / threads));
  }
  for (std::thread &thread : pool) thread.join();
}

}  // namespace

AwqMatrix random_awq(int k, int n, int group, Rng &rng) {
  AwqMatrix m = {k, n, group, {}, {}, {}};
  m.qweight.resize(size_t(k) * (n / 8));
  m.qzeros.resize(size_t(k / group) * (n / 8));
  m.scales.resize(size_t(k / group) * n);
  for (uint32_t &word : m.qweight) word = rng.word();
  for (uint32_t &word : m.qzeros) word = rng.word();
  for (Half &scale : m.scales) {
    scale = rng.below(1000) == 0 ? Half(1 + rng.below(1023)) : to_half(std::pow(10.0f, rng.uniform(-4.0f, -1.0f)));
  }
  const int words = n / 8;
  for (int row = 0; row < k; ++row) {
    m.qweight[size_t(row) * words] = 0;
    if (words > 1) m.qweight[size_t(row) * words + 1] = 0xffffffff;
  }
  for (int g = 0; g < k / group; ++g) m.qzeros[size_t(g) * words] = g % 2 ? 0xffffffff : 0;
  return m;
}

AwqMatrix join(const std::vector<AwqMatrix> &parts) {
  AwqMatrix out = {parts[0].k, 0, parts[0].group, {}, {}, {}};
  for (const AwqMatrix &part : parts) out.n += part.n;
  for (int row = 0; row < out.k; ++row) {
    for (const AwqMatrix &part : parts) {
      const auto words = part.qweight.begin() + size_t(row) * (part.n / 8);
      out.qweight.insert(out.qweight.end(), words, words + part.n / 8);
    }
  }
  for (int g = 0; g < out.k / out.group; ++g) {
    for (const AwqMatrix &part : parts) {
      const auto zeros = part.qzeros.begin() + size_t(g) * (part.n / 8);
      out.qzeros.insert(out.qzeros.end(), zeros, zeros + part.n / 8);
      const auto scales = part.scales.begin() + size_t(g) * part.n;
      out.scales.insert(out.scales.end(), scales, scales + part.n);
    }
  }
  return out;
}

std::vector<uint8_t> pack(const AwqMatrix &matrix, int pair_stride) {
  const int groups = groups_per_tile(matrix.group), k_tiles = ceil_div(matrix.k, kTileK);
  std::vector<uint8_t> out(int4_bytes(matrix.k, matrix.n, matrix.group));
  parallel(ceil_div(matrix.n, kTileN), [&](int begin, int end) {
    for (int n_tile = begin; n_tile < end; ++n_tile) {
      for (int i = 0; i < kTileN; ++i) {
        const int packed = n_tile * kTileN + i;
        if (packed >= matrix.n) break;
        const int column = logical_row(packed, matrix.n, pair_stride);
        for (int k = 0; k < matrix.k; ++k) {
          uint8_t *tile = out.data() + (size_t(n_tile) * k_tiles + k / kTileK) * tile_bytes(groups);
          const NibblePlace place = nibble_place(i, k % kTileK);
          tile[place.byte + place.shift / 8] |= uint8_t(matrix.q(k, column) << place.shift % 8);
          if (k % matrix.group != 0) continue;
          const int g = k % kTileK / matrix.group, at = scale_index(i);
          const Half scale = matrix.scale(k, column);
          std::memcpy(tile + scale_offset(g) + 2 * at, &scale, 2);
          tile[zero_offset(groups, g) + at / 2] |= uint8_t(matrix.z(k, column) << 4 * (at % 2));
        }
      }
    }
  });
  return out;
}

Product multiply(const std::vector<double> &x, int m, const AwqMatrix &matrix) {
  const int n = matrix.n, k = matrix.k;
  Product out = {std::vector<double>(size_t(m) * n), std::vector<double>(size_t(m) * n)};
  parallel(n, [&](int begin, int end) {
    std::vector<double> weight(end - begin);
    for (int row = 0; row < k; ++row) {
      for (int i = begin; i < end; ++i) weight[i - begin] = matrix.weight(row, i);
      for (int token = 0; token < m; ++token) {
        const double value = x[size_t(token) * k + row];
        if (value == 0.0) continue;
        double *y = out.y.data() + size_t(token) * n, *magnitude = out.magnitude.data() + size_t(token) * n;
        for (int i = begin; i < end; ++i) {
          const double term = value * weight[i - begin];
          y[i] += term;
          magnitude[i] += std::fabs(term);
        }
      }
    }
  });
  return out;
}

Product multiply_rows(const std::vector<double> &x, int m, const std::vector<Half> &weight, int k) {
  const int v = int(weight.size() / k);
  Product out = {std::vector<double>(size_t(m) * v), std::vector<double>(size_t(m) * v)};
  parallel(v, [&](int begin, int end) {
    std::vector<double> w(k);
    for (int row = begin; row < end; ++row) {
      for (int i = 0; i < k; ++i) w[i] = to_float(weight[size_t(row) * k + i]);
      for (int token = 0; token < m; ++token) {
        double sum = 0.0, magnitude = 0.0;
        for (int i = 0; i < k; ++i) {
          const double term = x[size_t(token) * k + i] * w[i];
          sum += term;
          magnitude += std::fabs(term);
        }
        out.y[size_t(token) * v + row] = sum;
        out.magnitude[size_t(token) * v + row] = magnitude;
      }
    }
  });
  return out;
}

std::vector<Half> random_rows(int m, int k, bool outliers, Rng &rng) {
  std::vector<Half> x(size_t(m) * k);
  for (Half &value : x) value = to_half(rng.uniform(-2.0f, 2.0f));
  if (outliers) x[rng.below(k)] = to_half(rng.below(2) ? 60000.0f : -60000.0f);
  return x;
}

}  // namespace quern::test
