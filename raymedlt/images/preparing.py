"""From a label table and image files, or the phantom, to prepared shards: what each stage does. No Ray in here.

_work/labels/all.parquet        the label table, one row per image, by id; synthetic ones behind, as in their files
_work/images/<shard>.parquet    image_id, pixels (S*S bytes), sha256 of the file ("" for a phantom)
rejected/*.parquet              what could not be used, and why
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from raymedlt.errors import InputError
from raymedlt.images.config import DataConfig, ImagesConfig
from raymedlt.images.examples import pixels_column
from raymedlt.images.label_formats import chosen
from raymedlt.images.labels import read_labels
from raymedlt.images.readers import UnreadableImage, decode, read_file, to_square
from raymedlt.ledger import LedgerHandle
from raymedlt.schema import IMAGE_LABELS, REJECTED, TRAIN
from raymedlt.storage import FileEntry, Storage, content_hash, sha256_of

if TYPE_CHECKING:
    from raymedlt.images.phantom_cohort import PhantomCohort

LABELS, PREPARE = "labels", "prepare"
LABELS_FILE = "_work/labels/all.parquet"
_SYNTHETIC = "synthetic-"


def kind_of(reason: str) -> str:
    """A reason without what it quotes of the table: fit for logs, markers and pages."""
    return re.split(r"[:']", reason)[0].strip()


@dataclass(frozen=True)
class Source:
    """The label table as read, whatever it came from."""

    images: pa.Table
    """IMAGE_LABELS; a phantom's table has the column `findings` beside them."""
    rejected: pa.Table
    classes: tuple[str, ...]


def read_source(config: DataConfig) -> Source:
    """The rows to work on: of the label table or of the phantom, and synthetic ones behind them."""
    if config.images.path is None:
        drawn = phantom_cohort(config, texts=False)  # nobody reads them here, and they take most of the time
        images, rejected, classes = drawn.table, REJECTED.empty_table(), chosen(drawn.classes, config.labels.classes)
        images = images.select([*IMAGE_LABELS.names, "findings"])
    else:
        table = read_labels(config.labels)
        images, rejected, classes = table.images, table.rejected, table.classes
    images = images.sort_by("image_id")
    if config.synthetic is not None:
        drawn_rows, unplanned = _synthetic_rows(config.synthetic, config.accepted_only, set(classes))
        images = pa.concat_tables([images, drawn_rows], promote_options="default")
        rejected = pa.concat_tables([rejected, unplanned])
    return Source(images, rejected, classes)


def phantom_cohort(config: DataConfig, *, texts: bool) -> PhantomCohort:
    """The phantom's cohort of this configuration: who has what, and with `texts` what the reports say."""
    from raymedlt.images.phantom import cohort

    own = config.phantom
    return cohort(
        own.images, seed=config.seed, prevalence=own.prevalence, classes=own.classes, test_images=own.test_images,
        test_positives=own.test_positives, pick=own.pick, texts=texts,
    )  # fmt: skip


def _synthetic_rows(path: str, accepted_only: bool, classes: set[str]) -> tuple[pa.Table, pa.Table]:
    """Rows of jobs/synthesize.py: table `images` for what was drawn, table `plan` for its labels.

    Returns:
        IMAGE_LABELS in the order of the files, so that few of them hold a shard's rows, with "file:row" as `path`; and
        REJECTED for images that the plan does not know, whose label set names a class that the label table does not
        know (they would be negatives of everything), or that are given twice.

    Raises:
        InputError: no image is left.
    """
    storage = Storage.of(path)
    labels = storage.read_folder("plan", ["row_id", "label_set"])
    by_row = dict(zip(labels["row_id"].to_pylist(), labels["label_set"].to_pylist(), strict=True))
    rows, unplanned, seen = [], [], set()
    for place, row in _places(storage, accepted_only):
        name = f"{_SYNTHETIC}{row}"
        if row not in by_row:
            unplanned.append({"row_id": name, "source": "synthetic", "reason": "not in the table plan"})
            continue
        if row in seen or not set(by_row[row]) <= classes:
            reason = "row_id is given twice" if row in seen else "its label set has a class that the label table lacks"
            unplanned.append({"row_id": name, "source": "synthetic", "reason": reason})
            continue
        seen.add(row)
        rows.append(
            {
                "image_id": name, "study_id": "", "patient_id": name, "split": TRAIN, "view": "", "source": "synthetic",
                "path": place, "labels": by_row[row], "uncertain": [], "unknown": [], "synthetic": True,
            }
        )  # fmt: skip
    if not rows:
        raise InputError(
            f"no synthetic image of '{storage.uri}' fits: its gate accepted {len(unplanned):,}",
            "accepted images whose label sets use the label table's class names",
            "look at that run's page, or leave --synthetic.path out",
        )
    return pa.Table.from_pylist(rows, schema=IMAGE_LABELS), pa.Table.from_pylist(unplanned, schema=REJECTED)


