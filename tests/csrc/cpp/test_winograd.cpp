// Winograd's three convolutions against plain sums over pixels and taps in double, on the vectors that every machine
// has. Buffers are exactly as large as they must be, and hold NaN wherever nothing has been written yet.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include "check.h"
#include "core/conv_block.h"
#include "cpu/arena.h"
#include "cpu/convolution/winograd_tiles.h"

#ifndef MF_VECTOR_BYTES
#define MF_VECTOR_BYTES 16
#endif
#include "cpu/convolution/winograd.h"

namespace maml_fast {
namespace {

using Values = std::vector<double>;

ConvBlockShape MakeShape(int64_t batch, int64_t in, int64_t height, int64_t width, int64_t out, int64_t padding) {
  ConvBlockShape s{1, batch, in, height, width, out, 3, 1, padding, 0, 0, 0, 0, false, false, 1e-5};
  s.Derive();
  return s;
}

template <typename Scalar>
std::vector<Scalar> Random(int64_t count, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  std::vector<Scalar> values(static_cast<size_t>(count));
  for (Scalar& v : values) v = static_cast<Scalar>(normal(engine));
  return values;
}

template <typename Scalar>
std::vector<Scalar> Poison(int64_t count) {
  return std::vector<Scalar>(static_cast<size_t>(count), static_cast<Scalar>(NAN));
}

// Calls f(y's pixel, x's pixel, weight's tap) for all that meet, pixels counted through all images.
template <typename F>
void ForTaps(const ConvBlockShape& s, const F& f) {
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t i = 0; i < s.ConvPixels(); ++i) {
      for (int64_t tap = 0; tap < 9; ++tap) {
        const int64_t row = i / s.conv_width - s.padding + tap / 3, col = i % s.conv_width - s.padding + tap % 3;
        if (row < 0 || col < 0 || row >= s.in_height || col >= s.in_width) continue;
        f(b * s.ConvPixels() + i, b * s.InPixels() + row * s.in_width + col, tap);
      }
    }
  }
}

// One block's images, weights and gradients, and what the three convolutions make of them.
template <typename Squares, typename Scalar>
struct Case {
  using Buffer = std::vector<Scalar>;

  const ConvBlockShape s;
  const int64_t in, out;
  ArenaScope arena;
  const WinogradTiles forward_tiles, data_tiles;
  const Buffer x, weight, grad_y, bias;

  explicit Case(const ConvBlockShape& shape)
      : s(shape),
        in(s.in_channels),
        out(s.out_channels),
        forward_tiles(ForwardTiles(s, Squares::kSide, arena)),
        data_tiles(DataGradientTiles(s, Squares::kSide, arena)),
        x(Random<Scalar>(s.batch * s.InPixels() * in, 1)),
        weight(Random<Scalar>(s.WeightSize(), 2)),
        grad_y(Random<Scalar>(s.batch * s.ConvPixels() * out, 3)),
        bias(Random<Scalar>(RoundUpToLanes<Scalar>(out), 4)) {}

  // Runs images [begin, end) of a single term.
  void Run(const WinogradTiles& tiles, const ConvolutionTerm<Scalar>& term, const WinogradSums<Scalar>& sums,
           int64_t begin, int64_t end) const {
    Buffer work = Poison<Scalar>(WinogradWork<Squares, Scalar>::Size(sums));
    WinogradConvolve<Squares>(tiles, &term, 1, sums, begin, end, work.data());
  }

  // In the calls [0, split) and [split, B).
  void Forward(const Scalar* start, int64_t split, Buffer* y) const {
    Buffer transformed = Poison<Scalar>(WinogradWeightsSize<Squares, Scalar>(in, out));
    TransformWeights<Squares>(weight.data(), in, out, transformed.data(), 0, in);
    for (const auto& [begin, end] : {std::pair{int64_t{0}, split}, std::pair{split, s.batch}}) {
      Run(forward_tiles, {x.data(), transformed.data()}, {in, out, start, y->data()}, begin, end);
    }
  }
  Buffer Forward(int64_t split) const {
    Buffer y = Poison<Scalar>(s.batch * s.ConvPixels() * out);
    Forward(bias.data(), split, &y);
    return y;
  }
  struct Gradients {
    Buffer of_x, of_weight;
  };

