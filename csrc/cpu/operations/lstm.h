// One direction of an LSTM layer over whole sequences. With gates z = a + h w of the inputs' part a and the hidden
// state h before a step, in the order i, f, g, o:
//
//   c = sigmoid(f) c_before + sigmoid(i) tanh(g)
//   h = sigmoid(o) tanh(c)
//
// numbers: steps, images, width, whether the last step comes first.
// operands: a [steps, images, 4 width], w [width, 4 width], h and c before the first step [2, images, width].
// result: h after every step [steps, images, width], then c after the last one [images, width].
#pragma once

#include <algorithm>

#include "cpu/elementary.h"
#include "cpu/operations/frame.h"
#include "cpu/operations/share.h"
#include "cpu/product/product.h"

namespace maml_fast {
namespace {

template <typename Scalar>
class LstmPasses {
  using V = Vec<Scalar>;

 public:
  static int64_t KeptSize(const Operation& op) { return 18 * op.numbers[0] * op.numbers[1] * op.numbers[2]; }

  static void Forward(const Frame<Scalar>& f) {
    const Shape s(f);
    const Kept k(s, f.kept);
    const States states(s, f.result.value, k.cell, f[2].value);
    ForImages(f, s, [&](int64_t first, int64_t rows) {
      ArenaScope arena;
      const StateProduct forward(s, rows, false, f[1].value, arena);
      for (int64_t step = 0; step < s.steps; ++step) {
        const int64_t at = s.At(step, first);
        std::copy_n(f[0].value + 4 * at, 4 * rows * s.width, k.gates + 4 * at);
        forward.AddTo(k.gates + 4 * at, states.Hidden(step, first));
        const Scalar* before = states.Cell(step, first);
        ForRow(s, rows, [&](int64_t i, int64_t gate, int64_t lanes) {
          Scalar* z = k.gates + 4 * at + gate;
          const V enter = Sigmoid<Scalar>(Load(z, lanes)), forget = Sigmoid<Scalar>(Load(z + s.width, lanes));
          const V value = Tanh<Scalar>(Load(z + 2 * s.width, lanes));
          const V leave = Sigmoid<Scalar>(Load(z + 3 * s.width, lanes));
          const V cell = forget * Load(before + i, lanes) + enter * value, out = Tanh<Scalar>(cell);
          Store(z, enter, lanes);
          Store(z + s.width, forget, lanes);
          Store(z + 2 * s.width, value, lanes);
          Store(z + 3 * s.width, leave, lanes);
          Store(k.cell + at + i, cell, lanes);
          Store(k.out + at + i, out, lanes);
          Store(f.result.value + at + i, leave * out, lanes);
        });
      }
      std::copy_n(states.Cell(s.steps, first), rows * s.width, f.result.value + s.LastCell(first));
    });
  }

  static void Tangent(const Frame<Scalar>& f) {
    const Shape s(f);
    const Kept k(s, f.kept);
    const States states(s, f.result.value, k.cell, f[2].value);
    const States tangents(s, f.result.tangent, k.cell_tangent, f[2].tangent);
    ForImages(f, s, [&](int64_t first, int64_t rows) {
      ArenaScope arena;
      const StateProduct forward(s, rows, false, f[1].value, arena), of_weight(s, rows, false, f[1].tangent, arena);
      for (int64_t step = 0; step < s.steps; ++step) {
        const int64_t at = s.At(step, first);
        Scalar* moved = k.gate_tangent + 4 * at;
        if (f[0].tangent != nullptr) {
          std::copy_n(f[0].tangent + 4 * at, 4 * rows * s.width, moved);
        } else {
          std::fill_n(moved, 4 * rows * s.width, Scalar{0});
        }
        forward.AddTo(moved, tangents.Hidden(step, first));
        of_weight.AddTo(moved, states.Hidden(step, first));
        const Scalar *before = states.Cell(step, first), *before_tangent = tangents.Cell(step, first);
        ForRow(s, rows, [&](int64_t i, int64_t gate, int64_t lanes) {
          const Gates y(k.gates + 4 * at + gate, s.width, lanes);
          Scalar* z = moved + gate;
          const V enter = y.enter * (1 - y.enter) * Load(z, lanes);
          const V forget = y.forget * (1 - y.forget) * Load(z + s.width, lanes);
          const V value = (1 - y.value * y.value) * Load(z + 2 * s.width, lanes);
          const V leave = y.leave * (1 - y.leave) * Load(z + 3 * s.width, lanes);
          const V out = Load(k.out + at + i, lanes);
          V cell = forget * Load(before + i, lanes) + enter * y.value + y.enter * value;
          if (before_tangent != nullptr) cell += y.forget * Load(before_tangent + i, lanes);
          const V out_tangent = (1 - out * out) * cell;
          Store(z, enter, lanes);
          Store(z + s.width, forget, lanes);
          Store(z + 2 * s.width, value, lanes);
          Store(z + 3 * s.width, leave, lanes);
          Store(k.cell_tangent + at + i, cell, lanes);
          Store(k.out_tangent + at + i, out_tangent, lanes);
          Store(f.result.tangent + at + i, leave * out + y.leave * out_tangent, lanes);
        });
      }
      std::copy_n(tangents.Cell(s.steps, first), rows * s.width, f.result.tangent + s.LastCell(first));
    });
  }

