// Ends the section that targets/avx2.h or targets/avx512.h began.
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
