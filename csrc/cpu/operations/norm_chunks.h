// A few rows of a norm's set, and the operations that follow the norm while these rows are in cache:
//   y = pool(f(z)),  z = weight * x^ + bias
// f is a pointwise function, and pool takes maxima or averages; either may be absent. What lies between x and y is not
// kept but recomputed, since z costs only a load and two products.
//
// numbers of the operation, after the norm's own four: the function, or -1; the pool, and its windows if there is one.
#pragma once

#include <algorithm>

#include "cpu/operations/average_pool.h"
#include "cpu/operations/column_sums.h"
#include "cpu/operations/max_pool.h"
#include "cpu/operations/norm_sets.h"
#include "cpu/operations/row_function.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct NormEpilogue {
  static constexpr size_t kFunction = 4, kPool = 5, kWindows = 6;

  RowFunction<Scalar> function;
  NormPool pool;
  Windows windows;  // if there is a pool

  explicit NormEpilogue(const Operation& op)
      : function(op.numbers[kFunction], op.factors.data() + 1),
        pool(static_cast<NormPool>(op.numbers[kPool])),
        windows(Pools() ? Windows::From(op.numbers.data() + kWindows) : Windows{}) {}

  bool Pools() const { return pool != NormPool::kNone; }
  int64_t OutSize() const { return Pools() ? windows.images * windows.OutSize() : 0; }
  int64_t ImageRows() const { return windows.height * windows.width; }

  // The chunks of a set; whole images if they are pooled.
  RowChunks Chunks(const NormShape& s) const {
    constexpr int64_t kScalars = 8192;
    if (Pools()) return RowChunks(s.rows, ImageRows() * std::max<int64_t>(1, RowChunks::kRows / ImageRows()));
    if (function.Exists()) return RowChunks(s.rows, std::clamp<int64_t>(kScalars / s.channels, 8, RowChunks::kRows));
    return RowChunks(s.rows);
  }
};

// The gradients at z of a whole set, if they are stored: null if each sweep over the set computes them again.
template <typename Scalar>
struct StoredGradients {
  Scalar *g = nullptr, *h = nullptr;
};

// What a thread needs to process chunks of a set.
template <typename Scalar>
class NormChunk {
  using V = Vec<Scalar>;

 public:
  // moved: null if tangents are not needed.
  NormChunk(const Frame<Scalar>& frame, const NormSet<Scalar>& set, const Normal<Scalar>& normal,
            const Moved<Scalar>* moved, StoredGradients<Scalar> stored, ArenaScope& arena)
      : frame_(frame), set_(set), normal_(normal), moved_(moved), epilogue_(frame.operation), stored_(stored) {
    const bool needed = epilogue_.function.Exists() || epilogue_.Pools();
    const int64_t size = needed ? epilogue_.Chunks(NormShape::Of(frame.operation)).in_chunk * set.channels : 0;
    for (Scalar** room : {&z_, &g_room_}) *room = arena.Array<Scalar>(size);
    for (Scalar** room : {&z_tangent_, &h_room_}) *room = arena.Array<Scalar>(moved == nullptr ? 0 : size);
  }

  // Writes y.
  void Write(int64_t first, int64_t past) {
    Enter(first, past);
    Scalar* z = epilogue_.Pools() ? z_ : frame_.result.value + At();
    FillZ(z);
    if (epilogue_.function.Exists()) epilogue_.function.Values(z, Size(), z);
    ForImages([&](const WindowTable& table, int64_t in, int64_t out) {
      Scalar* y = frame_.result.value + out;
      if (epilogue_.pool == NormPool::kMax) PoolImage(table, z + in, y, Argmax() + out);
      if (epilogue_.pool == NormPool::kAverage) AverageImage(table, z + in, y);
    });
  }

