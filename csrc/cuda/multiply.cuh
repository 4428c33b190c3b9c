// A product of two operands, tile by tile: C[m][n] = sum over k of A[m][k] B[n][k]. A block of threads takes one tile
// of C through a range of k, slab by slab: while one slab is multiplied the next is on its way to shared memory.
#pragma once

#include "cuda/device.cuh"

namespace maml_fast {
namespace cuda {

constexpr int kThreads = 128;
constexpr int kTileRows = 64, kTileCols = 64;

template <typename T>
constexpr int kSlabDepth = 128 / static_cast<int>(sizeof(T));

// Part of an operand in shared memory. ALONG: an operand's runs go along k, so that neighbours in k lie side by side;
// else neighbours in m (or n) do. Lines are padded so that the lanes of a warp meet different banks.
template <typename T, int ROWS, bool ALONG>
struct Slab {
  static constexpr int kDepth = kSlabDepth<T>;
  static constexpr int kLines = ALONG ? ROWS : kDepth, kRuns = ALONG ? kDepth : ROWS;
  static constexpr int kPad = 16 / static_cast<int>(sizeof(T)) * (ALONG ? 1 : 2);
  static constexpr int kPitch = kRuns + kPad;

  T values[kLines * kPitch];

  MF_DEVICE T* Line(int line) { return values + line * kPitch; }
  MF_DEVICE T At(int row, int k) const { return ALONG ? values[row * kPitch + k] : values[k * kPitch + row]; }
};

// A thread's part in filling the slabs of one operand: always the same run of several lines, VECTOR neighbours at once.
template <class Operand, class SlabType, bool ALONG, typename T, int VECTOR>
class Filler {
 public:
  // first: the tile's first row of the operand.
  MF_DEVICE Filler(const Operand& operand, int first) : operand_(operand) {
    if constexpr (ALONG) {
      for (int i = 0; i < kMine; ++i) lines_[i] = operand.LineAt(first + LineOf(i));
    } else {
      run_ = operand.RunAt(first + RunHere());
    }
  }

  MF_DEVICE void Fill(SlabType& slab, int k) {
    if constexpr (ALONG) {
      run_ = operand_.RunAt(k + RunHere());
    } else {
      for (int i = 0; i < kMine; ++i) lines_[i] = operand_.LineAt(k + LineOf(i));
    }
    MF_UNROLL
    for (int i = 0; i < kMine; ++i) {
      CopyAsync<VECTOR * sizeof(T)>(slab.Line(LineOf(i)) + RunHere(), operand_.Find(lines_[i], run_), operand_.First());
    }
  }

 private:
  static constexpr int kRunsOfLine = SlabType::kRuns / VECTOR;
  static constexpr int kLinesAtOnce = kThreads / kRunsOfLine;
  static constexpr int kMine = SlabType::kLines / kLinesAtOnce;
  static_assert(kThreads % kRunsOfLine == 0 && SlabType::kLines % kLinesAtOnce == 0, "threads share a slab evenly");

  MF_DEVICE static int RunHere() { return static_cast<int>(threadIdx.x) % kRunsOfLine * VECTOR; }
  MF_DEVICE static int LineOf(int i) { return static_cast<int>(threadIdx.x) / kRunsOfLine + i * kLinesAtOnce; }

  const Operand& operand_;
  typename Operand::Line lines_[kMine];
  typename Operand::Run run_;
};

// Tile sums by plain multiply-adds, exact in the sense of the type.
template <typename T>
struct PlainMath {
  using Scalar = T;
  using Sum = T;
  static constexpr int kRows = 8, kCols = 4;

  T sums[kRows][kCols]{};

  MF_DEVICE static int Row(int i) { return static_cast<int>(threadIdx.x) / 16 * kRows + i; }
  MF_DEVICE static int Col(int j) { return static_cast<int>(threadIdx.x) % 16 + j * 16; }

