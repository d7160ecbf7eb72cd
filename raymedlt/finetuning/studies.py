"""What the model learns from and is scored on: reports joined with their prepared images, one study per image.

Training texts may be changed (see controls.py); validation and test texts are the original reports, always.

N studies. Memory: O(N) texts on whoever holds them, a few kilobytes per study; images are rows of `Examples`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymedlt.errors import ConsistencyError
from raymedlt.finetuning.config import TextFormat
from raymedlt.finetuning.texts import target_text
from raymedlt.images.config import DataConfig
from raymedlt.images.examples import Examples, Rows
from raymedlt.images.preparing import phantom_cohort
from raymedlt.schema import REJECTED, REPORTS, STUDIES, TRAIN

Texts = npt.NDArray[np.object_]
Variants = Mapping[str, Sequence[str]]
"""Report id -> the findings that it teaches instead of its own; a report that isn't in it teaches its own."""

IMAGE_REPORTS = pa.schema([*REPORTS, ("image_id", pa.string()), ("complete_findings", pa.string())])
"""Reports with the one image that each is joined with."""

NO_FINDINGS, NO_IMPRESSION, TOO_LONG = "no findings", "no impression", "too long"


@dataclass(frozen=True)
class Studies:
    """Rows in the order of their images. Text columns are object arrays of str, [N]."""

    report_ids: Texts
    patient_ids: Texts
    splits: Texts
    image_ids: Texts
    image_rows: Rows
    """int64 [N]: which of the prepared images it is (`Examples.pixels`)."""
    targets: tuple[tuple[str, ...], ...]
    """What it teaches: a training study one or more texts, of which an epoch draws one; any other its original one."""
    tokens: tuple[tuple[int, ...], ...]
    """Of each target, for the model that is trained; 0 until `count_tokens`."""
    reference_findings: Texts
    reference_impressions: Texts
    complete_findings: Texts
    """The text without omissions, which only a phantom has; else ""."""
    languages: Texts

    def __len__(self) -> int:
        return len(self.report_ids)

    def of(self, split: str) -> Rows:
        """Numbers of the studies of a split, int64."""
        return np.flatnonzero(self.splits == split)

    def training_texts(self) -> list[str]:
        """Every text that a training study may teach."""
        return [text for number in self.of(TRAIN).tolist() for text in self.targets[number]]

    def take(self, numbers: Rows) -> Studies:
        """Some of the studies."""
        chosen = numbers.tolist()
        parts: dict[str, Any] = {}
        for each in fields(self):
            values = getattr(self, each.name)
            parts[each.name] = tuple(values[n] for n in chosen) if isinstance(values, tuple) else values[numbers]
        return Studies(**parts)

    def table(self) -> pa.Table:
        """As schema.STUDIES."""
        columns = [getattr(self, each.name) for each in fields(self)]
        listed = [list(map(list, each)) if isinstance(each, tuple) else each.tolist() for each in columns]
        return pa.table(dict(zip(_COLUMNS, listed, strict=True)), schema=_IN_ORDER).select(STUDIES.names)

    @classmethod
    def of_table(cls, table: pa.Table) -> Studies:
        """From schema.STUDIES."""
        parts: list[Any] = []
        for name in _COLUMNS:
            kind, values = STUDIES.field(name).type, table[name].to_pylist()
            if pa.types.is_list(kind):
                parts.append(tuple(map(tuple, values)))
            else:
                parts.append(np.array(values, np.int64 if pa.types.is_integer(kind) else object))
        return cls(*parts)


_COLUMNS = (
    "report_id", "patient_id", "split", "image_id", "image_row", "targets", "tokens", "reference_findings",
    "reference_impression", "complete_findings", "language",
)  # fmt: skip
_IN_ORDER = pa.schema([STUDIES.field(name) for name in _COLUMNS])


class Joined(NamedTuple):
    """Reports in = studies out + rejected."""

    studies: Studies
    rejected: pa.Table
    """schema.REJECTED; row ids are report ids."""


def phantom_reports(config: DataConfig) -> pa.Table:
    """The reports of the phantom's images (IMAGE_REPORTS), sorted by image. 0.4 ms a report."""
    table = phantom_cohort(config, texts=True).table.sort_by("image_id")
    rows, ids = table.num_rows, table["image_id"]
    empty = pa.array([[]] * rows, pa.list_(pa.string()))
    views = pa.array([[view] for view in table["view"].to_pylist()], pa.list_(pa.string()))
    columns = {
        "report_id": ids, "study_id": ids, "patient_id": table["patient_id"], "split": table["split"],
        "findings": table["text_findings"], "impression": table["text_impression"], "indication": [""] * rows,
        "views": views, "image_ids": pa.array([[name] for name in ids.to_pylist()]), "labels": empty,
        "language": ["en"] * rows, "image_id": ids, "complete_findings": table["complete_findings"],
    }  # fmt: skip
    return pa.table(columns, schema=IMAGE_REPORTS)


