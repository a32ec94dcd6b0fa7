// Work over all cores for the float64 references, which take most of a test's time.
#pragma once

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace quern::test {

/// f(i) for i = 0..count-1, each once, on all cores; f must not write what another i reads.
template <typename F>
void parallel_for(int count, F f) {
  const int n_threads = std::max(1, std::min(count, int(std::thread::hardware_concurrency())));
  std::atomic<int> next{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < n_threads; ++t) {
    threads.emplace_back([&] {
      for (int i = next++; i < count; i = next++) f(i);
    });
  }
  for (std::thread &thread : threads) thread.join();
}

}  // namespace quern::test