  // Both gradients, or one of them.
  Gradients Backward(int64_t split, bool wants_x, bool wants_weight) const {
    Buffer transformed = Poison<Scalar>(WinogradWeightsSize<Squares, Scalar>(out, in));
    Buffer sums(static_cast<size_t>(WinogradWeightsSize<Squares, Scalar>(in, out)));
    Gradients g{Poison<Scalar>(s.batch * s.InPixels() * in), Poison<Scalar>(s.WeightSize())};
    const Buffer zeros(RoundUpToLanes<Scalar>(in));
    TransformWeightsForDataGradient<Squares>(weight.data(), in, out, transformed.data(), 0, in);
    const ConvolutionTerm<Scalar> term{grad_y.data(), transformed.data(), x.data()};
    Scalar *to_x = wants_x ? g.of_x.data() : nullptr, *to_sums = wants_weight ? sums.data() : nullptr;
    for (const auto& [begin, end] : {std::pair{int64_t{0}, split}, std::pair{split, s.batch}}) {
      Run(data_tiles, term, {out, in, zeros.data(), to_x, to_sums, 0, in}, begin, end);
    }
    if (wants_weight) FinishWeightGradient<Squares>(sums.data(), 1, 0, in, out, g.of_weight.data(), 0, in);
    return g;
  }
  Buffer DataGradient(int64_t split) const { return Backward(split, true, false).of_x; }
  Buffer WeightGradient(int64_t split) const { return Backward(split, false, true).of_weight; }

  struct Plain {
    Values y, grad_x, grad_weight;
  };

  Plain PlainSums() const {
    Plain p{Values(grad_y.size()), Values(x.size()), Values(weight.size())};
    for (size_t i = 0; i < p.y.size(); ++i) p.y[i] = bias[i % static_cast<size_t>(out)];
    ForTaps(s, [&](int64_t y_pixel, int64_t x_pixel, int64_t tap) {
      for (int64_t i = 0; i < in; ++i) {
        for (int64_t o = 0; o < out; ++o) {
          const int64_t at_x = x_pixel * in + i, at_y = y_pixel * out + o, at_weight = (tap * in + i) * out + o;
          const double value = x[at_x], w = weight[at_weight], grad = grad_y[at_y];
          p.y[at_y] += value * w;
          p.grad_x[at_x] += grad * w;
          p.grad_weight[at_weight] += value * grad;
        }
      }
    });
    return p;
  }
};

template <typename Scalar>
void CheckClose(const std::vector<Scalar>& actual, const Values& expected, double tolerance) {
  CHECK_EQ(actual.size(), expected.size());
  double worst = 0, squares = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    CHECK(!std::isnan(actual[i]));
    worst = std::max(worst, std::abs(static_cast<double>(actual[i]) - expected[i]));
    squares += expected[i] * expected[i];
  }
  const double relative = worst / std::sqrt(squares / static_cast<double>(expected.size()));
  if (relative >= tolerance) CHECK_EQ(relative, tolerance);
}