  template <class SlabA, class SlabB>
  MF_DEVICE void Multiply(const SlabA& a, const SlabB& b) {
    MF_UNROLL
    for (int k = 0; k < SlabA::kDepth; ++k) {
      T of_b[kCols];
      MF_UNROLL
      for (int j = 0; j < kCols; ++j) of_b[j] = b.At(Col(j), k);
      MF_UNROLL
      for (int i = 0; i < kRows; ++i) {
        const T of_a = a.At(Row(i), k);
        MF_UNROLL
        for (int j = 0; j < kCols; ++j) sums[i][j] += of_a * of_b[j];
      }
    }
  }

  // Calls f(row, col, sum) for this thread's part of the tile.
  template <typename F>
  MF_DEVICE void ForEach(const F& f) const {
    MF_UNROLL
    for (int i = 0; i < kRows; ++i) {
      MF_UNROLL
      for (int j = 0; j < kCols; ++j) f(Row(i), Col(j), sums[i][j]);
    }
  }
};

// Tile sums of float on the tensor cores, whose factors have a Format of fewer bits (device.cuh).
template <class Format>
struct TensorMath {
  using Scalar = float;
  using Sum = float;
  static constexpr int kRows = 2, kCols = 4;  // of 16 x 8 values, in each of 2 x 2 warps

  float sums[kRows][kCols][4]{};

  MF_DEVICE static int Lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  MF_DEVICE static int FirstRow(int i) { return static_cast<int>(threadIdx.x) / kWarp / 2 * 32 + i * 16; }
  MF_DEVICE static int FirstCol(int j) { return static_cast<int>(threadIdx.x) / kWarp % 2 * 32 + j * 8; }

  // A register of factors from k on.
  template <class SlabType>
  MF_DEVICE static uint32_t Factors(const SlabType& slab, int row, int k) {
    float values[Format::kPack];
    MF_UNROLL
    for (int i = 0; i < Format::kPack; ++i) values[i] = slab.At(row, k + i);
    return Format::Pack(values);
  }

  template <class SlabA, class SlabB>
  MF_DEVICE void Multiply(const SlabA& a, const SlabB& b) {
    constexpr int kPack = Format::kPack;
    const int g = Lane() / 4, t = Lane() % 4;
    MF_UNROLL
    for (int k = 0; k < SlabA::kDepth; k += 8 * kPack) {
      uint32_t of_a[kRows][4], of_b[kCols][2];
      MF_UNROLL
      for (int i = 0; i < kRows; ++i) {
        MF_UNROLL
        for (int e = 0; e < 4; ++e) of_a[i][e] = Factors(a, FirstRow(i) + g + e % 2 * 8, k + (t + e / 2 * 4) * kPack);
      }
      MF_UNROLL
      for (int j = 0; j < kCols; ++j) {
        MF_UNROLL
        for (int e = 0; e < 2; ++e) of_b[j][e] = Factors(b, FirstCol(j) + g, k + (t + e * 4) * kPack);
      }
      MF_UNROLL
      for (int i = 0; i < kRows; ++i) {
        MF_UNROLL
        for (int j = 0; j < kCols; ++j) Format::Multiply(sums[i][j], of_a[i], of_b[j]);
      }
    }
  }

  template <typename F>
  MF_DEVICE void ForEach(const F& f) const {
    const int g = Lane() / 4, t = Lane() % 4;
    MF_UNROLL
    for (int i = 0; i < kRows; ++i) {
      MF_UNROLL
      for (int j = 0; j < kCols; ++j) {
        MF_UNROLL
        for (int e = 0; e < 4; ++e) f(FirstRow(i) + g + e / 2 * 8, FirstCol(j) + 2 * t + e % 2, sums[i][j][e]);
      }
    }
  }
};

// A tile of C in shared memory, for what is done with it.
template <typename T>
struct Tile {
  static constexpr int kPitch = kTileCols + 1;

  T values[kTileRows * kPitch];

