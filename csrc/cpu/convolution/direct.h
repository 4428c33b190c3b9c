// Direct convolutions for one task's images and weights: forward, data gradient and weight gradient. Images are
// channels-last and weights are packed; taps on zero padding are never multiplied.
#pragma once

#include <algorithm>
#include <cstring>

#include "core/conv_block.h"
#include "cpu/arena.h"
#include "cpu/convolution/pixel_plan.h"
#include "cpu/convolution/register_tiles.h"
#include "cpu/convolution/transpose.h"

namespace maml_fast {
namespace {

// A row of channels padded to whole vectors, which sums start from; zeros if `values` is null.
template <typename Scalar>
int64_t RowSize(int64_t channels) {
  return RoundUpToLanes<Scalar>(channels);
}

template <typename Scalar>
void PackRow(const Scalar* values, int64_t channels, Scalar* row) {
  for (int64_t c = 0; c < RowSize<Scalar>(channels); ++c) row[c] = values != nullptr && c < channels ? values[c] : 0;
}

// Where a matrix of weights lies that has one row per (tap, source channel), in the plan's order of taps, and one
// column per destination channel. Packed weights are divided into panels of columns, the tiles' width, which lie one
// after the other, so that all rows of a panel fit into the first-level cache; the last panel is padded to whole
// vectors.
template <typename Scalar>
struct WeightPanels {
  static constexpr int64_t kPanel = kTileVecs * kLanes<Scalar>;

  int64_t rows, channels;
  bool packed;  // otherwise, rows of all channels

  int64_t Size() const { return rows * RoundUpToLanes<Scalar>(channels); }

  // For the panel that begins at a channel: its first scalar, and the scalars from one row to the next.
  int64_t Begin(int64_t channel) const { return packed ? channel * rows : channel; }
  int64_t Pitch(int64_t channel) const {
    const int64_t left = RoundUpToLanes<Scalar>(packed ? channels - channel : channels);
    return packed && left > kPanel ? kPanel : left;
  }

  // Calls f(channel, channels of the panel, its pitch, its weights).
  template <typename S, typename F>
  void ForPanels(S* weights, const F& f) const {
    for (int64_t channel = 0; channel < channels; channel += kPanel) {
      f(channel, std::min(kPanel, channels - channel), Pitch(channel), weights + Begin(channel));
    }
  }
};

template <typename Scalar>
void PackForward(const Scalar* weight, const WeightPanels<Scalar>& panels, Scalar* packed) {
  panels.ForPanels(packed, [&](int64_t channel, int64_t channels, int64_t pitch, Scalar* to) {
    const Scalar* from = weight + channel;
    for (int64_t row = 0; row < panels.rows; ++row, from += panels.channels, to += pitch) {
      ForChannels<Scalar>(channels, [&](int64_t c, int64_t n) { Store(to + c, Load(from + c, n)); });
    }
  });
}

// For the data gradient the channels are exchanged, so every tap is also transposed.
template <typename Scalar>
void PackDataGradient(const Scalar* weight, const ConvBlockShape& s, const PixelPlan& plan,
                      const WeightPanels<Scalar>& panels, Scalar* packed) {
  panels.ForPanels(packed, [&](int64_t channel, int64_t channels, int64_t pitch, Scalar* to) {
    for (int64_t rank_h = 0; rank_h < s.kernel; ++rank_h) {
      for (int64_t rank_w = 0; rank_w < s.kernel; ++rank_w, to += s.out_channels * pitch) {
        const int64_t tap = plan.tap_of_rank[rank_h] * s.kernel + plan.tap_of_rank[rank_w];
        TransposeMatrix(weight + (tap * s.in_channels + channel) * s.out_channels, channels, s.out_channels, to, pitch);
      }
    }
  });
}

// Buffers of whole vectors, used in place of destinations that own only a part of their last vector.
template <typename Scalar>
struct Staging {
  static constexpr int64_t kPitch = kTileVecs * kLanes<Scalar>;

  alignas(64) Scalar rows[kTileRows * kPitch];
  Scalar* pointers[kTileRows];

