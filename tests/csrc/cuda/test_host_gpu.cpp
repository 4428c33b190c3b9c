// The GPU player itself: barriers, warps, copies that land sooner or later, and the tensor cores' twin.
#include <cmath>
#include <cstring>
#include <vector>

#include "check.h"
#include "cuda/device.cuh"
#include "cuda/divide.h"

namespace maml_fast {
namespace cuda {
namespace {

// Threads hand values around through shared memory; without the barrier some would read what nobody has written.
template <bool BARRIER>
void Rotate(int* out) {
  auto* shared = static_cast<int*>(Shared());
  shared[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (BARRIER) __syncthreads();
  out[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
}

template <bool BARRIER>
bool RotatesRight() {
  std::vector<int> out(96, -1);
  host_gpu::Run(1, 96, 96 * sizeof(int), [&] { Rotate<BARRIER>(out.data()); });
  bool right = true;
  for (int i = 0; i < 96; ++i) right &= out[i] == (i + 1) % 96;
  return right;
}

enum class Barrier { kNone, kWarp, kBlock };

// The races among so many threads, each of which notes one access to the first word and then, after the barrier,
// another.
int Races(int threads, bool writes_first, bool writes_then, Barrier barrier) {
  const auto note = [](bool writes) {
    const auto* word = static_cast<const char*>(Shared());
    if (writes) {
      host_gpu::NoteWrite(word + 2, 2);
    } else {
      host_gpu::NoteRead(word, 4);
    }
  };
  host_gpu::counts_races = true;
  host_gpu::races = 0;
  host_gpu::Run(1, static_cast<unsigned>(threads), 8, [&] {
    if (threadIdx.x == 0) note(writes_first);
    if (barrier == Barrier::kWarp) __syncwarp();
    if (barrier == Barrier::kBlock) __syncthreads();
    if (static_cast<int>(threadIdx.x) == threads - 1) note(writes_then);
  });
  host_gpu::counts_races = false;
  return host_gpu::races;
}

void CheckRaces() {
  for (const int threads : {2, 32, 33, 64}) {
    for (const bool first : {false, true}) {
      for (const bool then : {false, true}) {
        const int expected = first || then ? 1 : 0;
        CHECK_EQ(Races(threads, first, then, Barrier::kNone), expected);
        CHECK_EQ(Races(threads, first, then, Barrier::kWarp), threads > 32 ? expected : 0);
        CHECK_EQ(Races(threads, first, then, Barrier::kBlock), 0);
      }
    }
  }
  CHECK_EQ(Races(1, true, true, Barrier::kNone), 0);  // a thread does not race with itself
}

// How many of 64 copies are seen, each by a block of its own.
template <bool WAITS>
int CopiesSeen() {
  alignas(16) const float from[4] = {1, 2, 3, 4};
  int seen = 0;
  host_gpu::Run(64, 1, 16, [&] {
    CopyAsync<4>(static_cast<float*>(Shared()), from, 0, true);
    CommitCopies();
    if (WAITS) WaitForCopies<0>();
    if (*static_cast<float*>(Shared()) == 1.0f) ++seen;
    WaitForCopies<0>();
  });
  return seen;
}

// A launch within a GPU's limits, and the same with one of them exceeded. Kernels count how often they run.
void CheckLimits() {
  int runs = 0;
  const auto run = [&](dim3 grid, dim3 threads, size_t shared) {
    return host_gpu::Run(grid, threads, shared, [&] { ++runs; });
  };
  CHECK_EQ(run(dim3(1, 3, 1), dim3(32, 32), 48 << 10), cudaSuccess);
  CHECK_EQ(runs, 3 * 1024);
  CHECK_EQ(run(dim3(1, 65535, 1), 1, 0), cudaSuccess);
  CHECK_EQ(run(dim3(1, 1, 65535), 1, 0), cudaSuccess);
  runs = 0;
  CHECK_EQ(run(dim3(1, 65536, 1), 1, 0), cudaErrorInvalidConfiguration);
  CHECK_EQ(run(dim3(1, 1, 65536), 1, 0), cudaErrorInvalidConfiguration);
  CHECK_EQ(run(dim3(1u << 31, 1, 1), 1, 0), cudaErrorInvalidConfiguration);
  CHECK_EQ(run(dim3(0, 1, 1), 1, 0), cudaErrorInvalidConfiguration);
  CHECK_EQ(run(1, dim3(32, 33), 0), cudaErrorInvalidConfiguration);
  CHECK_EQ(run(1, dim3(32, 0), 0), cudaErrorInvalidConfiguration);
  CHECK_EQ(run(1, 1, (48 << 10) + 1), cudaErrorInvalidValue);
  CHECK_EQ(runs, 0);
}

// What is not present is zero, whatever lies at its address.
float FirstOfNothing() {
  alignas(16) const float from[4] = {1, 2, 3, 4};
  float seen = -1;
  host_gpu::Run(1, 1, 16, [&] {
    CopyAsync<4>(static_cast<float*>(Shared()), from, 1 << 20, false);
    CommitCopies();
    WaitForCopies<0>();
    seen = *static_cast<float*>(Shared());
  });
  return seen;
}

// Rows of four 8 x 4 matrices, which lie in no order.
void CheckReadMatrices() {
  alignas(16) float rows[32][4];
  const auto place_of = [](int matrix, int row) { return (matrix * 8 + row) * 7 % 32; };
  for (int i = 0; i < 32; ++i) {
    for (int col = 0; col < 4; ++col) rows[place_of(i / 8, i % 8)][col] = static_cast<float>(i * 4 + col);
  }
  host_gpu::Run(1, 32, 0, [&] {
    const int lane = static_cast<int>(threadIdx.x);
    const auto read = ReadMatrices(rows[place_of(lane / 8, lane % 8)]);
    for (int matrix = 0; matrix < 4; ++matrix) {
      CHECK_EQ(read.of[matrix], static_cast<float>((matrix * 8 + lane / 4) * 4 + lane % 4));
    }
  });
}

void CheckDivide() {
  for (const int by : {1, 2, 3, 5, 7, 9, 14, 64, 84 * 84, (1 << 20) - 1, 1 << 30, 2147483647}) {
    const Divide divide = Divide::By(by);
    for (const int number : {0, 1, by - 1, by, 1000003, (1 << 30) + 1, 2147483646, 2147483647}) {
      CHECK_EQ(divide.Quotient(number), number / by);
    }
  }
}

// A warp's product of small whole numbers is exact in every format.
template <class Format>
void CheckMultiply() {
  constexpr int kPack = Format::kPack, kDepth = 8 * kPack;
  float a[16][kDepth], b[kDepth][8], c[16][8];
  for (int k = 0; k < kDepth; ++k) {
    for (int i = 0; i < 16; ++i) a[i][k] = static_cast<float>((i * kDepth + k) % 61);
    for (int j = 0; j < 8; ++j) b[k][j] = static_cast<float>((k * 3 + j * 5) % 7) - 3;
  }
  host_gpu::Run(1, 32, 0, [&] {
    const int g = static_cast<int>(threadIdx.x) / 4, t = static_cast<int>(threadIdx.x) % 4;
    auto pack = [&](auto at, int k) {
      float values[kPack];
      for (int i = 0; i < kPack; ++i) values[i] = at(k * kPack + i);
      return Format::Pack(values);
    };
    auto of_a = [&](int row, int k) { return pack([&](int at) { return a[row][at]; }, k); };
    auto of_b = [&](int k) { return pack([&](int at) { return b[at][g]; }, k); };
    float sums[4]{};
    const uint32_t left[4] = {of_a(g, t), of_a(g + 8, t), of_a(g, t + 4), of_a(g + 8, t + 4)};
    const uint32_t right[2] = {of_b(t), of_b(t + 4)};
    Format::Multiply(sums, left, right);
    for (int e = 0; e < 4; ++e) c[g + e / 2 * 8][2 * t + e % 2] = sums[e];
  });
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      float sum = 0;
      for (int k = 0; k < kDepth; ++k) sum += a[i][k] * b[k][j];
      CHECK_EQ(c[i][j], sum);
    }
  }
}

template <class Format>
float Rounded(float value) {
  float values[Format::kPack];
  for (float& v : values) v = value;
  const uint32_t bits = Format::Pack(values);
  if (Format::kPack == 2) CHECK(std::memcmp(&bits, reinterpret_cast<const char*>(&bits) + 2, 2) == 0);
  return Format::Unpack(bits, Format::kPack - 1);
}

template <class Format>
void CheckRounding(float last_bit) {
  for (const float value : {1.0f, 1.0f + last_bit, -3.0f, 0.0f, 0x1p-14f}) CHECK_EQ(Rounded<Format>(value), value);
  CHECK_EQ(Rounded<Format>(1.0f + 0.75f * last_bit), 1.0f + last_bit);
  CHECK_EQ(Rounded<Format>(1.0f + 0.25f * last_bit), 1.0f);
  CHECK(std::isnan(Rounded<Format>(NAN)) && std::isinf(Rounded<Format>(INFINITY)));
}

// A tie between an even and an odd number, and the next tie.
template <class Format>
void CheckTies(float last_bit, bool to_even) {
  CHECK_EQ(Rounded<Format>(1.0f + 0.5f * last_bit), to_even ? 1.0f : 1.0f + last_bit);
  CHECK_EQ(Rounded<Format>(-1.0f - 0.5f * last_bit), to_even ? -1.0f : -1.0f - last_bit);
  CHECK_EQ(Rounded<Format>(1.0f + 1.5f * last_bit), 1.0f + 2 * last_bit);
}

}  // namespace
}  // namespace cuda
}  // namespace maml_fast

