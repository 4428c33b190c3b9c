#include "cuda/class_losses.h"

#include <cmath>

#include "cuda/device.cuh"
#include "cuda/launch.h"

namespace maml_fast {
namespace cuda {
namespace {

constexpr int kThreadsOfTask = 64;  // a thread block has one task; its threads take turns with the predictions

// Adds up a number of each thread, in order. All threads of the block call it. shared: [kThreadsOfTask].
template <typename Number>
MF_DEVICE Number SumOverThreads(Number mine, Number* shared) {
  shared[threadIdx.x] = mine;
  __syncthreads();
  Number sum = 0;
  for (int i = 0; i < kThreadsOfTask; ++i) sum += shared[i];
  __syncthreads();  // the place is free again
  return sum;
}

// The predictions that one thread block takes.
template <typename T>
struct PredictionsOfTask {
  int task, count, classes;
  const T* logits;
  const int64_t* labels;

  MF_DEVICE explicit PredictionsOfTask(const Predictions<T>& of)
      : task(static_cast<int>(blockIdx.x)),
        count(of.count),
        classes(of.classes),
        logits(of.logits + int64_t{task} * of.count * of.classes),
        labels(of.labels + int64_t{task} * of.count) {}

  // The offset of a prediction's first class in arrays of all tasks.
  MF_DEVICE int64_t At(int prediction) const { return (int64_t{task} * count + prediction) * classes; }
  // How many predictions count. All threads of the block call it.
  MF_DEVICE double Counted() const {
    int counted = 0;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreadsOfTask) counted += labels[i] != kIgnoredLabel;
    return SumOverThreads(counted, static_cast<int*>(Shared()));
  }
};

// softmax(logits)[c] = exp(logits[c] - most) / sum
template <typename T>
struct Softmax {
  const T* logits;
  T most, sum = 0;

  MF_DEVICE Softmax(const T* of, int classes) : logits(of), most(of[0]) {
    for (int c = 1; c < classes; ++c) most = of[c] > most || of[c] != of[c] ? of[c] : most;
    for (int c = 0; c < classes; ++c) sum += exp(of[c] - most);
  }
  MF_DEVICE T Of(int c) const { return exp(logits[c] - most) / sum; }
  MF_DEVICE double MinusLog(int64_t c) const {
    return log(static_cast<double>(sum)) - (static_cast<double>(logits[c]) - static_cast<double>(most));
  }
};

template <typename T>
__global__ void LossesKernel(const Predictions<T> all, T* losses, T* gradients) {
  const PredictionsOfTask<T> of(all);
  const double counted = of.Counted();
  double loss = 0;
  for (int i = static_cast<int>(threadIdx.x); i < of.count; i += kThreadsOfTask) {
    const int64_t label = of.labels[i];
    T* gradient = gradients + of.At(i);
    if (label == kIgnoredLabel) {
      for (int c = 0; c < of.classes; ++c) gradient[c] = T{0};
      continue;
    }
    const bool is_class = label >= 0 && label < of.classes;
    const T share = is_class ? static_cast<T>(1 / counted) : static_cast<T>(NAN);
    const Softmax<T> softmax(of.logits + int64_t{i} * of.classes, of.classes);
    for (int c = 0; c < of.classes; ++c) gradient[c] = share * (softmax.Of(c) - (c == label ? T{1} : T{0}));
    loss += is_class ? softmax.MinusLog(label) : double{NAN};
  }
  const double sum = SumOverThreads(loss, static_cast<double*>(Shared()));
  if (threadIdx.x == 0) losses[of.task] = static_cast<T>(sum / counted);
}

template <typename T>
__global__ void SecondKernel(const Predictions<T> all, const T* weights, const T* tangents, T* seconds) {
  const PredictionsOfTask<T> of(all);
  const double counted = of.Counted();
  const T share = static_cast<T>(static_cast<double>(weights[of.task]) / counted);
  for (int i = static_cast<int>(threadIdx.x); i < of.count; i += kThreadsOfTask) {
    const T* tangent = tangents + of.At(i);
    T* second = seconds + of.At(i);
    if (of.labels[i] == kIgnoredLabel) {
      for (int c = 0; c < of.classes; ++c) second[c] = T{0};
      continue;
    }
    const Softmax<T> softmax(of.logits + int64_t{i} * of.classes, of.classes);
    T mean = 0;
    for (int c = 0; c < of.classes; ++c) mean += softmax.Of(c) * tangent[c];
    for (int c = 0; c < of.classes; ++c) second[c] = share * softmax.Of(c) * (tangent[c] - mean);
  }
}

constexpr size_t kSharedOfTask = sizeof(double) * kThreadsOfTask;

}  // namespace

template <typename T>
cudaError_t ClassLosses(const Predictions<T>& of, T* losses, T* gradients, cudaStream_t stream) {
  Launches launch(stream);
  launch(&LossesKernel<T>, dim3(static_cast<unsigned>(of.tasks)), dim3(kThreadsOfTask), kSharedOfTask, of, losses,
         gradients);
  return launch.Error();
}

template <typename T>
cudaError_t SecondOfClassLosses(const Predictions<T>& of, const T* weights, const T* tangent, T* second,
                                cudaStream_t stream) {
  Launches launch(stream);
  launch(&SecondKernel<T>, dim3(static_cast<unsigned>(of.tasks)), dim3(kThreadsOfTask), kSharedOfTask, of, weights,
         tangent, second);
  return launch.Error();
}

template cudaError_t ClassLosses(const Predictions<float>&, float*, float*, cudaStream_t);
template cudaError_t ClassLosses(const Predictions<double>&, double*, double*, cudaStream_t);
template cudaError_t SecondOfClassLosses(const Predictions<float>&, const float*, const float*, float*, cudaStream_t);
template cudaError_t SecondOfClassLosses(const Predictions<double>&, const double*, const double*, double*,
                                         cudaStream_t);

}  // namespace cuda
}  // namespace maml_fast