  MF_DEVICE T& At(int row, int col) { return values[row * kPitch + col]; }
};

// What a block of threads works on: one tile of one task, in one part of k.
struct Job {
  int task, part;
  int row, col;  // the tile's first
};

// Writes the part of a tile that lies inside of out [rows][cols].
template <typename T, class TileType>
MF_DEVICE void StoreTile(TileType& tile, const Job& job, int rows, int cols, T* out) {
  for (int i = static_cast<int>(threadIdx.x); i < kTileRows * kTileCols; i += kThreads) {
    const int row = i / kTileCols, col = i % kTileCols;
    if (job.row + row >= rows || job.col + col >= cols) continue;
    out[int64_t{job.row + row} * cols + job.col + col] = tile.At(row, col);
  }
}

// A block's shared memory: two slabs of each operand, and, once all are multiplied, the tile in their place.
template <class Math, class Product>
union MultiplyMemory {
  using SlabA = Slab<typename Math::Scalar, kTileRows, Product::kAlongA>;
  using SlabB = Slab<typename Math::Scalar, kTileCols, Product::kAlongB>;
  struct Stage {
    SlabA a;
    SlabB b;
  };

  Stage stages[2];
  Tile<typename Math::Sum> tile;
};

// Blocks that a multiprocessor shall hold at least. What reads single numbers finds its way to many of them at once,
// for which it takes more registers.
template <typename T, int VECTOR>
constexpr int kBlocksOfSm = VECTOR == 1 || sizeof(T) == 8 ? 2 : 4;

// A product has: kAlongA, kAlongB: whether runs go along k; Depth(); Parts(); A(task), B(task): its operands;
// Finish(job, tile): what becomes of a tile, called by all threads. Blocks: x over tiles of rows and parts, y over
// tiles of columns, z over tasks.
template <class Math, class Product, int VECTOR_A, int VECTOR_B>
__global__ void __launch_bounds__(kThreads, kBlocksOfSm<typename Math::Scalar, VECTOR_A>)
    MultiplyKernel(const Product product) {
  using T = typename Math::Scalar;
  using Memory = MultiplyMemory<Math, Product>;
  static_assert(sizeof(Memory) <= 48 << 10, "more shared memory than a block has without asking");
  auto& memory = *static_cast<Memory*>(Shared());

  const int parts = product.Parts(), x = static_cast<int>(blockIdx.x);
  const Job job{static_cast<int>(blockIdx.z), x % parts, x / parts * kTileRows,
                static_cast<int>(blockIdx.y) * kTileCols};
  const auto a = product.A(job.task);
  const auto b = product.B(job.task);
  Filler<decltype(a), typename Memory::SlabA, Product::kAlongA, T, VECTOR_A> fill_a(a, job.row);
  Filler<decltype(b), typename Memory::SlabB, Product::kAlongB, T, VECTOR_B> fill_b(b, job.col);

  constexpr int kDepth = kSlabDepth<T>;
  const int slabs = (product.Depth() + kDepth - 1) / kDepth;
  const int begin = slabs * job.part / parts, end = slabs * (job.part + 1) / parts;
  Math math;
  auto fetch = [&](int slab) {
    if (slab < end) {
      fill_a.Fill(memory.stages[slab % 2].a, slab * kDepth);
      fill_b.Fill(memory.stages[slab % 2].b, slab * kDepth);
    }
    CommitCopies();
  };
  fetch(begin);
  for (int slab = begin; slab < end; ++slab) {
    fetch(slab + 1);
    WaitForCopies<1>();
    __syncthreads();
    math.Multiply(memory.stages[slab % 2].a, memory.stages[slab % 2].b);
    __syncthreads();
  }
  WaitForCopies<0>();
  math.ForEach([&](int row, int col, typename Math::Sum sum) { memory.tile.At(row, col) = sum; });
  __syncthreads();
  product.Finish(job, memory.tile);
}

}  // namespace cuda
}  // namespace maml_fast
