// A norm followed by a max pool, for one set: y = max over windows of z = weight * x^ + bias.
//
// Only the maxima of z matter. They are where weight * x is largest, so z itself is computed only there. Gradients at z
// are zero elsewhere, so that all sums of norm.h are sums over y's pixels, and its gradients at x are
//
//   g_x  = of_x (x - mean) + one,  and at the maxima  + rate weight g
//   g_x' = of_x (x - mean) + of_t (x' - bar(x')) + one,  and at the maxima  + of_h g' + of_g g
//
// with coefficients that depend on the channel alone.
#pragma once

#include "cpu/operations/column_sums.h"
#include "cpu/operations/max_pool.h"
#include "cpu/operations/norm_chunks.h"
#include "cpu/operations/norm_sets.h"

namespace maml_fast {
namespace {

template <typename Scalar>
class PooledNorm {
  using V = Vec<Scalar>;
  using Set = NormSet<Scalar>;

 public:
  static bool Takes(const Operation& op) {
    const NormEpilogue epilogue = NormEpilogue::Of(op);
    return epilogue.pools && !epilogue.HasFunction();
  }

  // Kept for every y: where its maximum is, and x^ there.
  static int64_t KeptSize(const Operation& op) { return 2 * NormEpilogue::Of(op).ArgmaxSize(); }

  PooledNorm(const Frame<Scalar>& frame, const Set& set, const Normal<Scalar>& normal)
      : frame_(frame),
        set_(set),
        normal_(normal),
        table_(*static_cast<const WindowTable*>(frame.plan)),
        first_(set.at / table_.windows.InSize()),
        images_(set.rows / (table_.windows.height * table_.windows.width)) {
    const NormShape s = NormShape::Of(frame.operation);
    found_ = frame.kept + Set::kKept * s.sets * s.groups + first_ * table_.windows.OutSize();
    x_hat_ = found_ + NormEpilogue::Of(frame.operation).ArgmaxSize();
  }

  // Writes y, and keeps what KeptSize is for.
  void Write() const {
    ForImages([&](int64_t in, int64_t out) {
      ForRowVectors([&, x = normal_.x + in, y = Out(frame_.result.value) + out, found = found_ + out,
                     x_hat = x_hat_ + out](int64_t c, int64_t lanes, const auto& for_windows) {
        const V weight = Load(set_.weight + c, lanes), bias = Load(set_.bias + c, lanes), one = Broadcast(Scalar{1});
        const V mean = Load(normal_.mean + c), rate = normal_.Rate(c);
        // With a weight of zero, z is the same everywhere, and the first pixel counts.
        const V sign = weight > Scalar{0} ? one : (weight < Scalar{0} ? -one : V{});
        for_windows([=](int64_t place, const int64_t* pixels, int64_t count) __attribute__((always_inline)) {
          V x_there = Load(x + pixels[0] + c, lanes), most = sign * x_there, which{};
          for (int64_t i = 1; i < count; ++i) {
            const V here = Load(x + pixels[i] + c, lanes), signed_here = sign * here;
            const auto better = (signed_here > most) | (here != here);
            most = better ? signed_here : most;
            x_there = better ? here : x_there;
            which = better ? Broadcast(static_cast<Scalar>(i)) : which;
          }
          const V normalized = (x_there - mean) * rate;
          Store(x_hat + place, normalized, lanes);
          Store(found + place, which, lanes);
          Store(y + place, normalized * weight + bias, lanes);
        });
      });
    });
  }

  // Writes y'.
  void WriteTangent(const Moved<Scalar>& moved) const {
    const Scalar *weight_tangent = frame_[1].tangent, *bias_tangent = frame_[2].tangent;
    WriteMoved(moved, Out(frame_.result.tangent));
    ForPixels(
        [=, weight = set_.weight, x_hat = x_hat_, y = Out(frame_.result.tangent)](int64_t i, int64_t c, int64_t lanes) {
          V sum = Load(weight + c, lanes) * Load(y + i, lanes);
          if (weight_tangent != nullptr) sum += Load(weight_tangent + c, lanes) * Load(x_hat + i, lanes);
          if (bias_tangent != nullptr) sum += Load(bias_tangent + c, lanes);
          Store(y + i, sum, lanes);
        });
  }

  // Sums of g and g x^.
  void SumGradients(Scalar* sums) const {
    ColumnSums<Scalar, 2>(set_.pool, Pixels(), set_.channels, sums,
                          [g = Out(frame_.result.gradient), x_hat = x_hat_, channels = set_.channels](
                              int64_t row, int64_t c, int64_t lanes, V* term) {
                            const int64_t i = row * channels + c;
                            term[0] = Load(g + i, lanes);
                            term[1] = term[0] * Load(x_hat + i, lanes);
                          });
  }

