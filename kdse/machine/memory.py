"""Memory that PyTorch frees on a CPU stays with the process, for the next step to take."""

from __future__ import annotations

import ctypes
import sys

#: Names of the settings in ``malloc.h`` of the GNU C library.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
#: Blocks from this size on go back to the system at once: our choice, more than any tensor of a step has.
LARGEST_KEPT = 1 << 30


def keep_freed_memory() -> bool:
    """Asks the GNU C library not to return freed memory to the system; False where there is another one.

    PyTorch keeps no memory of its own on a CPU. A step that frees tens of megabytes gets them back as pages that the
    system must find and clear first: without this, a tenth of a step of the 62k CRUSE at 16 x 2 s. The process stays
    as large as its largest step.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    settings = {M_TRIM_THRESHOLD: (1 << 31) - 1, M_MMAP_THRESHOLD: LARGEST_KEPT}
    return all(library.mallopt(name, value) for name, value in settings.items())