def _places(storage: Storage, accepted_only: bool) -> Iterator[tuple[str, str]]:
    """Where each synthetic image lies, "file:row", and its row_id."""
    for file in storage.list_files("images"):
        if file.endswith(".parquet"):
            for number, row in enumerate(storage.read_table(file, ["row_id", "accepted"]).to_pylist()):
                if row["accepted"] or not accepted_only:
                    yield f"{file}:{number}", row["row_id"]


def shards_of(images: pa.Table, config: ImagesConfig) -> dict[str, tuple[int, int]]:
    """Shards of the label table's rows: name (from the ids) -> first row and number of rows."""
    ids = images["image_id"].to_pylist()
    size = config.shard_images
    return {
        f"{number:05d}-{content_hash(*ids[start : start + size])}": (start, min(size, len(ids) - start))
        for number, start in enumerate(range(0, len(ids), size))
    }


@dataclass(frozen=True)
class PrepareShard:
    """Decode or draw the images of one shard; those that can't be are rejected."""

    handle: LedgerHandle
    config: DataConfig
    shards: Mapping[str, tuple[int, int]]

    def __call__(self, shard: str) -> dict[str, Any]:
        storage, own = self.handle.storage, self.config.images
        start, count = self.shards[shard]
        rows = storage.read_rows(LABELS_FILE, start, count).to_pylist()
        synthetic = self._synthetic([row["path"] for row in rows if row["synthetic"]])
        good: list[dict[str, str]] = []
        pixels: list[np.ndarray] = []
        bad: list[dict[str, str]] = []
        for row in rows:
            try:
                image, sha256 = self._image(row, synthetic)
            except UnreadableImage as error:
                bad.append({"row_id": row["image_id"], "source": row["path"], "reason": error.reason})
            else:
                good.append({"image_id": row["image_id"], "sha256": sha256})
                pixels.append(image)
        files: list[FileEntry] = []
        if good:
            table = pa.Table.from_pylist(good)
            table = table.append_column("pixels", pixels_column(np.stack(pixels)))
            files.append(storage.write_table(f"_work/images/{shard}.parquet", table))
        if bad:
            rejected = pa.Table.from_pylist(bad, schema=REJECTED)
            files.append(storage.write_table(f"rejected/prepare-{shard}.parquet", rejected))
        reasons = Counter(kind_of(row["reason"]) for row in bad)
        summary = {"rows": count, "kept": len(good), "size": own.size, "rejected": dict(sorted(reasons.items()))}
        self.handle.commit(PREPARE, shard, files, summary)
        return summary

    def _image(self, row: dict[str, Any], synthetic: Mapping[str, bytes]) -> tuple[np.ndarray, str]:
        own = self.config.images
        if row["synthetic"]:
            data = synthetic[row["path"]]
        elif own.path is None:
            from raymedlt.images.phantom import draw, findings_of

            findings = findings_of(row["findings"])
            return draw(findings, seed=self.config.seed, image_id=row["image_id"], size=own.size), ""
        else:
            data = read_file(Storage.of(own.path), row["path"], own.max_pixels)
        image = decode(data, max_pixels=own.max_pixels)
        return to_square(image, own.size, own.fit), sha256_of(data)

    def _synthetic(self, places: list[str]) -> dict[str, bytes]:
        """Bytes of the synthetic images at these places; a file is opened once, and only what lies between is read."""
        if not places or self.config.synthetic is None:
            return {}
        storage, files = Storage.of(self.config.synthetic), defaultdict[str, list[int]](list)
        for place in places:
            file, _, row = place.rpartition(":")
            files[file].append(int(row))
        found: dict[str, bytes] = {}
        for file, rows in files.items():
            first = min(rows)
            images = storage.read_rows(file, first, max(rows) - first + 1)["image"]
            found |= {f"{file}:{row}": images[row - first]["bytes"].as_py() for row in rows}
        return found
