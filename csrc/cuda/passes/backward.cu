// The backward pass: sums over the pooled gradient, the coefficients that follow, the gradient at y, and the two
// products that read it.
#include "cuda/convolution/convolve.h"
#include "cuda/passes/gradient.cuh"
#include "cuda/thin/passes.h"

namespace maml_fast {
namespace cuda {
namespace {

// partial[task][part][2][C]: the sums of g and of g x^ over values of out.
template <typename T>
__global__ void GradientSums(const BlockImages<T> images, const Norms<T> norms, T* partial) {
  const ImageShape& of = images.of_out;
  SumPart<2>(of.batch * of.by_pixels.by, of.channels, partial, [&](int task, int row, int channel, T* sums) {
    const Place out = Place::OfRow(of, task, row, channel);
    const int element = images.argmax[out.at];
    if (element == kDead) return;
    const T g = images.grad_out[out.at], r = images.R(images.y[images.InWindow(out, element)]);
    sums[0] += g;
    sums[1] += g * norms.Of(task, channel).Normalized(r);
  });
}

template <typename T>
__global__ void JoinGradients(const ConvBlockShape s, int parts, const T* partial, const Norms<T> norms,
                              T* coefficients, T* grad_gamma, T* grad_beta, T* grad_bias) {
  JoinParts<2>(parts, static_cast<int>(s.out_channels), partial, [&](int task, int channel, const double* sums) {
    const Norm<T> norm = norms.Of(task, channel);
    const double count = static_cast<double>(s.batch * s.ConvPixels());
    const NormGradient first = NormGradient::Of(norm.rstd, norm.gamma, 0.0, sums[0] / count, sums[1] / count);
    const int64_t at = int64_t{task} * s.out_channels + channel;
    grad_beta[at] = static_cast<T>(sums[0]);
    grad_gamma[at] = static_cast<T>(sums[1]);
    if (!s.relu_first) grad_bias[at] = T{0};  // batch norm cancels any constant
    T* k = coefficients + int64_t{task} * kGradient * s.out_channels + channel;
    k[0] = static_cast<T>(first.of_g);
    k[s.out_channels] = static_cast<T>(first.of_x);
    k[2 * s.out_channels] = static_cast<T>(first.one);
  });
}

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

template <typename T>
__global__ void SumOverPixels(const ConvBlockShape s, const T* values, T* partial) {
  SumPart<1>(static_cast<int>(s.batch * s.ConvPixels()), static_cast<int>(s.out_channels), partial,
             [&](int task, int row, int channel, T* sums) {
               sums[0] += values[s.ConvImage(task, 0) + row * s.out_channels + channel];
             });
}

template <typename T>
__global__ void JoinBias(int parts, int channels, const T* partial, T* grad_bias) {
  JoinParts<1>(parts, channels, partial, [&](int task, int channel, const double* sums) {
    grad_bias[int64_t{task} * channels + channel] = static_cast<T>(sums[0]);
  });
}

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
  const int channels = static_cast<int>(s.out_channels), of_out = PartsOf(s.batch * s.OutPixels());
  Launches launch(stream);
  launch(&GradientSums<T>, SumGrid(s, of_out), dim3(kLanes, kPlies), SumShared<T>(2), images, norms, partial);
  launch(&JoinGradients<T>, JoinGrid(s), dim3(kLanes, kPlies), SumShared<double>(2), s, of_out,
         static_cast<const T*>(partial), norms, scratch + at.gradient, args.grad_gamma, args.grad_beta, args.grad_bias);
  const GradientCoefficients<T> k{scratch + at.gradient, channels};
  launch(&GradientAtY<T>, ImageGrid(s, s.ConvSize()), dim3(kThreadsOfImages), 0, images, norms, k, args.grad_y, grad_y);
  if (s.relu_first) {
    const int of_y = PartsOf(s.batch * s.ConvPixels());
    launch(&SumOverPixels<T>, SumGrid(s, of_y), dim3(kLanes, kPlies), SumShared<T>(1), s, static_cast<const T*>(grad_y),
           partial);
    launch(&JoinBias<T>, JoinGrid(s), dim3(kLanes, kPlies), SumShared<double>(1), of_y, channels,
           static_cast<const T*>(partial), args.grad_bias);
  }
  StartWeightGradient<T>(launch, arithmetic, s, args.saved.x, grad_y, scratch + at.weights, args.grad_weight);
  if (args.grad_x != nullptr) StartDataGradient<T>(launch, arithmetic, s, grad_y, args.saved.weight, args.grad_x);
  return launch.Error();
}

template int64_t BackwardScratch(const ConvBlockBackwardArgs<float>&);
template int64_t BackwardScratch(const ConvBlockBackwardArgs<double>&);
template cudaError_t Backward(const ConvBlockBackwardArgs<float>&, Arithmetic, float*, cudaStream_t);
template cudaError_t Backward(const ConvBlockBackwardArgs<double>&, Arithmetic, double*, cudaStream_t);

}  // namespace cuda
}  // namespace maml_fast
