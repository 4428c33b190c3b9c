// Measures how long all threads together spend in convolutions and waiting for each other; the benchmark reports the
// rest as other work. Unless the clock is started, it costs a convolution one branch.
#pragma once

#include <cstdint>

namespace maml_fast {

struct ClockSeconds {
  double convolutions, waiting;
};

void StartClock();

ClockSeconds StopClock();

// Counts the time of its own lifetime. Must not be nested.
class InConvolution {
 public:
  InConvolution();
  ~InConvolution();
  InConvolution(const InConvolution&) = delete;
  InConvolution& operator=(const InConvolution&) = delete;

 private:
  int64_t start_;  // -1: the clock is off
};

}  // namespace maml_fast
