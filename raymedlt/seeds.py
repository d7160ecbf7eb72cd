"""Keyed seeds: a row's randomness depends on the run's seed and the row's own keys, and on nothing else.

Not on the worker, the batch, the order of arrival or how many numbers another row drew. Keys are the row's id and what
tells its draws apart, e.g. `generator(seed, "write", report_id, variant)`.
"""

from __future__ import annotations

import hashlib

import numpy as np

_PERSON = b"raymedlt.seeds"  # keeps these hashes apart from every other use of BLAKE2b


def keyed_seed(run_seed: int, *keys: str | int) -> int:
    """A seed in [0, 2^63) from the run's seed and the row's keys; the same on every machine and Python version.

    Type and length of each key count: ("ab", "c") and ("a", "bc") differ, and so do 1 and "1".
    """
    digest = hashlib.blake2b(digest_size=8, person=_PERSON)
    for key in (run_seed, *keys):
        if isinstance(key, str):
            tag, data = "s", key.encode("utf-8", "surrogatepass")
        else:
            tag, data = "i", str(int(key)).encode()  # int(): NumPy integers count as integers
        digest.update(f"{tag}{len(data)}:".encode())
        digest.update(data)
    return int.from_bytes(digest.digest(), "big") >> 1


def generator(run_seed: int, *keys: str | int) -> np.random.Generator:
    """A PCG64 generator seeded with `keyed_seed`.

    NumPy keeps the raw stream of PCG64 fixed for ever; the way `Generator` methods turn it into choices may change
    with a major NumPy release (NEP 19), which the golden tests would show.
    """
    return np.random.Generator(np.random.PCG64(keyed_seed(run_seed, *keys)))
