// What a norm works on: sets of rows of channels. Statistics are those of a group of channels in a set.
//
//   norm      sets         rows of a set      groups
//   batch     1            images * pixels    channels
//   group     images       pixels             as given
//   instance  images       pixels             channels
//   layer     all rows     1                  1
#pragma once

#include <algorithm>
#include <cmath>

#include "cpu/arena.h"
#include "cpu/operations/frame.h"
#include "cpu/operations/share.h"
#include "cpu/simd.h"

namespace maml_fast {
namespace {

struct NormShape {
  int64_t sets, rows, channels, groups;

  static NormShape Of(const Operation& op) { return {op.numbers[0], op.numbers[1], op.numbers[2], op.numbers[3]}; }
  int64_t InGroup() const { return channels / groups; }
  int64_t Size() const { return rows * channels; }  // of a set
};

// One set, with scratch arrays of channels.
template <typename Scalar>
struct NormSet {
  using V = Vec<Scalar>;
  static constexpr int64_t kKept = 6;  // arrays with one value per group

  const Pool& pool;  // its threads may share the rows
  int64_t rows, channels, groups, in_group;
  int64_t at;    // offset of its first scalar
  int64_t part;  // index of the part that it belongs to
  bool first;    // whether it is the first set of its part
  Scalar* kept;  // values of the groups, in arrays that are `kept_step` apart
  int64_t kept_step;
  Scalar* work;          // scratch arrays of channels
  const Scalar* weight;  // [channels]; 1 if there is none
  const Scalar* bias;    // [channels]; 0 if there is none

  Scalar* Channels(int64_t i) const { return work + i * channels; }
  Scalar* Kept(int64_t which, int64_t group) const { return kept + which * kept_step + group; }
  void Keep(int64_t which, int64_t group, Scalar value) const { *Kept(which, group) = value; }

  // Copies a kept value of each group to all channels of the group.
  const Scalar* Spread(int64_t which, int64_t to) const {
    Scalar* values = Channels(to);
    for (int64_t group = 0; group < groups; ++group) {
      std::fill_n(values + group * in_group, in_group, *Kept(which, group));
    }
    return values;
  }

  // The mean over a group, from sums over rows.
  double Mean(const Scalar* sums, int64_t group) const {
    double total = 0;
    for (int64_t c = group * in_group; c < (group + 1) * in_group; ++c) total += sums[c];
    return total / (static_cast<double>(rows) * static_cast<double>(in_group));
  }

  // The number of first rows that Level reads.
  int64_t LevelRows() const { return std::min<int64_t>(rows, 64); }

  // Writes a value near each group's mean, for every channel. Sums of values minus this level suffer little
  // cancellation.
  void Level(const Scalar* x, Scalar* level) const {
    const int64_t step = std::max<int64_t>(1, LevelRows() / 4);
    const int64_t few = (LevelRows() + step - 1) / step;
    ForChannels<Scalar>(channels, [&](int64_t c, int64_t lanes) {
      V sum{};
      for (int64_t row = 0; row < LevelRows(); row += step) sum += Load(x + row * channels + c, lanes);
      Store(level + c, sum / static_cast<Scalar>(few), lanes);
    });
    if (in_group == 1) return;
    for (int64_t first = 0; first < channels; first += in_group) {
      double total = 0;
      for (int64_t c = 0; c < in_group; ++c) total += level[first + c];
      std::fill_n(level + first, in_group, static_cast<Scalar>(total / static_cast<double>(in_group)));
    }
  }

  // For every channel, its group's mean of weight * a + weight' * b, given the sums of a and b over rows.
  const Scalar* WeightedMeans(const Frame<Scalar>& f, const Scalar* a, const Scalar* b, int64_t to) const {
    Scalar* means = Channels(to);
    const bool moves = b != nullptr && f[1].tangent != nullptr;
    ForChannels<Scalar>(channels, [&](int64_t c, int64_t lanes) {
      V sum = Load(weight + c, lanes) * Load(a + c, lanes);
      if (moves) sum += Load(f[1].tangent + c, lanes) * Load(b + c, lanes);
      Store(means + c, sum, lanes);
    });
    for (int64_t group = 0; group < groups; ++group) {
      std::fill_n(means + group * in_group, in_group, static_cast<Scalar>(Mean(means, group)));
    }
    return means;
  }

  // Keeps a value of each group that all its channels have.
  void KeepOf(int64_t which, const Scalar* values) const {
    for (int64_t group = 0; group < groups; ++group) Keep(which, group, values[group * in_group]);
  }
};

// Divides sets into parts, which threads share.
struct SetParts {
  static constexpr int64_t kMost = 32;
  int64_t sets, of_part, count;