  // Writes y'.
  void WriteTangent(int64_t first, int64_t past) {
    Enter(first, past);
    Scalar* tangent = epilogue_.Pools() ? z_tangent_ : frame_.result.tangent + At();
    FillZTangent(tangent);
    if (epilogue_.function.Exists()) epilogue_.function.Tangents(FilledArgument(), tangent, Size(), tangent);
    ForImages([&](const WindowTable& table, int64_t in, int64_t out) {
      Scalar* y_tangent = frame_.result.tangent + out;
      if (epilogue_.pool == NormPool::kMax) GatherMaxima(table, Argmax() + out, tangent + in, y_tangent);
      if (epilogue_.pool == NormPool::kAverage) AverageImage(table, tangent + in, y_tangent);
    });
  }

  // Computes the gradient at z and, if tangents are needed, its tangent.
  void Begin(int64_t first, int64_t past) {
    Enter(first, past);
    const bool curved = moved_ != nullptr;
    g_ = BeforePool(frame_.result.gradient, g_room_);
    h_ = curved ? BeforePool(frame_.result.gradient_tangent, h_room_) : nullptr;
    if (!epilogue_.function.Exists()) return;
    Scalar* to_g = stored_.g == nullptr ? g_room_ : stored_.g + first * set_.channels;
    Scalar* to_h = stored_.h == nullptr ? h_room_ : stored_.h + first * set_.channels;
    const Scalar* argument = FilledArgument();
    if (curved) {
      if (epilogue_.function.IsCurved()) FillZTangent(z_tangent_);
      epilogue_.function.BothGradients(argument, z_tangent_, g_, h_, Size(), to_g, to_h);
    } else {
      epilogue_.function.Gradients(argument, g_, Size(), false, to_g);
    }
    g_ = to_g;
    h_ = curved ? to_h : nullptr;
  }

  // Begins again with a chunk for which Begin has been called before, by this thread or by another.
  void Resume(int64_t first, int64_t past) {
    if (stored_.g == nullptr) return Begin(first, past);
    Enter(first, past);
    g_ = stored_.g + first * set_.channels;
    h_ = stored_.h == nullptr ? nullptr : stored_.h + first * set_.channels;
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
  int64_t Size() const { return (past_ - first_) * set_.channels; }
  Scalar* Argmax() const {
    const NormShape s = NormShape::Of(frame_.operation);
    return frame_.kept + NormSet<Scalar>::kKept * s.sets * s.groups;
  }

  // If there is a pool, calls f(windows, offset of an image in the chunk, offset in y) for every image of the chunk.
  template <typename F>
  void ForImages(const F& f) const {
    if (!epilogue_.Pools()) return;
    const auto& table = *static_cast<const WindowTable*>(frame_.plan);
    const Windows& w = table.windows;
    const int64_t image = At() / w.InSize(), images = (past_ - first_) / epilogue_.ImageRows();
    for (int64_t i = 0; i < images; ++i) f(table, i * w.InSize(), (image + i) * w.OutSize());
  }

  // Returns the gradient at f(z), which is a part of `gradient` or is in `room`.
  const Scalar* BeforePool(const Scalar* gradient, Scalar* room) const {
    if (!epilogue_.Pools()) return gradient + At();
    std::fill_n(room, Size(), Scalar{0});
    ForImages([&](const WindowTable& table, int64_t in, int64_t out) {
      if (epilogue_.pool == NormPool::kMax) ScatterMaxima(table, Argmax() + out, gradient + out, room + in);
      if (epilogue_.pool == NormPool::kAverage) SpreadAverages(table, gradient + out, room + in);
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

  // Returns what the function's derivatives take, in room of the chunk's own.
  const Scalar* FilledArgument() const {
    FillZ(z_);
    if (epilogue_.function.OfResult()) epilogue_.function.Values(z_, Size(), z_);
    return z_;
  }

  const Frame<Scalar>& frame_;
  const NormSet<Scalar>& set_;
  const Normal<Scalar>& normal_;
  const Moved<Scalar>* moved_;
  const NormEpilogue<Scalar> epilogue_;
  const StoredGradients<Scalar> stored_;
  Scalar *z_, *z_tangent_, *g_room_, *h_room_;  // of one chunk
  const Scalar *g_ = nullptr, *h_ = nullptr;
  int64_t first_ = 0, past_ = 0;
};

}  // namespace
}  // namespace maml_fast
