// Whole inner loops of recorded models, as a private torch operator. Its only caller is maml_fast/ops/_inner_loops.py.
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

// Reads the numbers and factors of a program, one after another.
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

// Reads parameters, output, logits, classes, the sizes of all buffers, and for every operation its kind, operands,
// result, numbers and factors. Sizes, operations, numbers and factors are preceded by their count.
Program ReadProgram(const Integers& numbers, const Floats& factors) {
  Reader reader(numbers, factors);
  Program program;
  program.parameters = reader.Next();
  program.output = reader.Next();
  program.logits = reader.Next();
  program.classes = reader.Next();
  program.sizes = reader.Next(reader.Next());
  auto is_buffer = [&](int64_t buffer) { return buffer >= 0 && buffer < program.Buffers(); };
  STD_TORCH_CHECK(is_buffer(program.Targets()) && is_buffer(program.output) && program.sizes[program.output] == 1,
                  "the program has no inputs, or no output");
  STD_TORCH_CHECK(program.logits == kAbsent || (is_buffer(program.logits) && program.classes >= 1 &&
                                                program.sizes[program.logits] % program.classes == 0),
                  "the program's logits do not match its number of classes");
  for (int64_t left = reader.Next(); left > 0; --left) {
    Operation op{};
    op.kind = static_cast<OperationKind>(reader.Next());
    STD_TORCH_CHECK(op.kind >= OperationKind::kCopy && op.kind < OperationKind::kCount,
                    "the program contains an unknown operation");
    for (int64_t& operand : op.operands) {
      operand = reader.Next();
      STD_TORCH_CHECK(operand == kAbsent || is_buffer(operand), "an operand is not a buffer");
    }
    op.result = reader.Next();
    STD_TORCH_CHECK(is_buffer(op.result) && op.result > program.Targets(),
                    "a result is not a buffer that may be written");
    op.numbers = reader.Next(reader.Next());
    op.factors = reader.NextFactors(reader.Next());
    program.operations.push_back(op);
  }
  STD_TORCH_CHECK(reader.AtEnd(), "the program is followed by unread numbers or factors");
  const int64_t misfit = FirstMisfit(program);
  STD_TORCH_CHECK(misfit < 0, "operation ", misfit, " does not match the sizes of its buffers");
  return program;
}

// layouts: count, a, b and c of every parameter's layout.
Parameters ReadLayouts(const Integers& layouts) {
  Parameters parameters;
  for (size_t i = 0; i + 4 <= layouts.size(); i += 4) {
    parameters.Append({layouts[i], layouts[i + 1], layouts[i + 2], layouts[i + 3]});
  }
  return parameters;
}

// The shapes of the parameters, without the dimension of steps, which comes first if there is one.
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

// Checked labels, or none, and the same labels, or target values, as scalars.
template <typename Scalar>
struct TargetTensor {
  Integers labels;
  std::vector<Scalar> scalars;
  const Scalar* values = nullptr;

  // classes: labels must be below it; 0: labels are not checked.
  TargetTensor(const Tensor& y, const char* name, const Tensor& x, const Program& program, int64_t classes) {
    const int64_t tasks = x.size(0), of_task = program.sizes[program.Targets()];
    if (y.scalar_type() != ScalarType::Long) {
      STD_TORCH_CHECK(program.logits == kAbsent, name,
                      " must be int64 labels, because the predictions are compared with them");
      values = Finite<Scalar>(y, name, tasks * of_task, x);
      return;
    }
    labels = Labels(y, name, tasks, of_task, classes);
    scalars.assign(labels.begin(), labels.end());
    values = scalars.data();
    STD_TORCH_CHECK(program.logits == kAbsent || program.sizes[program.logits] == of_task * program.classes, name,
                    " must have a label for every prediction");
  }

  Targets<Scalar> Get() const { return {labels.data(), values}; }
};

