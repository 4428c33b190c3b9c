// The half of clock.h for threads that wait for each other; apart, since <atomic> takes long to read.
#pragma once

#include <atomic>
#include <cstdint>

namespace maml_fast {

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
