// The CUDA runtime or, in tests, a host that emulates a GPU.
#pragma once

#ifdef MF_HOST_GPU
#include "host_formats.h"
#include "host_gpu.h"
#else
#include <cuda_runtime.h>
#endif
