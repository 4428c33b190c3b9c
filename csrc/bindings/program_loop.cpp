// Whole inner loops of recorded models as a private torch operator; maml_fast/_inner_loops.py is its only caller.
#include <torch/csrc/stable/library.h>

#include <vector>

#include "bindings/loops.h"
#include "bindings/tensors.h"
#include "core/inner_loop.h"
#include "core/program.h"
#include "core/program_check.h"
#include "cpu/dispatch.h"
#include "cpu/inner_loop/inner_loops.h"

namespace maml_fast {
namespace {

// Reads a program from numbers, one after the other.
class Reader {
 public:
  Reader(const Integers& numbers, const Floats& factors) : numbers_(numbers), factors_(factors) {}

  int64_t Next() {
    STD_TORCH_CHECK(at_ < numbers_.size(), "the program is incomplete");
    return numbers_[at_++];
  }
  Integers Next(int64_t count) {
    STD_TORCH_CHECK(count >= 0, "the program is incomplete");
    Integers numbers;
    for (int64_t i = 0; i < count; ++i) numbers.push_back(Next());
    return numbers;
  }
  Floats NextFactors(int64_t count) {
    const auto first = factors_.begin() + static_cast<int64_t>(factor_);
    factor_ += static_cast<size_t>(count);
    STD_TORCH_CHECK(count >= 0 && factor_ <= factors_.size(), "the program is incomplete");
    return {first, first + count};
  }
  bool AtEnd() const { return at_ == numbers_.size() && factor_ == factors_.size(); }

