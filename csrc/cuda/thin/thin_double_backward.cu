// Double backward of a thin block. tangent_z is a convolution of x too, because x^ and the tangent h = v . p are.
#include "cuda/thin/passes.h"
#include "cuda/thin/sums.cuh"

namespace maml_fast {
namespace cuda {
namespace {

// The inputs of the closed forms; null tangents are zero.
template <typename T>
struct Tangents {
  TaskParam<T> weight, gamma;
  const T* kept;
  const T* rstd;
  TaskParam<T> gg_weight, gg_gamma, gg_beta;
};

template <typename T, int GROUPS>
struct TangentChannel {
  WeightColumn<T, GROUPS> w, v;
  double a, gamma, gg_gamma, gg_beta;
  double H;  // (h x^)_bar = a v^T C w

  MF_DEVICE TangentChannel(const ThinShape& s, const Tangents<T>& of, const PatchMoments<GROUPS>& patch,
                           const ChannelOfTask& here)
      : w(s, of.weight.Of(here.task), here.channel), v(s, of.gg_weight.Of(here.task), here.channel) {
    auto at = [&](const TaskParam<T>& parameter, double none) {
      const T* values = parameter.Of(here.task);
      return values == nullptr ? none : static_cast<double>(values[here.channel]);
    };
    a = of.rstd[here.at];
    gamma = at(of.gamma, 1);
    gg_gamma = at(of.gg_gamma, 0);
    gg_beta = at(of.gg_beta, 0);
    H = a * patch.Between(s, v, w);
  }
};

template <int GROUPS, typename T>
MF_DEVICE PatchMoments<GROUPS> LoadMoments(const ThinShape& s, const Tangents<T>& of, const ChannelOfTask& here) {
  return PatchMoments<GROUPS>::Load(s, of.kept + int64_t{here.task} * s.taps * (s.taps + 1));
}

// tangent_z = gg_gamma x^ + gg_beta + gamma a (h - h_bar - H x^), as weights [T, taps, C] and a constant [T, C].
template <typename T, int GROUPS>
MF_DEVICE void WriteTangent(const ThinShape& s, const ChannelOfTask& here, const TangentChannel<T, GROUPS>& k,
                            const PatchMoments<GROUPS>& patch, T* weights, T* constant) {
  const double of_h = k.gamma * k.a, of_y = (k.gg_gamma - of_h * k.H) * k.a;
  constant[here.at] = static_cast<T>(k.gg_beta - of_y * patch.Center(k.w) - of_h * patch.Center(k.v));
  MF_UNROLL
  for (int p = 0; p < GROUPS * kTaps; ++p) {
    if (p < s.taps) weights[here.OfTap(s, p)] = static_cast<T>(of_y * k.w.of[p] + of_h * k.v.of[p]);
  }
}

// grad_grad_out: tangent_z at each maximum.
template <typename T, class Geometry>
__global__ void TangentAtMaxima(const ThinShape given, const Groups groups, const T* x, const T* tangent,
                                const T* constant, const uint8_t* argmax, T* grad_grad_out) {
  const ThinShape s = Geometry::Of(given);
  auto* pixels = static_cast<T*>(Shared());
  const auto tile = WindowTile::Here(s, groups);
  tile.Load(s, x, pixels);
  const int channel = tile.group * kLanes + static_cast<int>(threadIdx.x);
  if (channel >= s.channels) return;
  constexpr int kMost = Geometry::kGroups * kTaps;
  const Weights<T, kMost> weights(s, tangent, tile.task, channel);
  const TapPlaces<kMost> taps(s, 0);
  const T start = constant[int64_t{tile.task} * s.channels + channel];
  const uint8_t* which = argmax + tile.FirstOutput(s) + channel;
  T* to = grad_grad_out + tile.FirstOutput(s) + channel;
  tile.ForEach(s, [&](int first, int at) {
    const int element = which[at];
    T z = start;
    if (element != kDead) {
      const T* patch = pixels + first + s.ElementAt(element);
      MF_UNROLL
      for (int t = 0; t < kMost; ++t) {
        if (t < s.taps) z += weights.of[t] * patch[taps.at[t]];
      }
    }
    to[at] = element == kDead ? T{0} : z;
  });
}

// Writes the tangent, and the second derivatives of csrc/core/norm_derivatives.h, with the gradient at y summed against
// the patches p: the sum of x^ p is M a C w, and the sum of (h - h_bar) p is M C v.
template <typename T, int GROUPS>
__global__ void ThinSecondGradients(const ThinShape s, double count, const Tangents<T> of, const double* totals,
                                    T* weights, T* constant, T* grad_weight, T* grad_gamma) {
  const auto here = ChannelOfTask::Here(s);
  const auto patch = LoadMoments<GROUPS>(s, of, here);
  if (here.channel >= s.channels) return;
  const TangentChannel<T, GROUPS> k(s, of, patch, here);
  WriteTangent(s, here, k, patch, weights, constant);
  const auto gradient = GradientPatches::Of(s, totals, patch, here);
  const double A = k.a * gradient.Slope(k.w) / count;
  const double D = gradient.Slope(k.v) / count - A * k.H, square = k.gamma * k.a * k.a;
  const double of_g = k.gg_gamma * k.a - square * k.H, of_h = -square * A;
  const double of_x = -k.gg_gamma * k.a * A - square * (D - 2 * A * k.H);
  grad_gamma[here.at] = static_cast<T>(count * k.a * D);
  MF_ROLL
  for (int p = 0; p < s.taps; ++p) {
    const double moments = of_x * k.a * patch.Product(k.w, p) + of_h * patch.Product(k.v, p);
    grad_weight[here.OfTap(s, p)] = static_cast<T>(of_g * gradient.Centered(p) + count * moments);
  }
}

template <typename T>
bool IsOnPixels(const ConvBlockDoubleBackwardArgs<T>& args) {
  return args.gg_x != nullptr || args.grad_x != nullptr;
}

template <typename T>
struct Layout {
  int64_t patches, tangent, constant, size;

