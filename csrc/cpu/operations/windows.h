// The windows of pools and depthwise convolutions: the input pixels that every output pixel reads.
//
// numbers, from the first on: images, channels, height, width, output height, output width, then height and width of
// the kernel, its strides, paddings and dilations.
#pragma once

#include "core/program.h"

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

}  // namespace
}  // namespace maml_fast
