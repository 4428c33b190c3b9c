#include "cpu/clock.h"

#include <atomic>
#include <chrono>

#include "cpu/waiting_clock.h"

namespace maml_fast {
namespace {

std::atomic<bool> running{false};
std::atomic<int64_t> convolutions{0}, waiting{0};  // nanoseconds

int64_t Now() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

bool Runs() { return running.load(std::memory_order_relaxed); }

}  // namespace

void StartClock() {
  convolutions = waiting = 0;
  running = true;
}

ClockSeconds StopClock() {
  running = false;
  return {static_cast<double>(convolutions) * 1e-9, static_cast<double>(waiting) * 1e-9};
}

InConvolution::InConvolution() : start_(Runs() ? Now() : -1) {}

InConvolution::~InConvolution() {
  if (start_ >= 0) convolutions.fetch_add(Now() - start_, std::memory_order_relaxed);
}

WaitingForAll::WaitingForAll() : runs_(Runs()) {}

WaitingForAll::~WaitingForAll() {
  if (runs_) waiting.fetch_add(threads_ * Now() - ends_, std::memory_order_relaxed);
}

void WaitingForAll::Done() {
  if (!runs_) return;
  ++threads_;
  ends_ += Now();
}

}  // namespace maml_fast
