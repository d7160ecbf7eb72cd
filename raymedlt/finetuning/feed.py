"""Which studies a training step sees, and the tensors made of them.

A step is K micro-batches, which are fixed and numbered: replica r of W computes numbers r, r + W, ... So what is
computed together follows from seed, epoch and studies, and never from W or a crash. M studies per micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load, save
from torch import Tensor

from raymedlt.ahead import made_ahead
from raymedlt.errors import ConfigError
from raymedlt.finetuning.config import IGNORED
from raymedlt.finetuning.lengths import buckets
from raymedlt.finetuning.studies import Studies
from raymedlt.images.augment import augment
from raymedlt.images.config import AugmentConfig
from raymedlt.images.distributed import held, share, stream
from raymedlt.images.examples import Bytes, Pixels, Rows
from raymedlt.schema import TRAIN
from raymedlt.seeds import keyed_seed

AHEAD = 4
"""Micro-batches that are made while the network computes."""

Tensors = dict[str, Tensor]
Collate = Callable[[Bytes, list[str]], Tensors]
"""Images, uint8 [M, S, S], and the texts that they teach -> what the model takes, `labels` among it."""


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Studies that are computed together."""

    studies: Rows
    """Numbers of the studies, int64 [M]."""
    variants: Rows
    """Which of a study's targets, int64 [M]."""
    real: npt.NDArray[np.bool_]
    """[M]. False: the study only fills the batch and counts nothing."""
    keys: tuple[int, ...] = ()
    """Seeds of the images' changes, one per study; none: the images stay as they are."""


@dataclass(frozen=True, eq=False)
class Step:
    """One step over all replicas."""

    number: int
    """In the epoch."""
    parts: tuple[MicroBatch, ...]
    """K of them, in every step."""


Feed = Callable[[Sequence[MicroBatch]], Iterator[Tensors]]
"""The tensors of the given micro-batches, in order: what `Collate` gives. Labels of studies that count nothing are
IGNORED."""


def steps_of(studies: Studies, *, seed: int, epoch: int, batch: int, micro_batch: int) -> list[Step]:
    """The steps of an epoch of training: every training study once, in batches of similar length.

    Each study teaches one of its texts, drawn by seed, epoch and report id; its image's changes are keyed by seed,
    epoch and image id.

    Args:
        batch: studies per step, over all replicas; a multiple of `micro_batch`.

    Raises:
        ConfigError: `batch` is no multiple of `micro_batch`.
        InputError: no training studies.
    """
    if micro_batch < 1 or batch < 1 or batch % micro_batch:
        raise ConfigError(f"steps of {batch} studies in parts of {micro_batch}", "a multiple", "set training.batch")
    rows = studies.of(TRAIN)
    drawn = np.array([_variant(studies, row, seed, epoch) for row in rows.tolist()], np.int64)
    lengths = [studies.tokens[row][variant] for row, variant in zip(rows.tolist(), drawn.tolist(), strict=True)]
    keys = [keyed_seed(seed, "augment", epoch, str(name)) for name in studies.image_ids[rows]]
    order, real = buckets(lengths, seed=seed, epoch=epoch, batch=batch)
    steps = []
    for number, (places, counts) in enumerate(zip(order, real, strict=True)):
        parts = tuple(
            MicroBatch(rows[own], drawn[own], counts[start : start + micro_batch], tuple(keys[n] for n in own.tolist()))
            for start in range(0, batch, micro_batch)
            for own in [places[start : start + micro_batch]]
        )
        steps.append(Step(number, parts))
    return steps


def _variant(studies: Studies, row: int, seed: int, epoch: int) -> int:
    count = len(studies.targets[row])
    return 0 if count == 1 else keyed_seed(seed, "variant", epoch, str(studies.report_ids[row])) % count