  explicit Layout(const ConvBlockShape& s)
      : patches(0),
        tangent(patches + GradientPatchLayout<T>(s).size),
        constant(tangent + s.tasks * s.WeightSize()),
        size(constant + s.tasks * s.out_channels) {}
};

}  // namespace

template <typename T>
int64_t ThinDoubleBackwardScratch(const ConvBlockDoubleBackwardArgs<T>& args) {
  return IsOnPixels(args) ? OnPixelsScratch(args) : Layout<T>(args.shape).size;
}

template <typename T>
cudaError_t ThinDoubleBackward(const ConvBlockDoubleBackwardArgs<T>& args, Arithmetic arithmetic, T* scratch,
                               cudaStream_t stream) {
  if (IsOnPixels(args)) return DoubleBackwardOnPixels(args, arithmetic, scratch, stream);
  const ConvBlockShape& s = args.shape;
  const ThinShape thin = ThinShape::Of(s);
  const Layout<T> at(s);
  const Tangents<T> of{args.saved.weight, args.saved.gamma, args.saved.kept, args.saved.rstd,
                       args.gg_weight,    args.gg_gamma,    args.gg_beta};
  T *tangent = scratch + at.tangent, *constant = scratch + at.constant;
  const dim3 channels = ChannelGrid(thin, s.tasks), threads(kThreadsOfChannels);
  const Groups groups = Groups::Of(thin, kLanes);
  const auto pixels = static_cast<double>(s.batch * s.ConvPixels());
  Launches launch(stream);
  const double* totals = StartGradientPatches(launch, s, args.saved, args.grad_out, scratch + at.patches);
  WithGroups(thin, [&](auto count) {
    constexpr int kGroups = decltype(count)::value;
    launch(&ThinSecondGradients<T, kGroups>, channels, threads, PatchMoments<kGroups>::kShared, thin, pixels, of,
           totals, tangent, constant, args.grad_weight, args.grad_gamma);
  });
  WithGeometry(thin, [&](auto geometry) {
    launch(&TangentAtMaxima<T, decltype(geometry)>, TileGrid(thin, s.tasks, groups), dim3(kLanes, kPlies),
           sizeof(T) * static_cast<size_t>(thin.Pixels()), thin, groups, args.saved.x, static_cast<const T*>(tangent),
           static_cast<const T*>(constant), args.saved.argmax, args.grad_grad_out);
  });
  return launch.Error();
}

template int64_t ThinDoubleBackwardScratch(const ConvBlockDoubleBackwardArgs<float>&);
template int64_t ThinDoubleBackwardScratch(const ConvBlockDoubleBackwardArgs<double>&);
template cudaError_t ThinDoubleBackward(const ConvBlockDoubleBackwardArgs<float>&, Arithmetic, float*, cudaStream_t);
template cudaError_t ThinDoubleBackward(const ConvBlockDoubleBackwardArgs<double>&, Arithmetic, double*, cudaStream_t);

}  // namespace cuda
}  // namespace maml_fast
