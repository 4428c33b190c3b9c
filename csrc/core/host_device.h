// MF_HD marks what runs on the host and on a GPU alike.
#pragma once

#ifdef __CUDACC__
#define MF_HD __host__ __device__
#else
#define MF_HD
#endif
