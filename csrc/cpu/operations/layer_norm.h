// Norms of sets of one row with one group, which layer norm is: vectors run along the row. Formulas, numbers, factors
// and operands are those of norm.h.
#pragma once

#include <cmath>

#include "cpu/operations/norm_chunks.h"
#include "cpu/operations/row_sum.h"

namespace maml_fast {
namespace {

template <typename Scalar>
class LayerNormPasses {
  using V = Vec<Scalar>;

 public:
  static bool Takes(const Operation& op) {
    const NormShape s = NormShape::Of(op);
    const NormEpilogue<Scalar> epilogue(op);
    return s.rows == 1 && s.groups == 1 && !epilogue.function.Exists() && !epilogue.Pools();
  }

  static void Forward(const Frame<Scalar>& f) {
    ForRows(f, [&f](const Row& row) {
      const Scalar* x = f[0].value + row.at;
      const Scalar mean = row.Mean([x](int64_t i, int64_t lanes) { return Load(x + i, lanes); });
      const Scalar variance = row.Mean([x, mean](int64_t i, int64_t lanes) {
        const V off = Load(x + i, lanes) - mean;
        return off * off;
      });
      *row.Kept(0) = mean;
      *row.Kept(1) = 1 / std::sqrt(variance + static_cast<Scalar>(f.operation.factors[0]));
      const Hat hat(f, row);
      ForChannels<Scalar>(row.size, [hat, weight = f[1].value, bias = f[2].value, y = f.result.value + row.at](
                                        int64_t i, int64_t lanes) {
        V z = hat.At(i, lanes);
        if (weight != nullptr) z *= Load(weight + i, lanes);
        if (bias != nullptr) z += Load(bias + i, lanes);
        Store(y + i, z, lanes);
      });
    });
  }

  static void Tangent(const Frame<Scalar>& f) {
    ForRows(f, [&f](const Row& row) {
      const Hat hat(f, row);
      const Scalar* x_tangent = f[0].tangent == nullptr ? nullptr : f[0].tangent + row.at;
      *row.Kept(2) = *row.Kept(3) = 0;
      if (x_tangent != nullptr) {
        *row.Kept(2) = row.Mean([x_tangent](int64_t i, int64_t lanes) { return Load(x_tangent + i, lanes); });
        *row.Kept(3) = row.Mean(
            [x_tangent, hat](int64_t i, int64_t lanes) { return Load(x_tangent + i, lanes) * hat.At(i, lanes); });
      }
      const HatTangent hat_tangent(f, row);
      ForChannels<Scalar>(row.size, [hat, hat_tangent, weight = f[1].value, of_weight = f[1].tangent,
                                     of_bias = f[2].tangent, to = f.result.tangent + row.at](int64_t i, int64_t lanes) {
        const V x_hat = hat.At(i, lanes);
        V sum = Times(weight, i, lanes, hat_tangent.At(i, lanes, x_hat));
        if (of_weight != nullptr) sum += Load(of_weight + i, lanes) * x_hat;
        if (of_bias != nullptr) sum += Load(of_bias + i, lanes);
        Store(to + i, sum, lanes);
      });
    });
  }

  static void Backward(const Frame<Scalar>& f) {
    ArenaScope arena;
    const NormShape s = NormShape::Of(f.operation);
    const ChannelGradient<Scalar> of_weight(s, f[1], f[1].gradient, arena), of_bias(s, f[2], f[2].gradient, arena);
    ForRows(f, [&](const Row& row) {
      const Hat hat(f, row);
      const Scalar *g = f.result.gradient + row.at, *weight = f[1].value;
      of_bias.AddTerms(row.part, row.first, [g](int64_t i, int64_t lanes) { return Load(g + i, lanes); });
      of_weight.AddTerms(row.part, row.first,
                         [g, hat](int64_t i, int64_t lanes) { return Load(g + i, lanes) * hat.At(i, lanes); });
      if (f[0].gradient == nullptr) return;
      const Means means(row, hat, weight, g);
      Put(row, f[0].gradient, f[0].adds, [=](int64_t i, int64_t lanes) {
        return hat.rate * means.Off(Times(weight, i, lanes, Load(g + i, lanes)), hat.At(i, lanes));
      });
    });
    of_weight.Finish();
    of_bias.Finish();
  }

