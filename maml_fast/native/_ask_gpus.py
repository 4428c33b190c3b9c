"""Prints the compute capability of each GPU that this process may use, one per line; nothing if there is no driver.

It runs in a separate process, as ``python _ask_gpus.py``. Once a process has called CUDA's driver, the processes that
it forks, such as DataLoader workers, can't use a GPU. Nor does a broken driver affect the calling process.
"""

from __future__ import annotations

import ctypes

MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


def main() -> None:
    """Query the driver directly, without torch."""
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
