"""Keeps freed host memory in the process, so that a training step does not fault its pages in again each time.

glibc gives every block above 128 KiB (at most 32 MiB) back to the kernel on free. A convolution net frees and allocates
the same activations every step; each page is then zeroed and mapped anew, which costs about a sixth of a DCGAN step.
"""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # <malloc.h>
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tells glibc's malloc to serve large blocks from the heap and not to trim it.

    The process then keeps its peak of host memory until it ends. Affects the whole process, so programs call it (the
    command line does for training), the library does not.

    Returns:
        True when the settings took; False under another C library, where nothing is changed.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {
        _M_MMAP_MAX: 0,  # no block of its own mapping: such a block goes back to the kernel when freed
        _M_TRIM_THRESHOLD: _NEVER,
        _M_TOP_PAD: 64 * 2**20,  # grow by 64 MiB at a time
    }
    return all(mallopt(name, value) == 1 for name, value in settings.items())
