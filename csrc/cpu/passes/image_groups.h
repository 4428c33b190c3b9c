// Sums over a task's images, in an order that does not depend on the threads: the images are divided into groups, by
// the shape alone; every group has its own sum, and the groups' sums are added up in order.
#pragma once

#include "core/conv_block.h"
#include "cpu/arena.h"
#include "cpu/clock.h"
#include "cpu/simd.h"

namespace maml_fast {
namespace {

struct ImageGroups {
  int64_t images, in_group;

  explicit ImageGroups(const ConvBlockShape& s) : images(s.batch) {
    constexpr int64_t kPixels = 384;  // at least in a group: with fewer, adding up the sums takes noticeable time
    constexpr int64_t kMost = 16;
    const int64_t for_work = (kPixels + s.ConvPixels() - 1) / s.ConvPixels(), for_count = (images + kMost - 1) / kMost;
    in_group = for_work > for_count ? for_work : for_count;
  }

  int64_t Count() const { return (images + in_group - 1) / in_group; }
  int64_t Begin(int64_t group) const { return group * in_group; }
  int64_t End(int64_t group) const { return Begin(group + 1) < images ? Begin(group + 1) : images; }
};

// If one thread goes through all groups, it keeps the running total and one group's sum; otherwise it keeps every
// group's sum until the end.
template <typename Scalar>
class GroupSums {
 public:
  GroupSums() = default;
  GroupSums(int64_t size, int64_t groups, bool one_thread, ArenaScope& arena)
      : size_(size), buffers_(one_thread && groups > 2 ? 2 : groups), added_(one_thread) {
    data_ = arena.Array<Scalar>(size_ * buffers_);
  }

  // Returns a group's sum, set to zero, to be added to.
  Scalar* Open(int64_t group) const {
    const InConvolution timed;
    Scalar* sum = data_ + (group < buffers_ ? group : buffers_ - 1) * size_;
    std::memset(sum, 0, static_cast<size_t>(size_) * sizeof(Scalar));
    return sum;
  }

  void Close(int64_t group) const {
    if (!added_ || group == 0) return;
    const InConvolution timed;
    for (int64_t i = 0; i < size_; i += kLanes<Scalar>) Store(data_ + i, Load(data_ + i) + Load(data_ + size_ + i));
  }

  // The sums that are left to be added up: `Waiting` sums, `size` apart.
  const Scalar* data() const { return data_; }
  int64_t Waiting() const { return added_ ? 1 : buffers_; }
  int64_t size() const { return size_; }

 private:
  Scalar* data_ = nullptr;
  int64_t size_ = 0, buffers_ = 0;
  bool added_ = false;
};

}  // namespace
}  // namespace maml_fast
