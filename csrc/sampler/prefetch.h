// Prepares meta-batches ahead of time in native threads, and delivers them in the order of the requests.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <memory>

#include "sampler/sampler.h"

namespace maml_fast {

// Fills meta-batches in the background. The result does not depend on the number of threads.
//
// Submit, Wait and Close must be called from one consumer thread. The buffers must outlive Close (which the destructor
// calls). Safe across fork: a child has none of its parent's threads, so its first call starts new ones, which make the
// pending batches again; the parent's threads and locks are never touched.
class Prefetcher {
 public:
  // Starts `threads` >= 1 threads. Throws std::runtime_error if the system refuses one; no thread is left running then.
  Prefetcher(const SamplerConfig& config, int threads);
  ~Prefetcher();
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  // Requests `n_episodes` >= 1 episodes, from number `first_episode` on.
  void Submit(std::uint64_t first_episode, std::int64_t n_episodes, const BatchBuffers& batch);

  // Blocks until the oldest batch that was submitted and not yet waited for is complete. There must be such a batch.
  void Wait();

  // Drops all episodes that no thread has started and ends the threads. Nothing is written afterwards. May be called
  // twice.
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
  pid_t owner_;  // the process that started the threads of pool_
};

}  // namespace maml_fast
