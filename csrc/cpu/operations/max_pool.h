// Maxima over windows of channels-last images; among equals the first counts, and NaN above all, as in PyTorch.
//
// numbers: as windows.h has them.
#pragma once

#include <algorithm>
#include <limits>

#include "cpu/operations/frame.h"
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
    const Windows w = Windows::Of(f.operation);
    for (int64_t image = 0; image < w.images; ++image) {
      const Scalar* x = f[0].value + image * w.InSize();
      Scalar *y = f.result.value + image * w.OutSize(), *found = f.kept + image * w.OutSize();
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
            [&](int64_t out) {
              Store(y + out * w.channels + c, most, lanes);
              Store(found + out * w.channels + c, where, lanes);
            });
      });
    }
  }

  static void Tangent(const Frame<Scalar>& f) {
    const Windows w = Windows::Of(f.operation);
    ForOutputs(w, f.kept, [&](int64_t in, int64_t out) { f.result.tangent[out] = f[0].tangent[in]; });
  }

  static void Backward(const Frame<Scalar>& f) { Scatter(f, f.result.gradient, f[0].gradient); }
  static void TangentBackward(const Frame<Scalar>& f) { Scatter(f, f.result.gradient_tangent, f[0].gradient_tangent); }

 private:
  static void Scatter(const Frame<Scalar>& f, const Scalar* gradient, Scalar* to) {
    if (to == nullptr) return;
    const Windows w = Windows::Of(f.operation);
    if (!f[0].adds) std::fill_n(to, w.images * w.InSize(), Scalar{0});
    ForOutputs(w, f.kept, [&](int64_t in, int64_t out) { to[in] += gradient[out]; });
  }

  // Calls f(where the maximum is, where it went).
  template <typename F>
  static void ForOutputs(const Windows& w, const Scalar* found, const F& f) {
    int64_t out = 0;
    for (int64_t image = 0; image < w.images; ++image) {
      for (int64_t pixel = 0; pixel < w.out_height * w.out_width; ++pixel) {
        for (int64_t c = 0; c < w.channels; ++c, ++out) {
          f(image * w.InSize() + static_cast<int64_t>(found[out]) * w.channels + c, out);
        }
      }
    }
  }
};

}  // namespace
}  // namespace maml_fast
