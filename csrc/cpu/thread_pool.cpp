#include "cpu/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace maml_fast {
namespace {

constexpr int64_t kMostThreads = 256;
constexpr int kSpins = 4000;  // about 50 microseconds

void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb");  // takes about as long as x86's pause; most processors ignore AArch64's own hint
#else
  std::this_thread::yield();
#endif
}

class ThreadPool {
 public:
  void Run(int64_t threads, int64_t count, Pool::Body body, void* context) {
    const int64_t ranges = std::min({threads, count, kMostThreads});
    if (ranges <= 1 || busy_.test_and_set(std::memory_order_acquire)) return body(context, 0, count);
    const Release release{busy_};
    Grow(ranges - 1);
    body_ = body;
    context_ = context;
    count_ = count;
    error_ = nullptr;
    left_.store(ranges, std::memory_order_relaxed);
    const uint64_t job =
        (Number(job_.load(std::memory_order_relaxed)) + 1) << kRangeBits | static_cast<uint64_t>(ranges);
    job_.store(job);
    if (sleeping_.load() > 0) {
      {
        const std::lock_guard<std::mutex> lock(mutex_);
      }
      wake_.notify_all();
    }
    Work(job, 0);
    for (int spin = 0; left_.load(std::memory_order_acquire) > 0; ++spin) {
      if (spin < kSpins) {
        Pause();
      } else {
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [&] { return left_.load(std::memory_order_acquire) == 0; });
      }
    }
    if (error_ != nullptr) std::rethrow_exception(error_);
  }

 private:
  struct Release {
    std::atomic_flag& flag;
    ~Release() { flag.clear(std::memory_order_release); }
  };

  // A job is an increasing number and its count of ranges, packed into one word so that both are read at once.
  static constexpr int kRangeBits = 16;
  static uint64_t Number(uint64_t job) { return job >> kRangeBits; }
  static int64_t Ranges(uint64_t job) { return static_cast<int64_t>(job & ((uint64_t{1} << kRangeBits) - 1)); }

  // Claims ranges of the job, starting with this thread's own. A claim can succeed only while the job is unfinished,
  // because all ranges of a finished job are claimed. So body_, context_ and count_ are valid after a successful claim.
  void Work(uint64_t job, int64_t thread) {
    const int64_t ranges = Ranges(job);
    for (int64_t i = 0; i < ranges; ++i) {
      const int64_t range = (thread + i) % ranges;
      uint64_t claimed = claims_[range].load(std::memory_order_relaxed);
      if (claimed >= Number(job) || !claims_[range].compare_exchange_strong(claimed, Number(job))) continue;
      try {
        body_(context_, count_ * range / ranges, count_ * (range + 1) / ranges);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (error_ == nullptr) error_ = std::current_exception();
      }
      if (left_.fetch_sub(1, std::memory_order_acq_rel) > 1) continue;
      {
        const std::lock_guard<std::mutex> lock(mutex_);
      }
      done_.notify_all();
    }
  }

  void Grow(int64_t workers) {
    for (; workers_ < workers; ++workers_) {
      const int64_t thread = workers_ + 1;
      std::thread([this, thread, seen = job_.load()]() mutable {
        for (;;) {
          Wait(seen);
          seen = job_.load(std::memory_order_acquire);
          if (thread < Ranges(seen)) Work(seen, thread);
        }
      }).detach();
    }
  }

  // Waits for a job other than `seen`.
  void Wait(uint64_t seen) {
    for (int spin = 0; spin < kSpins; ++spin) {
      if (job_.load(std::memory_order_acquire) != seen) return;
      Pause();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    ++sleeping_;
    wake_.wait(lock, [&] { return job_.load() != seen; });
    --sleeping_;
  }

  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;  // set while a caller has a job
  std::atomic<uint64_t> job_{0}, claims_[kMostThreads] = {};
  std::atomic<int64_t> left_{0}, sleeping_{0};
  Pool::Body body_ = nullptr;
  void* context_ = nullptr;
  int64_t count_ = 0, workers_ = 0;
  std::exception_ptr error_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
};

// Never destroyed: its threads live as long as the process. The child of a fork has none of them and makes a new pool.
std::atomic<ThreadPool*> pool{nullptr};

ThreadPool& ThePool() {
  static const bool once = [] {
    pool = new ThreadPool;
#if defined(__unix__) || defined(__APPLE__)
    pthread_atfork(nullptr, nullptr, [] { pool = new ThreadPool; });
#endif
    return true;
  }();
  static_cast<void>(once);
  return *pool;
}

}  // namespace

void RunOnThreads(int64_t threads, int64_t count, Pool::Body body, void* context) {
  ThePool().Run(threads, count, body, context);
}

}  // namespace maml_fast
