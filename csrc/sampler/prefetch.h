// Meta-batches made ahead of time by native threads, handed out in the order they were asked for.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <memory>

#include "sampler/sampler.h"

namespace maml_fast {

// Fills meta-batches in the background. What is written does not depend on the number of threads.
//
// Submit, Wait and Close belong to one consumer thread; the buffers must outlive Close (or the destructor, which
// closes). Safe across fork: a child has none of its parent's threads, so there the first call starts new ones, which
// make the batches under way once more, and the parent's threads and locks are never touched.
class Prefetcher {
 public:
  // Starts `threads` >= 1 threads. Throws std::runtime_error where the system refuses one, with none left running.
  Prefetcher(const SamplerConfig& config, int threads);
  ~Prefetcher();
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  // Asks for `n_episodes` >= 1 episodes from number `first_episode` on.
  void Submit(std::uint64_t first_episode, std::int64_t n_episodes, const BatchBuffers& batch);

  // Blocks until the oldest batch that was submitted and not yet waited for is complete. There must be one.
  void Wait();

  // Drops what has not been started, ends the threads. Nothing is written after this. May be called twice.
  void Close() noexcept;

  bool closed() const { return pool_ == nullptr; }
  std::size_t n_pending() const { return pending_.size(); }

 private:
  struct Request {
    std::uint64_t first_episode;
    std::int64_t n_episodes;
    BatchBuffers batch;
  };
  class Pool;

  void RestartAfterFork();

  SamplerConfig config_;
  int threads_;
  std::deque<Request> pending_;
  std::unique_ptr<Pool> pool_;
  pid_t owner_;  // the process whose threads pool_ holds
};

}  // namespace maml_fast
