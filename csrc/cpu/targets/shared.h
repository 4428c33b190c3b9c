// Headers that kernels share with other files. They are included before an instruction set is chosen, because only
// kernels may use it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/conv_block.h"
#include "core/program.h"
#include "cpu/arena.h"
#include "cpu/clock.h"
#include "cpu/convolution/pixel_plan.h"
#include "cpu/convolution/winograd_tiles.h"
#include "cpu/kernel_table.h"
#include "cpu/operation_table.h"
#include "cpu/parallel.h"
#include "cpu/rows.h"
