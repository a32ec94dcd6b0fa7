// One way to pass or fail: named checks, counted; a failure prints what differed first and the program ends with 1.
#pragma once

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

namespace quern::test {

class Checks {
 public:
  /// Records one check; `detail` is printed if it failed.
  void expect(bool passed, const std::string &name, const std::string &detail = "") {
    ++count_;
    if (passed) return;
    ++failed_;
    if (failed_ <= 40) std::printf("FAIL %s %s\n", name.c_str(), detail.c_str());
  }
  int count() const { return count_; }
  int failed() const { return failed_; }
  double worst = 0.0;  // largest relative error seen

 private:
  int count_ = 0;
  int failed_ = 0;
};

struct Tolerance {
  double relative;  // of a row: |y - ref| / |ref|, Euclidean
  double rounding;  // of an element, times |ref|: the output type's
  double summing;   // of an element, times the sum of magnitudes: the float32 sums'
};
constexpr Tolerance kHalfTolerance = {1e-3, 1.0 / 1024, 2e-6};
constexpr Tolerance kFloatTolerance = {1e-4, 1e-6, 2e-6};

/// y against ref over one row of n; NaN never passes.
inline void expect_close(Checks &checks, const std::string &name, const double *y, const double *ref,
                         const double *magnitude, int n, Tolerance tolerance) {
  double difference = 0.0, norm = 0.0;
  int bad = -1;
  for (int i = 0; i < n; ++i) {
    const double d = y[i] - ref[i];
    difference += d * d;
    norm += ref[i] * ref[i];
    const double bound = tolerance.rounding * std::fabs(ref[i]) + tolerance.summing * magnitude[i] + 1e-7;
    if (bad < 0 && !(std::fabs(d) <= bound)) bad = i;
  }
  const double relative = std::sqrt(difference) / (std::sqrt(norm) + 1e-30);
  if (relative > checks.worst) checks.worst = relative;
  checks.expect(bad < 0, name,
                bad < 0 ? "" : "column " + std::to_string(bad) + " expected " + std::to_string(ref[bad]) + " got " +
                                   std::to_string(y[bad]));
  checks.expect(norm == 0.0 ? difference == 0.0 : relative <= tolerance.relative, name,
                "relative error " + std::to_string(relative));
}

}  // namespace quern::test
