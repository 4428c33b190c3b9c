// Whole inner loops of conv nets, as a private torch operator. Its only caller is maml_fast/ops/_inner_loops.py.
#include "core/inner_loop.h"

#include <torch/csrc/stable/library.h>

#include <vector>

#include "bindings/loops.h"
#include "bindings/tensors.h"
#include "cpu/dispatch.h"
#include "cpu/inner_loop/inner_loops.h"

namespace maml_fast {
namespace {

// The numbers that describe a block: out_channels, kernel, stride, padding, pool, relu_first, has_bias, has_gamma,
// has_beta.
constexpr size_t kNumbersOfBlock = 9;

ConvBlockShape BlockShape(const int64_t* numbers, double eps, int64_t channels, int64_t height, int64_t width) {
  ConvBlockShape s{};
  s.in_channels = channels;
  s.in_height = height;
  s.in_width = width;
  s.out_channels = numbers[0];
  s.kernel = numbers[1];
  s.stride = numbers[2];
  s.padding = numbers[3];
  s.pool = numbers[4] != 0;
  s.relu_first = numbers[5] != 0;
  s.eps = eps;
  s.tasks = s.batch = 1;
  return Derived(s);
}

// head: mean_over_pixels, classes, has_bias.
ConvNet Net(const Tensor& x, const Integers& blocks, const Floats& eps, const Integers& head) {
  STD_TORCH_CHECK(!eps.empty() && blocks.size() == eps.size() * kNumbersOfBlock && head.size() == 3 && head[1] >= 1,
                  "the description of the net is incomplete");
  ConvNet net;
  int64_t channels = x.size(2), height = x.size(3), width = x.size(4);
  for (size_t l = 0; l < eps.size(); ++l) {
    const int64_t* numbers = blocks.data() + l * kNumbersOfBlock;
    const ConvBlockShape shape = BlockShape(numbers, eps[l], channels, height, width);
    net.AppendBlock(shape, numbers[6] != 0, numbers[7] != 0, numbers[8] != 0);
    channels = shape.out_channels;
    height = shape.out_height;
    width = shape.out_width;
  }
  net.AppendClassifier(head[0] != 0, head[1], head[2] != 0);
  return net;
}

// The shapes of the parameters in PyTorch, in the order of net.places.
std::vector<Sizes> ParameterSizes(const ConvNet& net) {
  std::vector<Sizes> sizes;
  for (const ConvNet::Block& block : net.blocks) {
    const ConvBlockShape& s = block.shape;
    sizes.push_back({s.out_channels, s.in_channels, s.kernel, s.kernel});
    for (const Place& place : {block.bias, block.gamma, block.beta}) {
      if (place.Present()) sizes.push_back({s.out_channels});
    }
  }
  sizes.push_back({net.classes, net.Features()});
  if (net.classifier_bias.Present()) sizes.push_back({net.classes});
  return sizes;
}

// Returns the data of x_spt or x_qry, after checking its sizes (with any number of images) and that it is finite.
template <typename Scalar>
const Scalar* Pixels(const Tensor& t, const char* name, const Tensor& like) {
  const Sizes sizes{like.size(0), t.size(1), like.size(2), like.size(3), like.size(4)};
  CheckSizes(t, name, sizes, like);
  return Finite<Scalar>(t, name, t.numel(), like);
}

LoopTensors InnerLoops(Tensors theta, Tensor x_spt, Tensor y_spt, Tensor x_qry, Tensor y_qry, Integers blocks,
                       Floats eps, Integers head, Tensors rates, Bools rate_needs_gradient, Integers scored,
                       Floats step_weights, int64_t steps, bool second_order, int64_t tasks_at_once, int64_t steps_kept,
                       bool needs_gradient) {
  STD_TORCH_CHECK(x_spt.dim() == 5 && x_qry.dim() == 5, "images must be [T, N, C, H, W]");
  const ConvNet net = Net(x_spt, blocks, eps, head);
  const int64_t tasks = x_spt.size(0), n_support = x_spt.size(1), n_query = x_qry.size(1);
  STD_TORCH_CHECK(tasks >= 1 && n_support >= 1 && n_query >= 1, "there are no tasks or no images");
  STD_TORCH_CHECK(theta.size() == net.places.size(), "theta must have one tensor for each parameter of the net");
  const LoopOptions options{rate_needs_gradient, scored,        step_weights, steps,
                            second_order,        tasks_at_once, steps_kept,   needs_gradient};
  options.Check(theta.size(), rates.size());
  const std::vector<Sizes> sizes = ParameterSizes(net);
  const Integers of_support = Labels(y_spt, "y_spt", tasks, n_support, net.classes);
  const Integers of_queries = Labels(y_qry, "y_qry", tasks, n_query, net.classes);
  return WithScalar(x_spt, [&](auto zero) -> LoopTensors {
    using Scalar = decltype(zero);
    Loops<Scalar> loops(options, theta, sizes, rates, x_spt);
    RunInnerLoops(
        loops.Args(net, Pixels<Scalar>(x_spt, "x_spt", x_spt), Pixels<Scalar>(x_qry, "x_qry", x_spt), n_support,
                   n_query, {of_support.data(), nullptr}, {of_queries.data(), nullptr}, n_support, n_query),
        net, Kernels().Of<Scalar>(), LoopPool());
    return loops.Results(Counted(of_queries, tasks));
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(maml_fast, m) {
  m.def(
      "inner_loops(Tensor[] theta, Tensor x_spt, Tensor y_spt, Tensor x_qry, Tensor y_qry, int[] blocks, float[] eps, "
      "int[] head, Tensor[] rates, bool[] rate_needs_gradient, int[] scored, float[] step_weights, int steps, "
      "bool second_order, int tasks_at_once, int steps_kept, bool needs_gradient) "
      "-> (Tensor objective, Tensor losses, Tensor correct, Tensor predictions, Tensor[] gradient, Tensor[] "
      "rate_gradient)");
}

STABLE_TORCH_LIBRARY_IMPL(maml_fast, CPU, m) { m.impl("inner_loops", TORCH_BOX(&InnerLoops)); }

}  // namespace maml_fast
