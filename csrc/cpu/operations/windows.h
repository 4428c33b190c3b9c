// The windows of pools and depthwise convolutions: the input pixels that every output pixel reads.
//
// numbers, from the first on: images, channels, height, width, output height, output width, then height and width of
// the kernel, its strides, paddings and dilations.
#pragma once

#include <algorithm>
#include <new>

#include "core/program.h"
#include "cpu/arena.h"
#include "cpu/simd.h"

namespace maml_fast {
namespace {

struct Windows {
  int64_t images, channels, height, width, out_height, out_width;
  int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;

  static Windows Of(const Operation& op) { return From(op.numbers.data()); }
  static Windows From(const int64_t* n) {
    return {n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9], n[10], n[11], n[12], n[13]};
  }

  int64_t InSize() const { return height * width * channels; }  // of one image
  int64_t OutSize() const { return out_height * out_width * channels; }

  int64_t Taps() const { return kernel_h * kernel_w; }

  // For every output pixel of an image, calls begin(output pixel), then tap(tap, input pixel) for every pixel of its
  // window, then end(output pixel).
  template <typename Begin, typename Tap, typename End>
  void ForImage(const Begin& begin, const Tap& tap, const End& end) const {
    for (int64_t i = 0; i < out_height; ++i) {
      for (int64_t j = 0; j < out_width; ++j) {
        const int64_t out = i * out_width + j;
        begin(out);
        for (int64_t a = 0; a < kernel_h; ++a) {
          const int64_t h = i * stride_h - padding_h + a * dilation_h;
          if (h < 0 || h >= height) continue;
          for (int64_t b = 0; b < kernel_w; ++b) {
            const int64_t w = j * stride_w - padding_w + b * dilation_w;
            if (w >= 0 && w < width) tap(a * kernel_w + b, h * width + w);
          }
        }
        end(out);
      }
    }
  }
};

// Where the pixels of every window lie in an image, found once for all images.
struct WindowTable {
  Windows windows;
  int64_t taps;
  int64_t* offsets;  // [output pixels][taps], in scalars; only the first `counts` of a window are set
  int64_t* counts;   // [output pixels]
  int64_t* bottoms;  // [output rows]: the input row below the windows of this row and of all rows above

  WindowTable(const Windows& w, ArenaScope& arena)
      : windows(w),
        taps(std::max<int64_t>(1, w.Taps())),
        offsets(arena.Array<int64_t>(w.out_height * w.out_width * taps)),
        counts(arena.Array<int64_t>(w.out_height * w.out_width)),
        bottoms(arena.Array<int64_t>(w.out_height)) {
    int64_t* to = offsets;
    w.ForImage([&](int64_t out) { to = offsets + out * taps; },
               [&](int64_t, int64_t pixel) { *to++ = pixel * w.channels; },
               [&](int64_t out) {
                 if (to == offsets + out * taps) *to++ = 0;  // keeps reads in bounds; PyTorch has no empty windows
                 counts[out] = to - (offsets + out * taps);
               });
    for (int64_t i = 0; i < w.out_height; ++i) {
      const int64_t bottom = i * w.stride_h - w.padding_h + (w.kernel_h - 1) * w.dilation_h + 1;
      bottoms[i] = std::clamp<int64_t>(bottom, i == 0 ? 0 : bottoms[i - 1], w.height);
    }
  }

  static const WindowTable* Make(const Windows& w, ArenaScope& arena) {
    return new (arena.Array<WindowTable>(1)) WindowTable(w, arena);
  }

  // Calls f(offset in the output, the offsets of the window's pixels in the input, their count) for a row of windows.
  template <typename F>
  MF_INLINE void ForWindows(int64_t row, const F& f) const {
    const int64_t width = windows.out_width;
    for (int64_t out = row * width; out < (row + 1) * width; ++out) {
      f(out * windows.channels, offsets + out * taps, counts[out]);
    }
  }
};

// Calls f(offset of a window's value, the offsets of its pixels, their count, lanes) for all windows of a row and all
// vectors of channels. The offsets of pixels are those of channel 0; f gets the channel, too.
template <typename Scalar, typename F>
MF_INLINE void ForWindowVectors(const WindowTable& table, int64_t row, const F& f) {
  ForChannels<Scalar>(table.windows.channels, [&](int64_t c, int64_t lanes) {
    table.ForWindows(row,
                     [&](int64_t out, const int64_t* pixels, int64_t count) { f(out + c, pixels, count, c, lanes); });
  });
}

}  // namespace
}  // namespace maml_fast