  explicit SetParts(int64_t n) : sets(n), of_part((n + kMost - 1) / kMost), count((n + of_part - 1) / of_part) {}
};

// The gradient of the weight or the bias, summed over the sets of each part, then over the parts.
template <typename Scalar>
struct ChannelGradient {
  const int64_t parts, channels;
  const bool adds;
  Scalar *to, *sums;  // [channels], null: not wanted; [parts][channels]

  ChannelGradient(const NormShape& s, const Operand<Scalar>& operand, Scalar* gradient, ArenaScope& arena)
      : parts(SetParts(s.sets).count),
        channels(s.channels),
        adds(operand.adds),
        to(gradient),
        sums(gradient == nullptr ? nullptr : arena.Array<Scalar>(parts * channels)) {}

  void Add(const NormSet<Scalar>& set, const Scalar* of_set) const {
    if (to == nullptr) return;
    Sum(of_set, !set.first, sums + set.part * channels);
  }
  // Adds terms(c, lanes) of a set.
  template <typename F>
  MF_INLINE void AddTerms(int64_t part, bool first, const F terms) const {
    if (to == nullptr) return;
    ForChannels<Scalar>(channels, [terms, first, sum = sums + part * channels](int64_t c, int64_t lanes) {
      Store(sum + c, first ? terms(c, lanes) : Load(sum + c, lanes) + terms(c, lanes), lanes);
    });
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

// Computes x^.
template <typename Scalar>
struct Normal {
  using V = Vec<Scalar>;

  const Scalar *x, *mean, *rate;

  Normal(const Frame<Scalar>& f, const NormSet<Scalar>& set)
      : x(f[0].value + set.at), mean(set.Spread(0, 0)), rate(set.Spread(1, 1)) {}
  MF_INLINE V Rate(int64_t c) const { return Load(rate + c); }
  MF_INLINE V At(int64_t i, int64_t c, int64_t lanes) const { return (Load(x + i, lanes) - Load(mean + c)) * Rate(c); }
};

// Computes x^'.
template <typename Scalar>
struct Moved {
  using V = Vec<Scalar>;

  const Scalar *x_tangent, *mean, *slope;

  Moved(const Frame<Scalar>& f, const NormSet<Scalar>& set)
      : x_tangent(f[0].tangent == nullptr ? nullptr : f[0].tangent + set.at), mean(nullptr), slope(nullptr) {
    if (x_tangent == nullptr) return;
    mean = set.Spread(2, 2);
    slope = set.Spread(3, 3);
  }
  MF_INLINE V Slope(int64_t c) const { return x_tangent == nullptr ? V{} : Load(slope + c); }
  MF_INLINE V At(int64_t i, int64_t c, int64_t lanes, V x_hat, const Normal<Scalar>& normal) const {
    if (x_tangent == nullptr) return V{};
    return normal.Rate(c) * (Load(x_tangent + i, lanes) - Load(mean + c) - x_hat * Load(slope + c));
  }
};

template <typename Scalar>
void CopyOr(const Scalar* from, Scalar otherwise, int64_t n, Scalar* to) {
  if (from == nullptr) {
    std::fill_n(to, n, otherwise);
  } else {
    std::copy_n(from, n, to);
  }
}

// Calls f(set) for the sets [first, past), in this thread; `pool` may share the rows of each.
template <typename Scalar, typename F>
void ForSetsOf(const Frame<Scalar>& frame, const Pool& pool, int64_t first, int64_t past, const F& f) {
  constexpr int64_t kArrays = 13;  // per set; weight and bias take two more
  const NormShape s = NormShape::Of(frame.operation);
  const SetParts parts(s.sets);
  ArenaScope arena;
  auto* work = arena.Array<Scalar>((kArrays + 2) * s.channels + kLanes<Scalar>);
  Scalar *weight = work + kArrays * s.channels, *bias = weight + s.channels;
  CopyOr(frame[1].value, Scalar{1}, s.channels, weight);
  CopyOr(frame[2].value, Scalar{0}, s.channels, bias);
  for (int64_t set = first; set < past; ++set) {
    f(NormSet<Scalar>{pool, s.rows, s.channels, s.groups, s.InGroup(), set * s.Size(), set / parts.of_part,
                      set % parts.of_part == 0, frame.kept + set * s.groups, s.sets * s.groups, work, weight, bias});
  }
}

// Calls f(set) for every set. The threads share the rows of a single set; with several sets, each runs in one thread.
template <typename Scalar, typename F>
void ForSets(const Frame<Scalar>& frame, const F& f) {
  const NormShape s = NormShape::Of(frame.operation);
  const SetParts parts(s.sets);
  const Pool of_set = s.sets == 1 ? frame.pool : frame.pool.Alone();
  ShareScalars(frame.pool, parts.count, s.sets * s.Size(), [&](int64_t begin, int64_t end) {
    ForSetsOf(frame, of_set, begin * parts.of_part, std::min(s.sets, end * parts.of_part), f);
  });
}

}  // namespace
}  // namespace maml_fast