LoopTensors ProgramLoops(Tensors theta, Tensor x_spt, Tensor y_spt, Tensor x_qry, Tensor y_qry, Integers layouts,
                         Integers support, Floats support_factors, Integers query, Floats query_factors,
                         int64_t classes, Tensors rates, Bools rate_needs_gradient, Integers scored,
                         Floats step_weights, int64_t steps, bool second_order, int64_t tasks_at_once,
                         int64_t steps_kept, bool needs_gradient, int64_t seed) {
  const Parameters parameters = ReadLayouts(layouts);
  const Program of_support = ReadProgram(support, support_factors), of_queries = ReadProgram(query, query_factors);
  STD_TORCH_CHECK(theta.size() == parameters.places.size() && of_support.parameters == of_queries.parameters &&
                      static_cast<size_t>(of_support.parameters) == theta.size(),
                  "theta, layouts and both programs must have the same number of parameters");
  for (size_t p = 0; p < parameters.places.size(); ++p) {
    STD_TORCH_CHECK(parameters.places[p].size == of_support.sizes[p] && of_support.sizes[p] == of_queries.sizes[p],
                    "a layout does not have the size of its parameter");
  }
  STD_TORCH_CHECK(x_spt.dim() >= 2 && x_spt.size(0) >= 1, "there are no tasks");
  const LoopOptions options{rate_needs_gradient, scored,     step_weights,   steps, second_order,
                            tasks_at_once,       steps_kept, needs_gradient, seed};
  options.Check(theta.size(), rates.size());
  const int64_t tasks = x_spt.size(0);
  return WithScalar(x_spt, [&](auto zero) -> LoopTensors {
    using Scalar = decltype(zero);
    Loops<Scalar> loops(options, theta, SizesOf(theta, parameters), rates, x_spt);
    const TargetTensor<Scalar> y_of_support(y_spt, "y_spt", x_spt, of_support, classes);
    const TargetTensor<Scalar> y_of_queries(y_qry, "y_qry", x_spt, of_queries, classes);
    auto inputs = [&](const Tensor& t, const char* name, const Program& program) {
      return Finite<Scalar>(t, name, tasks * program.sizes[program.Input()], x_spt);
    };
    const auto args = loops.Args(parameters, inputs(x_spt, "x_spt", of_support), inputs(x_qry, "x_qry", of_queries),
                                 x_spt.size(1), x_qry.size(1), y_of_support.Get(), y_of_queries.Get(),
                                 of_support.sizes[of_support.Targets()], of_queries.sizes[of_queries.Targets()]);
    RunInnerLoops(args, Model{of_support, of_queries}, Kernels().Of<Scalar>(), LoopPool());
    return loops.Results(Counted(y_of_queries.labels, tasks));
  });
}

// The numbers of PassMemory, for parameters of the dtype of `like`.
Tensor ProgramMemory(Tensor like, Integers support, Floats support_factors, Integers query, Floats query_factors,
                     Bools adapts, bool second_order) {
  const Program of_support = ReadProgram(support, support_factors), of_queries = ReadProgram(query, query_factors);
  STD_TORCH_CHECK(
      of_support.parameters == of_queries.parameters && static_cast<size_t>(of_support.parameters) == adapts.size(),
      "adapts must have a value for every parameter of both programs");
  const Tensor numbers = torch::stable::empty({2}, ScalarType::Long);
  WithScalar(like, [&](auto zero) {
    const auto& kernels = Kernels().Of<decltype(zero)>();
    const PassMemory memory = MemoryOf(Model{of_support, of_queries}, adapts, second_order, kernels);
    Data<int64_t>(numbers)[0] = memory.support;
    Data<int64_t>(numbers)[1] = memory.extra;
  });
  return numbers;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(maml_fast, m) {
  m.def(
      "program_loops(Tensor[] theta, Tensor x_spt, Tensor y_spt, Tensor x_qry, Tensor y_qry, int[] layouts, "
      "int[] support, float[] support_factors, int[] query, float[] query_factors, int classes, "
      "Tensor[] rates, bool[] rate_needs_gradient, int[] scored, float[] step_weights, int steps, bool second_order, "
      "int tasks_at_once, int steps_kept, bool needs_gradient, int seed) "
      "-> (Tensor objective, Tensor losses, Tensor correct, Tensor predictions, Tensor[] gradient, Tensor[] "
      "rate_gradient)");
  m.def(
      "program_memory(Tensor like, int[] support, float[] support_factors, int[] query, float[] query_factors, "
      "bool[] adapts, bool second_order) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(maml_fast, CPU, m) {
  m.impl("program_loops", TORCH_BOX(&ProgramLoops));
  m.impl("program_memory", TORCH_BOX(&ProgramMemory));
}

}  // namespace maml_fast
