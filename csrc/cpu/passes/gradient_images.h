// What both backward passes read of one task's images.
#pragma once

#include "cpu/passes/norm_pool.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct GradientImages {
  const ConvBlockShape& s;
  const ConvBlockSaved<Scalar>& saved;
  const Scalar* grad_out;

  Norm<Scalar> NormOf(int64_t task) const {
    return {saved.mean + task * s.out_channels, saved.rstd + task * s.out_channels, saved.gamma.Of(task), nullptr};
  }

  ImageGradient<Scalar> Of(int64_t task, int64_t b) const {
    return {saved.kept + s.ConvImage(task, b), grad_out + s.OutImage(task, b), saved.argmax + s.OutImage(task, b)};
  }
};

}  // namespace
}  // namespace maml_fast
