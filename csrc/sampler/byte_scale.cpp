#include "sampler/byte_scale.h"

// GCC must be asked to vectorize these loops, and to use whole registers of AVX-512. clang does both by itself.
#if defined(__clang__)
#define MF_VECTORIZED
#define MF_WHOLE_REGISTERS
#else
#define MF_VECTORIZED __attribute__((optimize("O3")))
#define MF_WHOLE_REGISTERS ",prefer-vector-width=512"
#endif

namespace maml_fast {
namespace {

using Quotients = void (*)(const std::uint8_t*, std::int64_t, float, float*);

inline __attribute__((always_inline)) void Divide(const std::uint8_t* bytes, std::int64_t n, float divisor,
                                                  float* out) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(bytes[i]) / divisor;
}

MF_VECTORIZED void DivideAnywhere(const std::uint8_t* bytes, std::int64_t n, float divisor, float* out) {
  Divide(bytes, n, divisor, out);
}

#if defined(__x86_64__)
// The machine chooses among several instruction sets.
MF_VECTORIZED __attribute__((target("avx2"))) void DivideByAvx2(const std::uint8_t* bytes, std::int64_t n,
                                                                float divisor, float* out) {
  Divide(bytes, n, divisor, out);
}
MF_VECTORIZED __attribute__((target("avx512f,avx512bw,avx512vl" MF_WHOLE_REGISTERS))) void DivideByAvx512(
    const std::uint8_t* bytes, std::int64_t n, float divisor, float* out) {
  Divide(bytes, n, divisor, out);
}
#endif

Quotients BestQuotients() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) return DivideByAvx512;
  if (__builtin_cpu_supports("avx2")) return DivideByAvx2;
#endif
  return DivideAnywhere;
}

}  // namespace

ByteScale::ByteScale(const std::array<float, 256>& table) : table_(table) {
  std::array<std::uint8_t, 256> bytes;
  for (int byte = 0; byte < 256; ++byte) bytes[byte] = static_cast<std::uint8_t>(byte);
  for (const Form form : {Form::kQuotient, Form::kInvertedQuotient}) {
    for (const float divisor : {1.0f, 255.0f}) {
      std::array<float, 256> computed;
      form_ = form;
      divisor_ = divisor;
      Apply(bytes.data(), 256, computed.data());
      if (computed == table) return;
    }
  }
  form_ = Form::kTable;
}

void ByteScale::Apply(const std::uint8_t* bytes, std::int64_t n, float* out) const {
  static const Quotients kDivide = BestQuotients();
  if (form_ == Form::kTable) {
    for (std::int64_t i = 0; i < n; ++i) out[i] = table_[bytes[i]];
    return;
  }
  kDivide(bytes, n, divisor_, out);
  if (form_ == Form::kInvertedQuotient) {
    for (std::int64_t i = 0; i < n; ++i) out[i] = 1.0f - out[i];
  }
}

}  // namespace maml_fast
