#include "sampler/prefetch.h"

#include <pthread.h>
#include <unistd.h>

#include <condition_variable>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace maml_fast {

// The threads of one process and the queue that they share. Each thread takes one episode at a time, of the oldest
// batch.
class Prefetcher::Pool {
 public:
  Pool(const SamplerConfig& config, int threads) {
    for (int i = 0; i < threads; ++i) writers_.emplace_back(config);
    threads_.reserve(writers_.size());
    try {
      for (EpisodeWriter& writer : writers_) threads_.emplace_back([this, &writer] { Work(&writer); });
    } catch (const std::exception& error) {
      Stop();
      throw std::runtime_error("can't start " + std::to_string(threads) + " prefetching threads (" + error.what() +
                               "); ask for fewer threads, or prefetch=0");
    }
  }

  ~Pool() { Stop(); }

  void Submit(const Request& request) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      jobs_.push_back({request, 0, 0});
    }
    work_.notify_all();
  }

  // Waits for the oldest job and removes it from the queue.
  void Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return jobs_.front().finished == jobs_.front().request.n_episodes; });
    jobs_.pop_front();
    --next_job_;
  }

 private:
  struct Job {
    Request request;
    std::int64_t started;   // episodes that a thread has taken
    std::int64_t finished;  // episodes written
  };

  void Stop() noexcept {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    work_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

  void Work(EpisodeWriter* writer) noexcept {
#ifdef __linux__
    pthread_setname_np(pthread_self(), "maml-prefetch");  // shown by top -H and debuggers
#endif
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      work_.wait(lock, [this] { return stopping_ || next_job_ < jobs_.size(); });
      if (stopping_) return;
      Job& job = jobs_[next_job_];  // the reference stays valid while the deque grows or shrinks at its ends
      const std::int64_t t = job.started++;
      if (job.started == job.request.n_episodes) ++next_job_;
      lock.unlock();
      writer->Write(job.request.first_episode + static_cast<std::uint64_t>(t), t, job.request.batch);
      lock.lock();
      if (++job.finished == job.request.n_episodes) done_.notify_all();
    }
  }

  std::vector<EpisodeWriter> writers_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable work_;  // there is an episode to write, or it is time to stop
  std::condition_variable done_;  // a job is complete
  std::deque<Job> jobs_;          // oldest first
  std::size_t next_job_ = 0;      // the first job with episodes that no thread has taken
  bool stopping_ = false;
};

Prefetcher::Prefetcher(const SamplerConfig& config, int threads)
    : config_(config), threads_(threads), pool_(std::make_unique<Pool>(config, threads)), owner_(getpid()) {}

Prefetcher::~Prefetcher() { Close(); }

void Prefetcher::Submit(std::uint64_t first_episode, std::int64_t n_episodes, const BatchBuffers& batch) {
  RestartAfterFork();
  pending_.push_back({first_episode, n_episodes, batch});
  pool_->Submit(pending_.back());
}

void Prefetcher::Wait() {
  RestartAfterFork();
  pool_->Wait();
  pending_.pop_front();
}

void Prefetcher::Close() noexcept {
  pending_.clear();
  if (pool_ != nullptr && owner_ != getpid()) (void)pool_.release();
  pool_.reset();
}

void Prefetcher::RestartAfterFork() {
  if (owner_ == getpid()) return;
  (void)pool_.release();  // its threads exist only in the parent, and its lock may be held forever: leak it
  pool_ = std::make_unique<Pool>(config_, threads_);
  owner_ = getpid();
  for (const Request& request : pending_) pool_->Submit(request);
}

}  // namespace maml_fast