 private:
  const Integers& numbers_;
  const Floats& factors_;
  size_t at_ = 0, factor_ = 0;
};

// parameters, output, sizes of all buffers, and of every operation kind, operands, result, numbers and factors.
Program ReadProgram(const Integers& numbers, const Floats& factors) {
  Reader reader(numbers, factors);
  Program program;
  program.parameters = reader.Next();
  program.output = reader.Next();
  program.sizes = reader.Next(reader.Next());
  auto is_buffer = [&](int64_t buffer) { return buffer >= 0 && buffer < program.Buffers(); };
  STD_TORCH_CHECK(is_buffer(program.Input()) && is_buffer(program.output), "the program has no input or no output");
  for (int64_t left = reader.Next(); left > 0; --left) {
    Operation op{};
    op.kind = static_cast<OperationKind>(reader.Next());
    STD_TORCH_CHECK(op.kind >= OperationKind::kCopy && op.kind < OperationKind::kCount, "there is no such operation");
    for (int64_t& operand : op.operands) {
      operand = reader.Next();
      STD_TORCH_CHECK(operand == kAbsent || is_buffer(operand), "an operand is no buffer");
    }
    op.result = reader.Next();
    STD_TORCH_CHECK(is_buffer(op.result) && op.result > program.Input(), "a result is no buffer to write to");
    op.numbers = reader.Next(reader.Next());
    op.factors = reader.NextFactors(reader.Next());
    program.operations.push_back(op);
  }
  STD_TORCH_CHECK(reader.AtEnd(), "the program is followed by something");
  const int64_t misfit = FirstMisfit(program);
  STD_TORCH_CHECK(misfit < 0, "operation ", misfit, " does not fit its buffers");
  return program;
}

// count, a, b and c of every parameter's layout.
Parameters ReadLayouts(const Integers& layouts) {
  Parameters parameters;
  for (size_t i = 0; i + 4 <= layouts.size(); i += 4) {
    parameters.Append({layouts[i], layouts[i + 1], layouts[i + 2], layouts[i + 3]});
  }
  return parameters;
}

// The shapes of the parameters, without the dimension of steps, which comes first where there is one.
std::vector<Sizes> SizesOf(const Tensors& theta, const Parameters& parameters) {
  std::vector<Sizes> sizes;
  for (size_t p = 0; p < theta.size(); ++p) {
    Sizes of;
    const bool of_steps = theta[p].numel() != parameters.places[p].size;
    for (int64_t dim = of_steps ? 1 : 0; dim < theta[p].dim(); ++dim) of.push_back(theta[p].size(dim));
    sizes.push_back(of);
  }
  return sizes;
}

LoopTensors ProgramLoops(Tensors theta, Tensor x_spt, Tensor y_spt, Tensor x_qry, Tensor y_qry, Integers layouts,
                         Integers support, Floats support_factors, Integers query, Floats query_factors, Integers loss,
                         double smoothing, Tensors rates, Bools rate_needs_gradient, Integers scored,
                         Floats step_weights, int64_t steps, bool second_order, int64_t tasks_at_once,
                         int64_t steps_kept, bool needs_gradient) {
  const Parameters parameters = ReadLayouts(layouts);
  const Program of_support = ReadProgram(support, support_factors), of_queries = ReadProgram(query, query_factors);
  STD_TORCH_CHECK(theta.size() == parameters.places.size() && of_support.parameters == of_queries.parameters &&
                      static_cast<size_t>(of_support.parameters) == theta.size(),
                  "every parameter needs a value and a layout");
  STD_TORCH_CHECK(loss.size() == 2 && x_spt.dim() >= 2 && x_spt.size(0) >= 1,
                  "there is no loss, or there are no tasks");
  const LoopOptions options{rate_needs_gradient, scored,        step_weights, steps,
                            second_order,        tasks_at_once, steps_kept,   needs_gradient};
  options.Check(theta.size(), rates.size());
  const Model model{of_support, of_queries, {static_cast<LossName>(loss[0]), loss[1], smoothing}};
  const int64_t tasks = x_spt.size(0), classes = model.loss.classes;
  const bool has_labels = model.loss.name == LossName::kCrossEntropy;
  auto targets_of = [&](const Program& program) {
    return has_labels ? program.sizes[program.output] / classes : program.sizes[program.output];
  };
  const int64_t n_support = targets_of(of_support), n_query = targets_of(of_queries);
  Integers labels_spt, labels_qry;
  if (has_labels) {
    STD_TORCH_CHECK(classes >= 1, "there are no classes");
    labels_spt = Labels(y_spt, "y_spt", tasks, n_support, classes);
    labels_qry = Labels(y_qry, "y_qry", tasks, n_query, classes);
  }
  return WithScalar(x_spt, [&](auto zero) -> LoopTensors {
    using Scalar = decltype(zero);
    Loops<Scalar> loops(options, theta, SizesOf(theta, parameters), rates, x_spt);
    auto inputs = [&](const Tensor& t, const char* name, const Program& program) {
      return Finite<Scalar>(t, name, tasks * program.sizes[program.Input()], x_spt);
    };
    auto targets = [&](const Tensor& t, const char* name, const Integers& labels, int64_t of_task) {
      if (has_labels) return Targets<Scalar>{labels.data(), nullptr};
      return Targets<Scalar>{nullptr, Finite<Scalar>(t, name, tasks * of_task, x_spt)};
    };
    RunInnerLoops(loops.Args(parameters, inputs(x_spt, "x_spt", of_support), inputs(x_qry, "x_qry", of_queries),
                             n_support, n_query, targets(y_spt, "y_spt", labels_spt, n_support),
                             targets(y_qry, "y_qry", labels_qry, n_query), n_support, n_query),
                  model, Kernels().Of<Scalar>(), TorchPool());
    return loops.Results(has_labels ? Counted(labels_qry, tasks) : torch::stable::empty({0}, ScalarType::Long));
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(maml_fast, m) {
  m.def(
      "program_loops(Tensor[] theta, Tensor x_spt, Tensor y_spt, Tensor x_qry, Tensor y_qry, int[] layouts, "
      "int[] support, float[] support_factors, int[] query, float[] query_factors, int[] loss, float smoothing, "
      "Tensor[] rates, bool[] rate_needs_gradient, int[] scored, float[] step_weights, int steps, bool second_order, "
      "int tasks_at_once, int steps_kept, bool needs_gradient) "
      "-> (Tensor objective, Tensor losses, Tensor correct, Tensor predictions, Tensor[] gradient, Tensor[] "
      "rate_gradient)");
}

STABLE_TORCH_LIBRARY_IMPL(maml_fast, CPU, m) { m.impl("program_loops", TORCH_BOX(&ProgramLoops)); }

}  // namespace maml_fast
