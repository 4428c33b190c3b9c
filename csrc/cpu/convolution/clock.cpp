#include "cpu/convolution/clock.h"

#include <atomic>
#include <chrono>

namespace maml_fast {
namespace {

std::atomic<bool> running{false};
std::atomic<int64_t> nanoseconds{0};

int64_t Now() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

}  // namespace

void StartConvolutionClock() {
  nanoseconds = 0;
  running = true;
}

double StopConvolutionClock() {
  running = false;
  return static_cast<double>(nanoseconds) * 1e-9;
}

InConvolution::InConvolution() : start_(running.load(std::memory_order_relaxed) ? Now() : -1) {}

InConvolution::~InConvolution() {
  if (start_ >= 0) nanoseconds.fetch_add(Now() - start_, std::memory_order_relaxed);
}

}  // namespace maml_fast
