"""What a run wrote, and what is known of the studies.

The table `generations` holds reference and completion. Languages, complete texts and images aren't in it: they are read
from the fine-tuning run itself (`_work`), and where that is gone the page says what is missing.

Shape suffix: N reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymedlt.errors import InputError
from raymedlt.evaluation.answers import split_answer
from raymedlt.finetuning.feed import Blind
from raymedlt.finetuning.finished import FinishedRun as FineTuned
from raymedlt.finetuning.finished import open_finished as open_finetuned
from raymedlt.finetuning.generation import StoredPixels
from raymedlt.images.examples import Pixels
from raymedlt.judging.finished import FinishedRun
from raymedlt.runreport.page import Picture
from raymedlt.runreport.pictures import png, shrunk
from raymedlt.schema import GENERATIONS, TEST
from raymedlt.storage import Storage, beside

PICTURE_PIXELS = 384
_IMAGES = "_work/images"


@dataclass(frozen=True, eq=False)
class Texts:
    """What a run wrote, and for what; all lists have N entries, sorted by report_id."""

    report_ids: list[str]
    patient_ids: list[str]
    references: list[str]
    completions: list[str]
    """Findings; without the tags of think_answer."""

    @classmethod
    def of(cls, run: FinishedRun) -> Texts:
        """Of the test split, if reports were written for it; else of all that were."""
        table = run.table("generations", GENERATIONS)
        on_test = table.filter(pc.equal(table["split"], TEST))
        rows = (on_test if on_test.num_rows else table).sort_by("report_id").to_pydict()
        if not rows["report_id"]:
            raise InputError(f"no report in the table `generations` of '{run.uri}'", "at least one", "check --run")
        return cls(
            rows["report_id"], rows["patient_id"], rows["reference"],
            [split_answer(text)[0] for text in rows["completion"]],
        )  # fmt: skip

    def only(self, report_ids: set[str]) -> Texts:
        """Some of the reports."""
        kept = [row for row, name in enumerate(self.report_ids) if name in report_ids]
        lists = (self.report_ids, self.patient_ids, self.references, self.completions)
        return Texts(*([each[row] for row in kept] for each in lists))


@dataclass(frozen=True, eq=False)
class Known:
    """What the fine-tuning run tells about the studies beside the table."""

    languages: list[str]
    complete: list[str] | None
    pictures: Pictures | None
    """Where the images are still there."""
    clusters: Any | None
    missing: list[str]
    """What could not be found, in words."""


def common(first: Texts, second: Texts) -> tuple[Texts, Texts]:
    """Both runs' texts of the studies that both wrote for.

    Raises:
        InputError: there are none, or their original reports or patients differ.
    """
    both = set(first.report_ids) & set(second.report_ids)
    if not both:
        raise InputError(
            f"the runs wrote {len(first.report_ids):,} and {len(second.report_ids):,} reports, none of one study",
            "two runs over the same studies: the same data, seed and splits",
            "check --run and --against",
        )
    own, other = first.only(both), second.only(both)
    changed = sum(a != b for a, b in zip(own.references, other.references, strict=True))
    if changed or own.patient_ids != other.patient_ids:
        raise InputError(
            f"of {len(both):,} studies of both runs {changed:,} have another original report",
            "the same reports and patients in both",
            "compare runs over the same data",
        )
    return own, other


def known_of(run: FinishedRun, texts: Texts, clusters: str | None) -> Known:
    """Of the studies of these texts. clusters: folder of a cluster model that is given."""
    settings = run.settings
    aligned = "finetuned" in settings
    place = (settings["finetuned"] or beside(run.uri, "finetune")) if aligned else run.uri
    model = _clusters(clusters, run, settings)
    base = _base(place)
    studies = None if base is None else base.studies()
    place_of = {} if studies is None else {name: row for row, name in enumerate(studies.report_ids.tolist())}
    if base is None or studies is None or not place_of.keys() >= set(texts.report_ids):
        lost = f"The working files of the fine-tuning run aren't in '{Storage.of(place).uri}'"
        missing = [f"{lost}: no scores against complete texts, no images, and all reports are taken for English ones."]
        return Known(["en"] * len(texts.report_ids), None, None, model, missing)
    rows = np.array([place_of[name] for name in texts.report_ids], np.int64)
    complete = studies.complete_findings[rows].tolist()
    return Known(
        studies.languages[rows].tolist(), complete if all(complete) else None,
        Pictures(base, dict(zip(texts.report_ids, studies.image_rows[rows].tolist(), strict=True))),
        model, [],
    )  # fmt: skip


class Pictures:
    """The images of some studies; one file of prepared images is in memory at a time."""

    def __init__(self, base: FineTuned, image_rows: Mapping[str, int]) -> None:
        """image_rows: of each report_id."""
        self._base, self._rows = base, image_rows

    @cached_property
    def _pixels(self) -> Pixels:
        storage, size = self._base.storage, self._base.config.images.size
        if self._base.config.blind:
            return Blind(size)
        files = sorted(storage.list_files(_IMAGES))
        counts = [pq.read_metadata(storage.open_input(name)).num_rows for name in files]
        return StoredPixels(storage, files, counts, size)

    def of(self, report_id: str) -> Picture:
        """The image of a report."""
        image = self._pixels.take(np.array([self._rows[report_id]], np.int64))[0]
        return Picture(png=png(shrunk(image, PICTURE_PIXELS)), alt=f"Chest X-ray of report {report_id}")


def _base(place: str) -> FineTuned | None:
    """The fine-tuning run, if it and its working files are still there."""
    try:
        base = open_finetuned(place)
    except InputError:
        return None
    folder = base.storage
    return base if folder.list_files("_work/studies") and folder.list_files(_IMAGES) else None


def _clusters(folder: str | None, run: FinishedRun, settings: Mapping[str, Any]) -> Any | None:
    """The cluster model that is given, or that the aligned run made."""
    if folder is None and "finetuned" in settings and run.storage.exists("clusters/findings"):
        folder = run.storage.sub("clusters/findings").address
    if folder is None:
        return None
    from raymedlt.clustering import ClusterModel

    return ClusterModel.load(folder)
