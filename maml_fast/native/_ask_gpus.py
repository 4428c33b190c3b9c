"""Prints the compute capability of every GPU that this process may use, a line each; nothing where there is no driver.

It is run by itself, as ``python _ask_gpus.py``: a process that has asked CUDA's driver can't use a GPU in those that it
forks, such as a DataLoader's workers, and a driver that is broken breaks nothing else.
"""

from __future__ import annotations

import ctypes

MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


def main() -> None:
    """Ask the driver, without torch."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    count, device, value = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return
    for index in range(count.value):
        numbers = []
        for attribute in (MAJOR, MINOR):
            cuda.cuDeviceGet(ctypes.byref(device), index)
            cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
            numbers.append(str(value.value))
        print(".".join(numbers))


if __name__ == "__main__":
    main()
