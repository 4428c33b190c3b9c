// Batch, group, instance and layer norm: y = weight * x^ + bias, where x^ = (x - mean) / sqrt(variance + eps), and mean
// and variance are those of a group of channels in a set of rows.
//
//   norm      sets         rows of a set      groups
//   batch     1            images * pixels    channels
//   group     images       pixels             as given
//   instance  images       pixels             channels
//   layer     all rows     1                  1
//
// With r = 1 / sqrt(variance + eps), a bar for the mean over a group, and G = weight * g:
//
//   x^'  = r (x' - bar(x') - x^ bar(x^ x'))
//   g_x  = r (G - bar(G) - x^ bar(G x^))
//   g_x' = -r bar(x^ x') g_x + r (G' - bar(G') - x^' bar(G x^) - x^ bar(G' x^ + G x^'))
//
// numbers: sets, rows, channels, groups. factors: eps. operands: x, weight [channels], bias [channels].
#pragma once

#include <algorithm>
#include <cmath>

#include "cpu/operations/column_sums.h"
#include "cpu/operations/frame.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct NormPasses {
  using V = Vec<Scalar>;

  struct Shape {
    int64_t sets, rows, channels, groups;

    int64_t InGroup() const { return channels / groups; }
    int64_t Size() const { return rows * channels; }                                             // of a set
    Scalar Count() const { return static_cast<Scalar>(rows) * static_cast<Scalar>(InGroup()); }  // of a group
  };

  static Shape ShapeOf(const Operation& op) { return {op.numbers[0], op.numbers[1], op.numbers[2], op.numbers[3]}; }

  // Of every group of every set: mean and r, and after Tangent bar(x') and bar(x^ x').
  static constexpr int64_t kKept = 4;
  static int64_t KeptSize(const Operation& op) { return kKept * ShapeOf(op).sets * ShapeOf(op).groups; }

  static void Forward(const Frame<Scalar>& f) {
    ForSets(f, [&](const Set& set) {
      const Scalar* x = f[0].value + set.at;
      const Shape& s = set.shape;
      Scalar *level = set.Channels(0), *sums = set.Channels(4);
      set.Level(x, level);
      ColumnSums<Scalar, 2>(s.rows, s.channels, sums, [&](int64_t row, int64_t c, int64_t lanes, V* term) {
        term[0] = Load(x + row * s.channels + c, lanes) - Load(level + c);
        term[1] = term[0] * term[0];
      });
      for (int64_t group = 0; group < s.groups; ++group) {
        const double off = set.Mean(sums, group), squares = set.Mean(sums + set.pitch, group);
        const double variance = std::max(squares - off * off, std::isnan(squares) ? squares : 0.0);
        set.Keep(0, group, static_cast<Scalar>(level[group * s.InGroup()] + off));
        set.Keep(1, group, static_cast<Scalar>(1 / std::sqrt(variance + f.operation.factors[0])));
      }
      const Scalar *mean = set.Spread(0, 0), *rate = set.Spread(1, 1);
      set.ForVectors([&](int64_t i, int64_t c, int64_t lanes) {
        const V z = (Load(x + i, lanes) - Load(mean + c)) * Load(rate + c) * Weight(f, c, lanes);
        Store(f.result.value + set.at + i, f[2].value == nullptr ? z : z + Load(f[2].value + c, lanes), lanes);
      });
    });
  }

  static void Tangent(const Frame<Scalar>& f) {
    ForSets(f, [&](const Set& set) {
      const Shape& s = set.shape;
      const Normal normal(f, set);
      const Scalar* x_tangent = f[0].tangent == nullptr ? nullptr : f[0].tangent + set.at;
      for (int64_t group = 0; x_tangent == nullptr && group < s.groups; ++group) {
        set.Keep(2, group, 0);
        set.Keep(3, group, 0);
      }
      if (x_tangent != nullptr) {
        Scalar *level = set.Channels(2), *sums = set.Channels(4);
        set.Level(x_tangent, level);
        ColumnSums<Scalar, 2>(s.rows, s.channels, sums, [&](int64_t row, int64_t c, int64_t lanes, V* term) {
          const int64_t i = row * s.channels + c;
          term[0] = Load(x_tangent + i, lanes) - Load(level + c);
          term[1] = term[0] * normal.At(i, c, lanes);
        });
        for (int64_t group = 0; group < s.groups; ++group) {
          set.Keep(2, group, static_cast<Scalar>(level[group * s.InGroup()] + set.Mean(sums, group)));
          set.Keep(3, group, static_cast<Scalar>(set.Mean(sums + set.pitch, group)));
        }
      }
      const Moved moved(f, set);
      set.ForVectors([&](int64_t i, int64_t c, int64_t lanes) {
        const V x_hat = normal.At(i, c, lanes);
        V sum = Weight(f, c, lanes) * moved.At(i, c, lanes, x_hat, normal);
        if (f[1].tangent != nullptr) sum += Load(f[1].tangent + c, lanes) * x_hat;
        if (f[2].tangent != nullptr) sum += Load(f[2].tangent + c, lanes);
        Store(f.result.tangent + set.at + i, sum, lanes);
      });
    });
  }

  static void Backward(const Frame<Scalar>& f) {
    ForSets(f, [&](const Set& set) {
      const Shape& s = set.shape;
      const Normal normal(f, set);
      const Scalar* g = f.result.gradient + set.at;
      Scalar* sums = set.Channels(4);
      ColumnSums<Scalar, 2>(s.rows, s.channels, sums, [&](int64_t row, int64_t c, int64_t lanes, V* term) {
        const int64_t i = row * s.channels + c;
        term[0] = Load(g + i, lanes);
        term[1] = term[0] * normal.At(i, c, lanes);
      });
      set.AddChannels(f[2], f[2].gradient, sums);
      set.AddChannels(f[1], f[1].gradient, sums + set.pitch);
      if (f[0].gradient == nullptr) return;
      const Scalar *mean = set.WeightedMeans(f, sums, nullptr, 2),
                   *mean_x = set.WeightedMeans(f, sums + set.pitch, nullptr, 3);
      Put(f, set, f[0].gradient, [&](int64_t i, int64_t c, int64_t lanes) {
        return normal.Rate(c) *
               (Weight(f, c, lanes) * Load(g + i, lanes) - Load(mean + c) - normal.At(i, c, lanes) * Load(mean_x + c));
      });
    });
  }

  static void TangentBackward(const Frame<Scalar>& f) {
    ForSets(f, [&](const Set& set) {
      const Shape& s = set.shape;
      const Normal normal(f, set);
      const Moved moved(f, set);
      const Scalar *g = f.result.gradient + set.at, *h = f.result.gradient_tangent + set.at;
      Scalar* sums = set.Channels(4);  // of g, g x^, h and h x^ + g x^'
      ColumnSums<Scalar, 4>(s.rows, s.channels, sums, [&](int64_t row, int64_t c, int64_t lanes, V* term) {
        const int64_t i = row * s.channels + c;
        const V x_hat = normal.At(i, c, lanes);
        term[0] = Load(g + i, lanes);
        term[1] = term[0] * x_hat;
        term[2] = Load(h + i, lanes);
        term[3] = term[2] * x_hat + term[0] * moved.At(i, c, lanes, x_hat, normal);
      });
      auto of = [&](int64_t k) { return sums + k * set.pitch; };
      set.AddChannels(f[2], f[2].gradient_tangent, of(2));
      set.AddChannels(f[1], f[1].gradient_tangent, of(3));
      if (f[0].gradient_tangent == nullptr) return;
      const Scalar *mean = set.WeightedMeans(f, of(0), nullptr, 8), *mean_x = set.WeightedMeans(f, of(1), nullptr, 9);
      const Scalar* mean_tangent = set.WeightedMeans(f, of(2), of(0), 10);
      const Scalar* mean_x_tangent = set.WeightedMeans(f, of(3), of(1), 11);
      Put(f, set, f[0].gradient_tangent, [&](int64_t i, int64_t c, int64_t lanes) {
        const V x_hat = normal.At(i, c, lanes), x_hat_tangent = moved.At(i, c, lanes, x_hat, normal);
        const V weight = Weight(f, c, lanes), here = Load(g + i, lanes);
        V weighted_tangent = weight * Load(h + i, lanes);
        if (f[1].tangent != nullptr) weighted_tangent += Load(f[1].tangent + c, lanes) * here;
        const V first = weight * here - Load(mean + c) - x_hat * Load(mean_x + c);
        const V second = weighted_tangent - Load(mean_tangent + c) - x_hat_tangent * Load(mean_x + c) -
                         x_hat * Load(mean_x_tangent + c);
        return normal.Rate(c) * (second - normal.Rate(c) * moved.Slope(c) * first);
      });
    });
  }

 private:
  // One set, with arrays of channels to work in.
  struct Set {
    const Shape shape;
    int64_t at, number;  // its first scalar, its number
    Scalar* kept;        // [4][sets][groups]
    Scalar* work;        // arrays of `pitch` scalars
    int64_t pitch;

    Scalar* Channels(int64_t i) const { return work + i * pitch; }
    Scalar* Kept(int64_t which, int64_t group) const {
      return kept + (which * shape.sets + number) * shape.groups + group;
    }
    void Keep(int64_t which, int64_t group, Scalar value) const { *Kept(which, group) = value; }

    // What is kept of the groups, for every channel.
    const Scalar* Spread(int64_t which, int64_t to) const {
      Scalar* channels = Channels(to);
      for (int64_t group = 0; group < shape.groups; ++group) {
        std::fill_n(channels + group * shape.InGroup(), shape.InGroup(), *Kept(which, group));
      }
      return channels;
    }

    // The mean over a group of what has been summed over rows.
    double Mean(const Scalar* sums, int64_t group) const {
      double total = 0;
      for (int64_t c = group * shape.InGroup(); c < (group + 1) * shape.InGroup(); ++c) total += sums[c];
      return total / static_cast<double>(shape.Count());
    }

    // A value near each group's mean, for every channel: what is less it cancels little.
    void Level(const Scalar* x, Scalar* level) const {
      const int64_t step = std::max<int64_t>(1, shape.rows / 4);
      const int64_t few = (shape.rows + step - 1) / step;
      ForChannels<Scalar>(shape.channels, [&](int64_t c, int64_t lanes) {
        V sum{};
        for (int64_t row = 0; row < shape.rows; row += step) sum += Load(x + row * shape.channels + c, lanes);
        Store(level + c, sum / static_cast<Scalar>(few), lanes);
      });
      if (shape.InGroup() == 1) return;
      for (int64_t first = 0; first < shape.channels; first += shape.InGroup()) {
        double total = 0;
        for (int64_t c = 0; c < shape.InGroup(); ++c) total += level[first + c];
        std::fill_n(level + first, shape.InGroup(), static_cast<Scalar>(total / static_cast<double>(shape.InGroup())));
      }
    }

    // For every channel, its group's mean of weight * a + weight' * b, of which the sums over rows are given.
    const Scalar* WeightedMeans(const Frame<Scalar>& f, const Scalar* a, const Scalar* b, int64_t to) const {
      Scalar* means = Channels(to);
      const bool moves = b != nullptr && f[1].tangent != nullptr;
      ForChannels<Scalar>(shape.channels, [&](int64_t c, int64_t lanes) {
        V sum = Weight(f, c, lanes) * Load(a + c, lanes);
        if (moves) sum += Load(f[1].tangent + c, lanes) * Load(b + c, lanes);
        Store(means + c, sum, lanes);
      });
      for (int64_t group = 0; group < shape.groups; ++group) {
        std::fill_n(means + group * shape.InGroup(), shape.InGroup(), static_cast<Scalar>(Mean(means, group)));
      }
      return means;
    }

    // gradient (+)= sums; the sets after the first add to what it wrote.
    void AddChannels(const Operand<Scalar>& operand, Scalar* gradient, const Scalar* sums) const {
      if (gradient == nullptr) return;
      const bool adds = operand.adds || number > 0;
      ForChannels<Scalar>(shape.channels, [&](int64_t c, int64_t lanes) {
        const V sum = Load(sums + c, lanes);
        Store(gradient + c, adds ? Load(gradient + c, lanes) + sum : sum, lanes);
      });
    }

    // Calls f(place in the set, channel, lanes).
    template <typename F>
    MF_INLINE void ForVectors(const F& f) const {
      for (int64_t row = 0; row < shape.rows; ++row) {
        ForChannels<Scalar>(shape.channels, [&](int64_t c, int64_t lanes) { f(row * shape.channels + c, c, lanes); });
      }
    }
  };

  // x^.
  struct Normal {
    const Scalar *x, *mean, *rate;

    Normal(const Frame<Scalar>& f, const Set& set)
        : x(f[0].value + set.at), mean(set.Spread(0, 0)), rate(set.Spread(1, 1)) {}
    MF_INLINE V Rate(int64_t c) const { return Load(rate + c); }
    MF_INLINE V At(int64_t i, int64_t c, int64_t lanes) const {
      return (Load(x + i, lanes) - Load(mean + c)) * Rate(c);
    }
  };

  // x^'.
  struct Moved {
    const Scalar *x_tangent, *mean, *slope;

    Moved(const Frame<Scalar>& f, const Set& set)
        : x_tangent(f[0].tangent == nullptr ? nullptr : f[0].tangent + set.at), mean(nullptr), slope(nullptr) {
      if (x_tangent == nullptr) return;
      mean = set.Spread(2, 2);
      slope = set.Spread(3, 3);
    }
    MF_INLINE V Slope(int64_t c) const { return x_tangent == nullptr ? V{} : Load(slope + c); }
    MF_INLINE V At(int64_t i, int64_t c, int64_t lanes, V x_hat, const Normal& normal) const {
      if (x_tangent == nullptr) return V{};
      return normal.Rate(c) * (Load(x_tangent + i, lanes) - Load(mean + c) - x_hat * Load(slope + c));
    }
  };

  static MF_INLINE V Weight(const Frame<Scalar>& f, int64_t c, int64_t lanes) {
    return f[1].value == nullptr ? Broadcast(Scalar{1}) : Load(f[1].value + c, lanes);
  }

  template <typename F>
  static void ForSets(const Frame<Scalar>& frame, const F& f) {
    constexpr int64_t kArrays = 12;
    ArenaScope arena;
    const Shape s = ShapeOf(frame.operation);
    const int64_t pitch = s.channels;
    auto* work = arena.Array<Scalar>(kArrays * pitch + kLanes<Scalar>);
    for (int64_t set = 0; set < s.sets; ++set) f(Set{s, set * s.Size(), set, frame.kept, work, pitch});
  }

  template <typename F>
  static void Put(const Frame<Scalar>& f, const Set& set, Scalar* gradient, const F& share) {
    Scalar* to = gradient + set.at;
    const bool adds = f[0].adds;
    set.ForVectors([&](int64_t i, int64_t c, int64_t lanes) {
      const V value = share(i, c, lanes);
      Store(to + i, adds ? Load(to + i, lanes) + value : value, lanes);
    });
  }
};

}  // namespace
}  // namespace maml_fast
