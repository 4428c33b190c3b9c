// The backward pass: sums over the pooled gradient, the coefficients that follow, the gradient at y, and the two
// products that read it.
#include "cuda/convolution/convolve.h"
#include "cuda/passes/gradient.cuh"
#include "cuda/thin/passes.h"

namespace maml_fast {
namespace cuda {
namespace {

// The sums of g and of g x^ over values of out.
template <typename T>
struct GradientTerms {
  BlockImages<T> images;
  Norms<T> norms;

  MF_DEVICE void operator()(int task, int row, int channel, T* sums) const {
    const Place out = Place::OfRow(images.of_out, task, row, channel);
    const int element = images.argmax[out.at];
    if (element == kDead) return;
    const T g = images.grad_out[out.at], r = images.R(images.y[images.InWindow(out, element)]);
    sums[0] += g;
    sums[1] += g * norms.Of(task, channel).Normalized(r);
  }
};

template <typename T>
struct FinishGradients {
  double count;  // values of a channel
  int channels;
  bool relu_first;
  Norms<T> norms;
  const T* more_gamma;
  T *coefficients, *grad_gamma, *grad_beta, *grad_bias;

  MF_DEVICE void operator()(int task, int channel, const double* sums) const {
    const Norm<T> norm = norms.Of(task, channel);
    const NormGradient first = NormGradient::Of(norm.rstd, norm.gamma, 0.0, sums[0] / count, sums[1] / count);
    const int64_t at = int64_t{task} * channels + channel;
    grad_beta[at] = static_cast<T>(sums[0]);
    grad_gamma[at] = static_cast<T>(sums[1]) + (more_gamma == nullptr ? T{0} : more_gamma[at]);
    if (!relu_first) grad_bias[at] = T{0};  // batch norm cancels any constant
    T* k = coefficients + int64_t{task} * kGradient * channels + channel;
    k[0] = static_cast<T>(first.of_g);
    k[channels] = static_cast<T>(first.of_x);
    k[2 * channels] = static_cast<T>(first.one);
  }
};

// more: another gradient at y to add, or null.
template <typename T>
__global__ void GradientAtY(const BlockImages<T> images, const Norms<T> norms, const GradientCoefficients<T> k,
                            const T* more, T* grad_y) {
  const ImageShape& of = images.of_y;
  Place p = Place::Here(of);
  const Norm<T> norm = norms.Of(p.task, p.channel);
  const Gradient<T> gradient = k.Of(p.task, p.channel);
  for (const int end = Place::EndOfImages(of); p.image < end; p.Next(of)) {
    grad_y[p.at] = GradY(images, norm, gradient, p) + (more == nullptr ? T{0} : more[p.at]);
  }
}

// The sum over pixels of y.
template <typename T>
struct PixelTerms {
  const T* values;
  int64_t of_task;  // values
  int channels;

  MF_DEVICE void operator()(int task, int row, int channel, T* sums) const {
    sums[0] += values[task * of_task + row * channels + channel];
  }
};

template <typename T>
struct FinishBias {
  T* grad_bias;
  int channels;

  MF_DEVICE void operator()(int task, int channel, const double* sums) const {
    grad_bias[int64_t{task} * channels + channel] = static_cast<T>(sums[0]);
  }
};

// The layout of one call's scratch memory, in scalars.
struct Layout {
  int64_t grad_y, partial, gradient, weights, size;

  explicit Layout(const ConvBlockShape& s)
      : grad_y(0),
        partial(grad_y + s.ConvImage(s.tasks, 0)),
        gradient(partial + s.tasks * PartsOf(s.batch * s.ConvPixels()) * 2 * s.out_channels),
        weights(gradient + s.tasks * kGradient * s.out_channels),
        size(weights + s.tasks * WeightGradientParts(s) * s.WeightSize()) {}
};

}  // namespace

template <typename T>
int64_t BackwardScratch(const ConvBlockBackwardArgs<T>& args) {
  return args.shape.thin ? ThinBackwardScratch(args) : Layout(args.shape).size;
}

template <typename T>
cudaError_t Backward(const ConvBlockBackwardArgs<T>& args, Arithmetic arithmetic, T* scratch, cudaStream_t stream) {
  const ConvBlockShape& s = args.shape;
  if (s.thin) return ThinBackward(args, arithmetic, scratch, stream);
  const Layout at(s);
  T *grad_y = scratch + at.grad_y, *partial = scratch + at.partial;
  const auto images = BlockImages<T>::Of(s, args.saved.kept, args.saved.argmax, args.grad_out);
  const Norms<T> norms = NormsOf(s, args.saved);
  const int channels = static_cast<int>(s.out_channels), rows = static_cast<int>(s.batch * s.ConvPixels());
  Launches launch(stream);
  StartSums<2>(launch, s, static_cast<int>(s.batch * s.OutPixels()), GradientTerms<T>{images, norms},
               FinishGradients<T>{static_cast<double>(rows), channels, s.relu_first, norms, args.more_gamma,
                                  scratch + at.gradient, args.grad_gamma, args.grad_beta, args.grad_bias},
               partial);
  const GradientCoefficients<T> k{scratch + at.gradient, channels};
  launch(&GradientAtY<T>, ImageGrid(s, s.ConvSize()), dim3(kThreadsOfImages), 0, images, norms, k, args.grad_y, grad_y);
  if (s.relu_first) {
    StartSums<1>(launch, s, rows, PixelTerms<T>{grad_y, s.batch * s.ConvSize(), channels},
                 FinishBias<T>{args.grad_bias, channels}, partial);
  }
  StartWeightGradient<T>(launch, arithmetic, s, args.saved.x, grad_y, scratch + at.weights, args.more_weight,
                         args.grad_weight);
  if (args.grad_x != nullptr) {
    StartDataGradient<T>(launch, arithmetic, s, grad_y, args.saved.weight, args.more_x, args.grad_x);
  }
  return launch.Error();
}

template int64_t BackwardScratch(const ConvBlockBackwardArgs<float>&);
template int64_t BackwardScratch(const ConvBlockBackwardArgs<double>&);
template cudaError_t Backward(const ConvBlockBackwardArgs<float>&, Arithmetic, float*, cudaStream_t);
template cudaError_t Backward(const ConvBlockBackwardArgs<double>&, Arithmetic, double*, cudaStream_t);

}  // namespace cuda
}  // namespace maml_fast
