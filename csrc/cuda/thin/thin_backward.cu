// The backward pass of a thin block, from the sums of the gradient over patches.
#include "cuda/thin/passes.h"
#include "cuda/thin/sums.cuh"

namespace maml_fast {
namespace cuda {
namespace {

// grad_y = gamma a (g - g_bar - x^ (g x^)_bar), summed against the patches p.
template <typename T>
__global__ void ThinGradients(const ThinShape s, const double* totals, const T* kept, const TaskParam<T> weight,
                              const TaskParam<T> gamma, const T* rstd, T* grad_weight, T* grad_bias, T* grad_gamma,
                              T* grad_beta) {
  const auto here = ChannelOfTask::Here(s);
  if (here.channel >= s.channels) return;
  const PatchMoments<T> patch{kept + int64_t{here.task} * s.taps * (s.taps + 1), s.taps};
  const auto w = WeightColumn<T>::Of(s, weight.Of(here.task), here.channel);
  const auto gradient = GradientPatches::Of(s, totals, here);
  const T* of_gamma = gamma.Of(here.task);
  const double a = rstd[here.at], scale = of_gamma == nullptr ? a : a * static_cast<double>(of_gamma[here.channel]);
  const double sum_gx = a * gradient.Slope(patch, w);
  grad_beta[here.at] = static_cast<T>(gradient.Total());
  grad_gamma[here.at] = static_cast<T>(sum_gx);
  grad_bias[here.at] = T{0};  // batch norm cancels any constant
  for (int p = 0; p < s.taps; ++p) {
    grad_weight[(int64_t{here.task} * s.taps + p) * s.channels + here.channel] =
        static_cast<T>(scale * (gradient.Centered(patch, p) - sum_gx * a * patch.Product(w, p)));
  }
}

}  // namespace

template <typename T>
int64_t ThinBackwardScratch(const ConvBlockBackwardArgs<T>& args) {
  return args.grad_x == nullptr ? GradientPatchLayout<T>(args.shape).size : OnPixelsScratch(args);
}

template <typename T>
cudaError_t ThinBackward(const ConvBlockBackwardArgs<T>& args, Arithmetic arithmetic, T* scratch, cudaStream_t stream) {
  if (args.grad_x != nullptr) return BackwardOnPixels(args, arithmetic, scratch, stream);
  const ConvBlockShape& s = args.shape;
  const ThinShape thin = ThinShape::Of(s);
  Launches launch(stream);
  const double* totals = StartGradientPatches(launch, s, args.saved, args.grad_out, scratch);
  launch(&ThinGradients<T>, ChannelGrid(thin, s.tasks), dim3(kThreadsOfChannels), 0, thin, totals, args.saved.kept,
         args.saved.weight, args.saved.gamma, args.saved.rstd, args.grad_weight, args.grad_bias, args.grad_gamma,
         args.grad_beta);
  return launch.Error();
}

template int64_t ThinBackwardScratch(const ConvBlockBackwardArgs<float>&);
template int64_t ThinBackwardScratch(const ConvBlockBackwardArgs<double>&);
template cudaError_t ThinBackward(const ConvBlockBackwardArgs<float>&, Arithmetic, float*, cudaStream_t);
template cudaError_t ThinBackward(const ConvBlockBackwardArgs<double>&, Arithmetic, double*, cudaStream_t);

}  // namespace cuda
}  // namespace maml_fast
