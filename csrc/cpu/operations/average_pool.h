// Weighted sums over rectangles of channels-last images: average pools, including adaptive ones.
//
// numbers: images, channels, height, width, output height, output width, then the first and the past-the-last row of
// every output row's rectangles, and the same for columns. factors: one for every output pixel.
#pragma once

#include <algorithm>

#include "cpu/operations/frame.h"
#include "cpu/operations/linear.h"
#include "cpu/operations/share.h"
#include "cpu/operations/windows.h"
#include "cpu/simd.h"

namespace maml_fast {
namespace {

// y = the averages over the windows of one image, all of which lie within it.
template <typename Scalar>
void AverageImage(const WindowTable& table, const Scalar* x, Scalar* y) {
  const Scalar factor = Scalar{1} / static_cast<Scalar>(table.taps);
  for (int64_t row = 0; row < table.windows.out_height; ++row) {
    ForWindowVectors<Scalar>(table, row,
                             [=](int64_t out, const int64_t* pixels, int64_t count, int64_t c, int64_t lanes) {
                               Vec<Scalar> sum = Load(x + pixels[0] + c, lanes);
                               for (int64_t i = 1; i < count; ++i) sum += Load(x + pixels[i] + c, lanes);
                               Store(y + out, factor * sum, lanes);
                             });
  }
}

// Adds the gradient y at the averages to the gradient x of one image.
template <typename Scalar>
void SpreadAverages(const WindowTable& table, const Scalar* y, Scalar* x) {
  const Scalar factor = Scalar{1} / static_cast<Scalar>(table.taps);
  for (int64_t row = 0; row < table.windows.out_height; ++row) {
    ForWindowVectors<Scalar>(table, row,
                             [=](int64_t out, const int64_t* pixels, int64_t count, int64_t c, int64_t lanes) {
                               const Vec<Scalar> share = factor * Load(y + out, lanes);
                               for (int64_t i = 0; i < count; ++i) {
                                 Scalar* to = x + pixels[i] + c;
                                 Store(to, Load(to, lanes) + share, lanes);
                               }
                             });
  }
}

template <typename Scalar>
struct AveragePoolMap {
  static void Apply(const Frame<Scalar>& f, const Scalar* const* from, Scalar* to) {
    ForImages(f, [&](int64_t first, int64_t past) {
      ForOutputs(f.operation, first, past, [&](int64_t channels, int64_t out, Scalar factor, const auto& for_pixels) {
        ForChannels<Scalar>(channels, [&](int64_t c, int64_t lanes) {
          Vec<Scalar> sum{};
          for_pixels([&](int64_t in) { sum += Load(from[0] + in + c, lanes); });
          Store(to + out + c, factor * sum, lanes);
        });
      });
    });
  }

  static void Transpose(const Frame<Scalar>& f, int64_t, const Scalar* gradient, bool adds, Scalar* to) {
    const int64_t size = ImageSize(f.operation);
    ForImages(f, [&](int64_t first, int64_t past) {
      if (!adds) std::fill(to + first * size, to + past * size, Scalar{0});
      ForOutputs(f.operation, first, past, [&](int64_t channels, int64_t out, Scalar factor, const auto& for_pixels) {
        ForChannels<Scalar>(channels, [&](int64_t c, int64_t lanes) {
          const Vec<Scalar> share = factor * Load(gradient + out + c, lanes);
          for_pixels([&](int64_t in) { Store(to + in + c, Load(to + in + c, lanes) + share, lanes); });
        });
      });
    });
  }

 private:
  static int64_t ImageSize(const Operation& op) { return op.numbers[1] * op.numbers[2] * op.numbers[3]; }

  // Calls g(first, past) for ranges of images.
  template <typename F>
  static void ForImages(const Frame<Scalar>& f, const F& g) {
    ShareScalars(f.pool, f.Number(0), f.Number(0) * ImageSize(f.operation), g);
  }

  // Calls f(channels, offset of the output pixel, its factor, for_pixels) for every output pixel; for_pixels(g) calls
  // g(offset) for every input pixel of its rectangle.
  template <typename F>
  static void ForOutputs(const Operation& op, int64_t first, int64_t past, const F& f) {
    const int64_t *n = op.numbers.data(), *rows = n + 6, *cols = rows + 2 * n[4];
    const int64_t channels = n[1], height = n[2], width = n[3], out_height = n[4], out_width = n[5];
    for (int64_t image = first; image < past; ++image) {
      for (int64_t i = 0; i < out_height; ++i) {
        for (int64_t j = 0; j < out_width; ++j) {
          const int64_t out = i * out_width + j;
          auto for_pixels = [&](const auto& pixel) {
            for (int64_t h = rows[2 * i]; h < rows[2 * i + 1]; ++h) {
              for (int64_t w = cols[2 * j]; w < cols[2 * j + 1]; ++w) {
                pixel(((image * height + h) * width + w) * channels);
              }
            }
          };
          f(channels, (image * out_height * out_width + out) * channels, static_cast<Scalar>(op.factors[out]),
            for_pixels);
        }
      }
    }
  }
};

template <typename Scalar>
using AveragePoolPasses = LinearPasses<Scalar, AveragePoolMap<Scalar>>;

}  // namespace
}  // namespace maml_fast
