// Batch, group, instance and layer norm, with the operations that follow: y = pool(f(z)), z = weight * x^ + bias, and
// x^ = (x - mean) / sqrt(variance + eps), where mean and variance are those of a group of channels in a set of rows.
//
// With r = 1 / sqrt(variance + eps), a bar for the mean over a group, g for the gradient at z, and G = weight * g:
//
//   x^'  = r (x' - bar(x') - x^ bar(x^ x'))
//   g_x  = r (G - bar(G) - x^ bar(G x^))
//   g_x' = -r bar(x^ x') g_x + r (G' - bar(G') - x^' bar(G x^) - x^ bar(G' x^ + G x^'))
//
// numbers: sets, rows, channels, groups, then those of norm_chunks.h. factors: eps, then the function's parameters.
// operands: x, weight [channels], bias [channels].
#pragma once

#include <numeric>
#include <optional>

#include "cpu/operations/layer_norm.h"
#include "cpu/operations/norm_chunks.h"
#include "cpu/operations/pooled_norm.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct NormPasses {
  using V = Vec<Scalar>;
  using Set = NormSet<Scalar>;
  using Chunk = NormChunk<Scalar>;
  using Rows = LayerNormPasses<Scalar>;
  using Pooled = PooledNorm<Scalar>;

  static const void* MakePlan(const Operation& op, ArenaScope& arena) {
    const NormEpilogue<Scalar> epilogue(op);
    return epilogue.Pools() ? WindowTable::Make(epilogue.windows, arena) : nullptr;
  }

  // Kept for every group of every set: mean and r, after Tangent bar(x') and bar(x^ x'), and after Backward bar(G) and
  // bar(G x^). Then what is kept of the maxima.
  static int64_t KeptSize(const Operation& op) {
    const NormShape s = NormShape::Of(op);
    const NormEpilogue<Scalar> epilogue(op);
    const int64_t of_maxima = epilogue.pool == NormPool::kMax ? epilogue.OutSize() : 0;
    return Set::kKept * s.sets * s.groups + (Pooled::Takes(op) ? Pooled::KeptSize(op) : of_maxima);
  }

  static Traits TraitsOf(const Operation& op) {
    Traits traits{.operands = true, .gradient = true, .operand_tangents = true};
    traits.result = Pooled::Takes(op) && NormEpilogue<Scalar>(op).function.Exists();
    return traits;
  }

  static void Forward(const Frame<Scalar>& f) {
    if (Rows::Takes(f.operation)) return Rows::Forward(f);
    ForSets(f, [&](const Set& set) { ForwardOf(f, set); });
  }

  // As a follower: whole sets, unless there is only one, and whole images if they are pooled. Layer norms along rows
  // have no such passes. Nor have functions whose derivatives are stored: they need memory for the whole gradient.
  static int64_t Together(const Operation& op) {
    if (Rows::Takes(op) || IsStored(op)) return 0;
    const NormShape s = NormShape::Of(op);
    const NormEpilogue<Scalar> epilogue(op);
    const int64_t of_sets = s.sets == 1 ? 1 : s.rows, of_pool = epilogue.Pools() ? epilogue.ImageRows() : 1;
    return std::lcm(of_sets, of_pool) * s.channels;
  }

  static void ForwardAlong(const Frame<Scalar>& f, const typename FollowerPasses<Scalar>::Produce& produce) {
    const NormShape s = NormShape::Of(f.operation);
    const Pool alone = f.pool.Alone();
    if (s.sets > 1) {
      return produce([&](int64_t first, int64_t past) {
        const int64_t size = s.rows * s.channels;
        ForSetsOf(f, alone, first / size, past / size, [&](const Set& set) { ForwardOf(f, set); });
      });
    }
    ForSetsOf(f, alone, 0, 1, [&](const Set& set) {
      ArenaScope arena;
      GrowingSums<Scalar, 2> growing(set.rows, set.channels, arena);
      const Scalar* x = f[0].value;
      Scalar *level = set.Channels(0), *sums = set.Channels(4);
      int64_t summed = 0;
      produce([&](int64_t, int64_t past_scalar) {
        const int64_t past = past_scalar / set.channels;
        if (past < set.LevelRows()) return;
        if (summed == 0) set.Level(x, level);
        growing.Add(past - summed, OffLevel(x + summed * set.channels, level, set.channels));
        summed = past;
      });
      growing.Write(false, sums);
      Finish(f, set, level, sums);
    });
  }

  static void Tangent(const Frame<Scalar>& f) {
    if (Rows::Takes(f.operation)) return Rows::Tangent(f);
    ForSets(f, [&](const Set& set) {
      const Normal<Scalar> normal(f, set);
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
      const Moved<Scalar> moved(f, set);
      if (Pooled::Takes(f.operation)) return Pooled(f, set, normal).WriteTangent(moved);
      ForChunks(f, set, normal, &moved, {},
                [](Chunk& chunk, int64_t first, int64_t past) { chunk.WriteTangent(first, past); });
    });
  }

  static void Backward(const Frame<Scalar>& f) {
    if (Rows::Takes(f.operation)) return Rows::Backward(f);
    ArenaScope arena;
    const NormShape s = NormShape::Of(f.operation);
    const ChannelGradient<Scalar> of_weight(s, f[1], f[1].gradient, arena), of_bias(s, f[2], f[2].gradient, arena);
    ForSets(f, [&](const Set& set) {
      ArenaScope of_set;
      const Normal<Scalar> normal(f, set);
      std::optional<Pooled> pooled;
      if (Pooled::Takes(f.operation)) pooled.emplace(f, set, normal);
      const Stored stored = StoredOf(f, set, f[0].gradient, nullptr, of_set);
      Scalar* sums = set.Channels(4);
      if (pooled) {
        pooled->Begin(nullptr, of_set);
        pooled->SumGradients(sums);
      } else {
        SumChunks<2>(f, set, normal, nullptr, stored, sums,
                     [normal](const Gradients& found, int64_t i, int64_t c, int64_t lanes, V* term) {
                       term[0] = found.At(i, lanes);
                       term[1] = term[0] * normal.At(i, c, lanes);
                     });
      }
      of_bias.Add(set, sums);
      of_weight.Add(set, sums + set.channels);
      if (f[0].gradient == nullptr && !f.gives) return;
      set.KeepOf(4, set.WeightedMeans(f, sums, nullptr, 2));
      set.KeepOf(5, set.WeightedMeans(f, sums + set.channels, nullptr, 3));
      if (f.gives) return;
      Scalar* to = f[0].gradient + set.at;
      if (pooled) return pooled->PutGradient(f[0].adds, to);
      const Scalar *mean = set.Spread(4, 2), *mean_x = set.Spread(5, 3);
      ForChunks(f, set, normal, nullptr, stored, [&](Chunk& chunk, int64_t first, int64_t past) {
        chunk.Resume(first, past);
        PutGradient(set, normal, chunk, mean, mean_x, f[0].adds, to);
      });
    });
    of_weight.Finish();
    of_bias.Finish();
  }

  static void Give(const Frame<Scalar>& f, int64_t first_scalar, int64_t past_scalar, Scalar* gradient) {
    const NormShape s = NormShape::Of(f.operation);
    const int64_t first = first_scalar / s.channels, past = past_scalar / s.channels;
    const Pool alone = f.pool.Alone();
    ForSetsOf(f, alone, first / s.rows, (past + s.rows - 1) / s.rows, [&](const Set& set) {
      const int64_t begin = set.at / s.channels;  // the set's first row
      const int64_t from = std::max(first - begin, int64_t{0}), end = std::min(past - begin, s.rows);
      const Normal<Scalar> normal(f, set);
      Scalar* to = gradient + (begin + from - first) * s.channels;
      ArenaScope arena;
      if (Pooled::Takes(f.operation)) {
        Pooled pooled(f, set, normal, from, end);
        pooled.Begin(nullptr, arena);
        return pooled.PutGradient(false, to);
      }
      const int64_t in_chunk = NormEpilogue<Scalar>(f.operation).Chunks(s).in_chunk;
      Chunk chunk(f, set, normal, nullptr, {}, arena);
      const Scalar *mean = set.Spread(4, 2), *mean_x = set.Spread(5, 3);
      for (int64_t row = from; row < end; row += in_chunk) {
        chunk.Begin(row, std::min(row + in_chunk, end));
        PutGradient(set, normal, chunk, mean, mean_x, false, to - from * s.channels);
      }
    });
  }

  static void TangentBackward(const Frame<Scalar>& f) {
    if (Rows::Takes(f.operation)) return Rows::TangentBackward(f);
    ArenaScope arena;
    const NormShape s = NormShape::Of(f.operation);
    const ChannelGradient<Scalar> of_weight(s, f[1], f[1].gradient_tangent, arena);
    const ChannelGradient<Scalar> of_bias(s, f[2], f[2].gradient_tangent, arena);
    ForSets(f, [&](const Set& set) {
      ArenaScope of_set;
      const Normal<Scalar> normal(f, set);
      const Moved<Scalar> moved(f, set);
      std::optional<Pooled> pooled;
      if (Pooled::Takes(f.operation)) pooled.emplace(f, set, normal);
      const Stored stored = StoredOf(f, set, nullptr, f[0].gradient_tangent, of_set);
      Scalar* sums = set.Channels(4);  // sums of g, g x^, h and h x^ + g x^', where h = g'
      if (pooled) {
        pooled->Begin(&moved, of_set);
        pooled->SumTangents(moved, sums);
      } else {
        SumChunks<4>(f, set, normal, &moved, stored, sums,
                     [normal, moved](const Gradients& found, int64_t i, int64_t c, int64_t lanes, V* term) {
                       const V x_hat = normal.At(i, c, lanes);
                       term[0] = found.At(i, lanes);
                       term[1] = term[0] * x_hat;
                       term[2] = found.TangentAt(i, lanes);
                       term[3] = term[2] * x_hat + term[0] * moved.At(i, c, lanes, x_hat, normal);
                     });
      }
      auto of = [&](int64_t k) { return sums + k * set.channels; };
      of_bias.Add(set, of(2));
      of_weight.Add(set, of(3));
      if (f[0].gradient_tangent == nullptr) return;
      const Scalar *weight = set.weight, *weight_tangent = f[1].tangent;
      const Scalar *mean = set.WeightedMeans(f, of(0), nullptr, 8), *mean_x = set.WeightedMeans(f, of(1), nullptr, 9);
      const Scalar* mean_tangent = set.WeightedMeans(f, of(2), of(0), 10);
      const Scalar* mean_x_tangent = set.WeightedMeans(f, of(3), of(1), 11);
      if (pooled) return pooled->PutTangent(moved, mean, mean_x, mean_tangent, mean_x_tangent);
      ForChunks(f, set, normal, &moved, stored, [&](Chunk& chunk, int64_t first, int64_t past) {
        chunk.Resume(first, past);
        Put(chunk, f[0].adds, f[0].gradient_tangent + set.at,
            [normal, moved, found = chunk.Found(), weight, weight_tangent, mean, mean_x, mean_tangent, mean_x_tangent](
                int64_t i, int64_t c, int64_t lanes) {
              const V x_hat = normal.At(i, c, lanes), x_hat_tangent = moved.At(i, c, lanes, x_hat, normal);
              const V g = found.At(i, lanes);
              V weighted = Load(weight + c) * found.TangentAt(i, lanes);
              if (weight_tangent != nullptr) weighted += Load(weight_tangent + c, lanes) * g;
              const V of_rate = Load(weight + c) * g - Load(mean + c) - x_hat * Load(mean_x + c);
              const V of_others = weighted - Load(mean_tangent + c) - x_hat_tangent * Load(mean_x + c) -
                                  x_hat * Load(mean_x_tangent + c);
              return normal.Rate(c) * (of_others - normal.Rate(c) * moved.Slope(c) * of_rate);
            });
      });
    });
    of_weight.Finish();
    of_bias.Finish();
  }

 private:
  using Gradients = typename Chunk::Gradients;
  using Stored = StoredGradients<Scalar>;

  // The terms of the sums of x - level and its square.
  static auto OffLevel(const Scalar* x, const Scalar* level, int64_t channels) {
    return [=](int64_t row, int64_t c, int64_t lanes, V* term) __attribute__((always_inline)) {
      term[0] = Load(x + row * channels + c, lanes) - Load(level + c);
      term[1] = term[0] * term[0];
    };
  }

  static void ForwardOf(const Frame<Scalar>& f, const Set& set) {
    const Scalar* x = f[0].value + set.at;
    Scalar *level = set.Channels(0), *sums = set.Channels(4);
    set.Level(x, level);
    ColumnSums<Scalar, 2>(set.pool, set.rows, set.channels, sums, OffLevel(x, level, set.channels));
    Finish(f, set, level, sums);
  }

  // Keeps the statistics, given their sums, and writes y.
  static void Finish(const Frame<Scalar>& f, const Set& set, const Scalar* level, const Scalar* sums) {
    for (int64_t group = 0; group < set.groups; ++group) {
      const double off = set.Mean(sums, group), squares = set.Mean(sums + set.channels, group);
      const double variance = std::max(squares - off * off, std::isnan(squares) ? squares : 0.0);
      set.Keep(0, group, static_cast<Scalar>(level[group * set.in_group] + off));
      set.Keep(1, group, static_cast<Scalar>(1 / std::sqrt(variance + f.operation.factors[0])));
    }
    const Normal<Scalar> normal(f, set);
    if (Pooled::Takes(f.operation)) return Pooled(f, set, normal).Write();
    ForChunks(f, set, normal, nullptr, {}, [](Chunk& chunk, int64_t first, int64_t past) { chunk.Write(first, past); });
  }

  // Writes g_x of a chunk, or adds it. mean, mean_x: bar(G) and bar(G x^) for every channel. to: g_x of the set.
  static void PutGradient(const Set& set, const Normal<Scalar>& normal, const Chunk& chunk, const Scalar* mean,
                          const Scalar* mean_x, bool adds, Scalar* to) {
    Put(chunk, adds, to, [=, weight = set.weight, found = chunk.Found()](int64_t i, int64_t c, int64_t lanes) {
      return normal.Rate(c) *
             (Load(weight + c) * found.At(i, lanes) - Load(mean + c) - normal.At(i, c, lanes) * Load(mean_x + c));
    });
  }

  // Whether the function's derivatives take longer than to store them.
  static bool IsStored(const Operation& op) {
    const NormEpilogue<Scalar> epilogue(op);
    return !Pooled::Takes(op) && epilogue.function.Exists() && epilogue.function.IsCurved();
  }

  // Room for the gradients at z, if they are stored. Gradients at x, which are written later, lend their memory.
  static Stored StoredOf(const Frame<Scalar>& f, const Set& set, Scalar* gradient, Scalar* gradient_tangent,
                         ArenaScope& arena) {
    const bool wanted = gradient != nullptr || gradient_tangent != nullptr;
    if (!wanted || !IsStored(f.operation)) return {};
    auto room = [&](Scalar* lent) {
      return lent == nullptr || f[0].adds ? arena.Array<Scalar>(set.rows * set.channels) : lent + set.at;
    };
    return {room(gradient), gradient_tangent == nullptr ? nullptr : room(gradient_tangent)};
  }

  // Calls f(chunk, first row, past-the-last row) for all chunks of a set.
  template <typename F>
  static void ForChunks(const Frame<Scalar>& frame, const Set& set, const Normal<Scalar>& normal,
                        const Moved<Scalar>* moved, const Stored stored, const F& f) {
    const RowChunks of = NormEpilogue<Scalar>(frame.operation).Chunks(NormShape::Of(frame.operation));
    ShareScalars(set.pool, of.units, set.rows * set.channels, [&](int64_t begin, int64_t end) {
      ArenaScope arena;
      Chunk chunk(frame, set, normal, moved, stored, arena);
      for (int64_t unit = begin; unit < end; ++unit) {
        of.ForChunks(unit, [&](int64_t first, int64_t past) { f(chunk, first, past); });
      }
    });
  }

  template <typename F>
  struct Terms {
    Chunk chunk;
    F f;
    int64_t channels;
    Gradients found{};

    void Begin(int64_t first, int64_t past) {
      chunk.Begin(first, past);
      found = chunk.Found();
    }
    MF_INLINE void operator()(int64_t row, int64_t c, int64_t lanes, V* term) const {
      f(found, row * channels + c, c, lanes, term);
    }
  };

  // sums[k][c] = sum over a set's rows of the K terms that terms(gradients, place, c, lanes, array of vectors) writes
  template <int K, typename F>
  static void SumChunks(const Frame<Scalar>& frame, const Set& set, const Normal<Scalar>& normal,
                        const Moved<Scalar>* moved, const Stored stored, Scalar* sums, const F& terms) {
    const RowChunks of = NormEpilogue<Scalar>(frame.operation).Chunks(NormShape::Of(frame.operation));
    ColumnSums<Scalar, K>(set.pool, of, set.channels, sums, [&](ArenaScope& arena) {
      return Terms<F>{Chunk(frame, set, normal, moved, stored, arena), terms, set.channels};
    });
  }

  // Writes share(place in the set, c, lanes), or adds it to what is there.
  template <typename F>
  static void Put(const Chunk& chunk, bool adds, Scalar* to, const F share) {
    chunk.ForVectors([=](int64_t i, int64_t c, int64_t lanes) {
      const V value = share(i, c, lanes);
      Store(to + i, adds ? Load(to + i, lanes) + value : value, lanes);
    });
  }
};

}  // namespace
}  // namespace maml_fast
