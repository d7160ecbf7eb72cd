"""A second guard that looks: calibrated probabilities of an image classifier against what an addition denies.

A denial of finding f has the score 1 - p, p the largest probability over the study's images and the classes that would
make it wrong (`reports.labels`). It is refused when a class reaches its threshold. Thresholds come from labelled
studies by split conformal prediction: with n studies that truly show the class and k = floor(alpha (n + 1)), t is their
k-th smallest p. A new study that shows the class, exchangeable with those, has p < t with probability at most
k / (n + 1) <= alpha, whatever the classifier and the number n: so of the truly positive studies at most a share alpha
gets the denial (Vovk, Gammerman, Shafer: Algorithmic Learning in a Random World, 2005; Angelopoulos and Bates: A Gentle
Introduction to Conformal Prediction, 2021). p = t is refused, so that ties keep the promise.

The guard abstains, and the text guard's word stands, where the study has no score, a finding no class, or a class fewer
than 1/alpha - 1 positives (k < 1: only refusing everything would keep the promise, which silences a class that nobody
calibrated). Abstaining is written into provenance. Exchangeable means: not images that the classifier was trained on.
Raw similarities of image-text models aren't probabilities and are not accepted: these models ignore negation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raymedlt.errors import InputError
from raymedlt.schema import VALIDATION
from raymedlt.storage import Storage

PASSED, REFUSED, ABSTAINED = "passed", "image", "abstained"
_TEXTS = ("image_id", "patient_id", "split", "class")
_NUMBERS = ("label", "probability")
_GROUPS = ("study_id", "report_id")  # optional
_FIX = "give the table `predictions` of a classifier with calibrated probabilities"


def read_scores(path: str, key: str) -> pa.Table:
    """A table of scores, checked: text ids, label float64 (may be null), probability float32.

    Args:
        path: Parquet file, CSV file (by its ending), or a folder of Parquet files; local or a URI.
        key: the configuration key that named it, for messages.

    Raises:
        InputError: it can't be read, a column is missing, or a probability is null or outside [0, 1].
    """
    storage = Storage.of(path)
    place = storage.path()
    types: dict[str, pa.DataType] = dict.fromkeys((*_TEXTS, *_GROUPS), pa.string())
    types |= {"label": pa.float64(), "probability": pa.float32()}
    try:
        if storage.filesystem.get_file_info(place).type == pafs.FileType.Directory:
            table = storage.read_folder("")
        elif place.endswith((".csv", ".csv.gz")):
            with storage.filesystem.open_input_stream(place) as stream:
                table = pacsv.read_csv(stream, convert_options=pacsv.ConvertOptions(column_types=types))
        else:
            table = pq.read_table(place, filesystem=storage.filesystem)
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"the table of {key} can't be read ({type(error).__name__})",
            "Parquet or CSV, label and probability numbers",
        ) from None
    missing = [name for name in (*_TEXTS, *_NUMBERS) if name not in table.column_names]
    if missing:
        raise InputError(f"the table of {key} lacks the columns {missing}", f"{[*_TEXTS, *_NUMBERS]}", _FIX)
    table = table.select([name for name in types if name in table.column_names])
    try:
        table = table.cast(pa.schema([(name, types[name]) for name in table.column_names]))
    except pa.ArrowException as error:
        raise InputError(
            f"the columns of {key} have other types ({type(error).__name__})", "text ids, numbers in label, probability"
        ) from None
    p = table["probability"].to_numpy()
    outside = int(np.sum(~((p >= 0) & (p <= 1))))
    if outside:
        raise InputError(
            f"{key}: {outside} of {len(p)} probabilities are null or outside [0, 1]", "probabilities", _FIX
        )
    return table


def threshold(positives: npt.ArrayLike, alpha: float) -> float | None:
    """The floor(alpha (n + 1))-th smallest probability of n truly positive studies; None if that is none.

    A denial may stand where p < threshold. O(n log n).
    """
    ordered = np.sort(np.asarray(positives, np.float64))
    rank = math.floor(Fraction(str(alpha)) * (len(ordered) + 1))  # exact: 0.29 * 100 is not 28.99...
    return float(ordered[rank - 1]) if rank >= 1 else None


def thresholds(labelled: pa.Table, alpha: float) -> dict[str, float | None]:
    """Each class's threshold from labelled scores (`read_scores`); a study is positive if any of its images is.

    Studies are told apart by study_id, else by report_id, else each image is one: its p is then never larger than its
    study's, so the threshold errs to refusing.
    """
    labelled = labelled.filter(pc.is_valid(labelled["label"]))
    study = next((name for name in _GROUPS if name in labelled.column_names), "image_id")
    grouped = labelled.group_by([study, "class"]).aggregate([("label", "max"), ("probability", "max")])
    result: dict[str, float | None] = {}
    for name in sorted(pc.unique(labelled["class"]).to_pylist()):
        positive = grouped.filter(pc.and_(pc.equal(grouped["class"], name), pc.equal(grouped["label_max"], 1.0)))
        result[name] = threshold(positive["probability_max"].to_numpy(), alpha)
    return result


@dataclass(frozen=True)
class Scores:
    """Probabilities of I images and C classes, NaN where the table has none, and where to find a report's."""

    classes: dict[str, int]
    probabilities_IC: npt.NDArray[np.float32]
    images: dict[str, int]
    groups: dict[str, dict[str, list[int]]]  # "report_id", "study_id": id -> images

    @classmethod
    def of(cls, table: pa.Table) -> Scores:
        """From a table of scores (`read_scores`); of an image given twice the larger probability counts.

        Memory O(images x classes).
        """
        names = sorted(pc.unique(table["class"]).to_pylist())
        ids = sorted(pc.unique(table["image_id"]).to_pylist())
        rows = pc.index_in(table["image_id"], pa.array(ids, pa.string())).to_numpy()
        columns = pc.index_in(table["class"], pa.array(names, pa.string())).to_numpy()
        probabilities_IC = np.full((len(ids), len(names)), np.nan, np.float32)
        np.fmax.at(probabilities_IC, (rows, columns), table["probability"].to_numpy())
        groups: dict[str, dict[str, list[int]]] = {}
        for name in _GROUPS:
            groups[name] = {}
            if name in table.column_names:
                for group, row in sorted(set(zip(table[name].to_pylist(), rows.tolist(), strict=True))):
                    groups[name].setdefault(group, []).append(row)
        return cls(
            {name: place for place, name in enumerate(names)},
            probabilities_IC,
            {name: place for place, name in enumerate(ids)},
            groups,
        )

    def of_report(self, report: Mapping[str, Any]) -> npt.NDArray[np.float32] | None:
        """Each class's largest probability over the report's images, float32 [C], NaN without one; None: no image.

        Images are found by image_ids; if none of them is in the table, by report_id, then by study_id.
        """
        rows = [self.images[name] for name in report["image_ids"] if name in self.images]
        for group in ("report_id", "study_id"):
            rows = rows or self.groups[group].get(report[group], [])
        if not rows:
            return None
        largest_C: npt.NDArray[np.float32] = np.fmax.reduce(self.probabilities_IC[rows], axis=0)
        return largest_C


