// Any kernels of thin blocks against a plain forward pass in double, and against its central differences: forward,
// backward = differences of forward, double backward = differences of backward.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "block_run.h"
#include "check.h"
#include "cpu/kernel_table.h"
#include "plain_block.h"

namespace maml_fast {

template <typename Scalar>
struct ThinRun : BlockRun<Scalar> {
  using Base = BlockRun<Scalar>;
  using Base::Base, Base::Cast, Base::Join, Base::Saved;
  using Base::s, Base::kernels, Base::pool, Base::out, Base::mean;
  using typename Base::Buffer;

  // grad_weight, grad_bias, grad_gamma, grad_beta, one after another.
  Values Backward(const Buffer& grad_out) const {
    Buffer gw(s.tasks * s.WeightSize()), gb(mean.size()), gg(mean.size()), gbeta(mean.size());
    kernels.backward({s, Saved(), grad_out.data(), nullptr, nullptr, gw.data(), gb.data(), gg.data(), gbeta.data()},
                     pool);
    return Join({&gw, &gb, &gg, &gbeta});
  }

  // grad_grad_out, grad_weight, grad_gamma, one after another.
  Values DoubleBackward(const Buffer& grad_out, const Inputs& gg) const {
    const Buffer ggw = Cast(gg.weight), ggb = Cast(gg.bias), ggg = Cast(gg.gamma), ggbeta = Cast(gg.beta);
    auto data = [](const Buffer& b) { return b.empty() ? nullptr : b.data(); };
    auto of_channels = [&](const Buffer& b) { return TaskParam<Scalar>{data(b), s.out_channels}; };
    Buffer ggo(out.size()), gw(s.tasks * s.WeightSize()), g(mean.size());
    kernels.double_backward({s,
                             Saved(),
                             grad_out.data(),
                             nullptr,
                             {data(ggw), s.WeightSize()},
                             of_channels(ggb),
                             of_channels(ggg),
                             of_channels(ggbeta),
                             ggo.data(),
                             nullptr,
                             gw.data(),
                             g.data(),
                             nullptr},
                            pool);
    return Join({&ggo, &gw, &g});
  }
};

inline Values JoinValues(const std::vector<const Values*>& parts) { return ThinRun<double>::Join(parts); }

inline void CheckThinAgainstDifferences(const ConvBlockShape& s, const CpuKernels& kernels, int64_t threads) {
  const Inputs in = RandomInputs(s, 1), gg = RandomInputs(s, 21);
  Inputs direction = RandomInputs(s, 11);
  std::fill(direction.x.begin(), direction.x.end(), 0.0);
  const ThinRun<double> run(s, kernels, threads, in);
  const PlainResult plain = PlainForward(s, in);
  for (size_t i = 0; i < plain.out.size(); ++i) CheckClose(run.out[i], plain.out[i], 1e-11);
  for (size_t i = 0; i < plain.mean.size(); ++i) {
    CheckClose(run.mean[i], plain.mean[i], 1e-13);
    CheckClose(run.rstd[i], plain.rstd[i], 1e-13);
  }

  const Values grad_out = Random(static_cast<int64_t>(plain.out.size()), 31);
  auto loss = [&](const Inputs& at) { return Dot(PlainForward(s, at).out, grad_out); };
  auto join = [](const Inputs& parts) { return JoinValues({&parts.weight, &parts.bias, &parts.gamma, &parts.beta}); };
  CheckClose(Dot(run.Backward(grad_out), join(direction)), Slope(in, direction, loss), 1e-6);

  // <gg, backward> has as its derivative along `direction` what double backward says, all but its first part ...
  auto along = [&](const Inputs& at) {
    return Dot(ThinRun<double>(s, kernels, threads, at).Backward(grad_out), join(gg));
  };
  const Values second = run.DoubleBackward(grad_out, gg);
  const Values zeros(plain.out.size(), 0.0);
  CheckClose(Dot(second, JoinValues({&zeros, &direction.weight, &direction.gamma})), Slope(in, direction, along), 1e-6);

  // ... which is linear in grad_out: <gg, backward(other)> = <grad_grad_out, other>.
  const Values other = Random(static_cast<int64_t>(plain.out.size()), 41);
  const Values first(second.begin(), second.begin() + static_cast<int64_t>(plain.out.size()));
  CheckClose(Dot(first, other), Dot(run.Backward(other), join(gg)), 1e-9);
}

// Bitwise equal for any number of threads, and single precision close to double.
inline void CheckThreadsAndPrecision(const ConvBlockShape& s, const CpuKernels& kernels,
                                     const std::vector<int64_t>& numbers_of_threads) {
  const Inputs in = RandomInputs(s, 1), gg = RandomInputs(s, 21);
  const Values grad = Random(s.tasks * s.batch * s.OutPixels() * s.out_channels, 31);
  const std::vector<float> grad_out(grad.begin(), grad.end());
  const ThinRun<float> one(s, kernels, 1, in);
  const Values backward = one.Backward(grad_out), second = one.DoubleBackward(grad_out, gg);
  for (const int64_t threads : numbers_of_threads) {
    const ThinRun<float> many(s, kernels, threads, in);
    CHECK(many.out == one.out && many.argmax == one.argmax && many.kept == one.kept);
    CHECK(many.mean == one.mean && many.rstd == one.rstd);
    CHECK(many.Backward(grad_out) == backward);
    CHECK(many.DoubleBackward(grad_out, gg) == second);
  }
  const ThinRun<double> exact(s, kernels, 1, in);
  if (!std::equal(one.argmax.begin(), one.argmax.end(), exact.argmax.begin())) return;  // a tie up to rounding
  const Values exact_backward = exact.Backward(grad), exact_second = exact.DoubleBackward(grad, gg);
  for (size_t i = 0; i < backward.size(); ++i) CheckClose(backward[i], exact_backward[i], 2e-3);
  for (size_t i = 0; i < second.size(); ++i) CheckClose(second[i], exact_second[i], 2e-3);
}

// What is null is zero, or one where it scales; what tasks share is what they would each have.
inline void CheckNullAndShared(const ConvBlockShape& s, const CpuKernels& kernels) {
  Inputs full = RandomInputs(s, 1), gg = RandomInputs(s, 21);
  for (int64_t task = 1; task < s.tasks; ++task) {
    std::copy(full.weight.begin(), full.weight.begin() + s.WeightSize(), full.weight.begin() + task * s.WeightSize());
  }
  std::fill(full.bias.begin(), full.bias.end(), 0.0);
  std::fill(full.gamma.begin(), full.gamma.end(), 1.0);
  std::fill(full.beta.begin(), full.beta.end(), 0.0);
  Inputs lean = full;
  lean.weight.resize(s.WeightSize());
  for (Values* values : {&lean.bias, &lean.gamma, &lean.beta}) values->clear();
  const ThinRun<double> expected(s, kernels, 1, full), actual(s, kernels, 1, lean);
  const Values grad_out = Random(static_cast<int64_t>(actual.out.size()), 31);
  CHECK(actual.out == expected.out && actual.mean == expected.mean);
  CHECK(actual.Backward(grad_out) == expected.Backward(grad_out));
  CHECK(actual.DoubleBackward(grad_out, gg) == expected.DoubleBackward(grad_out, gg));
  for (const double v : actual.DoubleBackward(grad_out, Inputs{})) CHECK_EQ(v, 0.0);
}

// Raw pixels: almost all of one shade, with a few strokes of the other.
inline void CheckRawImages(const CpuKernels& kernels, double paper, double ink) {
  const ConvBlockShape s = MakeShape(1, 5, 1, 28, 28, 7, 3, 1, 1, true, false);
  Inputs in = RandomInputs(s, 1);
  std::fill(in.x.begin(), in.x.end(), paper);
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t i = 5; i < 20; ++i) in.x[(b * 28 + i) * 28 + 10 + b] = ink;
  }
  for (Values* values : in.All()) {
    for (double& v : *values) v = static_cast<float>(v);
  }
  const ThinRun<float> run(s, kernels, 1, in);
  const PlainResult plain = PlainForward(s, in);
  for (size_t i = 0; i < plain.mean.size(); ++i) {
    CHECK(std::abs(run.mean[i] / plain.mean[i] - 1) < 1e-6);
    CHECK(std::abs(run.rstd[i] / plain.rstd[i] - 1) < 1e-6);
  }
  for (size_t i = 0; i < plain.out.size(); ++i) CheckClose(run.out[i], plain.out[i], 1e-4);
}

