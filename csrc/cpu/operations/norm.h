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
#include "cpu/operations/share.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct NormPasses {
  using V = Vec<Scalar>;

  struct Shape {
    int64_t sets, rows, channels, groups;

    int64_t InGroup() const { return channels / groups; }
    int64_t Size() const { return rows * channels; }  // of a set
  };

  static Shape ShapeOf(const Operation& op) { return {op.numbers[0], op.numbers[1], op.numbers[2], op.numbers[3]}; }

  // Of every group of every set: mean and r, and after Tangent bar(x') and bar(x^ x').
  static constexpr int64_t kKept = 4;
  static int64_t KeptSize(const Operation& op) { return kKept * ShapeOf(op).sets * ShapeOf(op).groups; }

  static void Forward(const Frame<Scalar>& f) {
    ForSets(f, [&](const Set& set) {
      const Scalar* x = f[0].value + set.at;
      Scalar *level = set.Channels(0), *sums = set.Channels(4);
      set.Level(x, level);
      ColumnSums<Scalar, 2>(set.pool, set.rows, set.channels, sums,
                            [&](int64_t row, int64_t c, int64_t lanes, V* term) {
                              term[0] = Load(x + row * set.channels + c, lanes) - Load(level + c);
                              term[1] = term[0] * term[0];
                            });
      for (int64_t group = 0; group < set.groups; ++group) {
        const double off = set.Mean(sums, group), squares = set.Mean(sums + set.channels, group);
        const double variance = std::max(squares - off * off, std::isnan(squares) ? squares : 0.0);
        set.Keep(0, group, static_cast<Scalar>(level[group * set.in_group] + off));
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
      const Normal normal(f, set);
      const Scalar* x_tangent = f[0].tangent == nullptr ? nullptr : f[0].tangent + set.at;
      for (int64_t group = 0; x_tangent == nullptr && group < set.groups; ++group) {
        set.Keep(2, group, 0);
        set.Keep(3, group, 0);
      }
      if (x_tangent != nullptr) {
        Scalar *level = set.Channels(2), *sums = set.Channels(4);
        set.Level(x_tangent, level);
        ColumnSums<Scalar, 2>(set.pool, set.rows, set.channels, sums,
                              [&](int64_t row, int64_t c, int64_t lanes, V* term) {
                                const int64_t i = row * set.channels + c;
                                term[0] = Load(x_tangent + i, lanes) - Load(level + c);
                                term[1] = term[0] * normal.At(i, c, lanes);
                              });
        for (int64_t group = 0; group < set.groups; ++group) {
          set.Keep(2, group, static_cast<Scalar>(level[group * set.in_group] + set.Mean(sums, group)));
          set.Keep(3, group, static_cast<Scalar>(set.Mean(sums + set.channels, group)));
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
    ArenaScope arena;
    const Shape s = ShapeOf(f.operation);
    const ChannelGradient weight(s, f[1], f[1].gradient, arena), bias(s, f[2], f[2].gradient, arena);
    ForSets(f, [&](const Set& set) {
      const Normal normal(f, set);
      const Scalar* g = f.result.gradient + set.at;
      Scalar* sums = set.Channels(4);
      ColumnSums<Scalar, 2>(set.pool, set.rows, set.channels, sums,
                            [&](int64_t row, int64_t c, int64_t lanes, V* term) {
                              const int64_t i = row * set.channels + c;
                              term[0] = Load(g + i, lanes);
                              term[1] = term[0] * normal.At(i, c, lanes);
                            });
      bias.Add(set, sums);
      weight.Add(set, sums + set.channels);
      if (f[0].gradient == nullptr) return;
      const Scalar *mean = set.WeightedMeans(f, sums, nullptr, 2),
                   *mean_x = set.WeightedMeans(f, sums + set.channels, nullptr, 3);
      Put(f, set, f[0].gradient, [&](int64_t i, int64_t c, int64_t lanes) {
        return normal.Rate(c) *
               (Weight(f, c, lanes) * Load(g + i, lanes) - Load(mean + c) - normal.At(i, c, lanes) * Load(mean_x + c));
      });
    });
    weight.Finish();
    bias.Finish();
  }

  static void TangentBackward(const Frame<Scalar>& f) {
    ArenaScope arena;
    const Shape s = ShapeOf(f.operation);
    const ChannelGradient of_weight(s, f[1], f[1].gradient_tangent, arena);
    const ChannelGradient of_bias(s, f[2], f[2].gradient_tangent, arena);
    ForSets(f, [&](const Set& set) {
      const Normal normal(f, set);
      const Moved moved(f, set);
      const Scalar *g = f.result.gradient + set.at, *h = f.result.gradient_tangent + set.at;
      Scalar* sums = set.Channels(4);  // of g, g x^, h and h x^ + g x^'
      ColumnSums<Scalar, 4>(set.pool, set.rows, set.channels, sums,
                            [&](int64_t row, int64_t c, int64_t lanes, V* term) {
                              const int64_t i = row * set.channels + c;
                              const V x_hat = normal.At(i, c, lanes);
                              term[0] = Load(g + i, lanes);
                              term[1] = term[0] * x_hat;
                              term[2] = Load(h + i, lanes);
                              term[3] = term[2] * x_hat + term[0] * moved.At(i, c, lanes, x_hat, normal);
                            });
      auto of = [&](int64_t k) { return sums + k * set.channels; };
      of_bias.Add(set, of(2));
      of_weight.Add(set, of(3));
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
    of_weight.Finish();
    of_bias.Finish();
  }

 private:
  // One set, with arrays of channels to work in.
  struct Set {
    const Pool& pool;  // which may share its rows
    int64_t rows, channels, groups, in_group;
    int64_t at;    // its first scalar
    int64_t part;  // of the sets
    bool first;    // of its part
    Scalar* kept;  // of the groups, in arrays that are `kept_step` apart
    int64_t kept_step;
    Scalar* work;  // arrays of channels

    Scalar* Channels(int64_t i) const { return work + i * channels; }
    Scalar* Kept(int64_t which, int64_t group) const { return kept + which * kept_step + group; }
    void Keep(int64_t which, int64_t group, Scalar value) const { *Kept(which, group) = value; }

    // What is kept of the groups, for every channel.
    const Scalar* Spread(int64_t which, int64_t to) const {
      Scalar* values = Channels(to);
      for (int64_t group = 0; group < groups; ++group) {
        std::fill_n(values + group * in_group, in_group, *Kept(which, group));
      }
      return values;
    }

    // The mean over a group of what has been summed over rows.
    double Mean(const Scalar* sums, int64_t group) const {
      double total = 0;
      for (int64_t c = group * in_group; c < (group + 1) * in_group; ++c) total += sums[c];
      return total / (static_cast<double>(rows) * static_cast<double>(in_group));
    }

    // A value near each group's mean, for every channel: what is less it cancels little.
    void Level(const Scalar* x, Scalar* level) const {
      const int64_t step = std::max<int64_t>(1, rows / 4);
      const int64_t few = (rows + step - 1) / step;
      ForChannels<Scalar>(channels, [&](int64_t c, int64_t lanes) {
        V sum{};
        for (int64_t row = 0; row < rows; row += step) sum += Load(x + row * channels + c, lanes);
        Store(level + c, sum / static_cast<Scalar>(few), lanes);
      });
      if (in_group == 1) return;
      for (int64_t first = 0; first < channels; first += in_group) {
        double total = 0;
        for (int64_t c = 0; c < in_group; ++c) total += level[first + c];
        std::fill_n(level + first, in_group, static_cast<Scalar>(total / static_cast<double>(in_group)));
      }
    }

    // For every channel, its group's mean of weight * a + weight' * b, of which the sums over rows are given.
    const Scalar* WeightedMeans(const Frame<Scalar>& f, const Scalar* a, const Scalar* b, int64_t to) const {
      Scalar* means = Channels(to);
      const bool moves = b != nullptr && f[1].tangent != nullptr;
      ForChannels<Scalar>(channels, [&](int64_t c, int64_t lanes) {
        V sum = Weight(f, c, lanes) * Load(a + c, lanes);
        if (moves) sum += Load(f[1].tangent + c, lanes) * Load(b + c, lanes);
        Store(means + c, sum, lanes);
      });
      for (int64_t group = 0; group < groups; ++group) {
        std::fill_n(means + group * in_group, in_group, static_cast<Scalar>(Mean(means, group)));
      }
      return means;
    }

    // Calls f(place in the set, channel, lanes).
    template <typename F>
    MF_INLINE void ForVectors(const F& f) const {
      ShareScalars(pool, rows, rows * channels, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          ForChannels<Scalar>(channels, [&](int64_t c, int64_t lanes) { f(row * channels + c, c, lanes); });
        }
      });
    }
  };

  // Sets in parts, which threads share.
  struct Parts {
    static constexpr int64_t kMost = 32;
    int64_t sets, of_part, count;

    explicit Parts(int64_t n) : sets(n), of_part((n + kMost - 1) / kMost), count((n + of_part - 1) / of_part) {}
  };

  // A gradient at the weight or the bias, summed over the sets of each part, then over parts.
  struct ChannelGradient {
    const int64_t parts, channels;
    const bool adds;
    Scalar *to, *sums;  // null: not asked for; [parts][channels]

    ChannelGradient(const Shape& s, const Operand<Scalar>& operand, Scalar* gradient, ArenaScope& arena)
        : parts(Parts(s.sets).count),
          channels(s.channels),
          adds(operand.adds),
          to(gradient),
          sums(gradient == nullptr ? nullptr : arena.Array<Scalar>(parts * channels)) {}

    void Add(const Set& set, const Scalar* of_set) const {
      if (to == nullptr) return;
      Sum(of_set, !set.first, sums + set.part * channels);
    }
    void Finish() const {
      for (int64_t part = 0; to != nullptr && part < parts; ++part) Sum(sums + part * channels, adds || part > 0, to);
    }

   private:
    void Sum(const Scalar* more, bool adds_here, Scalar* sum) const {
      ForChannels<Scalar>(channels, [&](int64_t c, int64_t lanes) {
        Store(sum + c, adds_here ? Load(sum + c, lanes) + Load(more + c, lanes) : Load(more + c, lanes), lanes);
      });
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

  // Calls f(set) for every set. Threads share the only one, or the sets.
  template <typename F>
  static void ForSets(const Frame<Scalar>& frame, const F& f) {
    constexpr int64_t kArrays = 12;
    const Shape s = ShapeOf(frame.operation);
    const Parts parts(s.sets);
    const Pool of_set = s.sets == 1 ? frame.pool : frame.pool.Alone();
    ShareScalars(frame.pool, parts.count, s.sets * s.Size(), [&](int64_t begin, int64_t end) {
      ArenaScope arena;
      auto* work = arena.Array<Scalar>(kArrays * s.channels + kLanes<Scalar>);
      const int64_t past = std::min(s.sets, end * parts.of_part);
      for (int64_t set = begin * parts.of_part; set < past; ++set) {
        f(Set{of_set, s.rows, s.channels, s.groups, s.InGroup(), set * s.Size(), set / parts.of_part,
              set % parts.of_part == 0, frame.kept + set * s.groups, s.sets * s.groups, work});
      }
    });
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
