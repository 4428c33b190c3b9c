// How long all threads together have spent in convolutions, and waiting for each other: for the benchmark, which says
// what else takes time. It only runs where it was started; else a convolution costs one branch more.
#pragma once

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

}  // namespace maml_fast
