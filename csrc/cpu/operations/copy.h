// Copies a region of one buffer to a region of another. Transpositions, slices, expansions, concatenations and padding
// become copies if an operation needs its operand dense.
//
// numbers: scalars of the operand; whether the region is all of the operand, with each scalar once; whether to fill the
// result with zeros first, and its scalars; the offsets of both regions; then size, stride in the operand and stride in
// the result of every dimension, outer ones first.
#pragma once

#include <algorithm>

#include "cpu/operations/frame.h"
#include "cpu/operations/linear.h"
#include "cpu/operations/share.h"
#include "cpu/simd.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct CopyMap {
  static constexpr int64_t kFirstDim = 6;

  struct Dims {
    const int64_t* numbers;
    int64_t count;

    int64_t Size(int64_t dim) const { return numbers[3 * dim]; }
    int64_t From(int64_t dim) const { return numbers[3 * dim + 1]; }
    int64_t To(int64_t dim) const { return numbers[3 * dim + 2]; }
  };

  static Dims DimsOf(const Operation& op) {
    return {op.numbers.data() + kFirstDim, (static_cast<int64_t>(op.numbers.size()) - kFirstDim) / 3};
  }

  // Calls f(from, to) for the first scalar of every row along the last dimension. If `shared`, threads share the first
  // dimension.
  template <typename F>
  static void ForAllRows(const Frame<Scalar>& frame, bool shared, const F& f) {
    const Operation& op = frame.operation;
    const Dims dims = DimsOf(op);
    const int64_t from = op.numbers[4], to = op.numbers[5];
    if (!shared || dims.count == 1) return ForRows(dims, 0, from, to, f);
    int64_t scalars = 1;
    for (int64_t dim = 0; dim < dims.count; ++dim) scalars *= dims.Size(dim);
    ShareScalars(frame.pool, dims.Size(0), scalars, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) ForRows(dims, 1, from + i * dims.From(0), to + i * dims.To(0), f);
    });
  }
  template <typename F>
  static void ForRows(const Dims& dims, int64_t dim, int64_t from, int64_t to, const F& f) {
    if (dim >= dims.count - 1) return f(from, to);
    for (int64_t i = 0; i < dims.Size(dim); ++i) {
      ForRows(dims, dim + 1, from + i * dims.From(dim), to + i * dims.To(dim), f);
    }
  }

  static void Apply(const Frame<Scalar>& f, const Scalar* const* from, Scalar* to) {
    const Operation& op = f.operation;
    const Dims dims = DimsOf(op);
    const int64_t n = dims.Size(dims.count - 1), step = dims.From(dims.count - 1), to_step = dims.To(dims.count - 1);
    if (op.numbers[2] != 0) std::fill_n(to, op.numbers[3], Scalar{0});
    ForAllRows(f, true, [&](int64_t source, int64_t dest) {
      if (from[0] == nullptr) {
        for (int64_t i = 0; i < n; ++i) to[dest + i * to_step] = 0;
      } else if (step == 1 && to_step == 1) {
        ForChannels<Scalar>(
            n, [&](int64_t i, int64_t lanes) { Store(to + dest + i, Load(from[0] + source + i, lanes), lanes); });
      } else {
        for (int64_t i = 0; i < n; ++i) to[dest + i * to_step] = from[0][source + i * step];
      }
    });
  }

  static void Transpose(const Frame<Scalar>& f, int64_t, const Scalar* gradient, bool adds, Scalar* to) {
    const Operation& op = f.operation;
    const Dims dims = DimsOf(op);
    const bool is_all = op.numbers[1] != 0;
    const int64_t n = dims.Size(dims.count - 1), step = dims.From(dims.count - 1), from_step = dims.To(dims.count - 1);
    if (!adds && !is_all) std::fill_n(to, op.numbers[0], Scalar{0});
    const Scalar kept = adds || !is_all ? 1 : 0;
    ForAllRows(f, is_all, [&](int64_t dest, int64_t source) {
      const Scalar* g = gradient + source;
      Scalar* sum = to + dest;
      if (step == 1 && from_step == 1) {
        ForChannels<Scalar>(n, [&](int64_t i, int64_t lanes) {
          Store(sum + i, kept != 0 ? Load(sum + i, lanes) + Load(g + i, lanes) : Load(g + i, lanes), lanes);
        });
      } else if (kept != 0) {
        for (int64_t i = 0; i < n; ++i) sum[i * step] += g[i * from_step];
      } else {
        for (int64_t i = 0; i < n; ++i) sum[i * step] = g[i * from_step];
      }
    });
  }
};

template <typename Scalar>
using CopyPasses = LinearPasses<Scalar, CopyMap<Scalar>>;

}  // namespace
}  // namespace maml_fast
