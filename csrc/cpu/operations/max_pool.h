// Maxima over windows of channels-last images; among equals the first counts, and NaN above all, as in PyTorch.
//
// numbers: as windows.h has them.
#pragma once

#include <algorithm>
#include <limits>

#include "cpu/operations/frame.h"
#include "cpu/operations/share.h"
#include "cpu/operations/windows.h"
#include "cpu/simd.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct MaxPoolPasses {
  using V = Vec<Scalar>;

  // Of every output, the pixel of its image where the maximum was found: a whole number in a scalar.
  static int64_t KeptSize(const Operation& op) {
    const Windows w = Windows::Of(op);
    return w.images * w.OutSize();
  }

  static void Forward(const Frame<Scalar>& f) {
    ForImages(f, [&](const Windows& w, int64_t in, int64_t out) {
      const Scalar* x = f[0].value + in;
      Scalar *y = f.result.value + out, *found = f.kept + out;
      ForChannels<Scalar>(w.channels, [&](int64_t c, int64_t lanes) {
        V most{}, where{};
        w.ForImage(
            [&](int64_t) {
              most = Broadcast(-std::numeric_limits<Scalar>::infinity());
              where = Broadcast(Scalar{-1});
            },
            [&](int64_t, int64_t pixel) {
              const V here = Load(x + pixel * w.channels + c, lanes);
              const auto better = (here > most) | (here != here) | (where < Scalar{0});
              most = better ? here : most;
              where = better ? Broadcast(static_cast<Scalar>(pixel)) : where;
            },
            [&](int64_t pixel) {
              Store(y + pixel * w.channels + c, most, lanes);
              Store(found + pixel * w.channels + c, where, lanes);
            });
      });
    });
  }

  static void Tangent(const Frame<Scalar>& f) {
    ForImages(f, [&](const Windows& w, int64_t in, int64_t out) {
      const Scalar* x_tangent = f[0].tangent + in;
      Scalar* y_tangent = f.result.tangent + out;
      ForOutputs(w, f.kept + out, [&](int64_t from, int64_t to) { y_tangent[to] = x_tangent[from]; });
    });
  }

  static void Backward(const Frame<Scalar>& f) { Scatter(f, f.result.gradient, f[0].gradient); }
  static void TangentBackward(const Frame<Scalar>& f) { Scatter(f, f.result.gradient_tangent, f[0].gradient_tangent); }

 private:
  static void Scatter(const Frame<Scalar>& f, const Scalar* gradient, Scalar* to) {
    if (to == nullptr) return;
    ForImages(f, [&](const Windows& w, int64_t in, int64_t out) {
      Scalar* sums = to + in;
      const Scalar* g = gradient + out;
      if (!f[0].adds) std::fill_n(sums, w.InSize(), Scalar{0});
      ForOutputs(w, f.kept + out, [&](int64_t from, int64_t at) { sums[from] += g[at]; });
    });
  }

  // Calls g(windows, where an image is in the input, and in the output).
  template <typename F>
  static void ForImages(const Frame<Scalar>& f, const F& g) {
    const Windows w = Windows::Of(f.operation);
    ShareScalars(f.pool, w.images, w.images * w.InSize(), [&](int64_t begin, int64_t end) {
      for (int64_t image = begin; image < end; ++image) g(w, image * w.InSize(), image * w.OutSize());
    });
  }

  // Calls f(where the maximum is, where it went), in an image.
  template <typename F>
  static void ForOutputs(const Windows& w, const Scalar* found, const F& f) {
    int64_t out = 0;
    for (int64_t pixel = 0; pixel < w.out_height * w.out_width; ++pixel) {
      for (int64_t c = 0; c < w.channels; ++c, ++out) f(static_cast<int64_t>(found[out]) * w.channels + c, out);
    }
  }
};

}  // namespace
}  // namespace maml_fast