// Images of one value: no variance at all, and no way for rounding to make it less than none.
inline void CheckConstantImages(const CpuKernels& kernels) {
  ConvBlockShape s = MakeShape(1, 3, 3, 9, 9, 5, 3, 1, 0, true, false);
  s.eps = 1e-14;
  Inputs in = RandomInputs(s, 1);
  std::fill(in.x.begin(), in.x.end(), 254.7);
  const ThinRun<float> run(s, kernels, 1, in);
  for (const float v : run.rstd) CHECK(v > 0 && v < 1.1e7F);
}

// What is not finite reaches every channel of its own task, and no other task.
inline void CheckNotFinite(const CpuKernels& kernels, double value) {
  for (const bool pool : {false, true}) {
    const ConvBlockShape s = MakeShape(2, 2, 1, 6, 6, 5, 3, 1, 1, pool, false);
    Inputs in = RandomInputs(s, 1);
    in.x[s.batch * s.InPixels() - 1] = value;
    const ThinRun<float> run(s, kernels, 1, in);
    const std::vector<float> grad_out(run.out.size(), 1.0F);
    const Values backward = run.Backward(grad_out), second = run.DoubleBackward(grad_out, RandomInputs(s, 21));
    for (size_t i = 0; i < run.out.size(); ++i) CHECK_EQ(std::isnan(run.out[i]), i < run.out.size() / 2);
    for (size_t i = 0; i < run.rstd.size(); ++i) CHECK_EQ(std::isnan(run.rstd[i]), i < run.rstd.size() / 2);
    CHECK(std::isnan(backward[0]) && std::isnan(second[0]));
  }
}

