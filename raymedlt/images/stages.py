"""The stages that jobs over images begin with: labels -> prepare -> arrange, over shards, resumable from the output.

A shard of images is decoded or drawn by Ray's workers or by threads of this process; the result is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from raymedlt.errors import ConsistencyError, InputError
from raymedlt.images.arranging import ARRANGE, EXAMPLES_FILE, arrange
from raymedlt.images.config import DataConfig
from raymedlt.images.label_files import locate
from raymedlt.images.preparing import (
    LABELS,
    LABELS_FILE,
    PREPARE,
    PrepareShard,
    Source,
    kind_of,
    read_source,
    shards_of,
)
from raymedlt.ledger import Ledger
from raymedlt.progress import Progress
from raymedlt.runtime import run_shards, run_shards_locally
from raymedlt.storage import Storage, sha256_of


class DataStages:
    """From a label table and image files, or the phantom, to examples."""

    def __init__(
        self,
        config: DataConfig,
        storage: Storage,
        ledger: Ledger,
        progress: Progress,
        connect: Callable[[], object],
        source: Callable[[DataConfig], Source] = read_source,
    ) -> None:
        """What the stages need.

        Args:
            connect: starts or joins Ray; called only if it is needed.
            source: reads the label table.
        """
        self.config, self.storage, self.ledger, self.progress = config, storage, ledger, progress
        self.connect, self.source = connect, source

    def run(self) -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[str, Any]]:
        """All three; their summaries: of the label table, of each shard, of the examples.

        Raises:
            InputError: nothing to read, nothing valid, a patient in two splits, or more rejected rows than allowed.
        """
        labels = self._labels()
        images = self.storage.read_table(LABELS_FILE)
        prepared = self._prepare(images)
        check_rows(labels, prepared, self.config.max_rejected)
        return labels, prepared, self._arrange(images, labels["classes"])

    def image_files(self) -> list[str]:
        """Files of prepared images, in the order of the examples."""
        markers = self.ledger.shards(PREPARE).values()
        return sorted(
            entry.name for marker in markers for entry in marker.files if entry.name.startswith("_work/images/")
        )

    def image_counts(self) -> list[int]:
        """Images in each of `image_files`."""
        markers = self.ledger.shards(PREPARE).values()
        kept = {
            entry.name: int(marker.summary["kept"])
            for marker in markers
            for entry in marker.files
            if entry.name.startswith("_work/images/")
        }
        return [kept[name] for name in sorted(kept)]

    def prepared_images(self) -> int:
        """How many there are."""
        return sum(int(marker.summary["kept"]) for marker in self.ledger.shards(PREPARE).values())

    def _labels(self) -> dict[str, Any]:
        known = self.ledger.done(LABELS, "table")
        if known is not None:
            self.progress.skip(LABELS, "already done")
            return known
        with self.progress.stage("read labels"):
            source = self.source(self.config)
            # A shard's rows are a row group, so that a worker reads no others.
            rows = self.config.images.shard_images
            entries = [self.storage.write_table(LABELS_FILE, source.images, row_group_rows=rows)]
            if source.rejected.num_rows:
                entries.append(self.storage.write_table("rejected/labels.parquet", source.rejected))
            reasons: dict[str, int] = {}
            for reason in source.rejected["reason"].to_pylist():
                reasons[kind_of(reason)] = reasons.get(kind_of(reason), 0) + 1
            summary = {
                "rows": source.images.num_rows + source.rejected.num_rows,
                "rejected": dict(sorted(reasons.items())),
                "classes": list(source.classes),
            }
            self.ledger.commit(LABELS, "table", entries, summary)
        return summary

    def _prepare(self, images: pa.Table) -> dict[str, dict[str, Any]]:
        shards = shards_of(images, self.config.images)
        function = PrepareShard(self.ledger.worker(), self.config, shards)
        sizes: Callable[[str], int] = lambda name: shards[name][1]  # noqa: E731
        on_ray = images.num_rows >= self.config.ray_from and bool(self.ledger.pending(PREPARE, shards))
        if on_ray:
            self.connect()
        do = run_shards if on_ray else run_shards_locally
        return do(
            PREPARE, list(shards), function, progress=self.progress, workers=self.config.workers, ledger=self.ledger,
            unit="images", units=sizes,
        )  # fmt: skip

    def _arrange(self, images: pa.Table, classes: Sequence[str]) -> dict[str, Any]:
        known = self.ledger.done(ARRANGE, "examples")
        if known is not None:
            return known
        with self.progress.stage(ARRANGE):
            files = self.image_files()
            empty = pa.table({"image_id": pa.array([], pa.string()), "sha256": pa.array([], pa.string())})
            prepared = self.storage.read_tables(files, ["image_id", "sha256"]) if files else empty
            arranged = arrange(images, prepared, classes, self.config)
            entry = self.storage.write_table(EXAMPLES_FILE, arranged.table)
            self.ledger.commit(ARRANGE, "examples", [entry], arranged.summary)
        return arranged.summary


def rejected_reasons(labels: Mapping[str, Any], prepared: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Rejected rows by reason, of the label table and of the image files."""
    reasons = dict(labels["rejected"])
    for summary in prepared.values():
        for reason, count in summary["rejected"].items():
            reasons[reason] = reasons.get(reason, 0) + count
    return dict(sorted(reasons.items()))


