// A few rows of a norm's set, and the operations that follow the norm while these rows are in cache:
//   y = pool(f(z)),  z = weight * x^ + bias
// f is a pointwise function and pool takes maxima; either may be absent. What lies between x and y is not kept but
// recomputed, since z costs only a load and two products.
//
// numbers of the operation, after the norm's own four: the function, or -1; whether there is a pool, and its windows.
#pragma once

#include <algorithm>

#include "cpu/operations/column_sums.h"
#include "cpu/operations/functions.h"
#include "cpu/operations/max_pool.h"
#include "cpu/operations/norm_sets.h"

namespace maml_fast {
namespace {

struct NormEpilogue {
  static constexpr size_t kFunction = 4, kPools = 5, kWindows = 6;

  int64_t function;
  const double* parameters;
  bool pools;
  Windows windows;  // if it pools

  static NormEpilogue Of(const Operation& op) {
    const bool pools = op.numbers[kPools] != 0;
    return {op.numbers[kFunction], op.factors.data() + 1, pools,
            pools ? Windows::From(op.numbers.data() + kWindows) : Windows{}};
  }
  bool HasFunction() const { return function != kAbsent; }
  int64_t ArgmaxSize() const { return pools ? windows.images * windows.OutSize() : 0; }
  int64_t ImageRows() const { return windows.height * windows.width; }

  // The chunks of a set; whole images if they are pooled.
  RowChunks Chunks(const NormShape& s) const {
    constexpr int64_t kScalars = 8192;
    if (pools) return RowChunks(s.rows, ImageRows() * std::max<int64_t>(1, RowChunks::kRows / ImageRows()));
    if (HasFunction()) return RowChunks(s.rows, std::clamp<int64_t>(kScalars / s.channels, 8, RowChunks::kRows));
    return RowChunks(s.rows);
  }
};

// What a thread needs to process chunks of a set.
template <typename Scalar>
class NormChunk {
  using V = Vec<Scalar>;

 public:
  // moved: null if tangents are not needed.
  NormChunk(const Frame<Scalar>& frame, const NormSet<Scalar>& set, const Normal<Scalar>& normal,
            const Moved<Scalar>* moved, ArenaScope& arena)
      : frame_(frame), set_(set), normal_(normal), moved_(moved), epilogue_(NormEpilogue::Of(frame.operation)) {
    const bool needed = epilogue_.HasFunction() || epilogue_.pools;
    const int64_t size = needed ? epilogue_.Chunks(NormShape::Of(frame.operation)).in_chunk * set.channels : 0;
    for (Scalar** room : {&z_, &g_room_}) *room = arena.Array<Scalar>(size);
    for (Scalar** room : {&z_tangent_, &h_room_}) *room = arena.Array<Scalar>(moved == nullptr ? 0 : size);
  }

  // Writes y.
  void Write(int64_t first, int64_t past) {
    Enter(first, past);
    Scalar* z = epilogue_.pools ? z_ : frame_.result.value + At();
    FillZ(z);
    if (epilogue_.HasFunction()) {
      WithFunction<Scalar>(epilogue_.function, epilogue_.parameters, [&](const auto& function) {
        ForAll([=](int64_t i, int64_t lanes) { Store(z + i, function.Value(Load(z + i, lanes)), lanes); });
      });
    }
    ForImages([&](const WindowTable& table, int64_t in, int64_t out) {
      PoolImage(table, z + in, frame_.result.value + out, Argmax() + out);
    });
  }

  // Writes y'.
  void WriteTangent(int64_t first, int64_t past) {
    Enter(first, past);
    Scalar* tangent = epilogue_.pools ? z_tangent_ : frame_.result.tangent + At();
    FillZTangent(tangent);
    if (epilogue_.HasFunction()) {
      FillZ(z_);
      WithFunction<Scalar>(epilogue_.function, epilogue_.parameters, [&](const auto& function) {
        ForAll([=, z = z_](int64_t i, int64_t lanes) {
          Store(tangent + i, function.First(Argument(function, z, i, lanes)) * Load(tangent + i, lanes), lanes);
        });
      });
    }
    ForImages([&](const WindowTable& table, int64_t in, int64_t out) {
      GatherMaxima(table, Argmax() + out, tangent + in, frame_.result.tangent + out);
    });
  }

  // Computes the gradient at z and, if tangents are needed, its tangent.
  void Begin(int64_t first, int64_t past) {
    Enter(first, past);
    const bool curved = moved_ != nullptr;
    g_ = AfterPool(frame_.result.gradient, g_room_);
    h_ = curved ? AfterPool(frame_.result.gradient_tangent, h_room_) : nullptr;
    if (!epilogue_.HasFunction()) return;
    FillZ(z_);
    if (curved) FillZTangent(z_tangent_);
    WithFunction<Scalar>(epilogue_.function, epilogue_.parameters, [&](const auto& function) {
      ForAll([=, z = z_, z_tangent = z_tangent_, from = g_, from_h = h_, to = g_room_, to_h = h_room_](int64_t i,
                                                                                                       int64_t lanes) {
        const V argument = Argument(function, z, i, lanes), slope = function.First(argument), g = Load(from + i, lanes);
        if (curved) {
          V h = slope * Load(from_h + i, lanes);
          if constexpr (std::decay_t<decltype(function)>::kCurved) {
            h += function.Second(argument) * g * Load(z_tangent + i, lanes);
          }
          Store(to_h + i, h, lanes);
        }
        Store(to + i, slope * g, lanes);
      });
    });
    g_ = g_room_;
    h_ = curved ? h_room_ : nullptr;
  }

