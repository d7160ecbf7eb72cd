"""Reports out of a finished run of jobs/enrich.py, and the image file of each."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from raymedlt.config import EnrichConfig
from raymedlt.enrichment import open_run
from raymedlt.errors import ConfigError, InputError
from raymedlt.finetuning.config import TextUse
from raymedlt.finetuning.controls import CONTROLS, enriched_variants
from raymedlt.finetuning.studies import IMAGE_REPORTS, Variants
from raymedlt.images.preparing import Source
from raymedlt.schema import IMAGE_LABELS, REJECTED
from raymedlt.storage import content_hash

REPORT = "Report"
"""The one class of these images: there is a report."""
ENDINGS = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")

NO_ID, NO_FILE, SEVERAL_FILES, TAKEN = "no image id", "no image file", "several image files", "image of another report"

_KEY = "text.enriched"


@dataclass(frozen=True)
class ReportRun:
    """A finished run of jobs/enrich.py. Memory: O(reports x variants)."""

    uri: str
    """Where it lies, without credentials."""
    config: EnrichConfig
    reports: pa.Table
    """schema.REPORTS, sorted by id."""
    enriched: pa.Table
    """schema.ENRICHED: every variant."""
    content: str
    """Names what was read of the run: equal tables, equal names."""

    def variants(self, use: TextUse) -> Variants:
        """What the training reports teach under `text.use`.

        Raises:
            ConfigError, InputError: see `open_reports` and `enriched_variants`.
        """
        _check_use(use, self.config, self.uri)
        return {} if use == "original" else enriched_variants(self.enriched)

    def source(self, files: Iterable[str]) -> Source:
        """The image of each report: the first of its image ids that is one of `files`.

        Args:
            files: names of the files in the folder of the images.

        Returns:
            IMAGE_LABELS, sorted by image_id, with the report's id as `study_id`; and REJECTED with report ids.
        """
        index, taken = ImageFiles(files), set[str]()
        rows: list[dict[str, object]] = []
        bad: list[dict[str, str]] = []
        for report in self.reports.to_pylist():
            image_id, path, reason = index.first(report["image_ids"])
            if not reason and path in taken:
                reason = TAKEN
            if reason:
                bad.append({"row_id": report["report_id"], "source": self.uri, "reason": reason})
                continue
            taken.add(path)
            rows.append(
                {
                    "image_id": image_id, "study_id": report["report_id"], "patient_id": report["patient_id"],
                    "split": report["split"], "view": "", "source": "", "path": path, "labels": [REPORT],
                    "uncertain": [], "unknown": [], "synthetic": False,
                }
            )  # fmt: skip
        if not rows:
            raise InputError(
                f"none of {len(bad):,} reports of '{self.uri}' has an image file",
                "image ids that are names of files in images.path, with or without their endings",
                "check --images.path",
            )
        images = pa.Table.from_pylist(rows, schema=IMAGE_LABELS).sort_by("image_id")
        return Source(images, pa.Table.from_pylist(bad, schema=REJECTED), (REPORT,))

    def image_reports(self, images: pa.Table) -> pa.Table:
        """The reports of these images (studies.IMAGE_REPORTS), beside them.

        Args:
            images: as `source` made them.
        """
        place = {name: row for row, name in enumerate(self.reports["report_id"].to_pylist())}
        reports = self.reports.take(pa.array([place[name] for name in images["study_id"].to_pylist()], pa.int64()))
        none = pa.array([""] * images.num_rows, pa.string())
        table = reports.append_column("image_id", images["image_id"]).append_column("complete_findings", none)
        return table.cast(IMAGE_REPORTS)


def open_reports(place: str, use: TextUse) -> ReportRun:
    """The reports of the finished run at `place`; every file of it is compared with its manifest.

    Raises:
        InputError: no finished run of jobs/enrich.py.
        ConfigError: `use` asks for texts that this run did not make.
        ConsistencyError: a file is not as it was written.
    """
    run = open_run(place, key=_KEY)
    _check_use(use, run.config, run.uri)
    files = sorted((each["name"], each["sha256"]) for each in run.manifest["files"])
    content = content_hash(*(digest for name, digest in files if name.startswith("enriched/")))
    return ReportRun(run.uri, run.config, run.reports, run.enriched, content)


def _check_use(use: TextUse, config: EnrichConfig, uri: str) -> None:
    if use == "original" or CONTROLS.get(use) == config.control:
        return
    made = next((each for each, control in CONTROLS.items() if control == config.control), "original")
    raise ConfigError(
        f"text.use is '{use}', and the run '{uri}' was made with --control {config.control}",
        f"a run of jobs/enrich.py with --control {CONTROLS.get(use, 'semantic')}",
        f"make one, or give --text.use {made}",
    )


class ImageFiles:
    """Finds the file of an image id: a name in the folder, with or without folders and ending."""

    def __init__(self, files: Iterable[str]) -> None:
        """files: relative names; those that don't end like an image count only if they have no ending (DICOM)."""
        self.files = {name for name in files if _is_image(name)}
        self.names: dict[str, str | None] = {}
        for name in sorted(self.files):
            base = posixpath.basename(name)
            for key in {_stem(name), base, _stem(base)} - {name}:
                self.names[key] = None if key in self.names else name

    def first(self, image_ids: Iterable[str]) -> tuple[str, str, str]:
        """The first id that is a file: id, name of the file, and "" or why there is none."""
        reason = NO_ID
        for image_id in image_ids:
            key = image_id.strip().lstrip("/")
            if not key:
                continue
            if key in self.files:
                return image_id, key, ""
            # The file may have another ending than the id: DICOM in the table, PNG on the disk.
            found = [self.names[each] for each in (key, _stem(key)) if each in self.names]
            if found and found[0] is not None:
                return image_id, found[0], ""
            reason = SEVERAL_FILES if found else NO_FILE if reason == NO_ID else reason
        return "", "", reason


def _is_image(name: str) -> bool:
    return name.lower().endswith(ENDINGS) or "." not in posixpath.basename(name)


def _stem(name: str) -> str:
    ending = next((each for each in ENDINGS if name.lower().endswith(each)), "")
    return name[: len(name) - len(ending)] if ending else name
