// Sums over a task's rows [rows][channels], in two steps of fixed order: first over parts of the rows, then over the
// parts, in double.
#pragma once

#include <cmath>

#include "core/conv_block.h"
#include "cuda/device.cuh"
#include "cuda/launch.h"

namespace maml_fast {
namespace cuda {

constexpr int kLanes = 32, kPlies = 8;  // a thread block has kLanes adjacent channels and kPlies rows at a time
constexpr int kRowsOfPart = 256;

inline int PartsOf(int64_t rows) { return static_cast<int>((rows + kRowsOfPart - 1) / kRowsOfPart); }

// The work of a block of kLanes x kPlies threads: one part of one task's rows, for kLanes channels. Grid: x over parts,
// y over groups of channels, z over tasks.
struct PartOfRows {
  int task, part, parts, channel;
  int begin, end;

  MF_DEVICE static PartOfRows Here(int rows) {
    const int part = static_cast<int>(blockIdx.x), begin = part * kRowsOfPart, end = begin + kRowsOfPart;
    return {static_cast<int>(blockIdx.z),
            part,
            static_cast<int>(gridDim.x),
            static_cast<int>(blockIdx.y) * kLanes + static_cast<int>(threadIdx.x),
            begin,
            end < rows ? end : rows};
  }
};

// Adds up a number of the threads in the same lane, in order. All threads of the block call it. Shared memory:
// kLanes * kPlies doubles.
MF_DEVICE double SumOverPlies(double mine) {
  auto* shared = static_cast<double*>(Shared()) + threadIdx.x;  // [kPlies][kLanes]
  shared[threadIdx.y * kLanes] = mine;
  __syncthreads();
  double sum = 0;
  for (int p = 0; p < kPlies; ++p) sum += shared[p * kLanes];
  __syncthreads();
  return sum;
}

// partial[task][part][i][channel] = the sum of term i over the part's rows. term(task, row, channel, sums) adds one
// row's terms to sums [COUNT].
template <int COUNT, typename T, class Term>
MF_DEVICE void SumPart(int rows, int channels, T* partial, const Term& term) {
  auto* shared = static_cast<T*>(Shared());  // [kPlies][COUNT][kLanes]
  const PartOfRows here = PartOfRows::Here(rows);
  const int ply = static_cast<int>(threadIdx.y), lane = static_cast<int>(threadIdx.x);
  T sums[COUNT]{};
  if (here.channel < channels) {
    for (int row = here.begin + ply; row < here.end; row += kPlies) term(here.task, row, here.channel, sums);
  }
  for (int i = 0; i < COUNT; ++i) shared[(ply * COUNT + i) * kLanes + lane] = sums[i];
  __syncthreads();
  if (here.channel >= channels) return;
  for (int i = ply; i < COUNT; i += kPlies) {
    T sum = 0;
    for (int p = 0; p < kPlies; ++p) sum += shared[(p * COUNT + i) * kLanes + lane];
    partial[((int64_t{here.task} * here.parts + here.part) * COUNT + i) * channels + here.channel] = sum;
  }
}

// Calls finish(task, channel, totals) once for every channel of every task whose rows are one part, with totals[i] the
// sum of term i. Grid: as for SumPart.
template <int COUNT, typename T, class Term, class Finish>
MF_DEVICE void SumRows(int rows, int channels, const Term& term, const Finish& finish) {
  auto* shared = static_cast<T*>(Shared());  // [kPlies][COUNT][kLanes]
  const PartOfRows here = PartOfRows::Here(rows);
  const int ply = static_cast<int>(threadIdx.y), lane = static_cast<int>(threadIdx.x);
  T sums[COUNT]{};
  if (here.channel < channels) {
    for (int row = ply; row < rows; row += kPlies) term(here.task, row, here.channel, sums);
  }
  for (int i = 0; i < COUNT; ++i) shared[(ply * COUNT + i) * kLanes + lane] = sums[i];
  __syncthreads();
  if (here.channel >= channels || ply > 0) return;
  double totals[COUNT];
  for (int i = 0; i < COUNT; ++i) {
    T sum = 0;
    for (int p = 0; p < kPlies; ++p) sum += shared[(p * COUNT + i) * kLanes + lane];
    totals[i] = sum;
  }
  finish(here.task, here.channel, totals);
}

// Calls finish(task, channel, totals) once for every channel of every task, with totals[i] the sum over parts. Grid: x
// over channels, y over tasks.
template <int COUNT, typename T, class Finish>
MF_DEVICE void JoinParts(int parts, int channels, const T* partial, const Finish& finish) {
  auto* shared = static_cast<double*>(Shared());  // [kPlies][COUNT][kLanes]
  const int lane = static_cast<int>(threadIdx.x), ply = static_cast<int>(threadIdx.y);
  const int channel = static_cast<int>(blockIdx.x) * kLanes + lane, task = static_cast<int>(blockIdx.y);
  double sums[COUNT]{};
  if (channel < channels) {
    for (int part = ply; part < parts; part += kPlies) {
      for (int i = 0; i < COUNT; ++i)
        sums[i] += partial[((int64_t{task} * parts + part) * COUNT + i) * channels + channel];
    }
  }
  for (int i = 0; i < COUNT; ++i) shared[(ply * COUNT + i) * kLanes + lane] = sums[i];
  __syncthreads();
  if (channel >= channels || ply > 0) return;
  for (int i = 0; i < COUNT; ++i) {
    double total = 0;
    for (int p = 0; p < kPlies; ++p) total += shared[(p * COUNT + i) * kLanes + lane];
    sums[i] = total;
  }
  finish(task, channel, sums);
}

template <int COUNT, typename T, class Term>
__global__ void SumPartsKernel(int rows, int channels, const Term term, T* partial) {
  SumPart<COUNT>(rows, channels, partial, term);
}
template <int COUNT, typename T, class Finish>
__global__ void JoinPartsKernel(int parts, int channels, const T* partial, const Finish finish) {
  JoinParts<COUNT>(parts, channels, partial, finish);
}
template <int COUNT, typename T, class Term, class Finish>
__global__ void SumRowsKernel(int rows, int channels, const Term term, const Finish finish) {
  SumRows<COUNT, T>(rows, channels, term, finish);
}

// Sums terms over a task's rows and finishes the totals, in one kernel if the rows are one part, else in two. partial:
// scratch [tasks, PartsOf(rows), COUNT, C].
template <int COUNT, typename T, class Term, class Finish>
void StartSums(Launches& launch, const ConvBlockShape& s, int rows, const Term& term, const Finish& finish,
               T* partial) {
  const int channels = static_cast<int>(s.out_channels), parts = PartsOf(rows);
  const auto tasks = static_cast<unsigned>(s.tasks), groups = Ceil(s.out_channels, kLanes);
  const dim3 grid(static_cast<unsigned>(parts), groups, tasks), threads(kLanes, kPlies);
  constexpr size_t kNumbers = size_t{COUNT} * kLanes * kPlies;
  if (parts == 1) {
    launch(&SumRowsKernel<COUNT, T, Term, Finish>, grid, threads, sizeof(T) * kNumbers, rows, channels, term, finish);
    return;
  }
  launch(&SumPartsKernel<COUNT, T, Term>, grid, threads, sizeof(T) * kNumbers, rows, channels, term, partial);
  launch(&JoinPartsKernel<COUNT, T, Finish>, dim3(groups, tasks), threads, sizeof(double) * kNumbers, parts, channels,
         static_cast<const T*>(partial), finish);
}

}  // namespace cuda
}  // namespace maml_fast
