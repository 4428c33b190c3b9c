// The small sums in a thin block's closed forms, for one channel, in double. A task's weights are [taps][channels]; its
// patch moments (`kept`) are the mean patch [taps], then the covariances [taps][taps]. Sums run over GROUPS * kTaps
// taps, with zeros beyond the last one, so that a thread's weights stay in registers.
#pragma once

#include "cuda/thin/pixels.cuh"

namespace maml_fast {
namespace cuda {

// One channel of a task's weights; all zero if null.
template <typename T, int GROUPS>
struct WeightColumn {
  static constexpr int kMost = GROUPS * kTaps;

  const T* first;
  int channels;
  double of[kMost];  // only for indices that the compiler knows

  MF_DEVICE WeightColumn(const ThinShape& s, const T* of_task, int channel)
      : first(of_task == nullptr ? nullptr : of_task + channel), channels(s.channels) {
    MF_UNROLL
    for (int p = 0; p < kMost; ++p) of[p] = p < s.taps ? At(p) : 0.0;
  }
  // For any tap.
  MF_DEVICE double At(int tap) const {
    return first == nullptr ? 0.0 : static_cast<double>(first[int64_t{tap} * channels]);
  }
};

// One task's patch moments, in shared memory.
template <int GROUPS>
struct PatchMoments {
  static constexpr int kMost = GROUPS * kTaps;
  static constexpr size_t kShared = sizeof(double) * kMost * (kMost + 1);

  const double* mean;        // [kMost]
  const double* covariance;  // [kMost][kMost]

  // All threads of the block call this.
  template <typename T>
  MF_DEVICE static PatchMoments Load(const ThinShape& s, const T* of_task) {
    auto* shared = static_cast<double*>(Shared());
    for (int i = static_cast<int>(threadIdx.x); i < kMost * (kMost + 1); i += static_cast<int>(blockDim.x)) {
      const int line = i / kMost, col = i % kMost;
      shared[i] = line <= s.taps && col < s.taps ? static_cast<double>(of_task[line * s.taps + col]) : 0.0;
    }
    __syncthreads();
    return {shared, shared + kMost};
  }

  // w . p_bar
  template <typename T>
  MF_DEVICE double Center(const WeightColumn<T, GROUPS>& weight) const {
    double sum = 0;
    MF_UNROLL
    for (int p = 0; p < kMost; ++p) sum += mean[p] * weight.of[p];
    return sum;
  }
  // (C w)[p]
  template <typename T>
  MF_DEVICE double Product(const WeightColumn<T, GROUPS>& weight, int p) const {
    double sum = 0;
    MF_UNROLL
    for (int q = 0; q < kMost; ++q) sum += covariance[p * kMost + q] * weight.of[q];
    return sum;
  }
  // v^T C w
  template <typename T>
  MF_DEVICE double Between(const ThinShape& s, const WeightColumn<T, GROUPS>& v,
                           const WeightColumn<T, GROUPS>& w) const {
    double sum = 0;
    MF_ROLL
    for (int p = 0; p < s.taps; ++p) sum += v.At(p) * Product(w, p);
    return sum;
  }
};

// Kernels in which every thread has one channel of one task. Grid: x over channels, y over tasks.
constexpr int kThreadsOfChannels = 64;

struct ChannelOfTask {
  int task, channel;
  int64_t at;  // in [T, C]

  MF_DEVICE static ChannelOfTask Here(const ThinShape& s) {
    const int channel = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), task = static_cast<int>(blockIdx.y);
    return {task, channel, int64_t{task} * s.channels + channel};
  }
  // In [T, taps, C].
  MF_DEVICE int64_t OfTap(const ThinShape& s, int tap) const {
    return (int64_t{task} * s.taps + tap) * s.channels + channel;
  }
};

inline dim3 ChannelGrid(const ThinShape& s, int64_t tasks) {
  return dim3(Ceil(s.channels, kThreadsOfChannels), static_cast<unsigned>(tasks));
}

}  // namespace cuda
}  // namespace maml_fast
