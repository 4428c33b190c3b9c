// The kernels' only view of threads: whoever calls them lends a pool (torch's own, or std::thread in the C++ tests).
#pragma once

#include <cstdint>

namespace maml_fast {

struct Pool {
  using Body = void (*)(void* context, int64_t begin, int64_t end);

  int64_t threads;                                       // how many ranges `run` can work on at once
  void (*run)(int64_t count, Body body, void* context);  // splits [0, count) into at most `threads` ranges
  int64_t least_work;  // multiply-adds of a convolution for which it pays to wait for other threads

  Pool Alone() const { return {1, nullptr, least_work}; }
};

}  // namespace maml_fast
