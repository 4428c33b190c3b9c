// The GPU player itself: barriers, warps, copies that land only when they are waited for, and the tensor cores' twin.
#include <cmath>
#include <cstring>
#include <vector>

#include "check.h"
#include "cuda/device.cuh"

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

template <bool WAITS>
float FirstOfCopy() {
  alignas(16) const float from[4] = {1, 2, 3, 4};
  float seen = 0;
  host_gpu::Run(1, 1, 16, [&] {
    CopyAsync<16>(Shared(), from, from);
    CommitCopies();
    if (WAITS) WaitForCopies<0>();
    seen = *static_cast<float*>(Shared());
    WaitForCopies<0>();
  });
  return seen;
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

}  // namespace
}  // namespace cuda
}  // namespace maml_fast

int main() {
  using namespace maml_fast::cuda;
  CHECK(RotatesRight<true>());
  CHECK(!RotatesRight<false>());  // a missing barrier is seen
  CHECK_EQ(FirstOfCopy<true>(), 1.0f);
  CHECK(std::isnan(FirstOfCopy<false>()));  // and so is a missing wait
  CheckMultiply<Tf32>();
  CheckMultiply<Bf16>();
  CheckMultiply<Fp16>();
  CheckRounding<Tf32>(0x1p-10f);
  CheckRounding<Bf16>(0x1p-7f);
  CheckRounding<Fp16>(0x1p-10f);
  CHECK_EQ(Rounded<Fp16>(0x1p-24f), 0x1p-24f);  // the smallest of all
  CHECK_EQ(Rounded<Fp16>(0x1p-26f), 0.0f);
  CHECK_EQ(Rounded<Fp16>(65504.0f), 65504.0f);
  CHECK(std::isinf(Rounded<Fp16>(65536.0f)));
  return 0;
}
