#include "cpu/dispatch.h"

#include <cstdlib>
#include <cstring>

namespace maml_fast {
namespace {

struct Capability {
  const char* name;
  bool (*supported)();
  const CpuKernels* kernels;
};

// The compiled instruction sets, best first.
const Capability kCapabilities[] = {
#if defined(MF_AVX512)
    {"avx512",
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") != 0;
     },
     &kAvx512Kernels},
#endif
#if defined(MF_AVX2)
    {"avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") != 0; }, &kAvx2Kernels},
#endif
#if defined(__aarch64__)
    {"neon", [] { return true; }, &kNeonKernels},
#else
    {"generic", [] { return true; }, &kGenericKernels},
#endif
};

// Returns the first one that this machine supports, from the one named `wanted` downwards; null if there is no such
// name.
const Capability* BestFrom(const char* wanted) {
  bool reached = wanted == nullptr;
  for (const Capability& c : kCapabilities) {
    reached = reached || std::strcmp(wanted, c.name) == 0;
    if (reached && c.supported()) return &c;
  }
  return nullptr;
}

const Capability& Choose() {
  const Capability* asked = BestFrom(std::getenv("MAML_FAST_CPU"));
  return asked != nullptr ? *asked : *BestFrom(nullptr);
}

const Capability& Chosen() {
  static const Capability& chosen = Choose();
  return chosen;
}

}  // namespace

const char* CpuCapability() { return Chosen().name; }

const CpuKernels& Kernels() { return *Chosen().kernels; }

}  // namespace maml_fast