  // Sums of g, g x^, h and h x^ + g x^', where h = g'.
  void SumTangents(const Moved<Scalar>& moved, Scalar* sums) const {
    ArenaScope arena;
    auto* x_hat_tangent = arena.Array<Scalar>(Pixels() * set_.channels);
    WriteMoved(moved, x_hat_tangent);
    ColumnSums<Scalar, 4>(set_.pool, Pixels(), set_.channels, sums,
                          [=, g = Out(frame_.result.gradient), h = Out(frame_.result.gradient_tangent), x_hat = x_hat_,
                           channels = set_.channels](int64_t row, int64_t c, int64_t lanes, V* term) {
                            const int64_t i = row * channels + c;
                            const V here = Load(x_hat + i, lanes);
                            term[0] = Load(g + i, lanes);
                            term[1] = term[0] * here;
                            term[2] = Load(h + i, lanes);
                            term[3] = term[2] * here + term[0] * Load(x_hat_tangent + i, lanes);
                          });
  }

  // Writes g_x. mean, mean_x: the group's means of weight * g and weight * g x^, for every channel.
  void PutGradient(const Scalar* mean, const Scalar* mean_x) const {
    Scalar *of_x = set_.Channels(4), *one = set_.Channels(5), *of_g = set_.Channels(6);
    ForChannels<Scalar>(set_.channels, [&](int64_t c, int64_t lanes) {
      const V rate = normal_.Rate(c);
      Store(of_x + c, -rate * rate * Load(mean_x + c, lanes), lanes);
      Store(one + c, -rate * Load(mean + c, lanes), lanes);
      Store(of_g + c, rate * Load(set_.weight + c, lanes), lanes);
    });
    Put(
        frame_[0].gradient,
        [=, x = normal_.x, center = normal_.mean](int64_t i, int64_t c, int64_t lanes) {
          return Load(of_x + c) * (Load(x + i, lanes) - Load(center + c)) + Load(one + c);
        },
        [=, g = Out(frame_.result.gradient)](int64_t i, int64_t c, int64_t lanes) {
          return Load(of_g + c) * Load(g + i, lanes);
        });
  }

  // Writes g_x'. The means are those of PutGradient and their tangents.
  void PutTangent(const Moved<Scalar>& moved, const Scalar* mean, const Scalar* mean_x, const Scalar* mean_tangent,
                  const Scalar* mean_x_tangent) const {
    Scalar *of_x = set_.Channels(4), *of_t = set_.Channels(5), *one = set_.Channels(6), *of_h = set_.Channels(7),
           *of_g = set_.Channels(12);
    const Scalar* weight_tangent = frame_[1].tangent;
    ForChannels<Scalar>(set_.channels, [&](int64_t c, int64_t lanes) {
      const V rate = normal_.Rate(c), slope = moved.Slope(c), weight = Load(set_.weight + c, lanes);
      const V m = Load(mean + c, lanes), m_x = Load(mean_x + c, lanes);
      Store(of_x + c, rate * rate * (2 * rate * slope * m_x - Load(mean_x_tangent + c, lanes)), lanes);
      Store(of_t + c, -rate * rate * m_x, lanes);
      Store(one + c, rate * (rate * slope * m - Load(mean_tangent + c, lanes)), lanes);
      Store(of_h + c, rate * weight, lanes);
      V of_gradient = -rate * rate * slope * weight;
      if (weight_tangent != nullptr) of_gradient += rate * Load(weight_tangent + c, lanes);
      Store(of_g + c, of_gradient, lanes);
    });
    Put(
        frame_[0].gradient_tangent,
        [=, x = normal_.x, center = normal_.mean](int64_t i, int64_t c, int64_t lanes) {
          V sum = Load(of_x + c) * (Load(x + i, lanes) - Load(center + c)) + Load(one + c);
          if (moved.x_tangent != nullptr) {
            sum += Load(of_t + c) * (Load(moved.x_tangent + i, lanes) - Load(moved.mean + c));
          }
          return sum;
        },
        [=, g = Out(frame_.result.gradient), h = Out(frame_.result.gradient_tangent)](int64_t i, int64_t c,
                                                                                      int64_t lanes) {
          return Load(of_h + c) * Load(h + i, lanes) + Load(of_g + c) * Load(g + i, lanes);
        });
  }