int main() {
  using namespace maml_fast::cuda;
  CHECK(RotatesRight<true>());
  CHECK(!RotatesRight<false>());  // a missing barrier is seen
  CHECK_EQ(CopiesSeen<true>(), 64);
  CHECK(CopiesSeen<false>() > 0 && CopiesSeen<false>() < 64);  // neither a missing wait nor a hasty copy goes unseen
  CHECK_EQ(FirstOfNothing(), 0.0f);
  CheckLimits();
  CheckRaces();
  CheckReadMatrices();
  CheckDivide();
  CheckMultiply<Tf32>();
  CheckMultiply<Bf16>();
  CheckMultiply<Fp16>();
  for (const bool to_even : {false, true}) {
    host_gpu::ties_to_even = to_even;
    CheckRounding<Tf32>(0x1p-10f);
    CheckTies<Tf32>(0x1p-10f, to_even);
  }
  CheckRounding<Bf16>(0x1p-7f);
  CheckRounding<Fp16>(0x1p-10f);
  CheckTies<Bf16>(0x1p-7f, true);
  CheckTies<Fp16>(0x1p-10f, true);
  CHECK_EQ(Rounded<Fp16>(0x1p-24f), 0x1p-24f);  // the smallest of all
  CHECK_EQ(Rounded<Fp16>(0x1p-26f), 0.0f);
  CHECK_EQ(Rounded<Fp16>(65504.0f), 65504.0f);
  CHECK(std::isinf(Rounded<Fp16>(65536.0f)));
  return 0;
}
