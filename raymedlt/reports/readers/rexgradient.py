"""ReXGradient-160K: `metadata/{train,valid,test}_metadata.{json,csv}`, one entry per study.

Zhang et al., "ReXGradient-160K: A Large-Scale Publicly Available Dataset of Chest Radiographs with Free-text Reports",
2025. The JSON files are one object of objects, keyed by study; the CSV files hold a row per study or per image.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from raymedlt.reports.readers import rows
from raymedlt.reports.readers.base import Unit
from raymedlt.reports.readers.files import fingerprint
from raymedlt.reports.records import MAX_CHARS, Row, as_list, as_text, make_row, reject, tables
from raymedlt.storage import Storage

SUFFIXES = (".csv", ".csv.gz", ".json", ".json.gz", ".jsonl", ".jsonl.gz")

# Ours to theirs, the first that has a value counts; case, "_" and blanks don't.
_COLUMNS = {
    "report_id": ("id", "studyid", "reportid", "studyinstanceuid", "accessionnumber"),
    "study_id": ("studyinstanceuid", "studyuid", "studyid"),
    "patient_id": ("patientid", "subjectid"),
    "split": ("split",),
    "findings": ("findings",),
    "impression": ("impression",),
    "indication": ("indication",),
    "views": ("imageviewposition", "viewposition", "view"),
    "image_ids": ("imagepath", "imagepaths", "image", "images"),
}
_TEXTS = ("report_id", "study_id", "patient_id", "split", "findings", "impression", "indication")
_LISTS = ("views", "image_ids")
_SPLIT_OF_FILE = re.compile(r"(?:^|[/_.-])(train|valid|validate|validation|val|test)(?:[/_.-])", re.IGNORECASE)
_PATIENT_OF_PATH = re.compile(r"(?:^|/)deid_png/([^/]+)/")


@dataclass(frozen=True, kw_only=True)
class ReXGradientReader:
    """One unit per file, one record per study.

    Image paths are written relative to the metadata folder ("../deid_png/..."); they come out relative to the data
    set's root, and one that leaves it is rejected. A file without a split column takes the split of its name; without a
    patient column the patient is the first folder below `deid_png`, and "" if there is none.
    Memory of CSV files: a counter per report, see `rows.grouped`.
    """

    root: Storage
    names: tuple[str, ...]
    language: str = "en"
    max_chars: int = MAX_CHARS

    def units(self) -> list[Unit]:
        units = []
        for name in self.names:
            found = self._columns(name)
            has_text = _candidates(tuple(found), "findings") or _candidates(tuple(found), "impression")
            if found and not (has_text and _candidates(tuple(found), "report_id")):
                rows.require(name, found, ("id", "Findings", "Impression"), "check --reports.format")
            units.append(Unit(name, fingerprint(self.root, [name]), None, (name,)))
        return units

    def read(self, unit: Unit) -> Iterator[pa.Table]:
        if _kind(unit.name) == "csv":
            groups = rows.grouped(lambda: rows.read_csv(self.root, unit.name), _report_id)
        else:
            groups = ([row] for row in self._entries(unit.name))
        return tables(self._row(unit.name, group) for group in groups)

    def _columns(self, name: str) -> list[str]:
        if _kind(name) == "csv":
            return rows.csv_columns(self.root, name)
        return rows.first_columns(self._entries(name), name)

    def _entries(self, name: str) -> Iterator[rows.SourceRow]:
        if _kind(name) == "jsonl":
            return rows.read_jsonl(self.root, name)
        return rows.read_json(self.root, name, "id")

    def _row(self, name: str, group: list[rows.SourceRow]) -> Row:
        first = group[0]
        row_id = f"{name}:{first.number}"
        if first.reason is not None:
            return reject(row_id, name, first.reason)
        texts: dict[str, str] = {}
        try:
            for ours in _TEXTS:
                texts[ours] = _text(first, ours)
            lists = {ours: [item for row in group for item in _list(row, ours)] for ours in _LISTS}
        except TypeError:
            return reject(row_id, name, "a text column holds something else", texts.get("report_id", ""))
        paths = [_from_root(path) for path in lists["image_ids"]]
        if not texts["patient_id"] and paths and (match := _PATIENT_OF_PATH.search(paths[0])):
            texts["patient_id"] = match[1]
        if not texts["split"] and (match := _SPLIT_OF_FILE.search(name)):
            texts["split"] = match[1]
        texts["study_id"] = texts["study_id"] or texts["report_id"]
        return make_row(
            row_id=row_id,
            source=name,
            views=lists["views"],
            image_ids=paths,
            language=self.language,
            max_chars=self.max_chars,
            **texts,
        )


def _kind(name: str) -> str:
    return name.lower().removesuffix(".gz").rpartition(".")[2]


def _values(row: rows.SourceRow, ours: str, convert: Callable[[Any], Any]) -> Any:
    candidates = _candidates(tuple(row.values), ours)
    return next((value for name in candidates if (value := convert(row.values[name]))), convert(None))


@lru_cache(maxsize=1_024)
def _candidates(found: tuple[str, ...], ours: str) -> tuple[str, ...]:
    """The columns of `found` that may hold `ours`, best first."""
    plain = {re.sub(r"[\W_]", "", column).lower(): column for column in found}
    return tuple(plain[name] for name in _COLUMNS[ours] if name in plain)


def _text(row: rows.SourceRow, ours: str) -> str:
    value: str = _values(row, ours, as_text)
    return value


def _list(row: rows.SourceRow, ours: str) -> list[str]:
    value: list[str] = _values(row, ours, _as_list)
    return value


def _as_list(value: object) -> list[str]:
    if isinstance(value, str) and value.lstrip().startswith("[") and len(value) < 100_000:  # a list in a CSV cell
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise TypeError from None
    return as_list(value)


def _report_id(row: rows.SourceRow) -> str:
    return _text(row, "report_id")


def _from_root(path: str) -> str:
    if not path.startswith("../"):
        return path
    return posixpath.normpath(posixpath.join("metadata", path))
