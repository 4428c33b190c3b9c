// A convolution in which every channel of channels-last images has its own filter: y = conv(x, weight) + bias.
//
// numbers: those of windows.h. operands: x, weight [taps, channels], bias [channels].
#pragma once

#include <algorithm>

#include "cpu/operations/column_sums.h"
#include "cpu/operations/frame.h"
#include "cpu/operations/share.h"
#include "cpu/operations/windows.h"
#include "cpu/simd.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct DepthwisePasses {
  using V = Vec<Scalar>;

  static void Forward(const Frame<Scalar>& f) {
    Start(f, f[2].value, f.result.value);
    AddConvolution(f, f[0].value, f[1].value, f.result.value);
  }

  static void Tangent(const Frame<Scalar>& f) {
    Start(f, f[2].tangent, f.result.tangent);
    AddConvolution(f, f[0].tangent, f[1].value, f.result.tangent);
    AddConvolution(f, f[0].value, f[1].tangent, f.result.tangent);
  }

  static void Backward(const Frame<Scalar>& f) {
    Clear(f, f[0].gradient, f[1].gradient);
    AddDataGradient(f, f.result.gradient, f[1].value, f[0].gradient);
    AddWeightGradient(f, f[0].value, f.result.gradient, f[1].gradient);
    BiasGradient(f, f.result.gradient, f[2].gradient);
  }

  static void TangentBackward(const Frame<Scalar>& f) {
    const Scalar *g = f.result.gradient, *g_tangent = f.result.gradient_tangent;
    Clear(f, f[0].gradient_tangent, f[1].gradient_tangent);
    AddDataGradient(f, g_tangent, f[1].value, f[0].gradient_tangent);
    AddDataGradient(f, g, f[1].tangent, f[0].gradient_tangent);
    AddWeightGradient(f, f[0].value, g_tangent, f[1].gradient_tangent);
    AddWeightGradient(f, f[0].tangent, g, f[1].gradient_tangent);
    BiasGradient(f, g_tangent, f[2].gradient_tangent);
  }

 private:
  static void Start(const Frame<Scalar>& f, const Scalar* bias, Scalar* y) {
    const Windows w = Windows::Of(f.operation);
    for (int64_t pixel = 0; pixel < w.images * w.out_height * w.out_width; ++pixel, y += w.channels) {
      ForChannels<Scalar>(w.channels, [&](int64_t c, int64_t lanes) {
        Store(y + c, bias == nullptr ? V{} : Load(bias + c, lanes), lanes);
      });
    }
  }

  // The next three functions: a null factor means 0; a null gradient to add to is not wanted.
  static void AddConvolution(const Frame<Scalar>& f, const Scalar* x, const Scalar* weight, Scalar* y) {
    if (x == nullptr || weight == nullptr) return;
    ForVectors(f, true, [&](const Windows& w, int64_t in, int64_t out, int64_t c, int64_t lanes) {
      V sum{};
      w.ForImage([&](int64_t) { sum = V{}; },
                 [&](int64_t tap, int64_t pixel) {
                   sum += Load(x + in + pixel * w.channels, lanes) * Load(weight + tap * w.channels + c, lanes);
                 },
                 [&](int64_t pixel) {
                   Scalar* to = y + out + pixel * w.channels;
                   Store(to, Load(to, lanes) + sum, lanes);
                 });
    });
  }

  static void AddDataGradient(const Frame<Scalar>& f, const Scalar* g, const Scalar* weight, Scalar* grad_x) {
    if (weight == nullptr || grad_x == nullptr) return;
    ForVectors(f, true, [&](const Windows& w, int64_t in, int64_t out, int64_t c, int64_t lanes) {
      V here{};
      w.ForImage([&](int64_t pixel) { here = Load(g + out + pixel * w.channels, lanes); },
                 [&](int64_t tap, int64_t pixel) {
                   Scalar* to = grad_x + in + pixel * w.channels;
                   Store(to, Load(to, lanes) + here * Load(weight + tap * w.channels + c, lanes), lanes);
                 },
                 [](int64_t) {});
    });
  }

  static void AddWeightGradient(const Frame<Scalar>& f, const Scalar* x, const Scalar* g, Scalar* grad_weight) {
    if (x == nullptr || grad_weight == nullptr) return;
    ForVectors(f, false, [&](const Windows& w, int64_t in, int64_t out, int64_t c, int64_t lanes) {
      V here{};
      w.ForImage([&](int64_t pixel) { here = Load(g + out + pixel * w.channels, lanes); },
                 [&](int64_t tap, int64_t pixel) {
                   Scalar* to = grad_weight + tap * w.channels + c;
                   Store(to, Load(to, lanes) + here * Load(x + in + pixel * w.channels, lanes), lanes);
                 },
                 [](int64_t) {});
    });
  }

  static void Clear(const Frame<Scalar>& f, Scalar* grad_x, Scalar* grad_weight) {
    const Windows w = Windows::Of(f.operation);
    if (grad_x != nullptr && !f[0].adds) std::fill_n(grad_x, w.images * w.InSize(), Scalar{0});
    if (grad_weight != nullptr && !f[1].adds) std::fill_n(grad_weight, w.kernel_h * w.kernel_w * w.channels, Scalar{0});
  }

  static void BiasGradient(const Frame<Scalar>& f, const Scalar* g, Scalar* grad_bias) {
    const Windows w = Windows::Of(f.operation);
    AddColumnSums(f.pool, g, w.images * w.out_height * w.out_width, w.channels, f[2].adds, grad_bias);
  }

  // Calls f(windows, offset of the image's channels in the input, their offset in the output, the channel, lanes).
  // Threads share the images if `by_images`, otherwise the channels.
  template <typename F>
  static void ForVectors(const Frame<Scalar>& frame, bool by_images, const F& f) {
    const Windows w = Windows::Of(frame.operation);
    auto some = [&](int64_t first, int64_t past, int64_t begin, int64_t end) {
      for (int64_t image = first; image < past; ++image) {
        ForChannels<Scalar>(end - begin, [&](int64_t i, int64_t lanes) {
          const int64_t c = begin + i;
          f(w, image * w.InSize() + c, image * w.OutSize() + c, c, lanes);
        });
      }
    };
    const int64_t work = w.images * w.OutSize() * w.kernel_h * w.kernel_w;
    if (by_images) {
      ShareUnits(frame.pool, w.images, work, [&](int64_t first, int64_t past) { some(first, past, 0, w.channels); });
    } else {
      ShareVectors<Scalar>(frame.pool, w.channels, work,
                           [&](int64_t begin, int64_t end) { some(0, w.images, begin, end); });
    }
  }
};

}  // namespace
}  // namespace maml_fast
