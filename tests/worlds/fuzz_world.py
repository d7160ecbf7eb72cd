"""Hostile input, made from a random source: texts, report files in every format, label tables; and what must hold.

A case is a pure function of its random source. It is either made by a grammar (then the number of its rows is known) or
made so and then damaged.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_files import MAKERS, SECRET, SPLIT_NAMES, Source, arrow_column, damaged, packed, table_bytes, text_of

from raymedlt.enrichment.audit.contradiction import labels_of
from raymedlt.errors import RaymedltError
from raymedlt.images.labels import read_labels
from raymedlt.reports.assertion import judge
from raymedlt.reports.readers import open_reader
from raymedlt.reports.records import MAX_CHARS, path_leaves_root
from raymedlt.reports.sections import SECTIONS, parse_sections
from raymedlt.reports.sentences import sentence_key, split_sentences
from raymedlt.schema import SPLITS

# Texts


def check_sections(text: str) -> tuple[int, int]:
    """The section parser; see `CASES`."""
    sections = parse_sections(text)
    assert set(sections) == {*SECTIONS, "note"}
    assert all(sections[name] == sections[name].strip() for name in SECTIONS)
    return 1, 0


def check_sentences(text: str) -> tuple[int, int]:
    """The sentence splitter and the key; nothing but blanks, list numbers, bullets and bare marks may be lost."""
    sentences = split_sentences(text)
    for sentence in sentences:
        key = sentence_key(sentence)
        assert key
        assert sentence_key(key) == key
    kept = [letter for letter in "".join(sentences) if letter.isalpha()]
    assert kept == [letter for letter in " ".join(text.split()) if letter.isalpha()]
    return 1, 0


def check_judge(sentence: str, language: str) -> tuple[int, int]:
    """The assertion rules of one language."""
    judgement = judge(sentence, language)
    assert judgement.sign in ("normal", "neutral", "abnormal", "mixed")
    for mention in judgement.mentions:
        assert 0 <= mention.start <= mention.end <= len(sentence)
    return 1, 0


def write_source(source: Source, folder: Path) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in source.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(folder / source.path) if source.path else str(folder)


def made_for_reader(draw: Random, folder: Path, format: str) -> tuple[int, int]:
    """A source of that format, in three of five cases damaged, and read."""
    damage = draw.random() < 0.6
    source = MAKERS[format](draw, damage)
    return check_reader(write_source(source, folder), format, None if damage else source.rows)


def check_reader(path: str, format: str, rows: int | None = None) -> tuple[int, int]:
    """Every row is accepted with all that is promised of it, or rejected with a reason and without its text.

    Args:
        rows: how many there are; None: nobody knows.
    """
    accepted = rejected = 0
    try:
        reader = open_reader(path, format)
        for unit in reader.units():
            seen: set[str] = set()
            for table in reader.read(unit):
                table.validate(full=True)
                for row in table.to_pylist():
                    assert row["row_id"] not in seen
                    seen.add(row["row_id"])
                    check_row(row)
                    accepted, rejected = accepted + (row["reason"] is None), rejected + (row["reason"] is not None)
    except RaymedltError as error:
        check_refusal(error)
        return accepted, rejected
    assert accepted + rejected
    assert rows is None or accepted + rejected == rows
    return accepted, rejected


def check_row(row: dict[str, Any]) -> None:
    """One row of `schema.READ_ROWS`."""
    texts = (row["findings"], row["impression"], row["indication"])
    if row["reason"] is not None:
        assert row["reason"]
        assert SECRET not in row["reason"]
        assert not any(texts)
        return
    assert row["report_id"]
    assert row["findings"] or row["impression"]
    assert row["split"] in SPLITS
    assert max(map(len, texts)) <= MAX_CHARS
    assert not any("\0" in value for value in (*texts, row["report_id"], *row["image_ids"], *row["labels"]))
    assert not any(map(path_leaves_root, row["image_ids"]))


def check_refusal(error: RaymedltError) -> None:
    """A refused file: a message that says what to do."""
    assert error.got
    assert error.expected
    assert SECRET not in str(error)


# Label tables


@dataclass(frozen=True)
class Labels:
    """A job's section `labels`."""

    path: str | None
    format: str = "auto"
    columns: dict[str, str] = field(default_factory=dict)
    separator: str = "|"
    classes: list[str] | None = None


LABELS = {
    "nih14": ["Image Index", "Finding Labels", "Patient ID", "View Position"],
    "padchest": ["ImageID", "StudyID", "PatientID", "Projection", "Labels"],
    "chexpert": ["Path", "Frontal/Lateral", "No Finding", "Edema", "Pneumonia", "Fracture", "Cardiomegaly",
                 "Atelectasis"],
    "mimic": ["dicom_id", "subject_id", "study_id", "Edema", "Pneumonia", "Fracture", "Cardiomegaly", "Atelectasis"],
    "cxr_lt": ["dicom_id", "subject_id", "study_id", "fpath", "Edema", "Mass", "Hernia", "Fracture", "Pneumonia"],
    "csv": ["image", "patient_id", "split", "Edema", "Odd class"],
    "separated": ["image", "patient_id", "labels"],
}  # fmt: skip