  static void Backward(const Frame<Scalar>& f) {
    const Shape s(f);
    const Kept k(s, f.kept);
    const States states(s, f.result.value, k.cell, f[2].value);
    const Scalar* g = f.result.gradient;
    ForImages(f, s, [&](int64_t first, int64_t rows) {
      ArenaScope arena;
      const StateProduct backward(s, rows, true, f[1].value, arena);
      Carried carried(rows * s.width, g + s.LastCell(first), arena);
      for (int64_t step = s.steps - 1; step >= 0; --step) {
        const int64_t at = s.At(step, first);
        const Scalar* before = states.Cell(step, first);
        Scalar* of_gates = k.gate_gradient + 4 * at;
        ForRow(s, rows, [&](int64_t i, int64_t gate, int64_t lanes) {
          const Gates y(k.gates + 4 * at + gate, s.width, lanes);
          const V out = Load(k.out + at + i, lanes);
          const V hidden = Load(g + at + i, lanes) + Load(carried.hidden + i, lanes);
          const V cell = Load(carried.cell + i, lanes) + hidden * y.leave * (1 - out * out);
          Scalar* to = of_gates + gate;
          Store(to, cell * y.value * y.enter * (1 - y.enter), lanes);
          Store(to + s.width, cell * Load(before + i, lanes) * y.forget * (1 - y.forget), lanes);
          Store(to + 2 * s.width, cell * y.enter * (1 - y.value * y.value), lanes);
          Store(to + 3 * s.width, hidden * out * y.leave * (1 - y.leave), lanes);
          Store(k.hidden_gradient + at + i, hidden, lanes);
          Store(k.cell_gradient + at + i, cell, lanes);
          Store(carried.cell + i, cell * y.forget, lanes);
        });
        carried.Clear();
        backward.AddTo(carried.hidden, of_gates);
        Put(f[0], f[0].gradient, 4 * at, of_gates, 4 * rows * s.width);
      }
      PutCarried(f, s, f[2].gradient, first, carried);
    });
    if (f[1].gradient == nullptr) return;
    AddToWeight(f, s, states, k.gate_gradient, f[1].adds, f[1].gradient);
  }