class ImageGuard:
    """Scores, thresholds and the classes of a denial.

    Args:
        classes_of: classes that would make the denial of a finding wrong; none: the classifier can't tell.
    """

    def __init__(
        self, scores: Scores, limits: Mapping[str, float | None], classes_of: Callable[[str], tuple[str, ...]]
    ) -> None:
        self.scores, self.limits, self.classes_of = scores, limits, classes_of

    def verdict(self, denied: Iterable[str], report: Mapping[str, Any]) -> str:
        """What the images say of a sentence that denies the findings `denied`.

        Returns:
            "image:<class>" if it is to be refused (the class furthest above its threshold); "passed" if every class of
            every finding stays below its own; else why the guard can't say: "abstained:no_score",
            "abstained:no_score:<class>", "abstained:no_class:<finding>" or "abstained:few_positives:<class>".
        """
        largest_C = self.scores.of_report(report)
        if largest_C is None:
            return f"{ABSTAINED}:no_score"
        above: list[tuple[float, str]] = []
        doubts: list[str] = []
        for finding in sorted(set(denied)):
            names = self.classes_of(finding)
            if not names:
                doubts.append(f"no_class:{finding}")
            for name in names:
                limit = self.limits.get(name)
                p = float(largest_C[self.scores.classes[name]]) if name in self.scores.classes else math.nan
                if math.isnan(p):
                    doubts.append(f"no_score:{name}")
                elif limit is None:
                    doubts.append(f"few_positives:{name}")
                elif p >= limit:
                    above.append((limit - p, name))
        if above:
            return f"{REFUSED}:{min(above)[1]}"
        return f"{ABSTAINED}:{doubts[0]}" if doubts else PASSED


def load_image_guard(scores: str, calibration: str | None, alpha: float, scheme: str) -> ImageGuard:
    """The guard of a run, from its files.

    Raises:
        InputError: a file can't be used (`read_scores`), or nothing in it is labelled.
    """
    from raymedlt.reports.labels import class_of, classes_denied

    table = read_scores(scores, "guard.scores")
    if calibration is None:
        labelled = table.filter(pc.is_in(table["split"], pa.array([VALIDATION, "validate"])))
        key = "the validation rows of guard.scores"
    else:
        labelled, key = read_scores(calibration, "guard.calibration"), "guard.calibration"
    if labelled["label"].null_count == labelled.num_rows:
        raise InputError(
            f"{key}: no row has a label", "labels 0 and 1", "give labelled scores with --guard.calibration"
        )
    limits = thresholds(labelled, alpha)

    def classes_of(finding: str) -> tuple[str, ...]:
        """Classes of the finding and its kinds; else the wider class that it belongs to."""
        return classes_denied(finding, scheme) or class_of(finding, scheme)

    return ImageGuard(Scores.of(table), limits, classes_of)
