// The passes of a thin block for the rare case that the gradient of its pixels is wanted (grad_x) or given (gg_x),
// which is not worth closed forms: they recompute y and run the ordinary passes.
#pragma once

#include <memory>

#include "cpu/passes/backward.h"
#include "cpu/passes/double_backward.h"
#include "cpu/passes/forward.h"
#include "cpu/thin/algebra.h"

namespace maml_fast {
namespace {

template <typename Scalar>
using Buffer = std::unique_ptr<Scalar[]>;

template <typename Scalar>
Buffer<Scalar> MakeBuffer(int64_t size) {
  return Buffer<Scalar>(new Scalar[static_cast<size_t>(size)]);
}

// Returns the bias, which was not saved, from the saved statistics: mean = w . mean patch + bias.
template <typename Scalar>
Buffer<Scalar> BiasFromMean(const ConvBlockShape& s, const ConvBlockSaved<Scalar>& saved) {
  Buffer<Scalar> bias = MakeBuffer<Scalar>(s.tasks * s.out_channels);
  const Buffer<double> weight = MakeBuffer<double>(s.WeightSize()), center = MakeBuffer<double>(s.out_channels);
  for (int64_t task = 0; task < s.tasks; ++task) {
    ToDouble(saved.weight.Of(task), s.WeightSize(), weight.get());
    TimesPatch(s, saved.kept + task * s.KeptSize(), weight.get(), center.get());
    for (int64_t c = 0; c < s.out_channels; ++c) {
      bias[task * s.out_channels + c] = static_cast<Scalar>(saved.mean[task * s.out_channels + c] - center[c]);
    }
  }
  return bias;
}

template <typename Scalar>
Buffer<Scalar> ComputeYAgain(const ConvBlockShape& s, const ConvBlockSaved<Scalar>& saved, const Pool& pool) {
  const int64_t outputs = s.OutImage(s.tasks, 0), channels = s.tasks * s.out_channels;
  const Buffer<Scalar> bias = BiasFromMean(s, saved), out = MakeBuffer<Scalar>(outputs);
  const Buffer<Scalar> mean = MakeBuffer<Scalar>(channels), rstd = MakeBuffer<Scalar>(channels);
  const Buffer<uint8_t> argmax = MakeBuffer<uint8_t>(outputs);
  Buffer<Scalar> y = MakeBuffer<Scalar>(s.ConvImage(s.tasks, 0));
  const ConvBlockForwardArgs<Scalar> args{s,          saved.x,    saved.weight, {bias.get(), s.out_channels},
                                          {},         {},         out.get(),    y.get(),
                                          mean.get(), rstd.get(), argmax.get()};
  ArenaScope arena;
  RunPass(ForwardPass<Scalar>(args, arena), s, pool);
  return y;
}

template <typename Scalar>
void BackwardOnPixels(ConvBlockBackwardArgs<Scalar> args, const Pool& pool) {
  const Buffer<Scalar> y = ComputeYAgain(args.shape, args.saved, pool);
  args.saved.kept = y.get();
  ArenaScope arena;
  RunPass(BackwardPass<Scalar>(args, arena), args.shape, pool);
}

// Computes both parts of the second derivative: the direct part at x and weight, and the part that reaches them through
// y.
template <typename Scalar>
void DoubleBackwardOnPixels(ConvBlockDoubleBackwardArgs<Scalar> args, const Pool& pool) {
  const ConvBlockShape& s = args.shape;
  const int64_t outputs = s.OutImage(s.tasks, 0), channels = s.tasks * s.out_channels;
  const int64_t inputs = s.InImage(s.tasks, 0), weights = s.tasks * s.WeightSize();
  const Buffer<Scalar> y = ComputeYAgain(s, args.saved, pool);
  const Buffer<Scalar> grad_y = MakeBuffer<Scalar>(s.ConvImage(s.tasks, 0));
  args.saved.kept = y.get();
  args.grad_y = grad_y.get();
  ArenaScope arena;
  RunPass(DoubleBackwardPass<Scalar>(args, arena), s, pool);

  const Buffer<Scalar> no_grad_out(new Scalar[static_cast<size_t>(outputs)]());
  const Buffer<Scalar> grad_x = MakeBuffer<Scalar>(inputs), grad_weight = MakeBuffer<Scalar>(weights);
  const Buffer<Scalar> rest = MakeBuffer<Scalar>(3 * channels);
  const ConvBlockBackwardArgs<Scalar> through_y{s,
                                                args.saved,
                                                no_grad_out.get(),
                                                grad_y.get(),
                                                args.grad_x == nullptr ? nullptr : grad_x.get(),
                                                grad_weight.get(),
                                                rest.get(),
                                                rest.get() + channels,
                                                rest.get() + 2 * channels};
  RunPass(BackwardPass<Scalar>(through_y, arena), s, pool);
  for (int64_t i = 0; args.grad_x != nullptr && i < inputs; ++i) args.grad_x[i] += grad_x[i];
  for (int64_t i = 0; i < weights; ++i) args.grad_weight[i] += grad_weight[i];
}

}  // namespace
}  // namespace maml_fast
