// Cross-entropy on a GPU, as torch operators. Their only caller is maml_fast/inner_loop/_cross_entropy.py.
#include "cuda/class_losses.h"

#include <torch/csrc/stable/library.h>

#include <limits>
#include <tuple>

#include "bindings/cuda_stream.h"
#include "bindings/tensors.h"

namespace maml_fast {
namespace {

template <typename Scalar>
cuda::Predictions<Scalar> PredictionsOf(const Tensor& logits, const Tensor& labels) {
  STD_TORCH_CHECK(logits.dim() == 3 && logits.numel() > 0, "logits must be [T, N, C], and not empty");
  for (int64_t dim = 0; dim < 3; ++dim) {
    STD_TORCH_CHECK(logits.size(dim) <= std::numeric_limits<int>::max(), "logits must have less than 2^31 rows");
  }
  STD_TORCH_CHECK(labels.device() == logits.device() && labels.is_contiguous() &&
                      labels.scalar_type() == ScalarType::Long && labels.dim() == 2 &&
                      labels.size(0) == logits.size(0) && labels.size(1) == logits.size(1),
                  "labels must be int64, [T, N], contiguous and on the device of the logits");
  return {static_cast<int>(logits.size(0)), static_cast<int>(logits.size(1)), static_cast<int>(logits.size(2)),
          Dense<Scalar>(logits, "logits", {logits.size(0), logits.size(1), logits.size(2)}, logits),
          Data<int64_t>(labels)};
}

std::tuple<Tensor, Tensor> ClassLosses(Tensor logits, Tensor labels) {
  return WithScalar(logits, [&](auto zero) -> std::tuple<Tensor, Tensor> {
    using Scalar = decltype(zero);
    const auto of = PredictionsOf<Scalar>(logits, labels);
    const Tensor losses = torch::stable::new_empty(logits, Sizes{logits.size(0)}, logits.scalar_type());
    const Tensor gradients =
        torch::stable::new_empty(logits, Sizes{of.tasks, of.count, of.classes}, logits.scalar_type());
    OnStreamOf(logits, [&](cudaStream_t stream) {
      return cuda::ClassLosses(of, Data<Scalar>(losses), Data<Scalar>(gradients), stream);
    });
    return {losses, gradients};
  });
}

Tensor SecondOfClassLosses(Tensor logits, Tensor labels, Tensor weights, Tensor tangent) {
  return WithScalar(logits, [&](auto zero) -> Tensor {
    using Scalar = decltype(zero);
    const auto of = PredictionsOf<Scalar>(logits, labels);
    const Sizes sizes = {of.tasks, of.count, of.classes};
    const Tensor second = torch::stable::new_empty(logits, sizes, logits.scalar_type());
    OnStreamOf(logits, [&](cudaStream_t stream) {
      return cuda::SecondOfClassLosses(of, Dense<Scalar>(weights, "weights", {of.tasks}, logits),
                                       Dense<Scalar>(tangent, "tangent", sizes, logits), Data<Scalar>(second), stream);
    });
    return second;
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(maml_fast, m) {
  m.def("class_losses(Tensor logits, Tensor labels) -> (Tensor losses, Tensor gradients)");
  m.def("second_of_class_losses(Tensor logits, Tensor labels, Tensor weights, Tensor tangent) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(maml_fast, CUDA, m) {
  m.impl("class_losses", TORCH_BOX(&ClassLosses));
  m.impl("second_of_class_losses", TORCH_BOX(&SecondOfClassLosses));
}

}  // namespace maml_fast
