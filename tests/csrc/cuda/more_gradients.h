// Other gradients that a block's backward pass is given: it adds each of them once to its own.
#pragma once

#include "block_checks.h"

namespace maml_fast {

// of_pixels: grad_x is wanted.
inline void CheckMoreGradients(const ConvBlockShape& s, const CpuKernels& kernels, bool of_pixels) {
  const Run<double> run(s, kernels, 1, RandomInputs(s, 1));
  const Values grad_out = Random(static_cast<int64_t>(run.out.size()), 31);
  const Inputs more = RandomInputs(s, 41);
  const auto backward = [&](const double* more_x, const double* more_weight, const double* more_gamma) {
    Values gx(of_pixels ? run.x.size() : 0), gw(run.weight.size()), gb(run.bias.size()), gg(run.gamma.size()),
        gbeta(run.beta.size());
    kernels.f64.backward({s, run.Saved(), grad_out.data(), nullptr, of_pixels ? gx.data() : nullptr, gw.data(),
                          gb.data(), gg.data(), gbeta.data(), more_x, more_weight, more_gamma},
                         run.pool);
    return Run<double>::Join({&gx, &gw, &gb, &gg, &gbeta});
  };
  const Values alone = backward(nullptr, nullptr, nullptr), none(run.bias.size(), 0.0);
  const Values pixels = of_pixels ? more.x : Values{};
  const Values given = Run<double>::Join({&pixels, &more.weight, &none, &more.gamma, &none});
  const Values together = backward(of_pixels ? more.x.data() : nullptr, more.weight.data(), more.gamma.data());
  for (size_t i = 0; i < alone.size(); ++i) CheckClose(together[i], alone[i] + given[i], 1e-12);
}

}  // namespace maml_fast
