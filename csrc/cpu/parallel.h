// The kernels' only view of threads: a pool that the caller provides (torch's threads, the library's own, or
// std::thread in the C++ tests).
#pragma once

#include <cstdint>

namespace maml_fast {

struct Pool {
  using Body = void (*)(void* context, int64_t begin, int64_t end);

  int64_t threads;                                       // the most ranges that `run` works on at the same time
  void (*run)(int64_t count, Body body, void* context);  // splits [0, count) into at most `threads` ranges
  int64_t least_work;  // multiply-adds of a convolution from which waiting for other threads pays off

  Pool Alone() const { return {1, nullptr, least_work}; }
};

}  // namespace maml_fast
