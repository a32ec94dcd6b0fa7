// Seeded random numbers for tests and benches: splitmix64, so that a printed seed repeats a run anywhere.
#pragma once

#include <cstdint>

namespace quern::test {

class Rng {
 public:
  explicit Rng(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }
  uint32_t word() { return uint32_t(next() >> 32); }
  int below(int n) { return int(next() % uint64_t(n)); }
  float uniform(float low, float high) { return low + (high - low) * float(next() >> 40) * (1.0f / (1 << 24)); }

 private:
  uint64_t state_;
};

}  // namespace quern::test
