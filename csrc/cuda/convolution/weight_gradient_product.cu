// grad_weight as a matrix product: rows are the values of a patch, columns are output channels, k goes over y's pixels.
#include "cuda/convolution/products.cuh"

namespace maml_fast {
namespace cuda {
namespace {

// Each part sums over a range of y's pixels.
template <typename T>
struct WeightGradientProduct {
  static constexpr bool kAlongA = false, kAlongB = false, kSplits = true;

  ConvBlockShape shape;
  PatchGrid grid;
  const T* x;
  const T* grad_y;
  int parts, pixels;
  const T* more;  // [T, k, k, Cin, Cout], to be added where there is one part; or null
  T* sums;        // [T, parts, k, k, Cin, Cout]

  static WeightGradientProduct Of(const ConvBlockShape& s, const T* x, const T* grad_y, int parts, const T* more,
                                  T* sums) {
    return {s, PatchGrid::Of(s), x, grad_y, parts, RowsOfY(s), more, sums};
  }

  __host__ __device__ int Rows() const { return static_cast<int>(shape.PatchSize()); }
  __host__ __device__ int Cols() const { return static_cast<int>(shape.out_channels); }
  MF_DEVICE int Depth(const Job&) const { return pixels; }
  __host__ __device__ int Parts() const { return parts; }
  MF_DEVICE static constexpr int Terms() { return 1; }
  MF_DEVICE Patches<T> A(const Job& job, int) const { return {grid, x + shape.InImage(job.task, 0), pixels}; }
  MF_DEVICE Matrix<T> B(const Job& job, int) const { return {grad_y + shape.ConvImage(job.task, 0), pixels, Cols()}; }

  template <class TileType>
  MF_DEVICE void Finish(const Job& job, TileType& tile) const {
    const int64_t size = shape.WeightSize();
    StoreTile(tile, job, Rows(), Cols(), more == nullptr ? more : more + job.task * size,
              sums + (int64_t{job.task} * parts + job.part) * size);
  }
};

// grad_weight = the sum of the parts, plus `more` unless it is null.
template <typename T>
__global__ void SumWeightGradients(int64_t size, int parts, const T* sums, const T* more, T* grad_weight) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= size) return;
  const T* of_task = sums + int64_t{blockIdx.y} * parts * size + i;
  const int64_t at = int64_t{blockIdx.y} * size + i;
  T total = 0;
  for (int part = 0; part < parts; ++part) total += of_task[part * size];
  grad_weight[at] = total + (more == nullptr ? T{0} : more[at]);
}

}  // namespace

namespace {

int64_t MostParts(const ConvBlockShape& s) {
  constexpr int64_t kPixelsOfPart = 256;
  return Ceil(RowsOfY(s), kPixelsOfPart);
}

Tiling WeightGradientTiling(const ConvBlockShape& s) {
  return TilingOf(s.PatchSize(), s.out_channels, s.tasks * MostParts(s));
}

}  // namespace

// Enough parts for the thread blocks to occupy a large GPU, but no part with too few pixels.
int WeightGradientParts(const ConvBlockShape& s) {
  constexpr int64_t kBlocks = 512;
  const int64_t tiles = TilesOf(WeightGradientTiling(s), s.PatchSize(), s.out_channels) * s.tasks;
  const int64_t wanted = Ceil(kBlocks, tiles), most = MostParts(s);
  return static_cast<int>(wanted < most ? wanted : most);
}

template <typename T>
void StartWeightGradient(Launches& launch, Arithmetic arithmetic, const ConvBlockShape& s, const T* x, const T* grad_y,
                         T* sums, const T* more, T* grad_weight) {
  const int parts = WeightGradientParts(s);
  const auto product =
      WeightGradientProduct<T>::Of(s, x, grad_y, parts, parts == 1 ? more : nullptr, parts == 1 ? grad_weight : sums);
  Start<T>(launch, arithmetic, WeightGradientTiling(s), product, s.tasks, IsWide(x, s.in_channels, 0),
           IsWide(grad_y, s.out_channels, 0));
  if (parts == 1) return;
  constexpr int kSumThreads = 256;
  launch(&SumWeightGradients<T>, dim3(Ceil(s.WeightSize(), kSumThreads), static_cast<unsigned>(s.tasks)),
         dim3(kSumThreads), 0, s.WeightSize(), parts, static_cast<const T*>(sums), more, grad_weight);
}

template void StartWeightGradient(Launches&, Arithmetic, const ConvBlockShape&, const float*, const float*, float*,
                                  const float*, float*);
template void StartWeightGradient(Launches&, Arithmetic, const ConvBlockShape&, const double*, const double*, double*,
                                  const double*, double*);

}  // namespace cuda
}  // namespace maml_fast
