// The matrix product of two operands: C[m][n] = sum over k of A[m][k] B[n][k]. A thread block computes one tile of C
// over a range of k, slab by slab: while one slab is multiplied, the next ones are copied to shared memory.
#pragma once

#include "cuda/convolution/slab.cuh"

namespace maml_fast {
namespace cuda {

// A tile of C in shared memory, which Product::Finish reads.
template <class Math>
struct Tile {
  static constexpr int kRows = Math::Tile::kRows, kCols = Math::Tile::kCols, kThreads = Math::kThreads;
  static constexpr int kPitch = kCols + 1;

  typename Math::Sum values[kRows * kPitch];

  MF_DEVICE typename Math::Sum& At(int row, int col) { return values[row * kPitch + col]; }
};

// The work of a thread block: one tile of one task, over one part of k, or of one of several products.
struct Job {
  int task, part;
  int row, col;  // the tile's first row and column
};

// Writes the part of a tile that lies within out [rows][cols], plus `more` [rows][cols] unless it is null. Each thread
// writes one column.
template <typename T, class TileType>
MF_DEVICE void StoreTile(TileType& tile, const Job& job, int rows, int cols, const T* more, T* out) {
  constexpr int kRowsAtOnce = TileType::kThreads / TileType::kCols;
  static_assert(TileType::kThreads % TileType::kCols == 0, "threads share a tile evenly");
  const int col = static_cast<int>(threadIdx.x) % TileType::kCols;
  if (job.col + col >= cols) return;
  const int first = static_cast<int>(threadIdx.x) / TileType::kCols, left = rows - job.row;
  const int end = left < TileType::kRows ? left : TileType::kRows;
  int64_t at = int64_t{job.row + first} * cols + job.col + col;
  for (int row = first; row < end; row += kRowsAtOnce, at += kRowsAtOnce * cols) {
    out[at] = tile.At(row, col) + (more == nullptr ? T{0} : more[at]);
  }
}

// The first slab of part `part`, when `slabs` slabs along k are divided into `parts`. The product slabs * part exceeds
// int for large images.
MF_DEVICE int FirstSlab(int slabs, int part, int parts) { return static_cast<int>(int64_t{slabs} * part / parts); }

constexpr int kStages = 3;

// The shared memory of a thread block: slabs of both operands in several stages; the finished tile reuses their place.
template <class Math>
union MultiplyMemory {
  struct Stage {
    typename Math::SlabA a;
    typename Math::SlabB b;
  };

  Stage stages[kStages];
  Tile<Math> tile;
};

// A Product has kAlongA and kAlongB (whether an operand's runs go along k), Parts(), kSplits (whether each part is a
// range of k rather than a product of its own), Depth(job), Terms() (whether one or two pairs of operands are
// multiplied and added up; with kSplits one), A(job, term) and B(job, term) (the operands, which differ between terms
// only in their memory), and Finish(job, tile), which all threads call with the finished tile. Grid: x over tiles of
// rows and parts, y over tiles of columns, z over tasks.
template <class Math, class Product, int VECTOR_A, int VECTOR_B>
__global__ void __launch_bounds__(Math::kThreads, VECTOR_A == 1 ? 2 : Math::kBlocksOfSm)
    MultiplyKernel(const Product product) {
  if constexpr (Math::kOnTensorCores) RequireTensorCores();
  using Memory = MultiplyMemory<Math>;
  static_assert(sizeof(Memory) <= 48 << 10, "more shared memory than a block has without asking");
  auto& memory = *static_cast<Memory*>(Shared());

  const int parts = product.Parts(), x = static_cast<int>(blockIdx.x);
  const Job job{static_cast<int>(blockIdx.z), x % parts, x / parts * Math::Tile::kRows,
                static_cast<int>(blockIdx.y) * Math::Tile::kCols};
  const auto a = product.A(job, 0);
  const auto b = product.B(job, 0);
  const Filler<decltype(a), typename Math::SlabA, Math::kThreads, VECTOR_A> fill_a(a, job.row);
  const Filler<decltype(b), typename Math::SlabB, Math::kThreads, VECTOR_B> fill_b(b, job.col);

  constexpr int kDepth = Math::SlabA::kDepth;
  const int slabs = (product.Depth(job) + kDepth - 1) / kDepth;
  const int begin = Product::kSplits ? FirstSlab(slabs, job.part, parts) : 0;
  const int end = Product::kSplits ? FirstSlab(slabs, job.part + 1, parts) : slabs * product.Terms();
  const auto *first_a = Kept(a.First()), *first_b = Kept(b.First());
  const auto* then_a = product.Terms() > 1 ? Kept(product.A(job, 1).First()) : first_a;
  const auto* then_b = product.Terms() > 1 ? Kept(product.B(job, 1).First()) : first_b;
  auto fetch = [&](int slab, int stage) {
    if (slab < end) {
      const bool then = product.Terms() > 1 && slab >= slabs;
      const int k = (then ? slab - slabs : slab) * kDepth;
      fill_a.Fill(memory.stages[stage].a, then ? then_a : first_a, k);
      fill_b.Fill(memory.stages[stage].b, then ? then_b : first_b, k);
    }
    CommitCopies();
  };
  for (int stage = 0; stage < kStages - 1; ++stage) fetch(begin + stage, stage);
  Math math;
  int here = 0, last = kStages - 1;
  for (int slab = begin; slab < end; ++slab) {
    WaitForCopies<kStages - 2>();
    __syncthreads();  // this slab is whole, and all have left the one before, whose place is free
    fetch(slab + kStages - 1, last);
    math.Multiply(memory.stages[here].a, memory.stages[here].b);
    last = here;
    here = here + 1 < kStages ? here + 1 : 0;
  }
  WaitForCopies<0>();
  __syncthreads();
  math.ForEach([&](int row, int col, typename Math::Sum sum) { memory.tile.At(row, col) = sum; });
  __syncthreads();
  product.Finish(job, memory.tile);
}

}  // namespace cuda
}  // namespace maml_fast