template <typename Scalar>
double Dot(const std::vector<Scalar>& a, const std::vector<Scalar>& b) {
  CHECK_EQ(a.size(), b.size());
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

template <typename Squares, typename Scalar>
void CheckAgainstPlainSums(const ConvBlockShape& shape, double tolerance) {
  const Case<Squares, Scalar> c(shape);
  const auto plain = c.PlainSums();
  CheckClose(c.Forward(0), plain.y, tolerance);
  CheckClose(c.DataGradient(0), plain.grad_x, tolerance);
  for (int64_t split = 0; split < shape.batch; ++split)
    CheckClose(c.WeightGradient(split), plain.grad_weight, tolerance);
}

// Each gradient has the same bits with and without the other.
template <typename Squares, typename Scalar>
void CheckBothGradients(const ConvBlockShape& shape) {
  const Case<Squares, Scalar> c(shape);
  const auto both = c.Backward(1, true, true);
  CHECK(both.of_x == c.DataGradient(1));
  CHECK(both.of_weight == c.WeightGradient(1));
}

// An image does not depend on the others of its call; without a start the sums go on from what is there.
template <typename Squares, typename Scalar>
void CheckSplitsAndStart(const ConvBlockShape& shape, double tolerance) {
  const Case<Squares, Scalar> c(shape);
  const auto y = c.Forward(0), grad_x = c.DataGradient(0);
  for (int64_t split = 1; split <= shape.batch; ++split) {
    CHECK(c.Forward(split) == y);
    CHECK(c.DataGradient(split) == grad_x);
  }
  std::vector<Scalar> twice = y;
  c.Forward(nullptr, 0, &twice);
  Values expected(y.begin(), y.end());
  for (size_t i = 0; i < y.size(); ++i) expected[i] += y[i] - c.bias[i % static_cast<size_t>(c.out)];
  CheckClose(twice, expected, tolerance);
}

// <conv(x, weight), grad_y> = <x, grad_x> = <weight, grad_weight>
template <typename Squares>
void CheckAdjoints(const ConvBlockShape& shape) {
  const Case<Squares, double> c(shape);
  Values y(c.grad_y.size());
  c.Forward(nullptr, 0, &y);
  const double forward = Dot(y, c.grad_y), scale = std::sqrt(Dot(y, y) * Dot(c.grad_y, c.grad_y));
  CHECK(std::abs(Dot(c.x, c.DataGradient(0)) - forward) < 1e-13 * scale);
  CHECK(std::abs(Dot(c.weight, c.WeightGradient(0)) - forward) < 1e-13 * scale);
}

// tolerance: that of float32, relative to the results' root mean square
template <typename Squares>
void TestConvolutions(double tolerance) {
  const ConvBlockShape shapes[] = {
      MakeShape(1, 1, 1, 1, 1, 1),    MakeShape(2, 3, 5, 5, 17, 1),  MakeShape(3, 17, 7, 6, 33, 0),
      MakeShape(2, 33, 4, 9, 3, 2),   MakeShape(1, 1, 3, 3, 64, 0),  MakeShape(2, 3, 5, 4, 5, 3),  // no tap in a corner
      MakeShape(1, 64, 2, 31, 64, 1), MakeShape(5, 64, 7, 7, 64, 1),  // groups of tiles that end within an image
  };
  for (const ConvBlockShape& s : shapes) {
    CheckAgainstPlainSums<Squares, float>(s, tolerance);
    CheckAgainstPlainSums<Squares, double>(s, 1e-12);
    CheckSplitsAndStart<Squares, float>(s, tolerance);
    CheckSplitsAndStart<Squares, double>(s, 1e-12);
    CheckBothGradients<Squares, float>(s);
    CheckAdjoints<Squares>(s);
  }
}

void TestAlgorithmIsTheOneThatWasMeasuredToBeFastest() {
  auto fastest = [](const ConvBlockShape& shape) { return FastestAlgorithm(shape, 16); };
  CHECK(fastest(MakeShape(5, 64, 14, 14, 64, 1)) == Algorithm::kSquares4);
  CHECK(fastest(MakeShape(5, 64, 7, 7, 64, 1)) == Algorithm::kSquares4);
  CHECK(fastest(MakeShape(5, 32, 21, 21, 32, 1)) == Algorithm::kSquares4);
  CHECK(fastest(MakeShape(5, 16, 84, 84, 16, 1)) == Algorithm::kSquares4);
  CHECK(fastest(MakeShape(5, 64, 6, 6, 64, 1)) == Algorithm::kSquares2);    // larger squares are half empty
  CHECK(fastest(MakeShape(1, 128, 6, 6, 128, 1)) == Algorithm::kSquares2);  // transforming the weights takes longest
  CHECK(fastest(MakeShape(5, 64, 3, 3, 64, 1)) == Algorithm::kDirect);      // most taps are on padding
  CHECK(fastest(MakeShape(5, 3, 84, 84, 32, 1)) == Algorithm::kDirect);     // too few channels
  ConvBlockShape strided = MakeShape(5, 64, 14, 14, 64, 1);
  strided.stride = 2;
  CHECK(fastest(strided) == Algorithm::kDirect);
}

}  // namespace
}  // namespace maml_fast

int main() {
  maml_fast::TestConvolutions<maml_fast::Squares2>(2.5e-6);
  maml_fast::TestConvolutions<maml_fast::Squares4>(1.5e-5);
  maml_fast::TestAlgorithmIsTheOneThatWasMeasuredToBeFastest();
}
