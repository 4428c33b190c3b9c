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

// Writes the maxima of one image, and which of its window's pixels each is, as an integer stored as a scalar.
template <typename Scalar>
void PoolImage(const WindowTable& table, const Scalar* x, Scalar* y, Scalar* found) {
  for (int64_t row = 0; row < table.windows.out_height; ++row) {
    ForWindowVectors<Scalar>(table, row,
                             [=](int64_t out, const int64_t* pixels, int64_t count, int64_t c, int64_t lanes) {
                               Vec<Scalar> most = Load(x + pixels[0] + c, lanes), which{};
                               for (int64_t i = 1; i < count; ++i) {
                                 const Vec<Scalar> here = Load(x + pixels[i] + c, lanes);
                                 const auto better = (here > most) | (here != here);
                                 most = better ? here : most;
                                 which = better ? Broadcast(static_cast<Scalar>(i)) : which;
                               }
                               Store(y + out, most, lanes);
                               Store(found + out, which, lanes);
                             });
  }
}

// y = x at the maxima of one image.
template <typename Scalar>
void GatherMaxima(const WindowTable& table, const Scalar* found, const Scalar* x, Scalar* y) {
  for (int64_t row = 0; row < table.windows.out_height; ++row) {
    ForWindowVectors<Scalar>(table, row,
                             [=](int64_t out, const int64_t* pixels, int64_t count, int64_t c, int64_t lanes) {
                               const Vec<Scalar> which = Load(found + out, lanes);
                               Vec<Scalar> picked = Load(x + pixels[0] + c, lanes);
                               for (int64_t i = 1; i < count; ++i) {
                                 picked = which == static_cast<Scalar>(i) ? Load(x + pixels[i] + c, lanes) : picked;
                               }
                               Store(y + out, picked, lanes);
                             });
  }
}

// Adds value(offset of a window's value, channel, lanes) to x at the maxima of a row of windows.
template <typename Scalar, typename F>
MF_INLINE void ScatterRow(const WindowTable& table, int64_t row, const Scalar* found, Scalar* x, const F value) {
  ForWindowVectors<Scalar>(table, row,
                           [=](int64_t out, const int64_t* pixels, int64_t count, int64_t c, int64_t lanes) {
                             const Vec<Scalar> which = Load(found + out, lanes), more = value(out, c, lanes);
                             for (int64_t i = 0; i < count; ++i) {
                               Scalar* to = x + pixels[i] + c;
                               const Vec<Scalar> here = which == static_cast<Scalar>(i) ? more : Vec<Scalar>{};
                               Store(to, Load(to, lanes) + here, lanes);
                             }
                           });
}

// Adds the gradient y at the output to the gradient x at the maxima of one image.
template <typename Scalar>
void ScatterMaxima(const WindowTable& table, const Scalar* found, const Scalar* y, Scalar* x) {
  for (int64_t row = 0; row < table.windows.out_height; ++row) {
    ScatterRow(table, row, found, x, [y](int64_t out, int64_t, int64_t lanes) { return Load(y + out, lanes); });
  }
}

template <typename Scalar>
struct MaxPoolPasses {
  static const void* MakePlan(const Operation& op, ArenaScope& arena) {
    return WindowTable::Make(Windows::Of(op), arena);
  }

  static int64_t KeptSize(const Operation& op) {
    const Windows w = Windows::Of(op);
    return w.images * w.OutSize();
  }

  static void Forward(const Frame<Scalar>& f) {
    ForImages(f, [&](const WindowTable& table, int64_t in, int64_t out) {
      PoolImage(table, f[0].value + in, f.result.value + out, f.kept + out);
    });
  }

  // As a follower: whole images.
  static int64_t Together(const Operation& op) { return Windows::Of(op).InSize(); }

  static void ForwardAlong(const Frame<Scalar>& f, const typename FollowerPasses<Scalar>::Produce& produce) {
    produce([&](int64_t first, int64_t past) {
      ForImagesOf(f, first, past, [&](const WindowTable& table, int64_t in, int64_t out) {
        PoolImage(table, f[0].value + in, f.result.value + out, f.kept + out);
      });
    });
  }

  static void Give(const Frame<Scalar>& f, int64_t first, int64_t past, Scalar* gradient) {
    std::fill_n(gradient, past - first, Scalar{0});
    ForImagesOf(f, first, past, [&](const WindowTable& table, int64_t in, int64_t out) {
      ScatterMaxima(table, f.kept + out, f.result.gradient + out, gradient + in - first);
    });
  }

  static void Tangent(const Frame<Scalar>& f) {
    ForImages(f, [&](const WindowTable& table, int64_t in, int64_t out) {
      GatherMaxima(table, f.kept + out, f[0].tangent + in, f.result.tangent + out);
    });
  }

  static void Backward(const Frame<Scalar>& f) {
    if (!f.gives) Scatter(f, f.result.gradient, f[0].gradient);
  }
  static void TangentBackward(const Frame<Scalar>& f) { Scatter(f, f.result.gradient_tangent, f[0].gradient_tangent); }

 private:
  static void Scatter(const Frame<Scalar>& f, const Scalar* gradient, Scalar* to) {
    if (to == nullptr) return;
    ForImages(f, [&](const WindowTable& table, int64_t in, int64_t out) {
      if (!f[0].adds) std::fill_n(to + in, table.windows.InSize(), Scalar{0});
      ScatterMaxima(table, f.kept + out, gradient + out, to + in);
    });
  }

  // Calls g(windows, offset of an image in the input, its offset in the output).
  template <typename F>
  static void ForImages(const Frame<Scalar>& f, const F& g) {
    const Windows& w = TableOf(f).windows;
    ShareScalars(f.pool, w.images, w.images * w.InSize(),
                 [&](int64_t begin, int64_t end) { ForImagesOf(f, begin * w.InSize(), end * w.InSize(), g); });
  }

  // The same for the images in scalars [first, past) of the input, in this thread.
  template <typename F>
  static void ForImagesOf(const Frame<Scalar>& f, int64_t first, int64_t past, const F& g) {
    const WindowTable& table = TableOf(f);
    const int64_t in_size = table.windows.InSize(), out_size = table.windows.OutSize();
    for (int64_t image = first / in_size; image < past / in_size; ++image) {
      g(table, image * in_size, image * out_size);
    }
  }

  static const WindowTable& TableOf(const Frame<Scalar>& f) { return *static_cast<const WindowTable*>(f.plan); }
};

}  // namespace
}  // namespace maml_fast
