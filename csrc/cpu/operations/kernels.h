// Builds the table of the passes of all operations.
#pragma once

#include "cpu/operation_table.h"
#include "cpu/operations/add.h"
#include "cpu/operations/average_pool.h"
#include "cpu/operations/convolution.h"
#include "cpu/operations/copy.h"
#include "cpu/operations/depthwise.h"
#include "cpu/operations/draw.h"
#include "cpu/operations/embedding.h"
#include "cpu/operations/lstm.h"
#include "cpu/operations/max_pool.h"
#include "cpu/operations/multiply.h"
#include "cpu/operations/norm.h"
#include "cpu/operations/pick.h"
#include "cpu/operations/pointwise.h"
#include "cpu/operations/product.h"
#include "cpu/operations/softmax.h"
#include "cpu/operations/sum.h"

namespace maml_fast {
namespace {

template <typename Scalar, typename Op>
constexpr OperationKernels<Scalar> PassesOf(Traits (*traits)(const Operation&)) {
  return {Op::Forward, Op::Backward, Op::Tangent, Op::TangentBackward, nullptr, nullptr, traits, {}, nullptr};
}

inline Traits OfLinear(const Operation&) { return {}; }
inline Traits OfProduct(const Operation&) { return {true, false, true, true, false}; }
inline Traits OfSoftmax(const Operation&) { return {false, true, true, false, true}; }
inline Traits OfLstm(const Operation&) { return {true, true, false, true, true}; }
inline Traits OfIndexed(const Operation&) { return {true, false, false, false, false}; }

template <typename Scalar>
Traits OfPointwise(const Operation& op) {
  Traits traits{};
  WithFunction<Scalar>(op.numbers[0], op.factors.data(), [&](const auto& function) {
    using Function = std::decay_t<decltype(function)>;
    const bool is_affine = std::is_same_v<Function, Affine<Scalar>>;
    traits = {!Function::kOfResult && !is_affine, Function::kOfResult, Function::kCurved, Function::kCurved, false};
  });
  return traits;
}

template <typename Scalar>
constexpr OperationTable<Scalar> MakeOperations() {
  OperationTable<Scalar> table{};
  auto enter = [&](OperationKind kind, const OperationKernels<Scalar>& kernels) constexpr {
    table.of[static_cast<int64_t>(kind)] = kernels;
  };
  enter(OperationKind::kCopy, PassesOf<Scalar, CopyPasses<Scalar>>(OfLinear));
  enter(OperationKind::kAdd, PassesOf<Scalar, AddPasses<Scalar>>(OfLinear));
  enter(OperationKind::kMultiply, PassesOf<Scalar, MultiplyPasses<Scalar>>(OfProduct));
  auto pointwise = PassesOf<Scalar, PointwisePasses<Scalar>>(OfPointwise<Scalar>);
  pointwise.as_follower = {PointwisePasses<Scalar>::Together, PointwisePasses<Scalar>::ForwardAlong,
                           PointwisePasses<Scalar>::Give, true};
  enter(OperationKind::kPointwise, pointwise);
  auto convolution = PassesOf<Scalar, ConvolutionPasses<Scalar>>(OfProduct);
  convolution.make_plan = ConvolutionPasses<Scalar>::MakePlan;
  convolution.leads = ConvolutionPasses<Scalar>::Leads;
  enter(OperationKind::kConvolution, convolution);
  enter(OperationKind::kDepthwise, PassesOf<Scalar, DepthwisePasses<Scalar>>(OfProduct));
  auto norm = PassesOf<Scalar, NormPasses<Scalar>>(NormPasses<Scalar>::TraitsOf);
  norm.make_plan = NormPasses<Scalar>::MakePlan;
  norm.kept_size = NormPasses<Scalar>::KeptSize;
  norm.as_follower = {NormPasses<Scalar>::Together, NormPasses<Scalar>::ForwardAlong, NormPasses<Scalar>::Give};
  enter(OperationKind::kNorm, norm);
  auto max_pool = PassesOf<Scalar, MaxPoolPasses<Scalar>>(OfLinear);
  max_pool.make_plan = MaxPoolPasses<Scalar>::MakePlan;
  max_pool.kept_size = MaxPoolPasses<Scalar>::KeptSize;
  max_pool.as_follower = {MaxPoolPasses<Scalar>::Together, MaxPoolPasses<Scalar>::ForwardAlong,
                          MaxPoolPasses<Scalar>::Give};
  enter(OperationKind::kMaxPool, max_pool);
  enter(OperationKind::kAveragePool, PassesOf<Scalar, AveragePoolPasses<Scalar>>(OfLinear));
  enter(OperationKind::kSum, PassesOf<Scalar, SumPasses<Scalar>>(OfLinear));
  enter(OperationKind::kSoftmax, PassesOf<Scalar, SoftmaxPasses<Scalar>>(OfSoftmax));
  enter(OperationKind::kEmbedding, PassesOf<Scalar, EmbeddingPasses<Scalar>>(OfIndexed));
  enter(OperationKind::kPick, PassesOf<Scalar, PickPasses<Scalar>>(OfIndexed));
  enter(OperationKind::kDraw, PassesOf<Scalar, DrawPasses<Scalar>>(OfLinear));
  enter(OperationKind::kProduct, PassesOf<Scalar, ProductPasses<Scalar>>(OfProduct));
  auto lstm = PassesOf<Scalar, LstmPasses<Scalar>>(OfLstm);
  lstm.kept_size = LstmPasses<Scalar>::KeptSize;
  enter(OperationKind::kLstm, lstm);
  return table;
}

}  // namespace
}  // namespace maml_fast