  void Fill(Scalar* const* dest, int64_t count, int64_t channels, bool copy) {
    for (int64_t r = 0; r < count; ++r) {
      pointers[r] = rows + r * kPitch;
      if (copy) {
        ForChannels<Scalar>(channels, [&](int64_t c, int64_t n) { Store(pointers[r] + c, Load(dest[r] + c, n)); });
      }
    }
  }
  void Empty(Scalar* const* dest, int64_t count, int64_t channels) const {
    for (int64_t r = 0; r < count; ++r) {
      ForChannels<Scalar>(channels, [&](int64_t c, int64_t n) { Store(dest[r] + c, Load(pointers[r] + c), n); });
    }
  }
};

// Computes one tile of pixels; the destination has `channels` of the panel's channels.
template <typename Scalar>
MF_INLINE void ConvolveTile(const Scalar* const* source, const TapRuns& runs, const Scalar* weights, int64_t pitch,
                            const Scalar* start, Scalar* const* dest, int64_t rows, int64_t channels) {
  const int64_t vecs = RoundUpToLanes<Scalar>(channels) / kLanes<Scalar>;
  if (channels % kLanes<Scalar> == 0) {
    Dispatch<ConvTileBody<Scalar>, kTileRows, kTileVecs>(rows, vecs, source, runs, weights, pitch, start, dest);
    return;
  }
  Staging<Scalar> staging;
  staging.Fill(dest, rows, channels, start == nullptr);
  Dispatch<ConvTileBody<Scalar>, kTileRows, kTileVecs>(rows, vecs, source, runs, weights, pitch, start,
                                                       static_cast<Scalar* const*>(staging.pointers));
  staging.Empty(dest, rows, channels);
}

// Computes dest images [begin, end) from the source images, according to `plan`; images are densely packed. The sums
// start from the row `start` (see PackRow) or, if it is null, from dest.
template <typename Scalar>
void DirectConvolve(const PixelPlan& plan, const WeightPanels<Scalar>& panels, const Scalar* source,
                    int64_t source_channels, const Scalar* all_weights, const Scalar* start, Scalar* dest,
                    int64_t begin, int64_t end) {
  const int64_t dest_channels = panels.channels;
  panels.ForPanels(all_weights, [&](int64_t channel, int64_t channels, int64_t pitch, const Scalar* of_panel) {
    for (int64_t g = 0; g < plan.group_count; ++g) {
      const PixelGroup& group = plan.groups[g];
      const TapRuns runs{group.taps_h, group.taps_w * source_channels, plan.source_width * source_channels,
                         plan.kernel * source_channels * pitch};
      const Scalar* weights = of_panel + (group.first_h * plan.kernel + group.first_w) * source_channels * pitch;
      const int64_t per_image = group.end - group.begin;
      int64_t image = begin, pixel = 0;
      for (int64_t left = (end - begin) * per_image; left > 0;) {
        const Scalar* from[kTileRows];
        Scalar* to[kTileRows];
        const int64_t rows = left < kTileRows ? left : kTileRows;
        for (int64_t r = 0; r < rows; ++r) {
          const PlanPixel& p = plan.pixels[group.begin + pixel];
          from[r] = source + (image * plan.source_pixels + p.source) * source_channels;
          to[r] = dest + (image * plan.dest_pixels + p.dest) * dest_channels + channel;
          if (++pixel == per_image) {
            pixel = 0;
            ++image;
          }
        }
        ConvolveTile(static_cast<const Scalar* const*>(from), runs, weights, pitch,
                     start == nullptr ? nullptr : start + channel, static_cast<Scalar* const*>(to), rows, channels);
        left -= rows;
      }
    }
  });
}

// The output pixels [first, last) along one axis for which a tap lies inside the image.
struct Span {
  int64_t first, last;
};

inline Span SpanOfTap(int64_t tap, int64_t in_extent, int64_t out_extent, int64_t stride, int64_t padding) {
  const int64_t before = padding - tap;  // in = out * stride - before
  const int64_t first = before > 0 ? (before + stride - 1) / stride : 0;
  const int64_t past = in_extent + before;  // in < in_extent  <=>  out * stride < past
  const int64_t last = past > 0 ? (past + stride - 1) / stride : 0;
  return {first, last < out_extent ? last : out_extent};
}

// The input of the weight gradient: x itself or, with few channels, a copy with its zero padding written out, so that
// the rows of several taps share one tile.
template <typename Scalar>
struct WeightSource {
  const Scalar* images;
  int64_t height, width, channels, padding;

