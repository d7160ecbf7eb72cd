"""PadChest: one CSV row per image, Spanish reports in lower case, stemmed, with " . " between sentences.

Bustos et al., "PadChest: A large chest x-ray image dataset with multi-label annotated reports", Medical Image Analysis
2020. The label table comes with the torchxrayvision package.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from raymedlt.reports.readers import rows
from raymedlt.reports.readers.base import Unit
from raymedlt.reports.readers.files import fingerprint
from raymedlt.reports.readers.packaged import packaged_fingerprint, packaged_root
from raymedlt.reports.records import MAX_CHARS, Row, make_row, reject, tables
from raymedlt.storage import Storage

PACKAGED = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
SUFFIXES = (".csv", ".csv.gz")

_COLUMNS = ("ImageID", "StudyID", "PatientID", "Projection", "ReportID", "Report", "Labels")
_MISSING = ("", "nan", "None")  # how the table writes "no value"
_MAX_LITERAL_CHARS = 10_000


@dataclass(frozen=True, kw_only=True)
class PadChestReader:
    """One unit per file, one record per ReportID: 107,783 of 160,861 images.

    2,148 reports are about two StudyIDs; 1,213 of these also carry two PatientIDs, with the same date, sex and year of
    birth: one examination that was filed twice. They stay one record, under the ids of the first row. Findings are the
    report's text ("nan": no report, rejected); there is no impression; no split: all is "train".
    Memory: a counter per report, see `rows.grouped`.
    """

    root: Storage | None = None
    """None: the packaged table, looked up where the reader runs."""
    names: tuple[str, ...] = (PACKAGED,)
    language: str = "es"
    max_chars: int = MAX_CHARS

    def units(self) -> list[Unit]:
        if self.root is None:
            return [Unit(PACKAGED, packaged_fingerprint(PACKAGED), None, (PACKAGED,))]
        units = []
        for name in self.names:
            rows.require(name, rows.csv_columns(self.root, name), _COLUMNS, "check --reports.format")
            units.append(Unit(name, fingerprint(self.root, [name]), None, (name,)))
        return units

    def read(self, unit: Unit) -> Iterator[pa.Table]:
        root = self.root or packaged_root()
        groups = rows.grouped(lambda: rows.read_csv(root, unit.name, _COLUMNS), _report_id)
        return tables(self._row(unit.name, group) for group in groups)

    def _row(self, name: str, group: list[rows.SourceRow]) -> Row:
        first = group[0]
        row_id = f"{name}:{first.number}"
        if first.reason is not None:
            return reject(row_id, name, first.reason)
        labels: dict[str, None] = {}
        for row in group:
            found = parse_labels(row.values["Labels"])
            if found is None:
                return reject(row_id, name, "Labels cannot be parsed", _report_id(first))
            labels.update(dict.fromkeys(found))
        report = first.values["Report"].strip()
        return make_row(
            row_id=row_id,
            source=name,
            report_id=_report_id(first),
            study_id=first.values["StudyID"],
            patient_id=first.values["PatientID"],
            findings="" if report in _MISSING else report,
            views=[row.values["Projection"] for row in group],
            image_ids=[row.values["ImageID"] for row in group],
            labels=list(labels),
            language=self.language,
            max_chars=self.max_chars,
        )


def parse_labels(cell: str) -> list[str] | None:
    """The labels in a cell that holds a Python list of strings; None if it doesn't. Only literals are evaluated."""
    if cell.strip() in _MISSING:
        return []
    if len(cell) > _MAX_LITERAL_CHARS:
        return None
    try:
        value = ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return None
    return [label for item in value if (label := item.strip())]


def _report_id(row: rows.SourceRow) -> str:
    value: str = row.values["ReportID"].strip()
    return "" if value in _MISSING else value