  static void TangentBackward(const Frame<Scalar>& f) {
    ArenaScope arena;
    const NormShape s = NormShape::Of(f.operation);
    const ChannelGradient<Scalar> of_weight(s, f[1], f[1].gradient_tangent, arena);
    const ChannelGradient<Scalar> of_bias(s, f[2], f[2].gradient_tangent, arena);
    ForRows(f, [&](const Row& row) {
      const Hat hat(f, row);
      const HatTangent hat_tangent(f, row);
      const Scalar *g = f.result.gradient + row.at, *h = f.result.gradient_tangent + row.at;
      of_bias.AddTerms(row.part, row.first, [h](int64_t i, int64_t lanes) { return Load(h + i, lanes); });
      of_weight.AddTerms(row.part, row.first, [=](int64_t i, int64_t lanes) {
        const V x_hat = hat.At(i, lanes);
        return Load(h + i, lanes) * x_hat + Load(g + i, lanes) * hat_tangent.At(i, lanes, x_hat);
      });
      if (f[0].gradient_tangent == nullptr) return;
      const Scalar *weight = f[1].value, *weight_tangent = f[1].tangent;
      const Means means(row, hat, weight, g);
      auto weighted_tangent = [=](int64_t i, int64_t lanes) {  // G'
        V sum = Times(weight, i, lanes, Load(h + i, lanes));
        if (weight_tangent != nullptr) sum += Load(weight_tangent + i, lanes) * Load(g + i, lanes);
        return sum;
      };
      const Scalar mean = row.Mean(weighted_tangent);
      const Scalar mean_x = row.Mean([=](int64_t i, int64_t lanes) {
        const V x_hat = hat.At(i, lanes);
        return weighted_tangent(i, lanes) * x_hat +
               Times(weight, i, lanes, Load(g + i, lanes)) * hat_tangent.At(i, lanes, x_hat);
      });
      Put(row, f[0].gradient_tangent, f[0].adds, [=](int64_t i, int64_t lanes) {
        const V x_hat = hat.At(i, lanes);
        const V of_rate = means.Off(Times(weight, i, lanes, Load(g + i, lanes)), x_hat);
        const V of_others =
            weighted_tangent(i, lanes) - mean - hat_tangent.At(i, lanes, x_hat) * means.with_x - x_hat * mean_x;
        return hat.rate * (of_others - hat.rate * hat_tangent.slope * of_rate);
      });
    });
    of_weight.Finish();
    of_bias.Finish();
  }

 private:
  struct Row {
    int64_t size;
    int64_t at;    // offset of its first scalar
    int64_t part;  // index of the part of rows that it belongs to
    bool first;    // whether it is the first row of its part
    Scalar* kept;  // its values, in arrays that are `kept_step` apart
    int64_t kept_step;

    Scalar* Kept(int64_t which) const { return kept + which * kept_step; }
    template <typename F>
    MF_INLINE Scalar Mean(const F term) const {
      return RowSum<Scalar>(size, term) / static_cast<Scalar>(size);
    }
  };

  // Computes x^.
  struct Hat {
    const Scalar* x;
    Scalar mean, rate;

    Hat(const Frame<Scalar>& f, const Row& row) : x(f[0].value + row.at), mean(*row.Kept(0)), rate(*row.Kept(1)) {}
    MF_INLINE V At(int64_t i, int64_t lanes) const { return (Load(x + i, lanes) - mean) * rate; }
  };

  // Computes x^'.
  struct HatTangent {
    const Scalar* x_tangent;  // null: 0
    Scalar rate, mean, slope;

    HatTangent(const Frame<Scalar>& f, const Row& row)
        : x_tangent(f[0].tangent == nullptr ? nullptr : f[0].tangent + row.at),
          rate(*row.Kept(1)),
          mean(*row.Kept(2)),
          slope(*row.Kept(3)) {}
    MF_INLINE V At(int64_t i, int64_t lanes, V x_hat) const {
      return x_tangent == nullptr ? V{} : rate * (Load(x_tangent + i, lanes) - mean - x_hat * slope);
    }
  };

  // bar(G) and bar(G x^)
  struct Means {
    Scalar alone, with_x;

    Means(const Row& row, const Hat& hat, const Scalar* weight, const Scalar* g)
        : alone(row.Mean([=](int64_t i, int64_t lanes) { return Times(weight, i, lanes, Load(g + i, lanes)); })),
          with_x(row.Mean([=](int64_t i, int64_t lanes) {
            return Times(weight, i, lanes, Load(g + i, lanes)) * hat.At(i, lanes);
          })) {}
    MF_INLINE V Off(V weighted, V x_hat) const { return weighted - alone - x_hat * with_x; }
  };

  static MF_INLINE V Times(const Scalar* weight, int64_t i, int64_t lanes, V value) {
    return weight == nullptr ? value : Load(weight + i, lanes) * value;
  }

  // Calls f(row) for every row; threads share parts of the rows.
  template <typename F>
  static void ForRows(const Frame<Scalar>& frame, const F& f) {
    const NormShape s = NormShape::Of(frame.operation);
    const SetParts parts(s.sets);
    ShareScalars(frame.pool, parts.count, s.sets * s.channels, [&](int64_t begin, int64_t end) {
      const int64_t past = std::min(s.sets, end * parts.of_part);
      for (int64_t set = begin * parts.of_part; set < past; ++set) {
        f(Row{s.channels, set * s.channels, set / parts.of_part, set % parts.of_part == 0, frame.kept + set, s.sets});
      }
    });
  }

  // Writes share(i, lanes) to the row of the gradient, or adds it.
  template <typename F>
  static MF_INLINE void Put(const Row& row, Scalar* gradient, bool adds, const F share) {
    ForChannels<Scalar>(row.size, [share, adds, to = gradient + row.at](int64_t i, int64_t lanes) {
      const V value = share(i, lanes);
      Store(to + i, adds ? Load(to + i, lanes) + value : value, lanes);
    });
  }
};

}  // namespace
}  // namespace maml_fast
