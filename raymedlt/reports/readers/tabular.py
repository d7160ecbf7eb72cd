"""Plain CSV, JSON-lines and Parquet files, with a map from our column names to theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from raymedlt.errors import ConfigError
from raymedlt.reports.readers import rows
from raymedlt.reports.readers.base import Unit
from raymedlt.reports.readers.files import fingerprint
from raymedlt.reports.records import MAX_CHARS, Row, as_list, as_text, make_row, reject, tables, too_long
from raymedlt.reports.sections import parse_sections
from raymedlt.storage import Storage

COLUMNS = (
    "report_id",
    "study_id",
    "patient_id",
    "split",
    "findings",
    "impression",
    "indication",
    "views",
    "image_ids",
    "labels",
    "language",
    "report",
)
"""What a column map may name. "report" (or "text") is a whole report, cut into sections where a row has neither
findings nor impression of its own."""

SUFFIXES = {
    "csv": (".csv", ".csv.gz", ".tsv", ".tsv.gz"),
    "jsonl": (".jsonl", ".jsonl.gz", ".ndjson"),
    "parquet": (".parquet",),
}

_FIX = "give a column map, such as --reports.columns '{report_id: StudyUID, findings: Text}' (ours: theirs)"


@dataclass(frozen=True, kw_only=True)
class TableReader:
    """One unit per file. A list in a CSV cell is written with "|" between its items.

    Only `report_id` and one of findings, impression, report, text must be there. `study_id` falls back to the report
    id, `patient_id` to the study's.
    """

    format: str
    """"csv", "jsonl" or "parquet"."""
    root: Storage
    names: tuple[str, ...]
    columns: Mapping[str, str] = field(default_factory=dict)
    language: str = "en"
    """Of rows that don't name their own."""
    max_chars: int = MAX_CHARS

    def __post_init__(self) -> None:
        unknown = [name for name in self.columns if name not in COLUMNS]
        if unknown:
            raise ConfigError(
                f"--reports.columns maps {unknown}",
                f"names out of {list(COLUMNS)}",
                "write ours: theirs, not the reverse",
            )

    def units(self) -> list[Unit]:
        return [self._unit(name) for name in self.names]

    def read(self, unit: Unit) -> Iterator[pa.Table]:
        theirs = self._theirs()
        return tables(self._row(unit.name, row, theirs) for row in self._source_rows(unit.name))

    def _unit(self, name: str) -> Unit:
        hint = None
        if self.format == "csv":
            found = rows.csv_columns(self.root, name)
        elif self.format == "jsonl":
            found = rows.first_columns(rows.read_jsonl(self.root, name), name)
        else:
            found, hint = rows.parquet_columns(self.root, name)
        theirs = self._theirs()
        has_text = any(theirs[ours] in found for ours in ("findings", "impression", "report")) or "text" in found
        needed = list(dict.fromkeys([theirs["report_id"], *self.columns.values()]))
        if not has_text:
            needed += [theirs["findings"], theirs["impression"]]
        if found or self.format != "jsonl":  # lines that can't be read are rejected one by one
            rows.require(name, found, needed, _FIX)
        return Unit(name, fingerprint(self.root, [name]), hint, (name,))

    def _theirs(self) -> dict[str, str]:
        return {ours: self.columns.get(ours, ours) for ours in COLUMNS}

    def _source_rows(self, name: str) -> Iterator[rows.SourceRow]:
        wanted = {*self._theirs().values(), "text"}
        if self.format == "csv":
            return rows.read_csv(self.root, name, wanted)
        if self.format == "jsonl":
            return rows.read_jsonl(self.root, name)
        return rows.read_parquet(self.root, name, wanted)

    def _row(self, name: str, row: rows.SourceRow, columns: Mapping[str, str]) -> Row:
        row_id = f"{name}:{row.number}"
        if row.reason is not None:
            return reject(row_id, name, row.reason)
        texts: dict[str, str] = {}
        lists: dict[str, list[str]] = {}
        for ours, theirs in columns.items():
            value = row.values.get(theirs)
            try:
                if ours in ("views", "image_ids", "labels"):
                    lists[ours] = as_list(value)
                else:
                    texts[ours] = as_text(value)
            except TypeError:
                return reject(row_id, name, f"'{ours}' is not text", texts.get("report_id", ""))
        report = texts.pop("report")
        if not report and isinstance(row.values.get("text"), (str, bytes)):
            report = as_text(row.values["text"])
        if report and not texts["findings"].strip() and not texts["impression"].strip():
            if len(report) > self.max_chars:
                return reject(row_id, name, too_long(self.max_chars), texts["report_id"])
            sections = parse_sections(report)
            texts["findings"], texts["impression"] = sections["findings"], sections["impression"]
            texts["indication"] = texts["indication"] or sections["indication"]
        texts["language"] = texts["language"] or self.language
        return make_row(
            row_id=row_id,
            source=name,
            views=lists["views"],
            image_ids=lists["image_ids"],
            labels=lists["labels"],
            max_chars=self.max_chars,
            **texts,
        )
