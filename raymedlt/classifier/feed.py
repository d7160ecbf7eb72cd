"""Which images a training step sees, and the tensors made of them.

An epoch's steps are a pure function of seed, phase, epoch and the images: whoever goes on after a crash sees the same
rest, and every replica cuts its own part out of the same global batches. N images, B batch, C classes, S pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from raymedlt.ahead import made_ahead
from raymedlt.images.augment import augment
from raymedlt.images.config import AugmentConfig
from raymedlt.images.examples import Examples, Rows
from raymedlt.images.sampling import epoch_order, expected_length, global_batches
from raymedlt.seeds import keyed_seed

AHEAD = 4
"""Batches that are made while the network computes."""


class Batch(NamedTuple):
    """What one step of one replica computes on."""

    images_B1SS: torch.Tensor
    """float32 in [0, 1]."""
    labels_BC: torch.Tensor
    """float32, 1 or 0."""
    known_BC: torch.Tensor
    """bool."""
    weights_B: torch.Tensor
    """float32: 1 for a real image."""


@dataclass(frozen=True)
class Step:
    """One replica's part of one step."""

    rows: Rows
    keys: tuple[int, ...]
    """Seeds of the augmentation, one per image."""


Feed = Callable[[Sequence[Step], float], Iterator[Batch]]
"""Batches of the given steps, in order; the second argument is the weight of synthetic images."""


def steps_of(
    rows: Rows,
    factors: npt.NDArray[np.float64],
    image_ids: npt.NDArray[np.object_],
    *,
    seed: int,
    phase: str,
    epoch: int,
    batch: int,
    rank: int = 0,
    replicas: int = 1,
) -> list[Step]:
    """One replica's steps of one epoch.

    Args:
        rows: the images that take part, int64 [N].
        factors: how often each is drawn, float64 [N] (see sampling.repeat_factors).
        image_ids: of all examples, by row.
        batch: images per step over all replicas.
    """
    length = expected_length(factors)  # the same in every epoch, so that the schedule of the rates is known
    order = epoch_order(factors, seed=keyed_seed(seed, "order", phase), epoch=epoch, length=length)
    own = batch // replicas
    steps = []
    for number, part in enumerate(global_batches(order, batch)):
        mine = rows[part[rank * own : (rank + 1) * own]]
        first = number * batch + rank * own
        keys = tuple(
            keyed_seed(seed, "augment", phase, epoch, first + place, str(image_ids[row]))
            for place, row in enumerate(mine)
        )
        steps.append(Step(mine, keys))
    return steps


def make_batch(examples: Examples, step: Step, changes: AugmentConfig, synthetic_weight: float) -> Batch:
    """The tensors of one step."""
    images = torch.from_numpy(examples.pixels.take(step.rows))
    weights = np.where(examples.synthetic[step.rows], synthetic_weight, 1.0).astype(np.float32)
    return Batch(
        augment(images, step.keys, changes),
        torch.from_numpy(examples.labels_NC[step.rows]),
        torch.from_numpy(examples.known_NC[step.rows]),
        torch.from_numpy(weights),
    )


def thread_feed(examples: Examples, changes: AugmentConfig) -> Feed:
    """Batches made by one thread of this process, `AHEAD` of the network."""

    def feed(steps: Sequence[Step], synthetic_weight: float) -> Iterator[Batch]:
        return made_ahead(lambda step: make_batch(examples, step, changes, synthetic_weight), steps, AHEAD)

    return feed