  static void TangentBackward(const Frame<Scalar>& f) {
    const Shape s(f);
    const Kept k(s, f.kept);
    const States states(s, f.result.value, k.cell, f[2].value);
    const bool moves = f.result.tangent != nullptr;
    const States tangents(s, f.result.tangent, moves ? k.cell_tangent : nullptr, f[2].tangent);
    const Scalar* g = f.result.gradient_tangent;
    ArenaScope of_all;
    auto* all_gates = of_all.Array<Scalar>(4 * s.Size());
    ForImages(f, s, [&](int64_t first, int64_t rows) {
      ArenaScope arena;
      const StateProduct backward(s, rows, true, f[1].value, arena), of_weight(s, rows, true, f[1].tangent, arena);
      Carried carried(rows * s.width, g + s.LastCell(first), arena);
      for (int64_t step = s.steps - 1; step >= 0; --step) {
        const int64_t at = s.At(step, first);
        const Scalar *before = states.Cell(step, first), *before_tangent = moves ? tangents.Cell(step, first) : nullptr;
        Scalar* of_gates = all_gates + 4 * at;
        ForRow(s, rows, [&](int64_t i, int64_t gate, int64_t lanes) {
          const Gates y(k.gates + 4 * at + gate, s.width, lanes);
          const V out = Load(k.out + at + i, lanes), c_before = Load(before + i, lanes);
          const V slope_enter = y.enter * (1 - y.enter), slope_forget = y.forget * (1 - y.forget);
          const V slope_value = 1 - y.value * y.value, slope_leave = y.leave * (1 - y.leave), slope_out = 1 - out * out;
          const V hidden = Load(g + at + i, lanes) + Load(carried.hidden + i, lanes);
          V cell = Load(carried.cell + i, lanes) + hidden * y.leave * slope_out;
          V of_enter = y.value, of_forget = c_before, of_value = y.enter;  // terms of the cell's gradient
          V more_enter{}, more_forget{}, more_value{}, more_leave{}, more_cell{};
          if (moves) {
            const Gates y_tangent(k.gate_tangent + 4 * at + gate, s.width, lanes);
            const V out_tangent = Load(k.out_tangent + at + i, lanes);
            const V h = Load(k.hidden_gradient + at + i, lanes), c = Load(k.cell_gradient + at + i, lanes);
            const V c_tangent = before_tangent == nullptr ? V{} : Load(before_tangent + i, lanes);
            cell += h * (y_tangent.leave * slope_out - 2 * y.leave * out * out_tangent);
            more_enter = c * (y_tangent.value * slope_enter + y.value * (1 - 2 * y.enter) * y_tangent.enter);
            more_forget = c * (c_tangent * slope_forget + c_before * (1 - 2 * y.forget) * y_tangent.forget);
            more_value = c * (y_tangent.enter * slope_value - 2 * y.enter * y.value * y_tangent.value);
            more_leave = h * (out_tangent * slope_leave + out * (1 - 2 * y.leave) * y_tangent.leave);
            more_cell = c * y_tangent.forget;
          }
          Scalar* to = of_gates + gate;
          Store(to, cell * of_enter * slope_enter + more_enter, lanes);
          Store(to + s.width, cell * of_forget * slope_forget + more_forget, lanes);
          Store(to + 2 * s.width, cell * of_value * slope_value + more_value, lanes);
          Store(to + 3 * s.width, hidden * out * slope_leave + more_leave, lanes);
          Store(carried.cell + i, cell * y.forget + more_cell, lanes);
        });
        carried.Clear();
        backward.AddTo(carried.hidden, of_gates);
        of_weight.AddTo(carried.hidden, k.gate_gradient + 4 * at);
        Put(f[0], f[0].gradient_tangent, 4 * at, of_gates, 4 * rows * s.width);
      }
      PutCarried(f, s, f[2].gradient_tangent, first, carried);
    });
    if (f[1].gradient_tangent == nullptr) return;
    AddToWeight(f, s, states, all_gates, f[1].adds, f[1].gradient_tangent);
    if (moves) AddToWeight(f, s, tangents, k.gate_gradient, true, f[1].gradient_tangent);
  }

 private:
  struct Shape {
    int64_t steps, images, width;
    bool reverse;

    explicit Shape(const Frame<Scalar>& f)
        : steps(f.Number(0)), images(f.Number(1)), width(f.Number(2)), reverse(f.Number(3) != 0) {}

    int64_t Size() const { return steps * images * width; }
    // Offsets of an image's state after a step, and of its last cell.
    int64_t At(int64_t step, int64_t image) const {
      return ((reverse ? steps - 1 - step : step) * images + image) * width;
    }
    int64_t LastCell(int64_t image) const { return (steps * images + image) * width; }
  };

  // What the passes keep, [steps, images, ...].
  struct Kept {
    Scalar *gates, *cell, *out;  // after their functions; out: tanh of the cell
    Scalar *gate_gradient, *hidden_gradient, *cell_gradient;
    Scalar *gate_tangent, *cell_tangent, *out_tangent;

    Kept(const Shape& s, Scalar* kept) {
      const int64_t n = s.Size();
      gates = kept, cell = gates + 4 * n, out = cell + n;
      gate_gradient = out + n, hidden_gradient = gate_gradient + 4 * n, cell_gradient = hidden_gradient + n;
      gate_tangent = cell_gradient + n, cell_tangent = gate_tangent + 4 * n, out_tangent = cell_tangent + n;
    }
  };

  // The states before steps. A null array stands for zeros.
  struct States {
    const Shape& s;
    const Scalar *hidden, *cell, *first;

    States(const Shape& shape, const Scalar* h, const Scalar* c, const Scalar* at_first)
        : s(shape), hidden(h), cell(c), first(at_first) {}

    const Scalar* Hidden(int64_t step, int64_t image) const { return Before(hidden, 0, step, image); }
    const Scalar* Cell(int64_t step, int64_t image) const { return Before(cell, s.images * s.width, step, image); }

   private:
    const Scalar* Before(const Scalar* states, int64_t offset, int64_t step, int64_t image) const {
      if (step > 0) return states == nullptr ? nullptr : states + s.At(step - 1, image);
      return first == nullptr ? nullptr : first + offset + image * s.width;
    }
  };

  struct Gates {
    V enter, forget, value, leave;

    Gates(const Scalar* from, int64_t width, int64_t lanes)
        : enter(Load(from, lanes)),
          forget(Load(from + width, lanes)),
          value(Load(from + 2 * width, lanes)),
          leave(Load(from + 3 * width, lanes)) {}
  };