 private:
  // The part of an array like y that belongs to the set.
  template <typename S>
  S* Out(S* y) const {
    return y + first_ * table_.windows.OutSize();
  }
  int64_t Pixels() const { return images_ * table_.windows.out_height * table_.windows.out_width; }  // of y

  // Calls f(offset of an image in x, its offset in y) for the images of the set.
  template <typename F>
  void ForImages(const F& f) const {
    const Windows& w = table_.windows;
    ShareScalars(set_.pool, images_, images_ * w.InSize(), [&](int64_t begin, int64_t end) {
      for (int64_t image = begin; image < end; ++image) f(image * w.InSize(), image * w.OutSize());
    });
  }

  // Calls f(channel, lanes, for_windows) for one row of windows after the other; for_windows(g) calls
  // g(offset in y, the offsets of the window's pixels, their count).
  template <typename F>
  MF_INLINE void ForRowVectors(const F& f) const {
    for (int64_t row = 0; row < table_.windows.out_height; ++row) {
      ForChannels<Scalar>(set_.channels, [&](int64_t c, int64_t lanes) {
        f(c, lanes, [&](const auto& g) {
          table_.ForWindows(row, [&](int64_t out, const int64_t* pixels, int64_t count) { g(out + c, pixels, count); });
        });
      });
    }
  }

  // Calls f(place in y, channel, lanes) for all pixels of y.
  template <typename F>
  void ForPixels(const F f) const {
    const int64_t channels = set_.channels;
    ShareScalars(set_.pool, Pixels(), Pixels() * channels, [=](int64_t begin, int64_t end) {
      for (int64_t pixel = begin; pixel < end; ++pixel) {
        ForChannels<Scalar>(channels, [&](int64_t c, int64_t lanes) { f(pixel * channels + c, c, lanes); });
      }
    });
  }

  // Writes x^' at the maxima.
  void WriteMoved(const Moved<Scalar>& moved, Scalar* to) const {
    if (moved.x_tangent == nullptr) {
      std::fill_n(to, Pixels() * set_.channels, Scalar{0});
      return;
    }
    ForImages([&](int64_t in, int64_t out) { GatherMaxima(table_, found_ + out, moved.x_tangent + in, to + out); });
    ForPixels([=, x_hat = x_hat_, rate = normal_.rate](int64_t i, int64_t c, int64_t lanes) {
      const V here = Load(to + i, lanes) - Load(moved.mean + c) - Load(x_hat + i, lanes) * moved.Slope(c);
      Store(to + i, Load(rate + c) * here, lanes);
    });
  }

  // Writes (or adds) everywhere(place in x, channel, lanes) and, at the maxima, at_maxima(place in y, channel, lanes).
  template <typename Everywhere, typename AtMaxima>
  void Put(Scalar* gradient, const Everywhere everywhere, const AtMaxima at_maxima) const {
    const Windows& w = table_.windows;
    ForImages([&](int64_t in, int64_t out) {
      int64_t done = 0;  // rows
      for (int64_t row = 0; row < w.out_height; ++row) {
        // A few rows at a time, so that they are in cache for the maxima.
        const int64_t bottom = row + 1 < w.out_height ? table_.bottoms[row] : w.height;
        Fill(gradient + set_.at, in, done, bottom, everywhere);
        done = bottom;
        ScatterRow(table_, row, found_ + out, gradient + set_.at + in,
                   [=](int64_t i, int64_t c, int64_t lanes) { return at_maxima(out + i, c, lanes); });
      }
    });
  }

  template <typename Everywhere>
  MF_INLINE void Fill(Scalar* gradient, int64_t in, int64_t row, int64_t past, const Everywhere everywhere) const {
    const int64_t channels = set_.channels, width = table_.windows.width;
    const bool adds = frame_[0].adds;
    for (int64_t pixel = row * width; pixel < past * width; ++pixel) {
      const int64_t at = in + pixel * channels;
      ForChannels<Scalar>(channels, [&](int64_t c, int64_t lanes) {
        const V value = everywhere(at + c, c, lanes);
        Store(gradient + at + c, adds ? Load(gradient + at + c, lanes) + value : value, lanes);
      });
    }
  }

  const Frame<Scalar>& frame_;
  const Set& set_;
  const Normal<Scalar>& normal_;
  const WindowTable& table_;
  const int64_t first_, images_;  // of the set's images
  Scalar *found_, *x_hat_;        // [images][y's pixels][channels]
};

}  // namespace
}  // namespace maml_fast
