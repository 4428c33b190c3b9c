// The part of clock.h for threads that wait for each other; in a separate file because <atomic> takes long to compile.
#pragma once

#include <atomic>
#include <cstdint>

namespace maml_fast {

// Counts how long threads wait: from a thread's call to Done() until the end of this object's lifetime.
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
