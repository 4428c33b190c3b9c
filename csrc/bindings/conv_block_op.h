// The conv block as private torch operators, for any device. Autograd is implemented in maml_fast/ops/_conv_block.py,
// not here. Tensors are channels-last and dense, parameters are dense within a task. Uses torch's stable ABI, which
// compiles in a second.
//
// A Device has: ShapeOf(shape), which may check or change the shape; Empty(like, sizes, dtype); and Forward, Backward
// and DoubleBackward, which take the arguments, x (for its device), and the arithmetic (see conv_block_cuda.cpp).
#pragma once

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "bindings/tensors.h"
#include "core/conv_block.h"

namespace maml_fast {
namespace {

template <class Device>
ConvBlockShape Shape(const Tensor& x, const Tensor& weight, int64_t stride, int64_t padding, bool pool, double eps,
                     bool relu_first) {
  STD_TORCH_CHECK(x.dim() == 5 && weight.dim() == 5, "x must be [T, B, H, W, Cin] and weight [T, k, k, Cin, Cout]");
  ConvBlockShape s{};
  s.tasks = x.size(0);
  s.batch = x.size(1);
  s.in_height = x.size(2);
  s.in_width = x.size(3);
  s.in_channels = x.size(4);
  s.out_channels = weight.size(4);
  s.kernel = weight.size(1);
  s.stride = stride;
  s.padding = padding;
  s.pool = pool;
  s.eps = eps;
  s.relu_first = relu_first;
  return Device::ShapeOf(Derived(s));
}

template <typename Scalar, typename T>
const Scalar* AtY(const ConvBlockShape& s, const T& t, const char* name, const Tensor& x) {
  return Dense<Scalar>(t, name, {s.tasks, s.batch, s.conv_height, s.conv_width, s.out_channels}, x);
}

// y, or a thin block's patch moments [T, P (P + 1)].
template <class Device>
Tensor EmptyKept(const ConvBlockShape& s, const Tensor& x) {
  if (s.thin) return Device::Empty(x, {s.tasks, s.KeptSize()}, x.scalar_type());
  return Device::Empty(x, {s.tasks, s.batch, s.conv_height, s.conv_width, s.out_channels}, x.scalar_type());
}

template <typename Scalar>
const Scalar* Kept(const ConvBlockShape& s, const Tensor& kept, const Tensor& x) {
  if (s.thin) return Dense<Scalar>(kept, "kept", {s.tasks, s.KeptSize()}, x);
  return AtY<Scalar>(s, kept, "kept", x);
}

// The patch moments of a thin block's images, which forward fills, or reads if they are known; null if not given.
inline double* Moments(const ConvBlockShape& s, const MaybeTensor& moments, const Tensor& x) {
  if (!moments.has_value()) return nullptr;
  STD_TORCH_CHECK(s.thin, "moments are of a thin block");
  STD_TORCH_CHECK(moments->scalar_type() == ScalarType::Double && moments->device() == x.device() &&
                      moments->is_contiguous() && moments->numel() == s.tasks * s.KeptSize(),
                  "moments must be float64, [T, P (P + 1)] for patches of P values, on the device of x");
  return Data<double>(*moments);
}

using ForwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class Device>
ForwardResult Forward(Tensor x, Tensor weight, MaybeTensor bias, MaybeTensor gamma, MaybeTensor beta, int64_t stride,
                      int64_t padding, bool pool, double eps, bool relu_first, int64_t arithmetic, MaybeTensor moments,
                      bool moments_known) {
  const ConvBlockShape s = Shape<Device>(x, weight, stride, padding, pool, eps, relu_first);
  STD_TORCH_CHECK(moments.has_value() || !moments_known, "moments that are known must be given");
  const ScalarType dtype = x.scalar_type();
  const Tensor out = Device::Empty(x, {s.tasks, s.batch, s.out_height, s.out_width, s.out_channels}, dtype);
  const Tensor kept = EmptyKept<Device>(s, x);
  const Tensor mean = Device::Empty(x, {s.tasks, s.out_channels}, dtype),
               rstd = Device::Empty(x, {s.tasks, s.out_channels}, dtype);
  const Tensor argmax =
      Device::Empty(x, {s.tasks, s.batch, s.out_height, s.out_width, s.out_channels}, ScalarType::Byte);
  return WithScalar(x, [&](auto zero) -> ForwardResult {
    using Scalar = decltype(zero);
    const Sizes channels = {s.tasks, s.out_channels};
    const ConvBlockForwardArgs<Scalar> args{
        s,
        Dense<Scalar>(x, "x", {s.tasks, s.batch, s.in_height, s.in_width, s.in_channels}, x),
        Param<Scalar>(weight, "weight", {s.tasks, s.kernel, s.kernel, s.in_channels, s.out_channels}, x),
        Param<Scalar>(bias, "bias", channels, x),
        Param<Scalar>(gamma, "gamma", channels, x),
        Param<Scalar>(beta, "beta", channels, x),
        Data<Scalar>(out),
        Data<Scalar>(kept),
        Data<Scalar>(mean),
        Data<Scalar>(rstd),
        Data<uint8_t>(argmax),
        Moments(s, moments, x),
        moments_known};
    Device::Forward(args, x, arithmetic);
    return {out, kept, mean, rstd, argmax};
  });
}

template <typename Scalar>
ConvBlockSaved<Scalar> Saved(const ConvBlockShape& s, const Tensor& x, const Tensor& weight, const MaybeTensor& gamma,
                             const Tensor& kept, const Tensor& mean, const Tensor& rstd, const Tensor& argmax) {
  STD_TORCH_CHECK(argmax.scalar_type() == ScalarType::Byte && argmax.is_contiguous() && argmax.device() == x.device() &&
                      argmax.numel() == s.tasks * s.batch * s.OutPixels() * s.out_channels,
                  "argmax must be the one that forward returned");
  return {Dense<Scalar>(x, "x", {s.tasks, s.batch, s.in_height, s.in_width, s.in_channels}, x),
          Param<Scalar>(weight, "weight", {s.tasks, s.kernel, s.kernel, s.in_channels, s.out_channels}, x),
          Param<Scalar>(gamma, "gamma", {s.tasks, s.out_channels}, x),
          Kept<Scalar>(s, kept, x),
          Dense<Scalar>(mean, "mean", {s.tasks, s.out_channels}, x),
          Dense<Scalar>(rstd, "rstd", {s.tasks, s.out_channels}, x),
          static_cast<const uint8_t*>(argmax.data_ptr())};
}

template <typename Scalar>
const Scalar* GradOut(const ConvBlockShape& s, const Tensor& grad_out, const Tensor& x) {
  return Dense<Scalar>(grad_out, "grad_out", {s.tasks, s.batch, s.out_height, s.out_width, s.out_channels}, x);
}

// grad_x, or an empty tensor if it is not wanted.
template <class Device>
Tensor EmptyGradX(const ConvBlockShape& s, bool needed, const Tensor& x) {
  if (!needed) return Device::Empty(x, {0}, x.scalar_type());
  return Device::Empty(x, {s.tasks, s.batch, s.in_height, s.in_width, s.in_channels}, x.scalar_type());
}

using BackwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class Device>
BackwardResult Backward(Tensor grad_out, MaybeTensor grad_y, Tensor x, Tensor weight, MaybeTensor gamma, Tensor kept,
                        Tensor mean, Tensor rstd, Tensor argmax, int64_t stride, int64_t padding, bool pool, double eps,
                        bool relu_first, int64_t arithmetic, bool needs_grad_x, MaybeTensor more_x,
                        MaybeTensor more_weight, MaybeTensor more_gamma) {
  const ConvBlockShape s = Shape<Device>(x, weight, stride, padding, pool, eps, relu_first);
  STD_TORCH_CHECK(!s.thin || !grad_y.has_value(), "grad_y must be None for a thin block, which has no y");
  STD_TORCH_CHECK(needs_grad_x || !more_x.has_value(), "more_x must be None where grad_x is not needed");
  const ScalarType dtype = x.scalar_type();
  const Tensor grad_x = EmptyGradX<Device>(s, needs_grad_x, x);
  const Tensor grad_weight = Device::Empty(x, {s.tasks, s.kernel, s.kernel, s.in_channels, s.out_channels}, dtype);
  const Tensor grad_bias = Device::Empty(x, {s.tasks, s.out_channels}, dtype);
  const Tensor grad_gamma = Device::Empty(x, {s.tasks, s.out_channels}, dtype);
  const Tensor grad_beta = Device::Empty(x, {s.tasks, s.out_channels}, dtype);
  return WithScalar(x, [&](auto zero) -> BackwardResult {
    using Scalar = decltype(zero);
    const Sizes images = {s.tasks, s.batch, s.in_height, s.in_width, s.in_channels};
    const Sizes filters = {s.tasks, s.kernel, s.kernel, s.in_channels, s.out_channels};
    const ConvBlockBackwardArgs<Scalar> args{s,
                                             Saved<Scalar>(s, x, weight, gamma, kept, mean, rstd, argmax),
                                             GradOut<Scalar>(s, grad_out, x),
                                             AtY<Scalar>(s, grad_y, "grad_y", x),
                                             needs_grad_x ? Data<Scalar>(grad_x) : nullptr,
                                             Data<Scalar>(grad_weight),
                                             Data<Scalar>(grad_bias),
                                             Data<Scalar>(grad_gamma),
                                             Data<Scalar>(grad_beta),
                                             Dense<Scalar>(more_x, "more_x", images, x),
                                             Dense<Scalar>(more_weight, "more_weight", filters, x),
                                             Dense<Scalar>(more_gamma, "more_gamma", {s.tasks, s.out_channels}, x)};
    Device::Backward(args, x, arithmetic);
    return {grad_x, grad_weight, grad_bias, grad_gamma, grad_beta};
  });
}

using DoubleBackwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class Device>
DoubleBackwardResult DoubleBackward(MaybeTensor gg_x, MaybeTensor gg_weight, MaybeTensor gg_bias, MaybeTensor gg_gamma,
                                    MaybeTensor gg_beta, Tensor grad_out, Tensor x, Tensor weight, MaybeTensor gamma,
                                    Tensor kept, Tensor mean, Tensor rstd, Tensor argmax, int64_t stride,
                                    int64_t padding, bool pool, double eps, bool relu_first, int64_t arithmetic,
                                    bool needs_grad_x) {
  const ConvBlockShape s = Shape<Device>(x, weight, stride, padding, pool, eps, relu_first);
  const ScalarType dtype = x.scalar_type();
  const Tensor grad_grad_out = Device::Empty(x, {s.tasks, s.batch, s.out_height, s.out_width, s.out_channels}, dtype);
  const Tensor grad_x = EmptyGradX<Device>(s, needs_grad_x, x);
  const Tensor grad_weight = Device::Empty(x, {s.tasks, s.kernel, s.kernel, s.in_channels, s.out_channels}, dtype);
  const Tensor grad_gamma = Device::Empty(x, {s.tasks, s.out_channels}, dtype);
  const Tensor grad_y = s.thin ? Device::Empty(x, {0}, dtype) : EmptyKept<Device>(s, x);
  return WithScalar(x, [&](auto zero) -> DoubleBackwardResult {
    using Scalar = decltype(zero);
    const Sizes channels = {s.tasks, s.out_channels};
    const ConvBlockDoubleBackwardArgs<Scalar> args{
        s,
        Saved<Scalar>(s, x, weight, gamma, kept, mean, rstd, argmax),
        GradOut<Scalar>(s, grad_out, x),
        Dense<Scalar>(gg_x, "gg_x", {s.tasks, s.batch, s.in_height, s.in_width, s.in_channels}, x),
        Param<Scalar>(gg_weight, "gg_weight", {s.tasks, s.kernel, s.kernel, s.in_channels, s.out_channels}, x),
        Param<Scalar>(gg_bias, "gg_bias", channels, x),
        Param<Scalar>(gg_gamma, "gg_gamma", channels, x),
        Param<Scalar>(gg_beta, "gg_beta", channels, x),
        Data<Scalar>(grad_grad_out),
        needs_grad_x ? Data<Scalar>(grad_x) : nullptr,
        Data<Scalar>(grad_weight),
        Data<Scalar>(grad_gamma),
        s.thin ? nullptr : Data<Scalar>(grad_y)};
    Device::DoubleBackward(args, x, arithmetic);
    return {grad_grad_out, grad_x, grad_weight, grad_gamma, grad_y};
  });
}

}  // namespace
}  // namespace maml_fast
