"""CheXpert Plus: one CSV row per image (`df_chexpert_plus_240401.csv`), the report's sections in columns.

Chambon et al., "CheXpert Plus: Augmenting a Large Chest X-ray Dataset with Text Radiology Reports, Patient Demographics
and Additional Image Formats", 2024.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from raymedlt.reports.readers import rows
from raymedlt.reports.readers.base import Unit
from raymedlt.reports.readers.files import fingerprint
from raymedlt.reports.records import MAX_CHARS, PATH_LEAVES, Row, make_row, path_leaves_root, reject, tables, too_long
from raymedlt.reports.sections import parse_sections
from raymedlt.storage import Storage

SUFFIXES = (".csv", ".csv.gz")

_REQUIRED = ("path_to_image", "section_findings", "section_impression")
_OPTIONAL = (
    "report",
    "section_clinical_history",
    "section_history",
    "deid_patient_id",
    "frontal_lateral",
    "ap_pa",
    "split",
)
_STUDY = re.compile(r"(patient\w+)/(study\w+)/[^/]+$")
_MISSING = ("nan", "NaN", "None")


@dataclass(frozen=True, kw_only=True)
class CheXpertPlusReader:
    """One unit per file, one record per study folder ("train/patient00001/study1/..." is "patient00001_study1").

    The sections' columns are taken as they are; a row with neither is cut out of its `report` column. Splits are the
    `split` column, or the first folder of the image path. Memory: a counter per report, see `rows.grouped`.
    """

    root: Storage
    names: tuple[str, ...]
    language: str = "en"
    max_chars: int = MAX_CHARS

    def units(self) -> list[Unit]:
        units = []
        for name in self.names:
            rows.require(name, rows.csv_columns(self.root, name), _REQUIRED, "check --reports.format")
            units.append(Unit(name, fingerprint(self.root, [name]), None, (name,)))
        return units

    def read(self, unit: Unit) -> Iterator[pa.Table]:
        wanted = (*_REQUIRED, *_OPTIONAL)
        groups = rows.grouped(lambda: rows.read_csv(self.root, unit.name, wanted), _report_id)
        return tables(self._row(unit.name, group) for group in groups)

    def _row(self, name: str, group: list[rows.SourceRow]) -> Row:
        first = group[0]
        row_id, report_id = f"{name}:{first.number}", _report_id(first)
        if first.reason is not None:
            return reject(row_id, name, first.reason)
        paths = [_value(row, "path_to_image") for row in group]
        if any(map(path_leaves_root, paths)):
            return reject(row_id, name, PATH_LEAVES, report_id)
        if not report_id:
            return reject(row_id, name, "path_to_image names no study")
        sections = {
            "findings": _value(first, "section_findings"),
            "impression": _value(first, "section_impression"),
            "indication": _value(first, "section_clinical_history") or _value(first, "section_history"),
        }
        report = _value(first, "report")
        if report and not sections["findings"].strip() and not sections["impression"].strip():
            if len(report) > self.max_chars:
                return reject(row_id, name, too_long(self.max_chars), report_id)
            parsed = parse_sections(report)
            sections = {key: value or parsed[key] for key, value in sections.items()}
        return make_row(
            row_id=row_id,
            source=name,
            report_id=report_id,
            study_id=report_id,
            patient_id=_value(first, "deid_patient_id") or report_id.partition("_")[0],
            split=_value(first, "split") or paths[0].partition("/")[0],
            views=[_value(row, "ap_pa") or _value(row, "frontal_lateral") for row in group],
            image_ids=paths,
            language=self.language,
            max_chars=self.max_chars,
            **sections,
        )


def _value(row: rows.SourceRow, column: str) -> str:
    value: str = row.values.get(column, "")
    return "" if value.strip() in _MISSING else value


def _report_id(row: rows.SourceRow) -> str:
    match = _STUDY.search(row.values.get("path_to_image", ""))
    return f"{match[1]}_{match[2]}" if match else ""
