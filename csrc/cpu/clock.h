// How long all threads together have spent in convolutions, and waiting for each other: for the benchmark, which says
// what else takes time. It only runs where it was started; else a convolution costs one branch more.
#pragma once

#include <atomic>
#include <cstdint>

namespace maml_fast {

struct ClockSeconds {
  double convolutions, waiting;
};

void StartClock();

ClockSeconds StopClock();

// Counts the time of its own life. Not to be nested.
class InConvolution {
 public:
  InConvolution();
  ~InConvolution();
  InConvolution(const InConvolution&) = delete;
  InConvolution& operator=(const InConvolution&) = delete;

 private:
  int64_t start_;  // -1: the clock does not run
};

// Counts how long the threads that are done, as each of them says, wait for the end of its own life.
class WaitingForAll {
 public:
  WaitingForAll();
  ~WaitingForAll();
  WaitingForAll(const WaitingForAll&) = delete;
  WaitingForAll& operator=(const WaitingForAll&) = delete;

  void Done();

 private:
  const bool runs_;
  std::atomic<int64_t> threads_{0}, ends_{0};
};

}  // namespace maml_fast
