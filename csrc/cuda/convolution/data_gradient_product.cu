// grad_x as a matrix product: rows are pixels of x, columns are input channels.
#include "cuda/convolution/products.cuh"

namespace maml_fast {
namespace cuda {
namespace {

template <typename T>
struct DataGradientProduct {
  static constexpr bool kAlongA = true, kAlongB = true;

  ConvBlockShape shape;
  PatchGrid<true> grid;
  Divide by_out_channels;
  const T* grad_y;
  TaskParam<T> weight;
  const T* more;
  T* grad_x;

  static DataGradientProduct Of(const ConvBlockShape& s, const T* grad_y, TaskParam<T> weight, const T* more,
                                T* grad_x) {
    return {s, PatchGrid<true>::Of(s), Divide::By(int(s.out_channels)), grad_y, weight, more, grad_x};
  }

  __host__ __device__ int Rows() const { return static_cast<int>(shape.batch * shape.InPixels()); }
  __host__ __device__ int Cols() const { return static_cast<int>(shape.in_channels); }
  __host__ __device__ int Depth() const { return static_cast<int>(shape.kernel * shape.kernel * shape.out_channels); }
  __host__ __device__ int Parts() const { return 1; }
  MF_DEVICE static constexpr int Terms() { return 1; }
  MF_DEVICE Patches<T, true> A(int task, int) const { return {grid, grad_y + shape.ConvImage(task, 0), Rows()}; }
  MF_DEVICE TransposedFilters<T> B(int task, int) const {
    return {weight.Of(task), static_cast<int>(shape.kernel * shape.kernel), Cols(),
            static_cast<int>(shape.out_channels), by_out_channels};
  }

  template <class TileType>
  MF_DEVICE void Finish(const Job& job, TileType& tile) const {
    const int64_t first = shape.InImage(job.task, 0);
    StoreTile(tile, job, Rows(), Cols(), more == nullptr ? more : more + first, grad_x + first);
  }
};

}  // namespace

template <typename T>
void StartDataGradient(Launches& launch, Arithmetic arithmetic, const ConvBlockShape& s, const T* grad_y,
                       TaskParam<T> weight, const T* more, T* grad_x) {
  const auto product = DataGradientProduct<T>::Of(s, grad_y, weight, more, grad_x);
  const Tiling tiling = TilingOf(product.Rows(), product.Cols(), s.tasks);
  Start<T>(launch, arithmetic, tiling, product, s.tasks, IsWide(grad_y, s.out_channels, 0),
           IsWide(weight.data, s.out_channels, weight.stride));
}

template void StartDataGradient(Launches&, Arithmetic, const ConvBlockShape&, const float*, TaskParam<float>,
                                const float*, float*);
template void StartDataGradient(Launches&, Arithmetic, const ConvBlockShape&, const double*, TaskParam<double>,
                                const double*, double*);

}  // namespace cuda
}  // namespace maml_fast
