// The passes of a thin block (see ConvBlockShape::thin) if no gradient of x is wanted or given: ThinForwardPass,
// ThinBackwardPass and ThinDoubleBackwardPass. They never store y.
#pragma once

#include "cpu/thin/backward.h"
#include "cpu/thin/double_backward.h"
#include "cpu/thin/forward.h"
