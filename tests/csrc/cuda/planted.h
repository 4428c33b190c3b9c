// Bugs that a test has written into its copy of the kernels: PLANTED=3 in the environment chooses the one numbered 3.
#pragma once

#include <cstdlib>

namespace host_gpu {

inline const int planted = std::getenv("PLANTED") ? std::atoi(std::getenv("PLANTED")) : 0;

inline bool Planted(int number) { return number == planted; }

}  // namespace host_gpu
