"""All of the classifier that knows Ray: a training under Ray Train, batches by Ray Data, prediction over a data set.

Where images are streamed they lie in Ray's object store and Ray Data makes the batches; the batches are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from raymedlt.classifier.feed import AHEAD, Batch, Feed, Step, make_batch
from raymedlt.classifier.predictor import load, read_about
from raymedlt.classifier.task import Training, do, folder_of
from raymedlt.errors import InputError
from raymedlt.images.arranging import Data
from raymedlt.images.config import AugmentConfig
from raymedlt.images.distributed import put_pixels, stream, streamed
from raymedlt.images.examples import Examples
from raymedlt.ledger import LedgerHandle
from raymedlt.machine import Settings
from raymedlt.nodes import capacity
from raymedlt.replicas import run_replicas
from raymedlt.runtime import worker_environment
from raymedlt.storage import Storage

if TYPE_CHECKING:
    import ray.data


@dataclass(frozen=True)
class _Worker:
    """What every replica of a training runs."""

    training: Training
    data: Data
    settings: Settings
    handle: LedgerHandle
    refs: list[Any] | None
    """Prepared images in the object store, where they are streamed."""
    starts: np.ndarray | None

    def __call__(self) -> None:
        import ray.train

        first = ray.train.get_context().get_world_rank() == 0
        if self.refs is None or self.starts is None:
            do(self.training, self.data, self.settings, self.handle, first=first)
            return
        examples = streamed(self.data, self.refs, self.starts, self.handle.storage)
        do(
            self.training, self.data, self.settings, self.handle, first=first, examples=examples,
            feed=lambda each, config: ray_feed(each, config.augment),
        )  # fmt: skip


def train_on_ray(
    training: Training, data: Data, settings: Settings, handle: LedgerHandle, *, stream: bool, storage: Storage
) -> None:
    """One training under Ray Train; a replica that dies makes all go on from the last checkpoint.

    Args:
        stream: images stay in the object store and Ray Data makes the batches; else each replica holds all images.

    Raises:
        RaymedltError: what a replica raised, or that Ray gave up.
    """
    refs, starts = put_pixels(data, storage) if stream else (None, None)
    run_replicas(
        _Worker(training, data, settings, handle, refs, starts),
        name=training.name,
        replicas=training.config.training.replicas,
        gpu=settings.device == "cuda",
        threads=settings.threads,
        storage=storage,
        checkpoints=folder_of(training.name),
    )


# Streaming through the object store


def ray_feed(examples: Examples, changes: AugmentConfig) -> Feed:
    """Batches made by Ray Data's tasks anywhere in the cluster, in order, `AHEAD` of the network."""
    import ray.train
    import torch

    shared = ray.put(examples)  # ids and labels; the images are references
    replicas = ray.train.get_context().get_world_size()

    def make(row: Mapping[str, Any]) -> dict[str, Any]:
        step = Step(row["rows"], tuple(int(key) for key in row["keys"]))
        batch = make_batch(ray.get(shared), step, changes, float(row["weight"]))
        return {name: part.numpy() for name, part in batch._asdict().items()}

    def feed(steps: Sequence[Step], synthetic_weight: float) -> Iterator[Batch]:
        rows = [{"rows": step.rows, "keys": list(step.keys), "weight": synthetic_weight} for step in steps]
        for row in stream(make, rows, ahead=AHEAD, replicas=replicas):
            yield Batch(*(torch.from_numpy(row[name]) for name in Batch._fields))

    return feed


# Use over Ray Data


def predict_on_ray(
    dataset: ray.data.Dataset,
    folder: str,
    *,
    column: str = "image",
    batch: int = 128,
    actors: int = 1,
    device: str = "cpu",
) -> ray.data.Dataset:
    """Calibrated probabilities for a Ray Dataset of images; lazy, like every step of a Dataset.

    Rows keep their columns and get two more: `probabilities`, list<float32> in the order of `load(folder).classes`, and
    `unreadable`, "" or why there is no image; then `probabilities` is null. A bad image never stops the run. The values
    are those of `load(folder).predict` with one thread, whatever `batch` and `actors` are.

    Every actor holds the model once and computes with one thread, so on CPUs throughput grows with `actors`. If they
    would hold every CPU of the cluster, they ask for none: Ray Data's read tasks need whole CPUs and would wait for
    them for ever.

    Args:
        dataset: its rows have the image in `column`: the bytes of a PNG, JPEG or DICOM file, struct<bytes, path> (the
            Hugging Face image feature), or an absolute path or a URI. Files are opened by the actors, wherever the
            paths lead: they should come from someone you trust.
        folder: of a finished run of jobs/classify.py, readable on every node.
        batch: rows that an actor takes at a time; best a multiple of the run's evaluation.batch_images.
        actors: at most so many.
        device: "cpu", or "cuda" for one GPU per actor.

    Raises:
        InputError: there is no finished classifier, or a column is missing or has one of the two names (where the
            dataset does not know its columns yet: when it is executed).

    Memory: per actor the model and `batch` decoded images.
    """
    from ray.data import ActorPoolStrategy

    read_about(folder)
    schema = dataset.schema(fetch_if_missing=False)
    if schema is not None:
        _check_columns(schema.names, column)
    leaves_one = actors < capacity().get("CPU", 0)
    return dataset.map_batches(
        _Predict,
        fn_constructor_args=(str(folder), column, device),
        batch_size=batch,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors),
        num_cpus=1.0 if leaves_one else 0.0,
        num_gpus=1.0 if device == "cuda" else None,
        runtime_env={"env_vars": worker_environment()},
    )


def _check_columns(names: Sequence[str], column: str) -> None:
    taken = [name for name in ("probabilities", "unreadable") if name in names]
    if column not in names or taken:
        raise InputError(
            f"a dataset with the columns {sorted(names)}",
            f"the column '{column}' with the images, and neither 'probabilities' nor 'unreadable'",
            "give the column's name, or rename columns",
        )


class _Predict:
    """The model of one actor."""

    def __init__(self, folder: str, column: str, device: str) -> None:
        self.classifier, self.column = load(folder, device), column

    def __call__(self, table: pa.Table) -> pa.Table:
        _check_columns(table.column_names, self.column)
        cells = table[self.column].to_pylist()
        images = [(cell["bytes"] or cell["path"]) if isinstance(cell, dict) else cell for cell in cells]
        found, reasons = self.classifier.predict_each(images)
        rows = [None if reason else row for row, reason in zip(found, reasons, strict=True)]
        table = table.append_column("probabilities", pa.array(rows, pa.list_(pa.float32())))
        return table.append_column("unreadable", pa.array(reasons, pa.string()))
