// y and its moments as a matrix product: rows are pixels of y, columns are output channels.
#include "cuda/convolution/products.cuh"
#include "cuda/passes/norm_pool.cuh"

namespace maml_fast {
namespace cuda {
namespace {

// See StartForward in convolve.h.
template <typename T>
struct ForwardProduct {
  static constexpr bool kAlongA = true, kAlongB = false, kSplits = false;

  ConvBlockShape shape;
  PatchGrid grid;
  Convolved<T> first, second;
  int terms;  // 2: the second convolution is added to the first
  TaskParam<T> bias;
  T* y;
  T* moments;  // [T, MomentParts, 2, Cout]; null: not wanted
  int rows;    // RowsOfY

  static ForwardProduct Of(const ConvBlockShape& s, const Convolved<T>& first, const Convolved<T>* second,
                           TaskParam<T> bias, T* y, T* moments) {
    const bool two = second != nullptr;
    return {s, PatchGrid::Of(s), first, two ? *second : first, two ? 2 : 1, bias, y, moments, RowsOfY(s)};
  }

  __host__ __device__ int Rows() const { return rows; }
  __host__ __device__ int Cols() const { return static_cast<int>(shape.out_channels); }
  MF_DEVICE int Depth(const Job&) const { return static_cast<int>(shape.PatchSize()); }
  __host__ __device__ int Parts() const { return 1; }
  MF_DEVICE int Terms() const { return terms; }
  MF_DEVICE Patches<T> A(const Job& job, int term) const {
    return {grid, (term == 0 ? first.x : second.x) + shape.InImage(job.task, 0), rows};
  }
  MF_DEVICE Matrix<T> B(const Job& job, int term) const {
    return {(term == 0 ? first : second).weight.Of(job.task), Depth(job), Cols()};
  }

  template <class TileType>
  MF_DEVICE void Finish(const Job& job, TileType& tile) const {
    static_assert(TileType::kRows % kRowsOfMoments == 0, "all rows of a tile lie in whole parts");
    constexpr int kColumns = TileType::kCols * (TileType::kRows / kRowsOfMoments);
    for (int i = static_cast<int>(threadIdx.x); i < kColumns; i += TileType::kThreads) {
      const int col = i % TileType::kCols, begin = i / TileType::kCols * kRowsOfMoments;
      const int count = rows - (job.row + begin);
      if (job.col + col >= Cols() || count <= 0) continue;
      if (count >= kRowsOfMoments) {
        FinishColumn<true>(job, tile, col, begin, kRowsOfMoments);
      } else {
        FinishColumn<false>(job, tile, col, begin, count);
      }
    }
  }

 private:
  // Finishes rows of one column that share moments: kRowsOfMoments rows from `begin` on if WHOLE, else the first
  // `count`.
  template <bool WHOLE, class TileType>
  MF_DEVICE void FinishColumn(const Job& job, TileType& tile, int col, int begin, int count) const {
    const int channel = job.col + col, row = job.row + begin;
    T* out = y + shape.ConvImage(job.task, 0) + int64_t{row} * Cols() + channel;
    const T* of_task = bias.Of(job.task);
    const T start = of_task == nullptr ? T{0} : of_task[channel];
    T entered[kRowsOfMoments], sum = 0;
    MF_UNROLL
    for (int i = 0; i < kRowsOfMoments; ++i, out += Cols()) {
      if (!WHOLE && i >= count) break;
      const T value = tile.At(begin + i, col) + start;
      *out = value;
      entered[i] = shape.relu_first && value <= T{0} ? T{0} : value;
      sum += entered[i];
    }
    if (moments == nullptr) return;
    const T mean = sum / static_cast<T>(count);
    T squares = 0;
    MF_UNROLL
    for (int i = 0; i < kRowsOfMoments; ++i) {
      if (!WHOLE && i >= count) break;
      const T deviation = entered[i] - mean;
      squares += deviation * deviation;
    }
    const int parts = (rows + kRowsOfMoments - 1) / kRowsOfMoments;
    T* part = moments + (int64_t{job.task} * parts + row / kRowsOfMoments) * 2 * Cols() + channel;
    part[0] = mean;
    part[Cols()] = squares;
  }
};

}  // namespace

template <typename T>
void StartForward(Launches& launch, Arithmetic arithmetic, const ConvBlockShape& s, const Convolved<T>& first,
                  const Convolved<T>* second, TaskParam<T> bias, T* y, T* moments) {
  const auto product = ForwardProduct<T>::Of(s, first, second, bias, y, moments);
  const Tiling tiling = TilingOf(product.Rows(), product.Cols(), s.tasks);
  const auto wide_x = [&](const Convolved<T>& of) { return IsWide(of.x, s.in_channels, 0); };
  const auto wide_weight = [&](const Convolved<T>& of) {
    return IsWide(of.weight.data, s.out_channels, of.weight.stride);
  };
  Start<T>(launch, arithmetic, tiling, product, s.tasks, wide_x(product.first) && wide_x(product.second),
           wide_weight(product.first) && wide_weight(product.second));
}

template void StartForward(Launches&, Arithmetic, const ConvBlockShape&, const Convolved<float>&,
                           const Convolved<float>*, TaskParam<float>, float*, float*);
template void StartForward(Launches&, Arithmetic, const ConvBlockShape&, const Convolved<double>&,
                           const Convolved<double>*, TaskParam<double>, double*, double*);

}  // namespace cuda
}  // namespace maml_fast