def parts_of(studies: Studies, split: str, micro_batch: int) -> list[MicroBatch]:
    """All studies of a split, by length, each in its first text and with its image unchanged: for a loss over them.

    The last micro-batch is filled up from the start. No studies: no micro-batches.
    """
    rows = studies.of(split)
    if not len(rows):
        return []
    rows = rows[np.argsort([studies.tokens[row][0] for row in rows.tolist()], kind="stable")]
    count = -(-len(rows) // micro_batch)
    order = np.resize(rows, (count, micro_batch))
    real = (np.arange(order.size) < len(rows)).reshape(order.shape)
    return [MicroBatch(own, np.zeros_like(own), counts) for own, counts in zip(order, real, strict=True)]


# Tensors


class Order(NamedTuple):
    """All that a micro-batch is made of, but for the images."""

    rows: Rows
    """Of the images, int64 [M]."""
    texts: list[str]
    real: npt.NDArray[np.bool_]
    keys: tuple[int, ...]


def order_of(studies: Studies, part: MicroBatch) -> Order:
    """The rows and texts of a micro-batch."""
    places = zip(part.studies.tolist(), part.variants.tolist(), strict=True)
    texts = [studies.targets[study][variant] for study, variant in places]
    return Order(studies.image_rows[part.studies], texts, part.real, part.keys)


def make_batch(pixels: Pixels, order: Order, collate: Collate, changes: AugmentConfig) -> Tensors:
    """The tensors of a micro-batch."""
    images_MSS = pixels.take(order.rows)
    if order.keys:
        changed_M1SS = augment(torch.from_numpy(images_MSS), order.keys, changes)
        images_MSS = (changed_M1SS[:, 0] * 255).round_().to(torch.uint8).numpy()
    batch = collate(images_MSS, order.texts)
    real_M = torch.from_numpy(order.real.copy())
    batch["labels"] = batch["labels"].masked_fill(~real_M[:, None], IGNORED)
    return batch


def thread_feed(studies: Studies, pixels: Pixels, collate: Collate, changes: AugmentConfig) -> Feed:
    """Micro-batches made by one thread of this process, `AHEAD` of the network.

    Raises:
        ConfigError: `changes` flips images.
    """
    refuse_flips(changes)
    return lambda parts: made_ahead(
        lambda part: make_batch(pixels, order_of(studies, part), collate, changes), parts, AHEAD
    )


def ray_feed(studies: Studies, pixels: Pixels, collate: Collate, changes: AugmentConfig, replicas: int) -> Feed:
    """Micro-batches made by Ray Data's tasks anywhere in the cluster; the same tensors as those of `thread_feed`.

    Texts travel with the tasks; `collate` and `pixels` go into the object store once.

    Args:
        pixels: images in the object store (images.distributed.RefPixels); others are copied to each process.
        replicas: processes of Ray Train.

    Raises:
        ConfigError: `changes` flips images.
    """
    refuse_flips(changes)
    shared = share((pixels, collate, changes))

    def make(row: Mapping[str, Any]) -> dict[str, Any]:
        pixels, collate, changes = held(shared)
        order = Order(row["rows"], list(row["texts"]), row["real"], tuple(int(key) for key in row["keys"]))
        batch = make_batch(pixels, order, collate, changes)
        data = save({name: part.contiguous().clone() for name, part in batch.items()})
        return {"batch": np.frombuffer(data, np.uint8)}  # NumPy's own bytes lose the zeros at their end

    def feed(parts: Sequence[MicroBatch]) -> Iterator[Tensors]:
        rows = [order_of(studies, part)._asdict() | {"keys": list(part.keys)} for part in parts]
        for row in stream(make, rows, ahead=AHEAD, replicas=replicas):
            yield dict(load(row["batch"].tobytes()))

    return feed


def refuse_flips(changes: AugmentConfig) -> None:
    """Raise ConfigError where images would be flipped: a report says left and right."""
    if changes.flip:
        raise ConfigError(
            "images are flipped", "flip false: the reports of flipped images speak of the wrong side", "leave flip out"
        )


class Blind:
    """The control: instead of every image the same grey one."""

    def __init__(self, size: int) -> None:
        self.size = size

    def take(self, rows: Rows) -> Bytes:
        """uint8 [len(rows), S, S]."""
        return np.full((len(rows), self.size, self.size), 128, np.uint8)