  // The results of Begin, accessed by place in the set.
  struct Gradients {
    const Scalar *g, *h;
    int64_t at;

    MF_INLINE V At(int64_t i, int64_t lanes) const { return Load(g + i - at, lanes); }
    MF_INLINE V TangentAt(int64_t i, int64_t lanes) const { return Load(h + i - at, lanes); }
  };
  Gradients Found() const { return {g_, h_, first_ * set_.channels}; }

  // Calls f(place in the set, channel, lanes) for the current chunk. f should hold values, not references: the compiler
  // assumes that a store may change what a reference refers to.
  template <typename F>
  MF_INLINE void ForVectors(const F f) const {
    const int64_t channels = set_.channels, past = past_;
    for (int64_t row = first_; row < past; ++row) {
      ForChannels<Scalar>(channels, [&](int64_t c, int64_t lanes) { f(row * channels + c, c, lanes); });
    }
  }

 private:
  void Enter(int64_t first, int64_t past) {
    first_ = first;
    past_ = past;
  }

  int64_t At() const { return set_.at + first_ * set_.channels; }  // the chunk's first scalar
  Scalar* Argmax() const {
    const NormShape s = NormShape::Of(frame_.operation);
    return frame_.kept + NormSet<Scalar>::kKept * s.sets * s.groups;
  }

  // Calls f(place in the chunk, lanes).
  template <typename F>
  MF_INLINE void ForAll(const F f) const {
    ForChannels<Scalar>((past_ - first_) * set_.channels, f);
  }

  // If there is a pool, calls f(windows, offset of an image in the chunk, offset in y) for every image of the chunk.
  template <typename F>
  void ForImages(const F& f) const {
    if (!epilogue_.pools) return;
    const auto& table = *static_cast<const WindowTable*>(frame_.plan);
    const Windows& w = table.windows;
    const int64_t image = At() / w.InSize(), images = (past_ - first_) / epilogue_.ImageRows();
    for (int64_t i = 0; i < images; ++i) f(table, i * w.InSize(), (image + i) * w.OutSize());
  }

  // Returns the gradient at f(z), which is a part of `gradient` or is in `room`.
  const Scalar* AfterPool(const Scalar* gradient, Scalar* room) const {
    if (!epilogue_.pools) return gradient + At();
    std::fill_n(room, (past_ - first_) * set_.channels, Scalar{0});
    ForImages([&](const WindowTable& table, int64_t in, int64_t out) {
      ScatterMaxima(table, Argmax() + out, gradient + out, room + in);
    });
    return room;
  }

  void FillZ(Scalar* z) const {
    Scalar* to = z - first_ * set_.channels;
    ForVectors([to, normal = normal_, weight = set_.weight, bias = set_.bias](int64_t i, int64_t c, int64_t lanes) {
      Store(to + i, normal.At(i, c, lanes) * Load(weight + c) + Load(bias + c), lanes);
    });
  }

  void FillZTangent(Scalar* z_tangent) const {
    Scalar* to = z_tangent - first_ * set_.channels;
    ForVectors([to, normal = normal_, moved = *moved_, weight = set_.weight, of_weight = frame_[1].tangent,
                of_bias = frame_[2].tangent](int64_t i, int64_t c, int64_t lanes) {
      const V x_hat = normal.At(i, c, lanes);
      V sum = Load(weight + c) * moved.At(i, c, lanes, x_hat, normal);
      if (of_weight != nullptr) sum += Load(of_weight + c, lanes) * x_hat;
      if (of_bias != nullptr) sum += Load(of_bias + c, lanes);
      Store(to + i, sum, lanes);
    });
  }

  // Returns what the function's derivatives take: f(z) if kOfResult, otherwise z.
  template <typename Function>
  static MF_INLINE V Argument(const Function& function, const Scalar* z, int64_t i, int64_t lanes) {
    const V here = Load(z + i, lanes);
    return Function::kOfResult ? function.Value(here) : here;
  }

  const Frame<Scalar>& frame_;
  const NormSet<Scalar>& set_;
  const Normal<Scalar>& normal_;
  const Moved<Scalar>* moved_;
  const NormEpilogue epilogue_;
  Scalar *z_, *z_tangent_, *g_room_, *h_room_;  // of one chunk
  const Scalar *g_ = nullptr, *h_ = nullptr;
  int64_t first_ = 0, past_ = 0;
};

}  // namespace
}  // namespace maml_fast