  // Products of states with w [width, 4 width], or of gates with its transpose, which every step repeats.
  class StateProduct {
   public:
    StateProduct(const Shape& s, int64_t rows, bool transposed, const Scalar* w, ArenaScope& arena)
        : in_(transposed ? 4 * s.width : s.width),
          out_(transposed ? s.width : 4 * s.width),
          w_(w),
          product_({rows, in_, out_}, arena),
          packed_(arena.Array<Scalar>(w == nullptr ? 0 : product_.PackedSize())) {
      if (w == nullptr) return;
      const Matrix<const Scalar> matrix{w, 4 * s.width, 1};
      product_.Pack(transposed ? matrix.Transposed() : matrix, packed_);
    }

    // sums += x w; null: 0.
    void AddTo(Scalar* sums, const Scalar* x) const {
      if (w_ == nullptr || x == nullptr) return;
      product_.RunPacked({x, in_, 1}, packed_, Scalar{1}, StartFrom::kDest, nullptr, {sums, out_, 1});
    }

   private:
    const int64_t in_, out_;
    const Scalar* w_;
    const MatrixProduct<Scalar> product_;
    Scalar* packed_;
  };

  // Gradients at the state after the step at hand.
  struct Carried {
    int64_t size;
    Scalar *hidden, *cell;

    Carried(int64_t n, const Scalar* last_cell, ArenaScope& arena)
        : size(n), hidden(arena.Array<Scalar>(n)), cell(arena.Array<Scalar>(n)) {
      Clear();
      std::copy_n(last_cell, n, cell);
    }
    void Clear() { std::fill_n(hidden, size, Scalar{0}); }
  };

  template <typename F>
  static void ForImages(const Frame<Scalar>& frame, const Shape& s, const F& f) {
    ShareUnits(frame.pool, s.images, s.Size() * 4 * s.width,
               [&](int64_t begin, int64_t end) { f(begin, end - begin); });
  }

  // Calls f(offset in a state, offset in gates, lanes) for vectors of rows.
  template <typename F>
  static MF_INLINE void ForRow(const Shape& s, int64_t rows, const F& f) {
    for (int64_t row = 0; row < rows; ++row) {
      ForChannels<Scalar>(s.width,
                          [&](int64_t i, int64_t lanes) { f(row * s.width + i, 4 * row * s.width + i, lanes); });
    }
  }

  static void Put(const Operand<Scalar>& operand, Scalar* gradient, int64_t at, const Scalar* share, int64_t n) {
    if (gradient == nullptr) return;
    ForChannels<Scalar>(n, [&](int64_t i, int64_t lanes) {
      const V more = Load(share + i, lanes);
      Store(gradient + at + i, operand.adds ? Load(gradient + at + i, lanes) + more : more, lanes);
    });
  }
  static void PutCarried(const Frame<Scalar>& f, const Shape& s, Scalar* gradient, int64_t first,
                         const Carried& carried) {
    Put(f[2], gradient, first * s.width, carried.hidden, carried.size);
    Put(f[2], gradient, (s.images + first) * s.width, carried.cell, carried.size);
  }

  // to (+)= the sum over steps and images of  h^T gates, for the h before the steps.
  static void AddToWeight(const Frame<Scalar>& f, const Shape& s, const States& states, const Scalar* gates, bool adds,
                          Scalar* to) {
    const int64_t others = (s.steps - 1) * s.images, unit = kTileRows;
    const int64_t early = s.reverse ? s.images * s.width : 0, late = s.reverse ? 0 : s.images * s.width;
    ShareUnits(f.pool, (s.width + unit - 1) / unit, s.Size() * 4 * s.width, [&](int64_t begin, int64_t end) {
      const int64_t row = begin * unit, rows = std::min(s.width, end * unit) - row;
      auto add = [&](const Scalar* h, const Scalar* of_gates, int64_t depth, StartFrom from) {
        ArenaScope arena;
        MatrixProduct<Scalar>({rows, depth, 4 * s.width}, arena)
            .Run({h + row, 1, s.width}, {of_gates, 4 * s.width, 1}, Scalar{1}, from, nullptr,
                 {to + row * 4 * s.width, 4 * s.width, 1});
      };
      StartFrom from = adds ? StartFrom::kDest : StartFrom::kZero;
      add(states.hidden + early, gates + 4 * late, others, from);
      if (const Scalar* h = states.Hidden(0, 0); h != nullptr) {
        add(h, gates + 4 * s.At(0, 0), s.images, StartFrom::kDest);
      }
    });
  }
};

}  // namespace
}  // namespace maml_fast
