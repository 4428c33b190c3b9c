// A thin block's passes if the gradient of its pixels is wanted (grad_x) or given (gg_x): the ordinary passes on a
// recomputed y.
#include "cuda/convolution/convolve.h"
#include "cuda/thin/algebra.cuh"
#include "cuda/thin/passes.h"
#include "cuda/values.cuh"

namespace maml_fast {
namespace cuda {
namespace {

// Recovers the bias from the mean of y, since a thin block does not keep the bias.
template <typename T>
__global__ void BiasFromMean(const ThinShape s, const T* kept, const TaskParam<T> weight, const T* mean, T* bias) {
  const auto here = ChannelOfTask::Here(s);
  if (here.channel >= s.channels) return;
  const T *mean_patch = kept + int64_t{here.task} * s.taps * (s.taps + 1), *w = weight.Of(here.task) + here.channel;
  double center = 0;
  for (int p = 0; p < s.taps; ++p)
    center += static_cast<double>(mean_patch[p]) * static_cast<double>(w[int64_t{p} * s.channels]);
  bias[here.at] = static_cast<T>(static_cast<double>(mean[here.at]) - center);
}

ConvBlockShape Ordinary(ConvBlockShape s) {
  s.thin = false;
  return s;
}

// Recomputes y; y and the bias are in scratch.
struct YAgain {
  int64_t y, bias, size;

  explicit YAgain(const ConvBlockShape& s)
      : y(0), bias(y + s.ConvImage(s.tasks, 0)), size(bias + s.tasks * s.out_channels) {}

  template <typename T>
  void Start(Launches& launch, const ConvBlockShape& s, const ConvBlockSaved<T>& saved, Arithmetic arithmetic,
             T* scratch) const {
    const ThinShape thin = ThinShape::Of(s);
    launch(&BiasFromMean<T>, ChannelGrid(thin, s.tasks), dim3(kThreadsOfChannels), 0, thin, saved.kept, saved.weight,
           saved.mean, scratch + bias);
    StartForward<T>(launch, arithmetic, Ordinary(s), {saved.x, saved.weight}, nullptr, {scratch + bias, s.out_channels},
                    scratch + y, nullptr);
  }
};

// Scratch memory of double backward besides YAgain: the gradient at y, and the results of its backward pass.
struct Layout {
  int64_t grad_y, no_grad_out, grad_weight, rest, grad_x, passes;

  explicit Layout(const ConvBlockShape& s, bool pixels)
      : grad_y(YAgain(s).size),
        no_grad_out(grad_y + s.ConvImage(s.tasks, 0)),
        grad_weight(no_grad_out + s.OutImage(s.tasks, 0)),
        rest(grad_weight + s.tasks * s.WeightSize()),
        grad_x(rest + 3 * s.tasks * s.out_channels),
        passes(grad_x + (pixels ? s.InImage(s.tasks, 0) : 0)) {}
};

// The arguments of the backward pass that propagates the gradient at y found by double backward.
template <typename T>
ConvBlockBackwardArgs<T> ThroughY(const ConvBlockDoubleBackwardArgs<T>& args, const Layout& at, T* scratch) {
  const int64_t channels = args.shape.tasks * args.shape.out_channels;
  T* rest = scratch + at.rest;
  return {args.shape,
          args.saved,
          scratch + at.no_grad_out,
          scratch + at.grad_y,
          args.grad_x == nullptr ? nullptr : scratch + at.grad_x,
          scratch + at.grad_weight,
          rest,
          rest + channels,
          rest + 2 * channels};
}

}  // namespace

template <typename T>
int64_t OnPixelsScratch(const ConvBlockBackwardArgs<T>& args) {
  ConvBlockBackwardArgs<T> ordinary = args;
  ordinary.shape = Ordinary(args.shape);
  return YAgain(args.shape).size + BackwardScratch(ordinary);
}

template <typename T>
cudaError_t BackwardOnPixels(ConvBlockBackwardArgs<T> args, Arithmetic arithmetic, T* scratch, cudaStream_t stream) {
  const YAgain at(args.shape);
  Launches launch(stream);
  at.Start(launch, args.shape, args.saved, arithmetic, scratch);
  if (launch.Error() != cudaSuccess) return launch.Error();
  args.shape = Ordinary(args.shape);
  args.saved.kept = scratch + at.y;
  return Backward(args, arithmetic, scratch + at.size, stream);
}

template <typename T>
int64_t OnPixelsScratch(const ConvBlockDoubleBackwardArgs<T>& args) {
  ConvBlockDoubleBackwardArgs<T> ordinary = args;
  ordinary.shape = Ordinary(args.shape);
  const Layout at(args.shape, args.grad_x != nullptr);
  const int64_t second = DoubleBackwardScratch(ordinary);
  const int64_t first = BackwardScratch(ThroughY<T>(ordinary, at, nullptr));
  return at.passes + (first > second ? first : second);
}

template <typename T>
cudaError_t DoubleBackwardOnPixels(ConvBlockDoubleBackwardArgs<T> args, Arithmetic arithmetic, T* scratch,
                                   cudaStream_t stream) {
  const ConvBlockShape& s = args.shape;
  const Layout at(s, args.grad_x != nullptr);
  const YAgain again(s);
  Launches launch(stream);
  again.Start(launch, s, args.saved, arithmetic, scratch);
  const int64_t outputs = s.OutImage(s.tasks, 0), weights = s.tasks * s.WeightSize(), inputs = s.InImage(s.tasks, 0);
  StartZero(launch, scratch + at.no_grad_out, outputs);
  if (launch.Error() != cudaSuccess) return launch.Error();

  args.shape = Ordinary(s);
  args.saved.kept = scratch + again.y;
  args.grad_y = scratch + at.grad_y;
  cudaError_t error = DoubleBackward(args, arithmetic, scratch + at.passes, stream);
  if (error != cudaSuccess) return error;
  error = Backward(ThroughY(args, at, scratch), arithmetic, scratch + at.passes, stream);
  if (error != cudaSuccess) return error;
  StartAdd<T>(launch, scratch + at.grad_weight, args.grad_weight, weights);
  if (args.grad_x != nullptr) StartAdd<T>(launch, scratch + at.grad_x, args.grad_x, inputs);
  return launch.Error();
}

template int64_t OnPixelsScratch(const ConvBlockBackwardArgs<float>&);
template int64_t OnPixelsScratch(const ConvBlockBackwardArgs<double>&);
template int64_t OnPixelsScratch(const ConvBlockDoubleBackwardArgs<float>&);
template int64_t OnPixelsScratch(const ConvBlockDoubleBackwardArgs<double>&);
template cudaError_t BackwardOnPixels(ConvBlockBackwardArgs<float>, Arithmetic, float*, cudaStream_t);
template cudaError_t BackwardOnPixels(ConvBlockBackwardArgs<double>, Arithmetic, double*, cudaStream_t);
template cudaError_t DoubleBackwardOnPixels(ConvBlockDoubleBackwardArgs<float>, Arithmetic, float*, cudaStream_t);
template cudaError_t DoubleBackwardOnPixels(ConvBlockDoubleBackwardArgs<double>, Arithmetic, double*, cudaStream_t);

}  // namespace cuda
}  // namespace maml_fast