def in_splits(reports: pa.Table, examples: Examples) -> pa.Table:
    """The reports whose images were prepared, in the images' order, with the images' splits.

    The images' splits count: they are the source's, completed by patient and checked for leaks.

    Raises:
        ConsistencyError: an image without a report.
    """
    place = {name: row for row, name in enumerate(reports["image_id"].to_pylist())}
    try:
        rows = [place[name] for name in examples.image_ids.tolist()]
    except KeyError:
        raise ConsistencyError(
            f"{len(set(examples.image_ids.tolist()) - place.keys())} prepared images without a report",
            "the images of these reports alone",
            "--restart",
        ) from None
    table = reports.take(pa.array(rows, pa.int64()))
    return table.set_column(table.schema.get_field_index("split"), "split", pa.array(examples.splits.tolist()))


def join(reports: pa.Table, examples: Examples, variants: Variants, form: TextFormat, source: str) -> Joined:
    """Studies of the reports whose images were prepared.

    A report without findings, or under think_answer without an impression, is rejected in every split: which studies
    take part does not depend on how training texts are changed.

    Args:
        reports: `in_splits` (row i belongs to image i of `examples`).
        variants: changed findings of training reports; those of other splits are not looked at.
        source: named in the table `rejected`.

    Raises:
        ConsistencyError: reports and images are not beside each other.
    """
    if reports["image_id"].to_pylist() != examples.image_ids.tolist():
        raise ConsistencyError("reports in another order than the images", "one report per image, beside it")
    keep: list[int] = []
    targets: list[tuple[str, ...]] = []
    bad: list[dict[str, str]] = []
    columns = [reports[name].to_pylist() for name in ("report_id", "split", "findings", "impression")]
    for row, (report_id, split, findings, impression) in enumerate(zip(*columns, strict=True)):
        reason = NO_FINDINGS if not findings.strip() else ""
        if not reason and form == "think_answer" and not impression.strip():
            reason = NO_IMPRESSION
        if reason:
            bad.append({"row_id": report_id, "source": source, "reason": reason})
            continue
        taught = variants.get(report_id, ()) if split == TRAIN else ()
        keep.append(row)
        targets.append(tuple(target_text(each, impression, form) for each in taught or (findings,)))
    kept = reports.take(pa.array(keep, pa.int64()))
    text = {name: np.array(kept[name].to_pylist(), object) for name in kept.column_names if name in _TEXT_COLUMNS}
    studies = Studies(
        report_ids=text["report_id"],
        patient_ids=text["patient_id"],
        splits=text["split"],
        image_ids=text["image_id"],
        image_rows=np.array(keep, np.int64),
        targets=tuple(targets),
        tokens=tuple((0,) * len(each) for each in targets),
        reference_findings=text["findings"],
        reference_impressions=text["impression"],
        complete_findings=text["complete_findings"],
        languages=text["language"],
    )
    return Joined(studies, pa.Table.from_pylist(bad, schema=REJECTED))


_TEXT_COLUMNS = frozenset(
    ("report_id", "patient_id", "split", "image_id", "findings", "impression", "complete_findings", "language")
)


def count_tokens(studies: Studies, tokens_of: Callable[[str], int], most: int, source: str) -> Joined:
    """The studies with the tokens of their targets, without training studies that have a text of more than `most`.

    They are rejected, not cut: a report that breaks off teaches to break off. References may have any length.
    """
    counted = tuple(tuple(tokens_of(text) for text in texts) for texts in studies.targets)
    longest = np.array([max(tokens) for tokens in counted], np.int64)
    too_long = (studies.splits == TRAIN) & (longest > most)
    bad = [
        {"row_id": studies.report_ids[n], "source": source, "reason": f"{TOO_LONG}: a text of {longest[n]} tokens"}
        for n in np.flatnonzero(too_long).tolist()
    ]
    parts = {each.name: getattr(studies, each.name) for each in fields(studies)} | {"tokens": counted}
    kept = Studies(**parts).take(np.flatnonzero(~too_long))
    return Joined(kept, pa.Table.from_pylist(bad, schema=REJECTED))


def check_references(studies: Studies, form: TextFormat) -> None:
    """Refuse studies whose validation and test texts are not the original reports.

    Raises:
        ConsistencyError: one of them was changed, or has several texts.
    """
    changed = Counter(
        str(studies.splits[n])
        for n in np.flatnonzero(studies.splits != TRAIN).tolist()
        if studies.targets[n] != (target_text(studies.reference_findings[n], studies.reference_impressions[n], form),)
    )
    if changed:
        told = ", ".join(f"{count} of {split}" for split, count in sorted(changed.items()))
        raise ConsistencyError(
            f"texts that are not the original reports: {told}", "changed texts in training only", "--restart"
        )
