// The backward pass of a thin block, from the sums of the gradient over patches.
#include "cuda/thin/passes.h"
#include "cuda/thin/sums.cuh"

namespace maml_fast {
namespace cuda {
namespace {

// Other gradients at weight and gamma, to be added; null: none.
template <typename T>
struct MoreGradients {
  const T *weight, *gamma;

  MF_DEVICE static T At(const T* values, int64_t at) { return values == nullptr ? T{0} : values[at]; }
};

// grad_y = gamma a (g - g_bar - x^ (g x^)_bar), summed against the patches p.
template <typename T, int GROUPS>
__global__ void ThinGradients(const ThinShape s, const double* totals, const T* kept, const TaskParam<T> weight,
                              const TaskParam<T> gamma, const T* rstd, const MoreGradients<T> more, T* grad_weight,
                              T* grad_bias, T* grad_gamma, T* grad_beta) {
  const auto here = ChannelOfTask::Here(s);
  const auto patch = PatchMoments<GROUPS>::Load(s, kept + int64_t{here.task} * s.taps * (s.taps + 1));
  if (here.channel >= s.channels) return;
  const WeightColumn<T, GROUPS> w(s, weight.Of(here.task), here.channel);
  const auto gradient = GradientPatches::Of(s, totals, patch, here);
  const T* of_gamma = gamma.Of(here.task);
  const double a = rstd[here.at], scale = of_gamma == nullptr ? a : a * static_cast<double>(of_gamma[here.channel]);
  const double sum_gx = a * gradient.Slope(w);
  grad_beta[here.at] = static_cast<T>(gradient.Total());
  grad_gamma[here.at] = static_cast<T>(sum_gx) + more.At(more.gamma, here.at);
  grad_bias[here.at] = T{0};  // batch norm cancels any constant
  MF_ROLL
  for (int p = 0; p < s.taps; ++p) {
    const int64_t at = here.OfTap(s, p);
    const double own = scale * (gradient.Centered(p) - sum_gx * a * patch.Product(w, p));
    grad_weight[at] = static_cast<T>(own) + more.At(more.weight, at);
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
  WithGroups(thin, [&](auto count) {
    constexpr int kGroups = decltype(count)::value;
    launch(&ThinGradients<T, kGroups>, ChannelGrid(thin, s.tasks), dim3(kThreadsOfChannels),
           PatchMoments<kGroups>::kShared, thin, totals, args.saved.kept, args.saved.weight, args.saved.gamma,
           args.saved.rstd, MoreGradients<T>{args.more_weight, args.more_gamma}, args.grad_weight, args.grad_bias,
           args.grad_gamma, args.grad_beta);
  });
  return launch.Error();
}

template int64_t ThinBackwardScratch(const ConvBlockBackwardArgs<float>&);
template int64_t ThinBackwardScratch(const ConvBlockBackwardArgs<double>&);
template cudaError_t ThinBackward(const ConvBlockBackwardArgs<float>&, Arithmetic, float*, cudaStream_t);
template cudaError_t ThinBackward(const ConvBlockBackwardArgs<double>&, Arithmetic, double*, cudaStream_t);

}  // namespace cuda
}  // namespace maml_fast
