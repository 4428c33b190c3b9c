// The Python module of the library. Tensor operators register themselves with torch, in their own files. This is the
// only source file that includes pybind11, whose headers take longer to parse than most files here take to compile.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O1")  // a batch comes through here once, and -O2 takes a third longer to compile
#endif

#include <pybind11/pybind11.h>

#include <utility>

#include "bindings/sampler.h"
#include "cpu/arena.h"
#include "cpu/clock.h"
#include "cpu/dispatch.h"

#ifdef MF_WITH_CUDA
constexpr bool kHasCuda = true;
#else
constexpr bool kHasCuda = false;
#endif

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "Native kernels of maml_fast.";
  m.def("cpu_capability", &maml_fast::CpuCapability, "Instruction set of the kernels: avx512, avx2, neon or generic.");
  m.def("has_cuda", [] { return kHasCuda; }, "Whether kernels for GPUs are in the library.");
  m.def("give_back_memory", &maml_fast::GiveBackFreeMemory, "Return free memory of the heap to the system.");
  m.def("start_clock", &maml_fast::StartClock, "Start measuring what the threads do.");
  m.def(
      "stop_clock",
      [] {
        const maml_fast::ClockSeconds seconds = maml_fast::StopClock();
        return std::make_pair(seconds.convolutions, seconds.waiting);
      },
      "Return two times since the start, in seconds and summed over all threads: in convolutions, and waiting for the "
      "last thread in whole inner loops.");
  maml_fast::BindSampler(m);
}
