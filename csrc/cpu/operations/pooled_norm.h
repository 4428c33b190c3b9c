// A norm followed by a function that has its maxima at extremes, and a max pool, for one set: y = f(p), and p is the
// z = weight * x^ + bias of the window's pixel where f(z) is largest.
//
// This pixel is where weight * x is largest or, if f falls before it rises, where it is largest or smallest. So f and z
// are computed only there. Gradients at z are zero elsewhere, so that all sums of norm.h are sums over y's pixels. With
// g for the gradient at p, the gradients at x are
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
  using Epilogue = NormEpilogue<Scalar>;

 public:
  static bool Takes(const Operation& op) {
    const Epilogue epilogue(op);
    const auto& function = epilogue.function;
    return epilogue.pool == NormPool::kMax && (!function.Exists() || function.HasMaximaAtExtremes());
  }

  // Kept for every y: where its maximum is, and x^ there.
  static int64_t KeptSize(const Operation& op) { return 2 * Epilogue(op).OutSize(); }

  PooledNorm(const Frame<Scalar>& frame, const Set& set, const Normal<Scalar>& normal)
      : frame_(frame),
        set_(set),
        normal_(normal),
        function_(Epilogue(frame.operation).function),
        table_(*static_cast<const WindowTable*>(frame.plan)),
        first_(set.at / table_.windows.InSize()),
        images_(set.rows / (table_.windows.height * table_.windows.width)),
        g_(Out(frame.result.gradient)),
        h_(Out(frame.result.gradient_tangent)) {
    const NormShape s = NormShape::Of(frame.operation);
    found_ = frame.kept + Set::kKept * s.sets * s.groups + first_ * table_.windows.OutSize();
    x_hat_ = found_ + Epilogue(frame.operation).OutSize();
  }

  // Writes y, and keeps what KeptSize is for.
  void Write() const {
    const int64_t in_row = table_.windows.out_width * set_.channels;
    const bool falls = function_.Exists() && !function_.Rises();
    ForImages([&](int64_t in, int64_t out) {
      ArenaScope arena;
      Found smallest{};  // of one row
      for (Scalar** room : {&smallest.x, &smallest.which, &smallest.p}) *room = arena.Array<Scalar>(falls ? in_row : 0);
      for (int64_t row = 0; row < table_.windows.out_height; ++row, out += in_row) {
        const Found largest{x_hat_ + out, found_ + out, Out(frame_.result.value) + out};
        if (falls) {
          FindExtremes(row, normal_.x + in, largest, smallest);
          Normalize(smallest);
        } else {
          FindMaxima(row, normal_.x + in, largest);
        }
        Normalize(largest);
        if (function_.Exists()) function_.Values(largest.p, in_row, largest.p);
        if (falls) TakeLarger(largest, smallest);
      }
    });
  }

  // Writes y'.
  void WriteTangent(const Moved<Scalar>& moved) const {
    Scalar* tangent = Out(frame_.result.tangent);
    FillPTangent(moved, tangent);
    if (!function_.Exists()) return;
    ArenaScope arena;
    const Scalar* argument = Argument(arena);
    ForRanges([&](int64_t i, int64_t n) { function_.Tangents(argument + i, tangent + i, n, tangent + i); });
  }

  // Computes the gradient at p and, if `moved` is not null, its tangent. Called before the methods below; `arena` holds
  // the result.
  void Begin(const Moved<Scalar>* moved, ArenaScope& arena) {
    if (!function_.Exists()) return;
    const int64_t size = Pixels() * set_.channels;
    const Scalar* argument = Argument(arena);
    auto* g = arena.Array<Scalar>(size);
    if (moved == nullptr) {
      ForRanges([&](int64_t i, int64_t n) { function_.Gradients(argument + i, g_ + i, n, false, g + i); });
    } else {
      auto* h = arena.Array<Scalar>(size);
      auto* tangent = arena.Array<Scalar>(function_.IsCurved() ? size : 0);
      if (function_.IsCurved()) FillPTangent(*moved, tangent);
      ForRanges([&](int64_t i, int64_t n) {
        const Scalar* here = function_.IsCurved() ? tangent + i : nullptr;
        function_.BothGradients(argument + i, here, g_ + i, h_ + i, n, g + i, h + i);
      });
      h_ = h;
    }
    g_ = g;
  }

  // Sums of g and g x^.
  void SumGradients(Scalar* sums) const {
    ColumnSums<Scalar, 2>(
        set_.pool, Pixels(), set_.channels, sums,
        [g = g_, x_hat = x_hat_, channels = set_.channels](int64_t row, int64_t c, int64_t lanes, V* term) {
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
    ColumnSums<Scalar, 4>(
        set_.pool, Pixels(), set_.channels, sums,
        [=, g = g_, h = h_, x_hat = x_hat_, channels = set_.channels](int64_t row, int64_t c, int64_t lanes, V* term) {
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
        [=, g = g_](int64_t i, int64_t c, int64_t lanes) { return Load(of_g + c) * Load(g + i, lanes); });
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
        [=, g = g_, h = h_](int64_t i, int64_t c, int64_t lanes) {
          return Load(of_h + c) * Load(h + i, lanes) + Load(of_g + c) * Load(g + i, lanes);
        });
  }

 private:
  // The part of an array like y that belongs to the set.
  template <typename S>
  S* Out(S* y) const {
    return y == nullptr ? nullptr : y + first_ * table_.windows.OutSize();
  }
  // The pixels found in the windows: x and then x^, which of the window's pixels it is, and p and then f(p).
  struct Found {
    Scalar *x, *which, *p;
  };

  int64_t Pixels() const { return images_ * table_.windows.out_height * table_.windows.out_width; }  // of y

  // Calls f(offset of an image in x, its offset in y) for the images of the set.
  template <typename F>
  void ForImages(const F& f) const {
    const Windows& w = table_.windows;
    ShareScalars(set_.pool, images_, images_ * w.InSize(), [&](int64_t begin, int64_t end) {
      for (int64_t image = begin; image < end; ++image) f(image * w.InSize(), image * w.OutSize());
    });
  }

  // Finds the pixels of a row of windows where weight * x is largest: x there, and which of the window's pixels it is.
  void FindMaxima(int64_t row, const Scalar* x, Found largest) const {
    ForRow(row, [=](V sign, int64_t out, const int64_t* pixels, int64_t count, int64_t c, int64_t lanes) {
      V x_there = Load(x + pixels[0] + c, lanes), most = sign * x_there, which{};
      for (int64_t i = 1; i < count; ++i) {
        const V here = Load(x + pixels[i] + c, lanes), signed_here = sign * here;
        const auto better = (signed_here > most) | (here != here);
        most = better ? signed_here : most;
        x_there = better ? here : x_there;
        which = better ? Broadcast(static_cast<Scalar>(i)) : which;
      }
      Store(largest.x + out, x_there, lanes);
      Store(largest.which + out, which, lanes);
    });
  }

  // The same, and where weight * x is smallest.
  void FindExtremes(int64_t row, const Scalar* x, Found largest, Found smallest) const {
    ForRow(row, [=](V sign, int64_t out, const int64_t* pixels, int64_t count, int64_t c, int64_t lanes) {
      V x_most = Load(x + pixels[0] + c, lanes), x_least = x_most, most = sign * x_most, least = most;
      V which{}, which_least{};
      for (int64_t i = 1; i < count; ++i) {
        const V here = Load(x + pixels[i] + c, lanes), signed_here = sign * here;
        const V number = Broadcast(static_cast<Scalar>(i));
        const auto better = (signed_here > most) | (here != here), worse = signed_here < least;
        most = better ? signed_here : most;
        x_most = better ? here : x_most;
        which = better ? number : which;
        least = worse ? signed_here : least;
        x_least = worse ? here : x_least;
        which_least = worse ? number : which_least;
      }
      Store(largest.x + out, x_most, lanes);
      Store(largest.which + out, which, lanes);
      Store(smallest.x + out, x_least, lanes);
      Store(smallest.which + out, which_least, lanes);
    });
  }

  // Replaces x of a row by x^, and writes p.
  void Normalize(Found found) const {
    for (int64_t pixel = 0; pixel < table_.windows.out_width; ++pixel) {
      ForChannels<Scalar>(set_.channels, [&, at = pixel * set_.channels](int64_t c, int64_t lanes) {
        const V x_hat = (Load(found.x + at + c, lanes) - Load(normal_.mean + c)) * normal_.Rate(c);
        Store(found.x + at + c, x_hat, lanes);
        Store(found.p + at + c, x_hat * Load(set_.weight + c) + Load(set_.bias + c), lanes);
      });
    }
  }

  // Replaces what was found of a row, and f(p), where f is larger at the other pixel or equal at an earlier one.
  void TakeLarger(Found largest, Found other) const {
    const int64_t in_row = table_.windows.out_width * set_.channels;
    function_.Values(other.p, in_row, other.p);
    ForChannels<Scalar>(in_row, [=](int64_t i, int64_t lanes) {
      const V y = Load(largest.p + i, lanes), y_other = Load(other.p + i, lanes);
      const V which = Load(largest.which + i, lanes), which_other = Load(other.which + i, lanes);
      const auto better = (y_other > y) | ((y_other == y) & (which_other < which));
      Store(largest.p + i, better ? y_other : y, lanes);
      Store(largest.which + i, better ? which_other : which, lanes);
      Store(largest.x + i, better ? Load(other.x + i, lanes) : Load(largest.x + i, lanes), lanes);
    });
  }

  // Calls f(sign of the weight, offset of a window's value, the offsets of its pixels, their count, channel, lanes) for
  // a row of windows. With a weight of zero, z is the same everywhere, and the first pixel counts.
  template <typename F>
  MF_INLINE void ForRow(int64_t row, const F f) const {
    const int64_t first = row * table_.windows.out_width * set_.channels;
    ForChannels<Scalar>(set_.channels, [&](int64_t c, int64_t lanes) {
      const V weight = Load(set_.weight + c, lanes), one = Broadcast(Scalar{1});
      const V sign = weight > Scalar{0} ? one : (weight < Scalar{0} ? -one : V{});
      table_.ForWindows(row, [=](int64_t out, const int64_t* pixels, int64_t count)
                                 __attribute__((always_inline)) { f(sign, out - first + c, pixels, count, c, lanes); });
    });
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

  // Calls f(place in y, count) for ranges of y.
  template <typename F>
  void ForRanges(const F& f) const {
    const int64_t size = Pixels() * set_.channels;
    ShareVectors<Scalar>(set_.pool, size, size, [&](int64_t begin, int64_t end) { f(begin, end - begin); });
  }

  // Returns what the function's derivatives take.
  const Scalar* Argument(ArenaScope& arena) const {
    if (function_.OfResult()) return Out(frame_.result.value);
    auto* p = arena.Array<Scalar>(Pixels() * set_.channels);
    ForPixels([=, weight = set_.weight, bias = set_.bias, x_hat = x_hat_](int64_t i, int64_t c, int64_t lanes) {
      Store(p + i, Load(x_hat + i, lanes) * Load(weight + c) + Load(bias + c), lanes);
    });
    return p;
  }

  // Writes p'.
  void FillPTangent(const Moved<Scalar>& moved, Scalar* to) const {
    const Scalar *weight_tangent = frame_[1].tangent, *bias_tangent = frame_[2].tangent;
    WriteMoved(moved, to);
    ForPixels([=, weight = set_.weight, x_hat = x_hat_](int64_t i, int64_t c, int64_t lanes) {
      V sum = Load(weight + c, lanes) * Load(to + i, lanes);
      if (weight_tangent != nullptr) sum += Load(weight_tangent + c, lanes) * Load(x_hat + i, lanes);
      if (bias_tangent != nullptr) sum += Load(bias_tangent + c, lanes);
      Store(to + i, sum, lanes);
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
  const RowFunction<Scalar> function_;
  const WindowTable& table_;
  const int64_t first_, images_;  // of the set's images
  const Scalar *g_, *h_;          // gradients at y and, after Begin, at p; null: there is none yet
  Scalar *found_, *x_hat_;        // [images][y's pixels][channels]
};

}  // namespace
}  // namespace maml_fast
