// MF_HD marks functions that are compiled for both the host and the GPU.
#pragma once

#ifdef __CUDACC__
#define MF_HD __host__ __device__
#else
#define MF_HD
#endif
