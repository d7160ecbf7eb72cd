"""From prepared images to examples: which classes are learnt, who is trained on, and the check that nothing leaks.

_work/examples/all.parquet   one row per prepared image, in the order of the shards, with split and labels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raymedlt.errors import ConsistencyError, InputError
from raymedlt.images.config import DataConfig
from raymedlt.images.examples import Examples, Pixels, PixelShards, pixels_of
from raymedlt.images.labels import positives
from raymedlt.images.splits import check_leaks, complete_splits
from raymedlt.schema import SPLITS, TRAIN
from raymedlt.storage import Storage

ARRANGE = "arrange"
EXAMPLES_FILE = "_work/examples/all.parquet"
_NOT_KNOWN = -1


@dataclass(frozen=True)
class Arranged:
    """The rows of `_work/examples`, and what was decided about them."""

    table: pa.Table
    summary: dict[str, Any]


def arrange(labels: pa.Table, prepared: pa.Table, classes: Sequence[str], config: DataConfig) -> Arranged:
    """Join labels and prepared images, complete the splits, check for leaks, and choose the classes.

    Args:
        labels: IMAGE_LABELS.
        prepared: image_id and sha256 of the images that could be prepared, in the order of their shards.
        classes: of the label table.

    Raises:
        InputError: nothing left, a patient or an image in two splits, or no class with enough positives.
    """
    place = pa.table({"image_id": prepared["image_id"], "place": np.arange(prepared.num_rows)})
    # join() has no list columns: rows are looked up by number instead
    numbered = pa.table({"image_id": labels["image_id"], "row": np.arange(labels.num_rows)})
    joined = place.join(numbered, "image_id", join_type="inner").sort_by("place")
    table = labels.take(joined["row"])
    if not table.num_rows:
        raise InputError("no image could be prepared", "at least one", "see the reasons in the table `rejected`")
    if table.num_rows != prepared.num_rows:
        raise ConsistencyError(
            f"{prepared.num_rows} prepared images and {table.num_rows} rows of the label table for them",
            "one row for each",
            "--restart",
        )
    wanted = tuple(config.labels.classes or classes)
    labels_NC, known_NC = positives(table, wanted, uncertain=config.labels.uncertain)
    table = complete_splits(table, labels_NC * known_NC, config.split, config.seed)
    check_leaks(table, prepared["sha256"].to_pylist())
    if config.synthetic is not None:
        check_synthetic(table, Storage.of(config.synthetic))
    train = _train(table)
    counts = (labels_NC[train] * known_NC[train]).sum(0).astype(int)
    least = 1 if config.labels.classes else config.labels.min_positives
    enough = np.flatnonzero(counts >= least)
    if not len(enough):
        raise InputError(
            f"none of {len(wanted)} classes has {least} positive training images",
            "at least one class to learn",
            "lower --labels.min_positives, or check the label table",
        )
    signs = np.where(known_NC, labels_NC, _NOT_KNOWN)[:, enough].astype(np.int8)
    kept = [wanted[number] for number in enough]
    table = table.select(["image_id", "patient_id", "split", "source", "synthetic"]).append_column(
        "signs", pa.FixedSizeListArray.from_arrays(pa.array(signs.ravel()), len(kept))
    )
    real = pc.invert(table["synthetic"])
    summary = {
        "classes": kept,
        "left_out": {wanted[n]: int(counts[n]) for n in range(len(wanted)) if n not in set(enough.tolist())},
        "images": {split: _count(table, split, real) for split in SPLITS},
        "patients": {split: _patients(table, split, real) for split in SPLITS},
        "synthetic": table.num_rows - int(pc.sum(real).as_py() or 0),
    }
    return Arranged(table, summary)


def check_synthetic(table: pa.Table, synthetic: Storage) -> None:
    """Refuse synthetic images of a generator that learnt from patients who are validation or test patients here.

    A run of jobs/synthesize.py says whom its generator learnt from; images of another origin can't be checked.

    Raises:
        InputError: such patients; the message has counts only.
    """
    if not synthetic.exists(EXAMPLES_FILE):
        return
    theirs = synthetic.read_table(EXAMPLES_FILE, ["patient_id", "split"])
    learnt = pc.unique(theirs.filter(pc.equal(theirs["split"], TRAIN))["patient_id"])
    held_out = table.filter(pc.not_equal(table["split"], TRAIN))["patient_id"]
    leaked = len(pc.unique(held_out.filter(pc.is_in(held_out, learnt))))
    if leaked:
        raise InputError(
            f"synthetic images of a generator that learnt from {leaked} of the validation and test patients",
            "the same split in both runs",
            "give both jobs the same --seed and --split.*, or a label table with a split column",
        )


def _train(table: pa.Table) -> npt.NDArray[np.bool_]:
    chosen = pc.and_(pc.equal(table["split"], TRAIN), pc.invert(table["synthetic"]))
    result: npt.NDArray[np.bool_] = chosen.to_numpy(zero_copy_only=False)
    return result


def _count(table: pa.Table, split: str, real: pa.ChunkedArray) -> int:
    return int(pc.sum(pc.and_(pc.equal(table["split"], split), real)).as_py() or 0)


def _patients(table: pa.Table, split: str, real: pa.ChunkedArray) -> int:
    return len(pc.unique(table.filter(pc.and_(pc.equal(table["split"], split), real))["patient_id"]))


def examples_of(table: pa.Table, classes: Sequence[str], pixels: Pixels) -> Examples:
    """Examples over the rows of `_work/examples`."""
    signs = table["signs"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, len(classes))
    texts = {name: np.array(table[name].to_pylist(), object) for name in ("image_id", "patient_id", "split", "source")}
    return Examples(
        image_ids=texts["image_id"],
        patient_ids=texts["patient_id"],
        splits=texts["split"],
        sources=texts["source"],
        labels_NC=(signs == 1).astype(np.float32),
        known_NC=signs != _NOT_KNOWN,
        synthetic=table["synthetic"].to_numpy(zero_copy_only=False),
        pixels=pixels,
        classes=tuple(classes),
    )


def read_pixels(storage: Storage, shards: Sequence[str], size: int) -> PixelShards:
    """The prepared images of the given files of `_work/images`, in memory."""
    return PixelShards.of([pixels_of(storage.read_table(name, ["pixels"]), size) for name in shards])


@dataclass(frozen=True)
class Data:
    """Where the examples of a run lie: small and picklable."""

    classes: tuple[str, ...]
    shards: tuple[str, ...]
    """Files of prepared images, in the order of the examples."""
    size: int

    def load(self, storage: Storage) -> Examples:
        """All examples with their images in memory."""
        return examples_of(
            storage.read_table(EXAMPLES_FILE), self.classes, read_pixels(storage, self.shards, self.size)
        )

    def labels(self, storage: Storage) -> Examples:
        """All examples without their images."""
        return examples_of(storage.read_table(EXAMPLES_FILE), self.classes, PixelShards.of([]))