def rejected_rows(storage: Storage, most: int = 500) -> list[tuple[str, str, str]]:
    """The first rows of the table `rejected`: row_id, source, reason."""
    rows: list[tuple[str, str, str]] = []
    for name in storage.list_files("rejected"):
        if len(rows) >= most:
            break
        rows += [(row["row_id"], row["source"], row["reason"]) for row in storage.read_table(name).to_pylist()]
    return rows[:most]


def check_rows(labels: Mapping[str, Any], prepared: Mapping[str, Mapping[str, Any]], most: int | None) -> None:
    """Rows of the label table = images prepared + rows rejected, and not more than `most` of these.

    Raises:
        ConsistencyError: a row was lost or doubled.
        InputError: more rejected rows than `--max_rejected` allows.
    """
    reasons = rejected_reasons(labels, prepared)
    kept, count = sum(summary["kept"] for summary in prepared.values()), sum(reasons.values())
    if labels["rows"] != kept + count:
        raise ConsistencyError(
            f"{labels['rows']} rows read, but {kept} images prepared and {count} rejected", "equal numbers", "--restart"
        )
    if most is not None and count > most:
        told = "; ".join(f"{number} x {reason}" for reason, number in reasons.items())
        raise InputError(
            f"{count} rows were rejected: {told}",
            f"at most {most} (--max_rejected)",
            "see the table `rejected`, mend the source, or allow more",
        )


def data_parts(config: DataConfig, output: str) -> Iterator[str]:
    """What names the input: the label table's bytes, names and sizes of the image files, the synthetic images' plan.

    Args:
        output: the run's own folder, which may lie inside the folder of the images and is no input.

    Raises:
        InputError: a folder or table that isn't there.
    """
    if config.labels.path is not None:
        storage, name = locate(config.labels.path)
        yield sha256_of(storage.read_bytes(name))
    if config.images.path is not None:
        yield from (f"{name}:{size}" for name, size in image_sizes(config.images.path, output))
    if config.synthetic is not None:
        synthetic = Storage.of(config.synthetic)
        tables = [(name, size) for name, size in synthetic.sizes() if name.endswith(".parquet")]
        if not tables:
            raise InputError(
                f"synthetic.path is '{synthetic.uri}', which holds no Parquet files",
                "the output folder of jobs/synthesize.py",
                "check --synthetic.path",
            )
        yield from (sha256_of(synthetic.read_bytes(name)) for name, _ in tables if name.startswith("plan/"))
        yield from (f"{name}:{size}" for name, size in tables)


def image_sizes(path: str, output: str) -> list[tuple[str, int]]:
    """Names and bytes of the files in the folder of the images, but for those of the run's own folder `output`.

    Raises:
        InputError: no such folder.
    """
    images = Storage.of(path)
    if not images.exists():
        raise InputError(
            f"images.path is '{images.uri}', which does not exist", "a folder of images", "check --images.path"
        )
    own = Storage.of(output).uri.removeprefix(images.uri.rstrip("/") + "/") + "/"
    return [(name, size) for name, size in images.sizes() if not name.startswith(own)]