  bool TapsShareTiles() const { return padding == 0 && channels < kTileRows; }
  int64_t TapsAtOnce(int64_t kernel) const { return TapsShareTiles() ? kernel : 1; }
};

// Copies of pixels of x and of the gradient, in the order in which the tiles read them. Tiles read x once for every
// panel of output channels, and the gradient once for every few input channels: without copies, a line of cache at a
// time.
template <typename Scalar>
class PackedPixels {
  static constexpr int64_t kMost = 256, kPanel = kTileVecs * kLanes<Scalar>;  // so that a panel fits into the cache

 public:
  // Whether the copies pay off: not for what the first-level cache almost holds.
  static bool Pay(const PixelRect& rect, int64_t in_channels, int64_t out_channels) {
    constexpr int64_t kBytes = 64 * 1024;
    const int64_t scalars = rect.images * rect.rows * rect.cols * (in_channels + out_channels);
    return in_channels >= 2 * kTileRows && out_channels > kPanel &&
           scalars * static_cast<int64_t>(sizeof(Scalar)) > kBytes;
  }

  PackedPixels(int64_t in_channels, ArenaScope& arena)
      : channels_(in_channels),
        x_(arena.Array<Scalar>((in_channels + kTileRows - 1) / kTileRows * kTileRows * kMost)),
        grad_(arena.Array<Scalar>(kPanel * kMost)) {}

  // dest [Cin][pitch] += sum over the pixels of  x [Cin] grad [Cout], for the output channels [out_begin, out_end) of
  // `outs`, in whole panels.
  void AddProducts(const PixelRect& rect, const Scalar* x, const Scalar* grad, int64_t outs, int64_t out_begin,
                   int64_t out_end, Scalar* dest, int64_t pitch) {
    for (int64_t image = 0; image < rect.images; ++image) {
      for (int64_t row = 0; row < rect.rows; ++row) {
        const Scalar* in = x + image * rect.source_image + row * rect.source_row;
        const Scalar* g = grad + image * rect.grad_image + row * rect.grad_row;
        for (int64_t col = 0; col < rect.cols; ++col, in += rect.source_col, g += rect.grad_col) {
          xs_[count_] = in;
          grads_[count_] = g;
          if (++count_ == kMost) Flush(outs, out_begin, out_end, dest, pitch);
        }
      }
    }
    Flush(outs, out_begin, out_end, dest, pitch);
  }

 private:
  void Flush(int64_t outs, int64_t out_begin, int64_t out_end, Scalar* dest, int64_t pitch) {
    const int64_t pixels = count_;
    count_ = 0;
    if (pixels == 0) return;
    for (int64_t c = 0; c < channels_; c += kTileRows) {  // x_ [Cin / rows of a tile][pixels][rows of a tile]
      Scalar* to = x_ + c * pixels;
      const int64_t rows = std::min<int64_t>(kTileRows, channels_ - c);
      for (int64_t pixel = 0; pixel < pixels; ++pixel, to += kTileRows) {
        if (rows == kTileRows) {
          std::memcpy(to, xs_[pixel] + c, kTileRows * sizeof(Scalar));  // of a size that the compiler knows
        } else {
          std::copy_n(xs_[pixel] + c, rows, to);
        }
      }
    }
    const PixelRect packed{1, 1, pixels, 0, 0, kTileRows, 0, 0, kPanel};
    for (int64_t channel = out_begin; channel < out_end; channel += kPanel) {
      const int64_t channels = std::min(kPanel, outs - channel);
      for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        ForChannels<Scalar>(channels, [&](int64_t c, int64_t n) {
          Store(grad_ + pixel * kPanel + c, Load(grads_[pixel] + channel + c, n));
        });
      }
      for (int64_t c = 0; c < channels_; c += kTileRows) {
        Dispatch<WeightTileBody<Scalar>, kTileRows, kTileVecs>(
            channels_ - c, RoundUpToLanes<Scalar>(channels) / kLanes<Scalar>,
            static_cast<const Scalar*>(x_ + c * pixels), static_cast<const Scalar*>(grad_), packed,
            dest + c * pitch + channel, pitch);
      }
    }
  }

