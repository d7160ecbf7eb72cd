"""MIMIC-CXR: one text file per report, `files/p10/p10000032/s50414267.txt`, beside tables of splits, images and labels.

Johnson et al., "MIMIC-CXR, a de-identified publicly available database of chest radiographs with free-text reports",
Scientific Data 2019.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from raymedlt.errors import InputError
from raymedlt.reports.readers.base import Unit
from raymedlt.reports.readers.files import BROKEN, damaged, fingerprint, open_binary
from raymedlt.reports.readers.rows import require
from raymedlt.reports.records import MAX_CHARS, NOT_UTF8, Row, as_text, make_row, reject, tables, too_long
from raymedlt.reports.sections import parse_sections
from raymedlt.storage import Storage, content_hash, folder_and_name

REPORTS_PER_UNIT = 2_000

_REPORT = re.compile(r"(?:^|.*/)(p\d+)/(s\d+)\.txt")
_TABLE = re.compile(r"mimic-cxr-[\d.]+-(split|metadata|chexpert|negbio)\.csv(?:\.gz)?")
_KEYS = ("subject_id", "study_id")
_TEXTS = ("split", "dicom_id", "ViewPosition")  # read as bytes: one bad cell rejects its own study only


@dataclass(frozen=True, kw_only=True)
class MimicReader:
    """Units are groups of `REPORTS_PER_UNIT` reports of one top folder (p10 ... p19), by sorted name.

    report_id and study_id are the file's name ("s50414267"), patient_id its folder's ("p10000032"). Splits come from
    `mimic-cxr-*-split.csv`, image ids and views from `-metadata.csv`, labels (what is coded 1.0) from `-chexpert.csv`
    or `-negbio.csv`, each if it lies in the given folder or, where that is `files`, beside it. Without a split table
    everything is "train"; with one, a study that it doesn't name is rejected rather than trained on.
    Memory: the side tables as Arrow columns, once per process.
    """

    root: Storage
    language: str = "en"
    max_chars: int = MAX_CHARS

    def units(self) -> list[Unit]:
        names = [name for name in self.root.list_files() if _REPORT.fullmatch(name)]
        if not names:
            raise InputError(
                f"no report in '{self.root.uri}'",
                "files such as files/p10/p10000032/s50414267.txt",
                "give the folder that holds 'files' as --reports.path",
            )
        side = content_hash(*(fingerprint(storage, [name]) for _, storage, name in self._side_tables()))
        units = []
        for top, group in groupby(names, lambda name: "/".join(name.split("/")[:-2])):
            members = list(group)
            for start in range(0, len(members), REPORTS_PER_UNIT):
                files = tuple(members[start : start + REPORTS_PER_UNIT])
                mark = content_hash(fingerprint(self.root, files), side)
                units.append(Unit(f"{top or 'reports'}-{start // REPORTS_PER_UNIT:03d}", mark, len(files), files))
        return units

    def read(self, unit: Unit) -> Iterator[pa.Table]:
        return tables(self._rows(unit.files))

    def _rows(self, names: Sequence[str]) -> Iterator[Row]:
        numbers = [int(match[2][1:]) for name in names if (match := _REPORT.fullmatch(name))]
        studies = [number for number in numbers if number < 2**63]  # no table holds a longer one
        side = {kind: _of_studies(storage, name, studies) for kind, storage, name in self._side_tables()}
        for name in names:
            yield self._row(name, side)

    def _row(self, name: str, side: dict[str, dict[int, list[dict[str, object]]]]) -> Row:
        match = _REPORT.fullmatch(name)
        if match is None:
            raise ValueError(name)
        patient_id, report_id = match[1], match[2]
        with self.root.open_input(name) as file:
            data = bytes(file.read(4 * self.max_chars + 1))  # a character has at most four bytes
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            return reject(
                name, name, too_long(self.max_chars) if len(data) > 4 * self.max_chars else NOT_UTF8, report_id
            )
        if len(text) > self.max_chars:
            return reject(name, name, too_long(self.max_chars), report_id)
        study = int(report_id[1:])
        splits = side.get("split", {}).get(study, [])
        if "split" in side and not splits:
            return reject(name, name, "study is not in the split table", report_id)
        images = side.get("metadata", {}).get(study, [])
        labels = (side.get("chexpert") or side.get("negbio") or {}).get(study, [])
        sections = parse_sections(text)
        if "\0" in text:
            sections["findings"] = text  # wherever the bytes are, the row is rejected for them
        return make_row(
            row_id=name,
            source=name,
            report_id=report_id,
            study_id=report_id,
            patient_id=patient_id,
            split=as_text(splits[0]["split"]) if splits else "",
            findings=sections["findings"],
            impression=sections["impression"],
            indication=sections["indication"],
            views=[as_text(image["ViewPosition"]) for image in images],
            image_ids=[as_text(image["dicom_id"]) for image in images],
            labels=[label for row in labels for label, value in row.items() if label not in _KEYS and value == 1],
            language=self.language,
            max_chars=self.max_chars,
        )

    def _side_tables(self) -> list[tuple[str, Storage, str]]:
        """(kind, where, name) of the tables that are there."""
        places = [self.root]
        parent, last = folder_and_name(self.root.address)
        if last == "files":
            places.append(parent)
        found: dict[str, tuple[str, Storage, str]] = {}
        for place in places:
            for name in place.entries():
                match = _TABLE.fullmatch(name)
                if match is not None:
                    found.setdefault(match[1], (match[1], place, name))
        return [found[kind] for kind in sorted(found)]


_NEEDED = {
    "split": ("study_id", "split"),
    "metadata": ("study_id", "dicom_id", "ViewPosition"),
    "chexpert": ("study_id",),
    "negbio": ("study_id",),
}


def _of_studies(storage: Storage, name: str, studies: Sequence[int]) -> dict[int, list[dict[str, object]]]:
    """The side table's rows of some studies."""
    table = _side_table(storage, name, fingerprint(storage, [name]))
    chosen = table.filter(pc.is_in(table["study_id"], value_set=pa.array(studies, pa.int64())))
    rows: dict[int, list[dict[str, object]]] = {}
    for row in chosen.to_pylist():
        rows.setdefault(row["study_id"], []).append(row)
    return rows


@lru_cache(maxsize=4)
def _side_table(storage: Storage, name: str, mark: str) -> pa.Table:
    """A side table in memory; `mark` is its fingerprint, so that a changed file is read again."""
    match = _TABLE.fullmatch(name)
    needed = _NEEDED[match[1] if match else "split"]
    try:
        with open_binary(storage, name) as file:
            types = dict.fromkeys(_TEXTS, pa.binary())
            table = pacsv.read_csv(file, convert_options=pacsv.ConvertOptions(column_types=types))
        names = table.column_names
    except (pa.ArrowException, UnicodeDecodeError, *BROKEN) as error:
        raise damaged(name, error) from None
    require(name, names, needed, "take the table as PhysioNet has it")
    table = table.select([names.index(column) for column in dict.fromkeys(names)])
    if len(needed) > 1:
        table = table.select(list(needed))
    try:
        return table.set_column(table.column_names.index("study_id"), "study_id", table["study_id"].cast(pa.int64()))
    except pa.ArrowException as error:
        raise damaged(name, error) from None
