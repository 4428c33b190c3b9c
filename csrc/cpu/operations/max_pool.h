// Maxima over windows of channels-last images. Among equal values the first counts, and NaN counts as larger than any
// number, as in PyTorch.
//
// numbers: those of windows.h.
#pragma once

#include <algorithm>

#include "cpu/arena.h"
#include "cpu/operations/frame.h"
#include "cpu/operations/share.h"
#include "cpu/operations/windows.h"
#include "cpu/simd.h"

namespace maml_fast {
namespace {

// Writes the maxima of one image, and the pixel at which each was found, as an integer stored as a scalar.
template <typename Scalar>
void PoolImage(const Windows& w, const Scalar* x, Scalar* y, Scalar* found) {
  ArenaScope arena;
  auto* pixels = arena.Array<int64_t>(w.Taps());
  int64_t count = 0;
  w.ForImage([&](int64_t) { count = 0; }, [&](int64_t, int64_t pixel) { pixels[count++] = pixel; },
             [&](int64_t out) {
               if (count == 0) pixels[count++] = 0;  // PyTorch has no such window; this keeps the read in bounds
               ForChannels<Scalar>(w.channels, [&](int64_t c, int64_t lanes) {
                 Vec<Scalar> most = Load(x + pixels[0] * w.channels + c, lanes);
                 Vec<Scalar> where = Broadcast(static_cast<Scalar>(pixels[0]));
                 for (int64_t i = 1; i < count; ++i) {
                   const Vec<Scalar> here = Load(x + pixels[i] * w.channels + c, lanes);
                   const auto better = (here > most) | (here != here);
                   most = better ? here : most;
                   where = better ? Broadcast(static_cast<Scalar>(pixels[i])) : where;
                 }
                 Store(y + out * w.channels + c, most, lanes);
                 Store(found + out * w.channels + c, where, lanes);
               });
             });
}

// Calls f(offset of a maximum in the input, its offset in the output) for one image.
template <typename Scalar, typename F>
MF_INLINE void ForMaxima(const Windows& w, const Scalar* found, const F& f) {
  int64_t out = 0;
  for (int64_t pixel = 0; pixel < w.out_height * w.out_width; ++pixel) {
    for (int64_t c = 0; c < w.channels; ++c, ++out) f(static_cast<int64_t>(found[out]) * w.channels + c, out);
  }
}

template <typename Scalar>
void GatherMaxima(const Windows& w, const Scalar* found, const Scalar* x, Scalar* y) {
  ForMaxima(w, found, [&](int64_t from, int64_t to) { y[to] = x[from]; });
}

// Adds the gradient y at the output to the gradient x at the maxima.
template <typename Scalar>
void ScatterMaxima(const Windows& w, const Scalar* found, const Scalar* y, Scalar* x) {
  ForMaxima(w, found, [&](int64_t to, int64_t from) { x[to] += y[from]; });
}

template <typename Scalar>
struct MaxPoolPasses {
  static int64_t KeptSize(const Operation& op) {
    const Windows w = Windows::Of(op);
    return w.images * w.OutSize();
  }

  static void Forward(const Frame<Scalar>& f) {
    ForImages(f, [&](const Windows& w, int64_t in, int64_t out) {
      PoolImage(w, f[0].value + in, f.result.value + out, f.kept + out);
    });
  }

  static void Tangent(const Frame<Scalar>& f) {
    ForImages(f, [&](const Windows& w, int64_t in, int64_t out) {
      GatherMaxima(w, f.kept + out, f[0].tangent + in, f.result.tangent + out);
    });
  }

  static void Backward(const Frame<Scalar>& f) { Scatter(f, f.result.gradient, f[0].gradient); }
  static void TangentBackward(const Frame<Scalar>& f) { Scatter(f, f.result.gradient_tangent, f[0].gradient_tangent); }

 private:
  static void Scatter(const Frame<Scalar>& f, const Scalar* gradient, Scalar* to) {
    if (to == nullptr) return;
    ForImages(f, [&](const Windows& w, int64_t in, int64_t out) {
      if (!f[0].adds) std::fill_n(to + in, w.InSize(), Scalar{0});
      ScatterMaxima(w, f.kept + out, gradient + out, to + in);
    });
  }

  // Calls g(windows, offset of an image in the input, its offset in the output).
  template <typename F>
  static void ForImages(const Frame<Scalar>& f, const F& g) {
    const Windows w = Windows::Of(f.operation);
    ShareScalars(f.pool, w.images, w.images * w.InSize(), [&](int64_t begin, int64_t end) {
      for (int64_t image = begin; image < end; ++image) g(w, image * w.InSize(), image * w.OutSize());
    });
  }
};

}  // namespace
}  // namespace maml_fast
