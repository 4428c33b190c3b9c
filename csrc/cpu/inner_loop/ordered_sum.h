// Adds up the tasks' gradients in the order of the tasks, whichever thread finishes first.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include "cpu/arena.h"
#include "cpu/rows.h"

namespace maml_fast {
namespace {

// Hands out tasks in order, each with an array for its gradient. A few more arrays than threads are enough: a thread
// that is far ahead of the slowest one waits for it.
template <typename Scalar>
class OrderedSum {
 public:
  // sum: [size], the sum of `tasks` gradients.
  OrderedSum(const RowKernels<Scalar>& rows, int64_t tasks, int64_t threads, int64_t size, Scalar* sum,
             ArenaScope& arena)
      : rows_(rows),
        tasks_(tasks),
        size_(size),
        arrays_(Arrays(threads, size)),
        sum_(sum),
        gradients_(arena.Array<Scalar>(arrays_ * size)),
        is_done_(arena.Array<bool>(arrays_)) {
    std::fill_n(is_done_, arrays_, false);
  }

  // Returns the next task, or `tasks` if there are no more. The task's array is not cleared.
  int64_t Begin() {
    std::unique_lock<std::mutex> lock(mutex_);
    const int64_t task = std::min(next_, tasks_);
    ++next_;
    freed_.wait(lock, [&] { return task < added_ + arrays_ || has_failed_; });
    return has_failed_ ? tasks_ : task;
  }
  Scalar* ArrayOf(int64_t task) const { return size_ == 0 ? nullptr : gradients_ + task % arrays_ * size_; }

  // Reports that a task will not end, so that no thread waits for it.
  void Fail() {
    const std::lock_guard<std::mutex> lock(mutex_);
    has_failed_ = true;
    freed_.notify_all();
  }

  void End(int64_t task) {
    std::unique_lock<std::mutex> lock(mutex_);
    is_done_[task % arrays_] = true;
    if (is_adding_) return;
    is_adding_ = true;
    while (is_done_[added_ % arrays_]) {
      lock.unlock();
      if (size_ > 0) rows_.AddTo(sum_, ArrayOf(added_), size_);
      lock.lock();
      is_done_[added_ % arrays_] = false;
      ++added_;
      freed_.notify_all();
    }
    is_adding_ = false;
  }

 private:
  static int64_t Arrays(int64_t threads, int64_t size) {
    constexpr int64_t kScalars = int64_t{1} << 20;  // in all arrays together, within 2 to 16 arrays per thread
    return std::clamp(kScalars / std::max<int64_t>(1, size), 2 * threads, 16 * threads);
  }

  const RowKernels<Scalar>& rows_;
  const int64_t tasks_, size_, arrays_;
  Scalar *sum_, *gradients_;
  bool* is_done_;
  std::mutex mutex_;
  std::condition_variable freed_;
  int64_t next_ = 0, added_ = 0;
  bool is_adding_ = false, has_failed_ = false;
};

}  // namespace
}  // namespace maml_fast