// `threaded`: whether the kernels use the host's threads, which a GPU's do not.
inline void CheckThin(const CpuKernels& kernels, bool threaded) {
  using Numbers = std::vector<int64_t>;
  const Numbers compared = threaded ? Numbers{2, 3, 5} : Numbers{1}, derived = threaded ? Numbers{1, 3} : Numbers{1};
  const ConvBlockShape shapes[] = {
      MakeShape(2, 2, 1, 6, 6, 5, 3, 1, 1, true, false),   MakeShape(1, 2, 3, 5, 7, 4, 3, 1, 1, true, false),
      MakeShape(2, 1, 2, 7, 7, 3, 3, 2, 2, true, false),   MakeShape(3, 2, 4, 7, 8, 17, 3, 1, 0, true, false),
      MakeShape(1, 3, 1, 9, 7, 65, 5, 1, 2, true, false),  MakeShape(2, 2, 1, 11, 9, 6, 6, 2, 1, false, false),
      MakeShape(1, 2, 2, 8, 5, 3, 1, 3, 1, false, false),  MakeShape(2, 2, 1, 4, 4, 2, 3, 1, 4, true, false),
      MakeShape(1, 2, 4, 6, 9, 16, 2, 1, 0, true, false),  MakeShape(2, 3, 1, 3, 4, 19, 3, 1, 0, false, false),
      MakeShape(1, 2, 3, 10, 8, 33, 3, 3, 1, true, false), MakeShape(2, 2, 1, 8, 9, 4, 5, 3, 2, true, false),
      MakeShape(1, 2, 1, 7, 6, 3, 5, 1, 0, true, false),
  };
  for (const ConvBlockShape& s : shapes) {
    CHECK(s.thin);
    CheckThreadsAndPrecision(s, kernels, compared);
    if (kOnlyRaces) continue;
    for (const int64_t threads : derived) CheckThinAgainstDifferences(s, kernels, threads);
    CheckNullAndShared(s, kernels);
  }
  if (kOnlyRaces) return;
  CheckRawImages(kernels, 255, 0);
  CheckRawImages(kernels, 0, 255);
  CheckConstantImages(kernels);
  CheckNotFinite(kernels, std::numeric_limits<double>::quiet_NaN());
  CheckNotFinite(kernels, std::numeric_limits<double>::infinity());
}

}  // namespace maml_fast