def made_labels(draw: Random, folder: Path) -> tuple[int, int]:
    """A label table of some publisher's, every other one damaged, and read."""
    damage, kind = draw.random() < 0.5, draw.choice(list(LABELS))
    header, rows = label_table(draw, kind)
    if draw.random() < 0.15:
        columns = [arrow_column(draw, [row[place] for row in rows]) for place in range(len(header))]
        out = io.BytesIO()
        pq.write_table(pa.Table.from_arrays(columns, header), out)
        files = {"l.parquet": damaged(draw, out.getvalue()) if damage else out.getvalue()}
    else:
        files = packed(draw, "l.csv", table_bytes(draw, header, rows), damage=damage)
    path = write_source(Source(files), folder)
    return check_labels(f"{path}/{next(iter(files))}", None if damage else len(rows))


def label_table(draw: Random, kind: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of such a table."""
    header, count = LABELS[kind], draw.randrange(1, 5)
    return header, [[_label_cell(draw, name, number) for name in header] for number in range(count)]


def check_labels(path: str, rows: int | None = None) -> tuple[int, int]:
    """A label table: rows of the file = rows accepted + rows rejected, each of these with a reason."""
    try:
        table = read_labels(Labels(path))
    except RaymedltError as error:
        check_refusal(error)
        return 0, 0
    table.images.validate(full=True)
    assert all(row["image_id"] and row["patient_id"] for row in table.images.to_pylist())
    assert all(row["reason"] and SECRET not in row["reason"] for row in table.rejected.to_pylist())
    accepted, rejected = table.images.num_rows, table.rejected.num_rows
    assert rows is None or accepted + rejected == rows
    return accepted, rejected


def _label_cell(draw: Random, name: str, number: int) -> str:
    odd = draw.random() < 0.05
    if odd:
        return text_of(draw, 6)
    if name in ("Image Index", "ImageID", "Path", "dicom_id", "image", "fpath"):
        return draw.choice((f"{number}.png", f"train/patient1/study1/{number}.jpg", "", "../x.png"))
    if name in ("Finding Labels", "labels"):
        return draw.choice(("Edema|Mass", "No Finding", "Mass|", "", "nan", "No Finding|Mass", "Unheard of"))
    if name == "Labels":
        return draw.choice(("['normal']", "['a', 'b']", "", "[", "[1]", "-" * 5_000 + "1", "[" * 150))
    if name in ("Patient ID", "PatientID", "patient_id", "subject_id", "study_id", "StudyID"):
        return draw.choice(("1", "2", "p3", ""))
    if name == "split":
        return draw.choice(SPLIT_NAMES)
    return draw.choice(("1.0", "0.0", "-1.0", "", "1", "2", "x"))


def made_audit_labels(draw: Random, folder: Path) -> tuple[int, int]:
    """The label file of an audit, every other one damaged, and read."""
    damage, count = draw.random() < 0.5, draw.randrange(1, 5)
    cells = ("Edema|Mass", "['a', 'b']", "", "['a'", "[" * 150, "[" + "-" * 9_000 + "1]", "[" * 9_000)
    rows = [[f"r{number}", draw.choice(cells)] for number in range(count)]
    data = table_bytes(draw, ["report_id", "labels"], rows)
    path = write_source(Source({"l.csv": damaged(draw, data) if damage else data}), folder)
    return check_audit_labels(f"{path}/l.csv")


def check_audit_labels(path: str) -> tuple[int, int]:
    """The label file of an audit."""
    reports = pa.table({"report_id": [f"r{number}" for number in range(5)], "labels": [[]] * 5})
    try:
        found = labels_of(reports, path)
    except RaymedltError as error:
        check_refusal(error)
        return 0, 0
    return len(found), 0


CASES: dict[str, Callable[[Random, Path], tuple[int, int]]] = {
    **{name: (lambda draw, folder, name=name: made_for_reader(draw, folder, name)) for name in MAKERS},
    "label tables": made_labels,
    "audit labels": made_audit_labels,
    "sections": lambda draw, _: check_sections(text_of(draw, 80)),
    "sentences": lambda draw, _: check_sentences(text_of(draw, 80)),
    "assertion": lambda draw, _: check_judge(text_of(draw, 30), draw.choice(("en", "es"))),
}
"""A case makes its input from the random source, reads it, and returns the rows accepted and rejected. It raises
AssertionError where a promise is broken, and whatever a reader lets through that isn't ours."""
