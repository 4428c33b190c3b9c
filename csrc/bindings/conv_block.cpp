// The conv block's operators: their schemas, and their implementation for the CPU.
#include "bindings/conv_block_op.h"
#include "cpu/dispatch.h"

namespace maml_fast {
namespace {

struct Cpu {
  static ConvBlockShape ShapeOf(const ConvBlockShape& shape) { return shape; }
  static Tensor Empty(const Tensor&, const Sizes& sizes, ScalarType dtype) { return maml_fast::Empty(sizes, dtype); }
  template <typename Scalar>
  static void Forward(const ConvBlockForwardArgs<Scalar>& args, const Tensor&, int64_t) {
    Kernels().Of<Scalar>().forward(args, TorchPool());
  }
  template <typename Scalar>
  static void Backward(const ConvBlockBackwardArgs<Scalar>& args, const Tensor&, int64_t) {
    STD_TORCH_CHECK(args.more_x == nullptr && args.more_weight == nullptr && args.more_gamma == nullptr,
                    "only a GPU adds other gradients to those of a block; add them to the results");
    Kernels().Of<Scalar>().backward(args, TorchPool());
  }
  template <typename Scalar>
  static void DoubleBackward(const ConvBlockDoubleBackwardArgs<Scalar>& args, const Tensor&, int64_t) {
    Kernels().Of<Scalar>().double_backward(args, TorchPool());
  }
};

}  // namespace

STABLE_TORCH_LIBRARY(maml_fast, m) {
  m.def(
      "conv_block_forward(Tensor x, Tensor weight, Tensor? bias, Tensor? gamma, Tensor? beta, int stride, int padding, "
      "bool pool, float eps, bool relu_first, int arithmetic, Tensor(a!)? moments=None, bool moments_known=False) -> "
      "(Tensor out, Tensor kept, Tensor mean, Tensor rstd, Tensor argmax)");
  m.def(
      "conv_block_backward(Tensor grad_out, Tensor? grad_y, Tensor x, Tensor weight, Tensor? gamma, Tensor kept, "
      "Tensor mean, Tensor rstd, Tensor argmax, int stride, int padding, bool pool, float eps, bool relu_first, "
      "int arithmetic, bool needs_grad_x, Tensor? more_x=None, Tensor? more_weight=None, Tensor? more_gamma=None) -> "
      "(Tensor grad_x, Tensor grad_weight, Tensor grad_bias, Tensor grad_gamma, Tensor grad_beta)");
  m.def(
      "conv_block_double_backward(Tensor? gg_x, Tensor? gg_weight, Tensor? gg_bias, Tensor? gg_gamma, Tensor? gg_beta, "
      "Tensor grad_out, Tensor x, Tensor weight, Tensor? gamma, Tensor kept, Tensor mean, Tensor rstd, Tensor argmax, "
      "int stride, int padding, bool pool, float eps, bool relu_first, int arithmetic, bool needs_grad_x) -> "
      "(Tensor grad_grad_out, Tensor grad_x, Tensor grad_weight, Tensor grad_gamma, Tensor grad_y)");
}

STABLE_TORCH_LIBRARY_IMPL(maml_fast, CPU, m) {
  m.impl("conv_block_forward", TORCH_BOX(&Forward<Cpu>));
  m.impl("conv_block_backward", TORCH_BOX(&Backward<Cpu>));
  m.impl("conv_block_double_backward", TORCH_BOX(&DoubleBackward<Cpu>));
}

}  // namespace maml_fast
