"""What the network learns from and is scored on: rows of the label table beside their prepared images.

N images, C classes, S pixels a side. Memory: N S^2 bytes for the pixels (0.8 GB for 200,000 images of 64 px), held once
per training process, or in Ray's object store where the images are streamed (see distributed.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymedlt.schema import TRAIN

Bytes = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]


class Pixels(Protocol):
    """Prepared images that can be taken by row."""

    def take(self, rows: Rows) -> Bytes:
        """uint8 [len(rows), S, S]."""
        ...


@dataclass(frozen=True)
class PixelShards:
    """Prepared images in the pieces in which they lie in storage: uint8 [n_i, S, S] each."""

    shards: Sequence[Bytes]
    starts: npt.NDArray[np.int64]  # first row of each shard

    @classmethod
    def of(cls, shards: Sequence[Bytes]) -> PixelShards:
        """Shards in the order of their rows; at least one."""
        sizes = [len(shard) for shard in shards]
        return cls(shards, np.concatenate([[0], np.cumsum(sizes[:-1])]).astype(np.int64))

    def take(self, rows: Rows) -> Bytes:
        """uint8 [len(rows), S, S], a copy."""
        size = self.shards[0].shape[1]
        taken = np.empty((len(rows), size, size), np.uint8)
        owners = np.searchsorted(self.starts, rows, side="right") - 1
        for owner in np.unique(owners):
            here = owners == owner
            taken[here] = self.shards[owner][rows[here] - self.starts[owner]]
        return taken


@dataclass(frozen=True)
class Examples:
    """Rows in the order of their prepared images. Text columns are object arrays of str."""

    image_ids: npt.NDArray[np.object_]
    patient_ids: npt.NDArray[np.object_]
    splits: npt.NDArray[np.object_]
    sources: npt.NDArray[np.object_]
    labels_NC: npt.NDArray[np.float32]
    """1 where the image shows the class, else 0."""
    known_NC: npt.NDArray[np.bool_]
    """False where the label is uncertain or unknown: no part in loss and metrics."""
    synthetic: npt.NDArray[np.bool_]
    pixels: Pixels
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.image_ids)

    def rows(self, split: str, *, synthetic: bool | None = False) -> Rows:
        """Row numbers of a split; real images only, unless `synthetic` is True (only those) or None (all)."""
        chosen = self.splits == split
        if synthetic is not None:
            chosen &= self.synthetic == synthetic
        return np.flatnonzero(chosen)

    def counts(self) -> npt.NDArray[np.int64]:
        """n_c, int64 [C]: real training images that show each class."""
        rows = self.rows(TRAIN)
        shown: npt.NDArray[np.int64] = (self.labels_NC[rows] * self.known_NC[rows]).sum(0).astype(np.int64)
        return shown

    def with_pixels(self, pixels: Pixels) -> Examples:
        """The same rows over pixels that lie elsewhere."""
        return replace(self, pixels=pixels)


def pixels_of(table: pa.Table, size: int) -> Bytes:
    """The column `pixels` of a prepared shard as uint8 [n, S, S]; a view where it is one chunk."""
    chunks = table["pixels"]
    column = chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()  # which copies even a single one
    flat = np.frombuffer(column.buffers()[1], np.uint8) if table.num_rows else np.zeros(0, np.uint8)
    start = column.offset * size * size
    return flat[start : start + table.num_rows * size * size].reshape(-1, size, size)


def pixels_column(images_NSS: Bytes) -> pa.Array:
    """A fixed-size binary column of S*S bytes per row."""
    count, size = len(images_NSS), images_NSS.shape[1]
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(size * size), count, [None, pa.py_buffer(np.ascontiguousarray(images_NSS).tobytes())]
    )
