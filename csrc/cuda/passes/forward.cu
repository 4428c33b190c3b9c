// The forward pass: the convolution with its moments, the batch statistics from the moments, and one sweep that
// normalizes, applies ReLU and pools.
#include "cuda/convolution/convolve.h"
#include "cuda/passes/norm_pool.cuh"
#include "cuda/thin/passes.h"

namespace maml_fast {
namespace cuda {
namespace {

// Combines the parts' moments, in order and in double: first the mean, then the squared deviations, which are those
// within the parts and those of the parts' means. Grid: x over channels, y over tasks.
template <typename T>
__global__ void JoinMoments(const ConvBlockShape s, int rows, const T* moments, T* mean, T* rstd) {
  const int lane = static_cast<int>(threadIdx.x), ply = static_cast<int>(threadIdx.y);
  const int channels = static_cast<int>(s.out_channels), parts = (rows + kRowsOfMoments - 1) / kRowsOfMoments;
  const int channel = static_cast<int>(blockIdx.x) * kLanes + lane, task = static_cast<int>(blockIdx.y);
  // Adds up term(rows of a part, their mean, their squares) over all parts.
  const auto sum = [&](const auto& term) {
    double mine = 0;
    for (int part = ply; channel < channels && part < parts; part += kPlies) {
      const T* at = moments + (int64_t{task} * parts + part) * 2 * channels + channel;
      const int left = rows - part * kRowsOfMoments;
      mine += term(left < kRowsOfMoments ? left : kRowsOfMoments, at[0], at[channels]);
    }
    return SumOverPlies(mine);
  };
  const double center = sum([](double count, double of_part, double) { return count * of_part; }) / rows;
  const double squares = sum([=](double count, double of_part, double within) {
    const double off = of_part - center;
    return within + off * off * count;
  });
  if (ply > 0 || channel >= channels) return;
  mean[int64_t{task} * channels + channel] = static_cast<T>(center);
  rstd[int64_t{task} * channels + channel] = static_cast<T>(1.0 / sqrt(squares / rows + s.eps));
}

template <typename T>
__global__ void NormReluPool(const BlockImages<T> images, const Norms<T> norms, T* out, uint8_t* argmax) {
  const ImageShape& of = images.of_out;
  Place p = Place::Here(of);
  const Norm<T> norm = norms.Of(p.task, p.channel);
  for (const int end = Place::EndOfImages(of); p.image < end; p.Next(of)) {
    T best = 0;
    int index = 0;
    for (int e = 0; e < images.Window(); ++e) {
      const T r = images.R(images.y[images.InWindow(p, e)]);
      const T z = (r - norm.mean) * (norm.rstd * norm.gamma) + norm.beta;
      if (e > 0 && !(z > best || z != z)) continue;
      best = z;
      index = e;
    }
    const bool dead = !images.relu_first && best <= T{0};
    out[p.at] = dead ? T{0} : best;
    argmax[p.at] = static_cast<uint8_t>(dead ? kDead : index);
  }
}

}  // namespace

template <typename T>
int64_t ForwardScratch(const ConvBlockForwardArgs<T>& args) {
  const ConvBlockShape& s = args.shape;
  return s.thin ? ThinForwardScratch<T>(s) : s.tasks * MomentParts(s) * 2 * s.out_channels;
}

template <typename T>
cudaError_t Forward(const ConvBlockForwardArgs<T>& args, Arithmetic arithmetic, T* scratch, cudaStream_t stream) {
  const ConvBlockShape& s = args.shape;
  Launches launch(stream);
  if (s.thin) {
    StartThinForward(launch, args, scratch);
    return launch.Error();
  }
  StartForward<T>(launch, arithmetic, s, {args.x, args.weight}, nullptr, args.bias, args.kept, scratch);
  launch(&JoinMoments<T>, dim3(Ceil(s.out_channels, kLanes), static_cast<unsigned>(s.tasks)), dim3(kLanes, kPlies),
         kLanes * kPlies * sizeof(double), s, RowsOfY(s), static_cast<const T*>(scratch), args.mean, args.rstd);
  const auto images = BlockImages<T>::Of(s, args.kept, nullptr, nullptr);
  const Norms<T> norms{args.mean, args.rstd, args.gamma, args.beta, static_cast<int>(s.out_channels)};
  launch(&NormReluPool<T>, ImageGrid(s, s.OutSize()), dim3(kThreadsOfImages), 0, images, norms, args.out, args.argmax);
  return launch.Error();
}

template int64_t ForwardScratch(const ConvBlockForwardArgs<float>&);
template int64_t ForwardScratch(const ConvBlockForwardArgs<double>&);
template cudaError_t Forward(const ConvBlockForwardArgs<float>&, Arithmetic, float*, cudaStream_t);
template cudaError_t Forward(const ConvBlockForwardArgs<double>&, Arithmetic, double*, cudaStream_t);

}  // namespace cuda
}  // namespace maml_fast
