// Double backward: the tangent at y, its sums and the coefficients that follow, one sweep that writes all images, and
// the two products. The formulas are in csrc/core/norm_derivatives.h.
#include "cuda/convolution/convolve.h"
#include "cuda/passes/gradient.cuh"
#include "cuda/thin/passes.h"
#include "cuda/values.cuh"

namespace maml_fast {
namespace cuda {
namespace {

constexpr int kSums = 5;    // g, g x^, h, h x^, g h
constexpr int kSecond = 7;  // coefficients besides GradientCoefficients
constexpr int kTangentZ = 0, kSecondR = 3;

template <typename T>
MF_DEVICE T TangentAtR(const BlockImages<T>& images, T tangent_y, T y) {
  return images.relu_first && y <= T{0} ? T{0} : tangent_y;
}

// Sets every pixel of y to a row of channels, or to zero if there are none.
template <typename T>
__global__ void FillImages(const ImageShape of, const TaskParam<T> rows, T* y) {
  Place p = Place::Here(of);
  const T* row = rows.Of(p.task);
  const T value = row == nullptr ? T{0} : row[p.channel];
  for (const int end = Place::EndOfImages(of); p.image < end; p.Next(of)) y[p.at] = value;
}

template <typename T>
struct TangentTerms {
  BlockImages<T> images;
  Norms<T> norms;
  const T* tangent_y;

  MF_DEVICE void operator()(int task, int row, int channel, T* sums) const {
    const Place p = Place::OfRow(images.of_y, task, row, channel);
    const T y = images.y[p.at], h = TangentAtR(images, tangent_y[p.at], y), g = images.GradientAt(p);
    const T x = norms.Of(task, channel).Normalized(images.R(y));
    sums[0] += g;
    sums[1] += g * x;
    sums[2] += h;
    sums[3] += h * x;
    sums[4] += g * h;
  }
};

template <typename T>
struct FinishTangents {
  double count;  // values of a channel
  int channels;
  Norms<T> norms;
  TaskParam<T> gg_gamma, gg_beta;
  T *gradient, *second, *grad_gamma;

  MF_DEVICE static double At(const TaskParam<T>& parameter, int task, int channel) {
    const T* values = parameter.Of(task);
    return values == nullptr ? 0.0 : static_cast<double>(values[channel]);
  }
  MF_DEVICE void operator()(int task, int channel, const double* sums) const {
    const Norm<T> norm = norms.Of(task, channel);
    const double of_gamma = At(gg_gamma, task, channel), of_beta = At(gg_beta, task, channel);
    auto mean = [&](int i) { return sums[i] / count; };
    const NormGradient first = NormGradient::Of(norm.rstd, norm.gamma, 0.0, mean(0), mean(1));
    const NormSecond then =
        NormSecond::Of(norm.rstd, norm.gamma, of_gamma, of_beta, 0.0, mean(0), mean(1), mean(2), mean(3), mean(4));
    T* of_gradient = gradient + int64_t{task} * kGradient * channels + channel;
    of_gradient[0] = static_cast<T>(first.of_g);
    of_gradient[channels] = static_cast<T>(first.of_x);
    of_gradient[2 * channels] = static_cast<T>(first.one);
    T* of_second = second + int64_t{task} * kSecond * channels + channel;
    for (int i = 0; i < 3; ++i) of_second[(kTangentZ + i) * channels] = static_cast<T>(then.tangent_z[i]);
    for (int i = 0; i < 4; ++i) of_second[(kSecondR + i) * channels] = static_cast<T>(then.second_r[i]);
    grad_gamma[int64_t{task} * channels + channel] = static_cast<T>(count * then.second_gamma);
  }
};

// Writes grad_y as in the backward pass and, in place of tangent_y, the gradient at y that propagates into x and
// weight. An output's grad_grad_out is tangent_z at its maximum, or zero if ReLU set the output to zero.
template <typename T>
__global__ void SecondGradients(const BlockImages<T> images, const Norms<T> norms, const GradientCoefficients<T> k,
                                const T* second, T* tangent_y, T* grad_y, T* grad_grad_out) {
  const ImageShape& of = images.of_y;
  Place p = Place::Here(of);
  const Norm<T> norm = norms.Of(p.task, p.channel);
  const Gradient<T> gradient = k.Of(p.task, p.channel);
  T at[kSecond];
  MF_UNROLL
  for (int i = 0; i < kSecond; ++i) at[i] = second[(int64_t{p.task} * kSecond + i) * of.channels + p.channel];
  for (const int end = Place::EndOfImages(of); p.image < end; p.Next(of)) {
    const T y = images.y[p.at], h = TangentAtR(images, tangent_y[p.at], y), g = images.GradientAt(p);
    const T x = norm.Normalized(images.R(y));
    const bool dead = images.relu_first && y <= T{0};
    grad_y[p.at] = GradY(images, norm, gradient, p);
    tangent_y[p.at] =
        dead ? T{0} : at[kSecondR] * g + (at[kSecondR + 1] * h + (at[kSecondR + 2] * x + at[kSecondR + 3]));
    const int64_t out = images.OutputFrom(p);
    if (out >= 0) {
      grad_grad_out[out] = at[kTangentZ] * h + (at[kTangentZ + 1] * x + at[kTangentZ + 2]);
    } else if (const int64_t of_window = images.DeadOutputFrom(p); of_window >= 0) {
      grad_grad_out[of_window] = T{0};
    }
  }
}

// The layout of one call's scratch memory, in scalars.
struct Layout {
  int64_t grad_y, partial, gradient, second, weights, size;

