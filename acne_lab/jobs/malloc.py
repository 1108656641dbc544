"""How the C library hands memory out: it keeps what is freed.

glibc gives large blocks back to the operating system at once, and gets them again page by page: the kernel then clears
each page of each activation at every iteration, which took 10 to 25 % of the time of training on a CPU.
"""

import ctypes
from collections.abc import Callable

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # mallopt(3)


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, for the next iteration; False where the C library is not glibc.

    A process then holds its peak until it ends; up to a third more, as blocks of many sizes lie side by side.
    """
    mallopt = _function("mallopt")
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))


def return_freed_memory() -> None:
    """Give the operating system back what is free now."""
    if malloc_trim := _function("malloc_trim"):
        malloc_trim(0)


def _function(name: str) -> Callable[..., int] | None:
    """One of glibc's own; None in another C library."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return None
