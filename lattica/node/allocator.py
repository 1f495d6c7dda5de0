"""How the C library's allocator deals with freed memory while nodes run."""

from __future__ import annotations

import ctypes
import logging
import os
import platform

logger = logging.getLogger(__name__)

TRIM_THRESHOLD = 64 << 20
"""Bytes of freed memory at the top of a heap from which they are given back to the system."""
MMAP_THRESHOLD = 32 << 20
"""Bytes from which an allocation has a mapping of its own, which goes back to the system when it is freed: the most
that glibc takes."""

# glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_ENVIRONMENT = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Have glibc keep memory that was freed for what is allocated next; whether it does.

    It gives memory back eagerly as long as a program has freed nothing large, and takes it again for the next message:
    of a stream in pieces of 1 MiB a third to a half of the processor's time would go into pages that the kernel maps,
    clears and unmaps. This sets at once what glibc comes to by itself in a program that has freed an array of 32 MiB.

    For the whole process, and for good. Nothing is changed where the environment says how malloc should behave, nor
    with another C library.

    Source: https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _ENVIRONMENT):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError) as error:  # linked statically, or another allocator in glibc's place
        logger.info("allocator not tuned reason=%s", error)
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD) and mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD))