  const int64_t channels_;
  const Scalar *xs_[kMost], *grads_[kMost];
  int64_t count_ = 0;
  Scalar *x_, *grad_;
};

// Runs all tiles of one tap (or of the taps that share tiles) for the output channels [out_begin, out_end), over
// `images` images.
template <typename Scalar>
void WeightGradientTap(const ConvBlockShape& s, const WeightSource<Scalar>& x, const Scalar* grad, Scalar* packed,
                       int64_t tap_h, int64_t tap_w, int64_t images, int64_t out_begin, int64_t out_end) {
  constexpr int64_t kPanel = kTileVecs * kLanes<Scalar>;
  const Span high = SpanOfTap(tap_h, x.height, s.conv_height, s.stride, x.padding);
  const Span wide =
      x.TapsShareTiles() ? Span{0, s.conv_width} : SpanOfTap(tap_w, x.width, s.conv_width, s.stride, x.padding);
  if (high.first >= high.last || wide.first >= wide.last) return;
  const PixelRect rect{images,
                       high.last - high.first,
                       wide.last - wide.first,
                       x.height * x.width * x.channels,
                       s.stride * x.width * x.channels,
                       s.stride * x.channels,
                       s.ConvPixels() * s.out_channels,
                       s.conv_width * s.out_channels,
                       s.out_channels};
  const int64_t source_pixel =
      (high.first * s.stride - x.padding + tap_h) * x.width + (wide.first * s.stride - x.padding + tap_w);
  const Scalar* source = x.images + source_pixel * x.channels;
  const Scalar* g = grad + (high.first * s.conv_width + wide.first) * s.out_channels;
  const int64_t pitch = RoundUpToLanes<Scalar>(s.out_channels);
  Scalar* tile = packed + (tap_h * s.kernel + tap_w) * x.channels * pitch;
  if (!x.TapsShareTiles() && PackedPixels<Scalar>::Pay(rect, x.channels, s.out_channels)) {
    ArenaScope arena;
    PackedPixels<Scalar> pixels(x.channels, arena);
    return pixels.AddProducts(rect, source, g, s.out_channels, out_begin, out_end, tile, pitch);
  }
  const int64_t all_rows = x.TapsAtOnce(s.kernel) * x.channels;
  for (int64_t row = 0; row < all_rows; row += kTileRows) {
    const int64_t rows = all_rows - row < kTileRows ? all_rows - row : kTileRows;
    for (int64_t channel = out_begin; channel < out_end; channel += kPanel) {
      const int64_t vecs = RoundUpToLanes<Scalar>(s.out_channels - channel) / kLanes<Scalar>;
      Dispatch<WeightTileBody<Scalar>, kTileRows, kTileVecs>(rows, vecs, source + row, g + channel, rect,
                                                             tile + row * pitch + channel, pitch);
    }
  }
}

// packed[tap, Cin][Cout] += the weight gradient over `images` images, for the output channels [out_begin, out_end), in
// whole panels.
template <typename Scalar>
void DirectWeightGradient(const ConvBlockShape& s, const WeightSource<Scalar>& x, const Scalar* grad, int64_t images,
                          Scalar* packed, int64_t out_begin, int64_t out_end) {
  for (int64_t tap_h = 0; tap_h < s.kernel; ++tap_h) {
    for (int64_t tap_w = 0; tap_w < s.kernel; tap_w += x.TapsAtOnce(s.kernel)) {
      WeightGradientTap(s, x, grad, packed, tap_h, tap_w, images, out_begin, out_end);
    }
  }
}

// Copies images of x into `padded`, with their zero padding written out.
template <typename Scalar>
void WritePadding(const ConvBlockShape& s, const Scalar* x, int64_t images, Scalar* padded) {
  const int64_t row = s.in_width * s.in_channels, margin = s.padding * s.in_channels;
  const int64_t padded_row = row + 2 * margin, padded_height = s.in_height + 2 * s.padding;
  for (int64_t image = 0; image < images; ++image, padded += padded_height * padded_row) {
    std::memset(padded, 0, static_cast<size_t>(padded_height * padded_row) * sizeof(Scalar));
    Scalar* to = padded + s.padding * padded_row + margin;
    for (int64_t h = 0; h < s.in_height; ++h) {
      std::memcpy(to + h * padded_row, x + (image * s.in_height + h) * row, static_cast<size_t>(row) * sizeof(Scalar));
    }
  }
}

}  // namespace
}  // namespace maml_fast
