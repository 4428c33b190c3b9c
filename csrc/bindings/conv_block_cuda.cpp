// The conv block's operators on a GPU. They run on the current stream of x's device, with memory from torch.
#include <algorithm>

#include "bindings/conv_block_op.h"
#include "bindings/cuda_stream.h"
#include "cuda/conv_block.h"

namespace maml_fast {
namespace {

struct Cuda {
  static ConvBlockShape ShapeOf(ConvBlockShape s) {
    STD_TORCH_CHECK(s.tasks <= kMostBlocks, "a GPU takes at most ", kMostBlocks, " tasks at once, got ", s.tasks,
                    "; use a smaller task_chunk");
    STD_TORCH_CHECK(s.batch <= kMostBlocks, "a GPU takes at most ", kMostBlocks, " images of a task at once, got ",
                    s.batch);
    STD_TORCH_CHECK(std::max({s.InImage(1, 0), s.ConvImage(1, 0), s.WeightSize()}) < cuda::kMostValues,
                    "a task's images are too large for a GPU: 2^30 values or more; use fewer or smaller ones");
    STD_TORCH_CHECK(std::max({s.in_height, s.in_width, s.kernel, s.padding}) < cuda::kMostExtent,
                    "an image is too high or too wide for a GPU: 2^20 pixels or more");
    STD_TORCH_CHECK(std::max(s.in_channels, s.out_channels) < cuda::kMostChannels,
                    "a GPU takes less than 2^20 channels, got ", std::max(s.in_channels, s.out_channels));
    STD_TORCH_CHECK(s.stride < cuda::kMostStride, "a GPU takes strides below ", cuda::kMostStride, ", got ", s.stride);
    return s;
  }
  static Tensor Empty(const Tensor& like, const Sizes& sizes, ScalarType dtype) {
    return torch::stable::new_empty(like, sizes, dtype);
  }
  template <typename Scalar>
  static void Forward(const ConvBlockForwardArgs<Scalar>& args, const Tensor& x, int64_t arithmetic) {
    Queue<Scalar>(x, cuda::ForwardScratch(args), [&](Scalar* scratch, cudaStream_t stream) {
      return cuda::Forward(args, Of(arithmetic), scratch, stream);
    });
  }
  template <typename Scalar>
  static void Backward(const ConvBlockBackwardArgs<Scalar>& args, const Tensor& x, int64_t arithmetic) {
    Queue<Scalar>(x, cuda::BackwardScratch(args), [&](Scalar* scratch, cudaStream_t stream) {
      return cuda::Backward(args, Of(arithmetic), scratch, stream);
    });
  }
  template <typename Scalar>
  static void DoubleBackward(const ConvBlockDoubleBackwardArgs<Scalar>& args, const Tensor& x, int64_t arithmetic) {
    Queue<Scalar>(x, cuda::DoubleBackwardScratch(args), [&](Scalar* scratch, cudaStream_t stream) {
      return cuda::DoubleBackward(args, Of(arithmetic), scratch, stream);
    });
  }

 private:
  static constexpr int64_t kMostBlocks = 65535;  // the limit along a grid's second and third axis

  // The numbers are those of maml_fast/ops/_conv_block.py.
  static cuda::Arithmetic Of(int64_t number) {
    STD_TORCH_CHECK(number >= 0 && number <= static_cast<int64_t>(cuda::Arithmetic::kFp16),
                    "arithmetic must be 0 to 3, got ", number);
    return static_cast<cuda::Arithmetic>(number);
  }

  // Scratch memory is returned to torch right after the launch, because its allocator reuses it only on the same
  // stream.
  template <typename Scalar, typename F>
  static void Queue(const Tensor& x, int64_t scratch_size, const F& run) {
    const Tensor scratch = Empty(x, {scratch_size}, x.scalar_type());
    OnStreamOf(x, [&](cudaStream_t stream) { return run(Data<Scalar>(scratch), stream); });
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(maml_fast, CUDA, m) {
  m.impl("conv_block_forward", TORCH_BOX(&Forward<Cuda>));
  m.impl("conv_block_backward", TORCH_BOX(&Backward<Cuda>));
  m.impl("conv_block_double_backward", TORCH_BOX(&DoubleBackward<Cuda>));
}

}  // namespace maml_fast
