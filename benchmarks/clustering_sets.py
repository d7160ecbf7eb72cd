"""The vectors that the clustering benchmarks cluster."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from common import openi_reports, remembering

from raymedlt.clustering.local import side_by_side
from raymedlt.clustering.neighbours import Index
from raymedlt.config import EnrichConfig
from raymedlt.enrichment.corpus import Section, distinct, sentences_of, study_ids, training_rows

Vectors = npt.NDArray[np.float32]

PADCHEST_BLOCK = 20_000  # where the block of neighbouring sentences starts
_NEAREST = 32
_NOISE = 0.15
_CHUNK = 10_000  # rows of the synthetic stream that share a generator


@functools.cache
def openi(name: str) -> tuple[Section, Vectors]:
    """One section of OpenI's training reports: its distinct sentences, and their vectors [N, 384]."""
    table = openi_reports()
    rows = training_rows(table, sentences_of(table))
    section = distinct(rows, name, study_ids(rows))
    return section, remembering(EnrichConfig())(section.keys)


@functools.cache
def _padchest_keys() -> list[str]:
    from embedding import padchest_keys

    return padchest_keys(10**9)


def padchest(count: int | None = None) -> Vectors:
    """PadChest's distinct sentences: all of them [75198, 384], or a block of neighbours in the order of their keys."""
    keys = _padchest_keys()
    chosen = keys if count is None else keys[PADCHEST_BLOCK : PADCHEST_BLOCK + count]
    vectors: Vectors = remembering(EnrichConfig())(chosen)
    return vectors


def nested_gaussians(width: int) -> Vectors:
    """Six Gaussians of different density, 400 points each."""
    random = np.random.default_rng((0, width))
    centres = random.normal(0, 3, (6, width))
    scales = (0.2, 0.3, 0.5, 0.7, 1.0, 1.4)
    parts = [random.normal(centre, scale, (400, width)) for centre, scale in zip(centres, scales, strict=True)]
    return np.concatenate(parts).astype(np.float32)


def digits() -> Vectors:
    """scikit-learn's digits [1797, 64]; a little noise breaks the ties between whole numbers."""
    from sklearn.datasets import load_digits

    pixels = load_digits().data
    return (pixels + np.random.default_rng(0).normal(0, 1e-3, pixels.shape)).astype(np.float32)


def synthetic(count: int, path: Path, sentences: int | None = None) -> None:
    """Write `count` vectors that lie like PadChest's sentences do, float32 [count, 384], as a .npy file.

    Pick a sentence i, one of its 32 nearest neighbours j and a uniform t: v_i + t (v_j - v_i) and Gaussian noise of
    norm .15, normalised. It is one stream (seed 0): fewer vectors are the first of more. `sentences`: make them from a
    block of so many only.
    """
    real = padchest(sentences)
    nearest_NK = _nearest(real)
    stream = np.lib.format.open_memmap(path, "w+", np.float32, (count, real.shape[1]))
    for start in range(0, count, _CHUNK):
        random = np.random.default_rng((0, start // _CHUNK))
        i = random.integers(len(real), size=_CHUNK)
        j = nearest_NK[i, random.integers(nearest_NK.shape[1], size=_CHUNK)]
        t = random.random((_CHUNK, 1), np.float32)
        noise = random.standard_normal((_CHUNK, real.shape[1]), np.float32) * (_NOISE / real.shape[1] ** 0.5)
        rows = real[i] + t * (real[j] - real[i]) + noise
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        stream[start : start + _CHUNK] = rows[: count - start]
    stream.flush()


def _nearest(vectors: Vectors) -> npt.NDArray[np.int32]:
    """The 32 nearest others of every vector, kept in the temporary folder."""
    name = hashlib.sha256(vectors.tobytes()).hexdigest()[:24]
    cache = Path(tempfile.gettempdir()) / f"raymedlt-nearest-{name}.npy"
    if not cache.exists():
        index = Index(vectors)
        blocks = index.blocks()
        found = side_by_side(lambda points: index.neighbours(points, _NEAREST, 1), blocks, os.cpu_count() or 1)
        nearest = np.empty((len(vectors), _NEAREST), np.int32)
        for points, lists in zip(blocks, found, strict=True):
            nearest[points] = lists.ids_BK
        np.save(cache, nearest)
    kept: npt.NDArray[np.int32] = np.load(cache)
    return kept
