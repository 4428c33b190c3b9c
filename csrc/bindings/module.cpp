// The Python face of the library. Tensor operators register themselves with torch, from their own files.
#include <pybind11/pybind11.h>

#include "cpu/convolution/clock.h"
#include "cpu/dispatch.h"

namespace maml_fast {

void BindSampler(pybind11::module_& m);

}  // namespace maml_fast

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "Native kernels of maml_fast.";
  m.def("cpu_capability", &maml_fast::CpuCapability, "Instruction set of the kernels: avx512, avx2 or generic.");
  m.def("start_convolution_clock", &maml_fast::StartConvolutionClock, "Begin to count the time in convolutions.");
  m.def("stop_convolution_clock", &maml_fast::StopConvolutionClock,
        "Return the seconds of all threads in convolutions since the start.");
  maml_fast::BindSampler(m);
}
