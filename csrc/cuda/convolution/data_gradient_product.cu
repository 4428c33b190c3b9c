// grad_x as matrix products, one for each class of pixels: rows are a class's pixels of x, columns are input channels.
#include "cuda/convolution/gradient_operands.cuh"
#include "cuda/convolution/products.cuh"

namespace maml_fast {
namespace cuda {
namespace {

// Each part is a class.
template <typename T>
struct DataGradientProduct {
  static constexpr bool kAlongA = true, kAlongB = true, kSplits = false;

  ConvBlockShape shape;
  ClassGrid grid;
  const T* grad_y;
  TaskParam<T> weight;
  const T* more;
  T* grad_x;

  __host__ __device__ int Rows() const { return static_cast<int>(shape.batch) * grid.rows * grid.cols; }
  __host__ __device__ int Cols() const { return static_cast<int>(shape.in_channels); }
  __host__ __device__ int Parts() const { return grid.Classes(); }
  MF_DEVICE int Depth(const Job& job) const {
    const auto of = PixelClass::Of(grid, job.part);
    return of.taps_down * of.taps_across * grid.channels;
  }
  MF_DEVICE static constexpr int Terms() { return 1; }
  MF_DEVICE ClassPatches<T> A(const Job& job, int) const {
    return {grid, PixelClass::Of(grid, job.part), grad_y + shape.ConvImage(job.task, 0), Rows()};
  }
  MF_DEVICE ClassFilters<T> B(const Job& job, int) const {
    return {grid, PixelClass::Of(grid, job.part), weight.Of(job.task), Cols()};
  }

  template <class TileType>
  MF_DEVICE void Finish(const Job& job, TileType& tile) const {
    const int64_t first = shape.InImage(job.task, 0);
    const T* more_of_task = more == nullptr ? more : more + first;
    if (Parts() == 1) {
      StoreTile(tile, job, Rows(), Cols(), more_of_task, grad_x + first);
    } else {
      StorePixels(tile, job, more_of_task, grad_x + first);
    }
  }

 private:
  // Writes the pixels of a class, which do not lie side by side. Each thread writes one channel.
  template <class TileType>
  MF_DEVICE void StorePixels(TileType& tile, const Job& job, const T* more_of_task, T* out) const {
    const auto of = PixelClass::Of(grid, job.part);
    const int col = static_cast<int>(threadIdx.x) % TileType::kCols;
    if (job.col + col >= Cols()) return;
    for (int row = static_cast<int>(threadIdx.x) / TileType::kCols; row < TileType::kRows;
         row += TileType::kThreads / TileType::kCols) {
      const int line = job.row + row, image = grid.by_pixels.Quotient(line), pixel = line - image * grid.by_pixels.by;
      const int down = grid.by_cols.Quotient(pixel), to_row = of.row + down * grid.stride;
      const int to_col = of.col + (pixel - down * grid.cols) * grid.stride;
      if (line >= Rows() || to_row >= grid.to_height || to_col >= grid.to_width) continue;
      const int64_t at = ((int64_t{image} * grid.to_height + to_row) * grid.to_width + to_col) * Cols() + job.col + col;
      out[at] = tile.At(row, col) + (more_of_task == nullptr ? T{0} : more_of_task[at]);
    }
  }
};

}  // namespace

template <typename T>
void StartDataGradient(Launches& launch, Arithmetic arithmetic, const ConvBlockShape& s, const T* grad_y,
                       TaskParam<T> weight, const T* more, T* grad_x) {
  const DataGradientProduct<T> product{s, ClassGrid::Of(s), grad_y, weight, more, grad_x};
  const Tiling tiling = TilingOf(product.Rows(), product.Cols(), s.tasks * product.Parts());
  Start<T>(launch, arithmetic, tiling, product, s.tasks, IsWide(grad_y, s.out_channels, 0),
           IsWide(weight.data, s.out_channels, weight.stride));
}

template void StartDataGradient(Launches&, Arithmetic, const ConvBlockShape&, const float*, TaskParam<float>,
                                const float*, float*);
template void StartDataGradient(Launches&, Arithmetic, const ConvBlockShape&, const double*, TaskParam<double>,
                                const double*, double*);

}  // namespace cuda
}  // namespace maml_fast
