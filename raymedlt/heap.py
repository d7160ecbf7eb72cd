"""Freed memory, back to the system.

A process that does shard after shard, each with arrays of other sizes, holds more and more that is free: the C library
keeps what lies between blocks in use. 18 shards of sentences grew an encoder's process from 1.2 to 1.7 GB; with a trim
after each it stays within 1.2, at the same speed (benchmarks/enrichment_scale.py has the job's memory, stage by stage).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from typing import Any

import pyarrow as pa


def return_memory() -> None:
    """Give back what the C library and Arrow hold and nobody uses; milliseconds. Without glibc only Arrow's."""
    pa.default_memory_pool().release_unused()
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.lru_cache(maxsize=1)
def _malloc_trim() -> Any:
    """glibc's function; None elsewhere."""
    with contextlib.suppress(OSError, TypeError):  # TypeError: no library of one's own on Windows
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    return None
