// Checks tensors, and converts them to what the kernels take: pointers, shapes and thread pools.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <vector>

#include "core/conv_block.h"
#include "cpu/arena.h"
#include "cpu/parallel.h"
#include "cpu/thread_pool.h"

namespace maml_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;
using Sizes = std::vector<int64_t>;

constexpr int64_t kLeastWork = 10'000'000;  // multiply-adds, which take one thread 0.1 to 0.4 ms

// PyTorch's own threads, for operators that PyTorch calls one after another, between operators of its own on the same
// threads.
inline Pool TorchPool() {
  return {torch::stable::get_num_threads(),
          [](int64_t count, Pool::Body body, void* context) {
            torch::stable::parallel_for(0, count, 1, [=](int64_t begin, int64_t end) { body(context, begin, end); });
          },
          kLeastWork};
}

// The same number of the library's own threads, for whole inner loops.
inline Pool LoopPool() {
  return {torch::stable::get_num_threads(),
          [](int64_t count, Pool::Body body, void* context) {
            RunOnThreads(torch::stable::get_num_threads(), count, body, context);
          },
          kLeastWork};
}

inline void CheckSizes(const Tensor& t, const char* name, const Sizes& sizes, const Tensor& like) {
  STD_TORCH_CHECK(t.device() == like.device(), name, " must be on the device of x");
  STD_TORCH_CHECK(t.scalar_type() == like.scalar_type(), name, " must have the dtype of x");
  STD_TORCH_CHECK(t.dim() == static_cast<int64_t>(sizes.size()), name, " must have ", sizes.size(), " dimensions");
  int64_t dim = 0;
  for (const int64_t size : sizes) {
    STD_TORCH_CHECK(t.size(dim) == size, name, " must be of size ", size, " at dimension ", dim, ", got ", t.size(dim));
    ++dim;
  }
}

template <typename Scalar>
const Scalar* Dense(const Tensor& t, const char* name, const Sizes& sizes, const Tensor& like) {
  CheckSizes(t, name, sizes, like);
  STD_TORCH_CHECK(t.is_contiguous(), name, " must be contiguous");
  return static_cast<const Scalar*>(t.data_ptr());
}

template <typename Scalar>
const Scalar* Dense(const MaybeTensor& t, const char* name, const Sizes& sizes, const Tensor& like) {
  return t.has_value() ? Dense<Scalar>(*t, name, sizes, like) : nullptr;
}

// Dense within a task; any stride between tasks, including 0.
template <typename Scalar>
TaskParam<Scalar> Param(const MaybeTensor& t, const char* name, const Sizes& sizes, const Tensor& like) {
  if (!t.has_value()) return {};
  CheckSizes(*t, name, sizes, like);
  int64_t dense = 1;
  for (int64_t dim = t->dim() - 1; dim > 0; --dim) {
    STD_TORCH_CHECK(t->size(dim) == 1 || t->stride(dim) == dense, name, " must be contiguous within a task");
    dense *= t->size(dim);
  }
  return {static_cast<const Scalar*>(t->data_ptr()), t->size(0) == 1 ? 0 : t->stride(0)};
}

// Returns a shape with the extents that follow from it, after checking all of them.
inline ConvBlockShape Derived(ConvBlockShape s) {
  STD_TORCH_CHECK(s.stride >= 1 && s.padding >= 0 && s.kernel >= 1,
                  "stride and kernel size must be at least 1, and padding at least 0");
  STD_TORCH_CHECK(s.in_height + 2 * s.padding >= s.kernel && s.in_width + 2 * s.padding >= s.kernel,
                  "the kernel is larger than the padded image");
  s.Derive();
  STD_TORCH_CHECK(s.tasks >= 1 && s.batch >= 1 && s.in_channels >= 1 && s.out_channels >= 1 && s.OutPixels() >= 1,
                  "nothing to compute: a dimension of x, weight or the output is empty");
  STD_TORCH_CHECK(s.InPixels() < (int64_t{1} << 31) && s.ConvPixels() < (int64_t{1} << 31), "the image is too large");
  return s;
}

inline Tensor Empty(const Sizes& sizes, ScalarType dtype) {
  Tensor t = torch::stable::empty(sizes, dtype);
  AdviseHugePages(t.data_ptr(), static_cast<size_t>(t.numel()) * (dtype == ScalarType::Double ? 8 : 4));
  return t;
}

template <typename Scalar>
Scalar* Data(const Tensor& t) {
  return static_cast<Scalar*>(t.data_ptr());
}

// Calls f with a float or a double, according to the dtype of x.
template <typename F>
auto WithScalar(const Tensor& x, const F& f) {
  if (x.scalar_type() == ScalarType::Float) return f(float{});
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Double, "x must be float32 or float64");
  return f(double{});
}

}  // namespace
}  // namespace maml_fast
