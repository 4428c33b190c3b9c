// The passes of a thin block (see ConvBlockShape::Thin) that are asked for nothing about x: ThinForwardPass,
// ThinBackwardPass and ThinDoubleBackwardPass never store y.
#pragma once

#include "cpu/thin/backward.h"
#include "cpu/thin/double_backward.h"
#include "cpu/thin/forward.h"
