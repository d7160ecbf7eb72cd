"""What was freed goes back to the system."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from raymedlt.heap import _malloc_trim, return_memory

PIECE, PIECES = 100_000, 2_000  # bytes: below what the C library maps by itself


def held() -> int:
    """Bytes of memory of this process."""
    line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not sys.platform.startswith("linux") or _malloc_trim() is None, reason="glibc's malloc_trim only")
def test_what_lies_free_between_blocks_goes_back_to_the_system() -> None:
    pieces = [bytes([1]) * PIECE for _ in range(PIECES)]
    kept = pieces[-1]
    full = held()
    del pieces
    return_memory()
    assert full - held() > 0.9 * PIECE * PIECES
    assert len(kept) == PIECE
