// The small sums in a thin block's closed forms, for one channel, in double. A task's weights are [taps][channels]; its
// patch moments (`kept`) are the mean patch [taps], then the covariances [taps][taps].
#pragma once

#include "cuda/thin/pixels.cuh"

namespace maml_fast {
namespace cuda {

// One channel of a task's weights; all zero if null.
template <typename T>
struct WeightColumn {
  const T* first;
  int taps, channels;

  MF_DEVICE static WeightColumn Of(const ThinShape& s, const T* of_task, int channel) {
    return {of_task == nullptr ? nullptr : of_task + channel, s.taps, s.channels};
  }
  MF_DEVICE double operator[](int tap) const {
    return first == nullptr ? 0.0 : static_cast<double>(first[int64_t{tap} * channels]);
  }
};

// One task's patch moments; T may be double.
template <typename T>
struct PatchMoments {
  const T* mean;
  int taps;

  MF_DEVICE double Mean(int tap) const { return mean[tap]; }
  MF_DEVICE double Covariance(int p, int q) const { return mean[taps + p * taps + q]; }

  // w . p_bar
  template <class Column>
  MF_DEVICE double Center(const Column& weight) const {
    double sum = 0;
    for (int p = 0; p < taps; ++p) sum += Mean(p) * weight[p];
    return sum;
  }
  // (C w)[p]
  template <class Column>
  MF_DEVICE double Product(const Column& weight, int p) const {
    double sum = 0;
    for (int q = 0; q < taps; ++q) sum += Covariance(p, q) * weight[q];
    return sum;
  }
  // v^T C w
  template <class Column>
  MF_DEVICE double Between(const Column& v, const Column& w) const {
    double sum = 0;
    for (int p = 0; p < taps; ++p) sum += v[p] * Product(w, p);
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
};

inline dim3 ChannelGrid(const ThinShape& s, int64_t tasks) {
  return dim3(Ceil(s.channels, kThreadsOfChannels), static_cast<unsigned>(tasks));
}

}  // namespace cuda
}  // namespace maml_fast