  explicit Layout(const ConvBlockShape& s)
      : grad_y(0),
        partial(grad_y + s.ConvImage(s.tasks, 0)),
        gradient(partial + s.tasks * PartsOf(s.batch * s.ConvPixels()) * kSums * s.out_channels),
        second(gradient + s.tasks * kGradient * s.out_channels),
        weights(second + s.tasks * kSecond * s.out_channels),
        size(weights + s.tasks * WeightGradientParts(s) * s.WeightSize()) {}
};

}  // namespace

template <typename T>
int64_t DoubleBackwardScratch(const ConvBlockDoubleBackwardArgs<T>& args) {
  return args.shape.thin ? ThinDoubleBackwardScratch(args) : Layout(args.shape).size;
}

template <typename T>
cudaError_t DoubleBackward(const ConvBlockDoubleBackwardArgs<T>& args, Arithmetic arithmetic, T* scratch,
                           cudaStream_t stream) {
  const ConvBlockShape& s = args.shape;
  if (s.thin) return ThinDoubleBackward(args, arithmetic, scratch, stream);
  const Layout at(s);
  const auto images = BlockImages<T>::Of(s, args.saved.kept, args.saved.argmax, args.grad_out);
  const Norms<T> norms = NormsOf(s, args.saved);
  T *tangent_y = args.grad_y, *grad_y = scratch + at.grad_y;
  Launches launch(stream);

  // tangent_y = conv(gg_x, weight) + conv(x, gg_weight) + gg_bias. Batch norm cancels any constant, so gg_bias matters
  // only if ReLU comes first.
  const TaskParam<T> gg_bias = s.relu_first ? args.gg_bias : TaskParam<T>{};
  const Convolved<T> of_x{args.gg_x, args.saved.weight}, of_weight{args.saved.x, args.gg_weight};
  const dim3 of_y = ImageGrid(s, s.ConvSize()), threads(kThreadsOfImages);
  const bool has_x = args.gg_x != nullptr, has_weight = args.gg_weight.data != nullptr;
  if (has_x || has_weight) {
    StartForward<T>(launch, arithmetic, s, has_x ? of_x : of_weight, has_x && has_weight ? &of_weight : nullptr,
                    gg_bias, tangent_y, nullptr);
  } else {
    launch(&FillImages<T>, of_y, threads, 0, images.of_y, gg_bias, tangent_y);
  }

  const int channels = static_cast<int>(s.out_channels), rows = static_cast<int>(s.batch * s.ConvPixels());
  StartSums<kSums>(launch, s, rows, TangentTerms<T>{images, norms, tangent_y},
                   FinishTangents<T>{static_cast<double>(rows), channels, norms, args.gg_gamma, args.gg_beta,
                                     scratch + at.gradient, scratch + at.second, args.grad_gamma},
                   scratch + at.partial);
  const GradientCoefficients<T> k{scratch + at.gradient, channels};
  launch(&SecondGradients<T>, of_y, threads, 0, images, norms, k, static_cast<const T*>(scratch + at.second), tangent_y,
         grad_y, args.grad_grad_out);

  if (has_x) {
    StartWeightGradient<T>(launch, arithmetic, s, args.gg_x, grad_y, scratch + at.weights, nullptr, args.grad_weight);
  } else {
    StartZero(launch, args.grad_weight, s.tasks * s.WeightSize());
  }
  if (args.grad_x == nullptr) return launch.Error();
  if (has_weight) {
    StartDataGradient<T>(launch, arithmetic, s, grad_y, args.gg_weight, nullptr, args.grad_x);
  } else {
    StartZero(launch, args.grad_x, s.InImage(s.tasks, 0));
  }
  return launch.Error();
}

template int64_t DoubleBackwardScratch(const ConvBlockDoubleBackwardArgs<float>&);
template int64_t DoubleBackwardScratch(const ConvBlockDoubleBackwardArgs<double>&);
template cudaError_t DoubleBackward(const ConvBlockDoubleBackwardArgs<float>&, Arithmetic, float*, cudaStream_t);
template cudaError_t DoubleBackward(const ConvBlockDoubleBackwardArgs<double>&, Arithmetic, double*, cudaStream_t);

}  // namespace cuda
}  // namespace maml_fast
