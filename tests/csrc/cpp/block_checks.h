// Any kernels of a block against a plain forward pass in double, and against its central differences: forward, backward
// = differences of forward, double backward = differences of backward.
#pragma once

#include <algorithm>
#include <vector>

#include "block_run.h"
#include "check.h"
#include "cpu/kernel_table.h"
#include "plain_block.h"

namespace maml_fast {
template <typename Scalar>
struct Run : BlockRun<Scalar> {
  using Base = BlockRun<Scalar>;
  using Base::Base, Base::Cast, Base::Join, Base::Saved;
  using Base::s, Base::kernels, Base::pool, Base::x, Base::weight, Base::bias, Base::gamma, Base::beta, Base::out,
      Base::kept;
  using typename Base::Buffer;

  // grad_x, grad_weight, grad_bias, grad_gamma, grad_beta, one after another.
  Values Backward(const Buffer& grad_out, const Scalar* grad_y = nullptr) const {
    Buffer gx(x.size()), gw(weight.size()), gb(bias.size()), gg(gamma.size()), gbeta(beta.size());
    kernels.backward({s, Saved(), grad_out.data(), grad_y, gx.data(), gw.data(), gb.data(), gg.data(), gbeta.data()},
                     pool);
    return Join({&gx, &gw, &gb, &gg, &gbeta});
  }

  // grad_grad_out, grad_x, grad_weight, grad_bias, grad_gamma, one after another: with what flows on from y.
  Values DoubleBackward(const Buffer& grad_out, const Inputs& gg) const {
    const Buffer ggx = Cast(gg.x), ggw = Cast(gg.weight), ggb = Cast(gg.bias), ggg = Cast(gg.gamma),
                 ggbeta = Cast(gg.beta);
    Buffer ggo(out.size()), gx(x.size()), gw(weight.size()), gb(bias.size()), g(gamma.size());
    Buffer grad_y(s.thin ? 0 : kept.size());
    kernels.double_backward({s,
                             Saved(),
                             grad_out.data(),
                             ggx.data(),
                             {ggw.data(), s.WeightSize()},
                             {ggb.data(), s.out_channels},
                             {ggg.data(), s.out_channels},
                             {ggbeta.data(), s.out_channels},
                             ggo.data(),
                             gx.data(),
                             gw.data(),
                             g.data(),
                             s.thin ? nullptr : grad_y.data()},
                            pool);
    Values direct = Join({&ggo, &gx, &gw, &gb, &g});
    if (s.thin) return direct;
    const Values through_y = Backward(Buffer(out.size()), grad_y.data());
    for (size_t i = 0; i < gx.size() + gw.size() + gb.size(); ++i) direct[out.size() + i] += through_y[i];
    return direct;
  }
};

inline void CheckAgainstDifferences(const ConvBlockShape& s, const CpuKernels& kernels, int64_t threads) {
  const Inputs in = RandomInputs(s, 1), direction = RandomInputs(s, 11), gg = RandomInputs(s, 21);
  const Run<double> run(s, kernels, threads, in);
  const Values plain = PlainForward(s, in).out;
  for (size_t i = 0; i < plain.size(); ++i) CheckClose(run.out[i], plain[i], 1e-11);

  const Values grad_out = Random(static_cast<int64_t>(plain.size()), 31);
  auto loss = [&](const Inputs& at) { return Dot(PlainForward(s, at).out, grad_out); };
  auto join = [](Inputs parts) {
    return Run<double>::Join({&parts.x, &parts.weight, &parts.bias, &parts.gamma, &parts.beta});
  };
  CheckClose(Dot(run.Backward(grad_out), join(direction)), Slope(in, direction, loss), 1e-6);

  // <gg, backward> has as its derivative along `direction` what double backward says, all but its first part ...
  auto along = [&](const Inputs& at) { return Dot(Run<double>(s, kernels, threads, at).Backward(grad_out), join(gg)); };
  const Values second = run.DoubleBackward(grad_out, gg);
  Values moved(plain.size(), 0.0);
  const Values rest = Run<double>::Join({&direction.x, &direction.weight, &direction.bias, &direction.gamma});
  moved.insert(moved.end(), rest.begin(), rest.end());
  CheckClose(Dot(second, moved), Slope(in, direction, along), 1e-6);

  // ... which is linear in grad_out: <gg, backward(other)> = <grad_grad_out, other>.
  const Values other = Random(static_cast<int64_t>(plain.size()), 41);
  const Values first(second.begin(), second.begin() + static_cast<int64_t>(plain.size()));
  CheckClose(Dot(first, other), Dot(run.Backward(other), join(gg)), 1e-9);
}

template <typename Scalar>
void CheckThreadsAgree(const ConvBlockShape& s, const CpuKernels& kernels) {
  const Inputs in = RandomInputs(s, 1), gg = RandomInputs(s, 21);
  const Values grad = Random(s.tasks * s.batch * s.OutPixels() * s.out_channels, 31);
  const std::vector<Scalar> grad_out(grad.begin(), grad.end());
  const Run<Scalar> one(s, kernels, 1, in);
  const Values backward = one.Backward(grad_out), second = one.DoubleBackward(grad_out, gg);
  for (const int64_t threads : {2, 3, 5}) {
    const Run<Scalar> many(s, kernels, threads, in);
    CHECK(many.out == one.out && many.kept == one.kept && many.argmax == one.argmax);
    CHECK(many.Backward(grad_out) == backward);
    CHECK(many.DoubleBackward(grad_out, gg) == second);
  }
}

// Null outputs and inputs are what they say: not asked for, and zero.
inline void CheckNulls(const ConvBlockShape& s, const CpuKernels& kernels) {
  const Run<double> run(s, kernels, 2, RandomInputs(s, 1));
  const Values grad_out = Random(static_cast<int64_t>(run.out.size()), 31);
  Values gw(run.weight.size()), gb(run.bias.size()), gg(run.gamma.size()), gbeta(run.beta.size()), ggo(run.out.size()),
      grad_y(run.s.thin ? 0 : run.kept.size());
  kernels.f64.backward(
      {s, run.Saved(), grad_out.data(), nullptr, nullptr, gw.data(), gb.data(), gg.data(), gbeta.data()}, run.pool);
  const Values all = run.Backward(grad_out), some = Run<double>::Join({&gw, &gb, &gg, &gbeta});
  for (size_t i = 0; i < some.size(); ++i) CheckClose(some[i], all[all.size() - some.size() + i], 1e-12);
  kernels.f64.double_backward({s,
                               run.Saved(),
                               grad_out.data(),
                               nullptr,
                               {},
                               {},
                               {},
                               {},
                               ggo.data(),
                               nullptr,
                               gw.data(),
                               gg.data(),
                               grad_y.data()},
                              run.pool);
  for (const Values* zeros : {&ggo, &gw, &gg, &grad_y}) {
    for (const double v : *zeros) CHECK_EQ(v, 0.0);
  }
}

}  // namespace maml_fast
