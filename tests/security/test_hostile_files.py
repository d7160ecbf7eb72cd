"""Report and label files that were made to harm: bombs, odd types, texts where a name should be; and a quick fuzzing.

What else is tried elsewhere: XML bombs and external entities, deep JSON, paths that leave, NUL bytes
(tests/reports/test_bad_input.py); pixels beyond the limit and deflated DICOM (tests/images/test_image_readers.py);
formulas (tests/jobs/test_bad_input_job.py, tests/enrichment/test_audit_sheet.py). A million cases:
benchmarks/fuzz_readers.py.
"""

from __future__ import annotations

import csv
import gzip
import io
import tarfile
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzz_world import CASES, SECRET, Labels
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raymedlt.enrichment.audit.contradiction import labels_of
from raymedlt.errors import InputError, names_to_show
from raymedlt.images.labels import read_labels
from raymedlt.reports.assertion import judge
from raymedlt.reports.readers import open_reader

MEGABYTE = 2**20


def rows_of(path: Path, format: str) -> list[dict[str, Any]]:
    reader = open_reader(str(path), format)
    return [row for unit in reader.units() for table in reader.read(unit) for row in table.to_pylist()]


def reasons(path: Path, format: str) -> list[str | None]:
    return [row["reason"] for row in rows_of(path, format)]


@pytest.mark.parametrize("target", CASES)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**64))
def test_a_few_hostile_inputs(target: str, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    CASES[target](Random(seed), tmp_path_factory.getbasetemp() / "case")


# Bombs


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bombs of some megabytes instead of some gigabytes."""
    monkeypatch.setattr("raymedlt.reports.readers.files.UNPACKED_FREELY", MEGABYTE)


def bomb(block: bytes) -> bytes:
    """A gzip file of 8 MB of `block`, which is some bytes itself."""
    return gzip.compress(block * (8 * MEGABYTE // len(block)))


HEAD = b"report_id,findings\na,Clear.\n"


@pytest.mark.parametrize("block", [b"0", b'","\n', b"a,b\n"], ids=["one line", "one row of many lines", "many rows"])
def test_a_gzip_bomb_of_a_table_ends_early(block: bytes, small: None, tmp_path: Path) -> None:
    (tmp_path / "r.csv.gz").write_bytes(gzip.compress(HEAD + b'b,"') + bomb(block))
    with pytest.raises(InputError, match=r"can't be read to its end \(GzipBomb\)"):
        rows_of(tmp_path / "r.csv.gz", "csv")


@pytest.mark.parametrize(("name", "format"), [("r.jsonl.gz", "jsonl"), ("r.tgz", "openi")])
def test_gzip_bombs_of_other_formats_end_early(name: str, format: str, small: None, tmp_path: Path) -> None:
    start = b'{"report_id": "a", "findings": "Clear."}\n'
    if format == "openi":
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            entry = tarfile.TarInfo("1.xml")
            entry.size = 2**32
            archive.addfile(entry)
        start = out.getvalue()[:512]
    (tmp_path / name).write_bytes(gzip.compress(start) + bomb(b"0"))
    with pytest.raises(InputError, match=r"can't be read to its end \(GzipBomb\)"):
        rows_of(tmp_path / name, format)


def test_a_gzip_bomb_of_labels_ends_early(small: None, tmp_path: Path) -> None:
    (tmp_path / "l.csv.gz").write_bytes(gzip.compress(b"image,patient_id,Edema\n") + bomb(b"a,b,1\n"))
    with pytest.raises(InputError, match=r"can't be read \(GzipBomb\)"):
        read_labels(Labels(str(tmp_path / "l.csv.gz")))


def test_one_endless_line_is_one_rejected_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raymedlt.reports.readers.rows.MAX_CELL_CHARS", 1_000)
    (tmp_path / "r.csv").write_bytes(HEAD + b"b," + b"x," * 5_000 + b"\n" + b"c,Clear.\n")
    assert reasons(tmp_path / "r.csv", "csv") == [None, "CSV cannot be parsed", None]
    good = b'{"report_id": "a", "findings": "Clear."}\n'
    (tmp_path / "r.jsonl").write_bytes(good + b"[" * 5_000 + b"\n" + good)
    assert reasons(tmp_path / "r.jsonl", "jsonl") == [None, "a line of more than 16 MB", None]


def test_links_in_an_archive_are_passed_over(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for kind, name in ((tarfile.SYMTYPE, "1.xml"), (tarfile.LNKTYPE, "2.xml"), (tarfile.CHRTYPE, "3.xml")):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    (tmp_path / "r.tgz").write_bytes(out.getvalue())
    with pytest.raises(InputError, match="holds no XML file"):
        rows_of(tmp_path / "r.tgz", "openi")


@pytest.mark.parametrize("cell", ["[" * 9_000, "[" + "-" * 9_000 + "1]", "[" * 150 + "]" * 150, "['a', 1]", "[\0]"])
def test_lists_that_bomb_are_one_unknown_label(cell: str, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(f"report_id,labels\nr1,\"{cell}\"\nr2,\"['a', 'b']\"\n")
    reports = pa.table({"report_id": ["r1", "r2"], "labels": [[], []]})
    assert labels_of(reports, str(tmp_path / "l.csv")) == {"r1": [cell], "r2": ["a", "b"]}


# Odd types and damage


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2**62, 0], pa.int64()).cast(pa.timestamp("us"), safe=False),
        pa.array([-(10**9), 0], pa.int32()).cast(pa.date32()),
        pa.array([0, 1], pa.timestamp("us", "Nowhere/Town")),
        pa.StructArray.from_arrays([pa.array(["a", "b"])], ["x"]),
    ],
    ids=["years beyond 9999", "days beyond Python's", "no such time zone", "a struct"],
)
def test_parquet_values_that_python_lacks_reject_their_row(column: pa.Array, tmp_path: Path) -> None:
    pq.write_table(pa.table({"report_id": ["a", "b"], "findings": column}), tmp_path / "r.parquet")
    assert reasons(tmp_path / "r.parquet", "parquet") == ["'findings' is not text"] * 2


def test_parquet_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    texts = pa.array(["a", "b"])
    pq.write_table(pa.Table.from_arrays([texts, texts, texts], ["report_id", "text", "text"]), tmp_path / "r.parquet")
    with pytest.raises(InputError, match=r"has the columns \['text'\] twice"):
        rows_of(tmp_path / "r.parquet", "parquet")


def mimic(folder: Path, **tables: bytes) -> Path:
    (folder / "files/p10/p100").mkdir(parents=True)
    for study in ("50", "51", "5" * 30):
        (folder / f"files/p10/p100/s{study}.txt").write_text("FINDINGS: Clear.")
    for name, data in tables.items():
        (folder / f"mimic-cxr-2.0.0-{name}.csv").write_bytes(data)
    return folder


def test_mimics_tables_may_hold_bad_bytes_and_studies_may_have_long_numbers(tmp_path: Path) -> None:
    metadata = b"dicom_id,study_id,ViewPosition\nd0,50,PA\nd\xff,51,PA\n"
    rows = {row["row_id"][-8:]: row for row in rows_of(mimic(tmp_path, metadata=metadata), "mimic")}
    assert rows["/s50.txt"]["image_ids"] == ["d0"]
    assert rows["/s51.txt"]["reason"] == "not UTF-8"
    assert len(rows) == 3


@pytest.mark.parametrize(
    "table",
    [b"study_id,spl\xffit\n50,train\n", b"study_id,split\n12:00,test\n", b"study_id,split\nx,test\n", b"x\n1\n"],
)
def test_mimics_tables_that_cannot_be_used_are_one_message(table: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mimic-cxr-2\.0\.0-split\.csv"):
        rows_of(mimic(tmp_path, split=table), "mimic")


def test_of_mimics_columns_of_one_name_the_first_counts(tmp_path: Path) -> None:
    rows = rows_of(mimic(tmp_path, split=b"study_id,study_id,split\n50,51,train\n"), "mimic")
    assert [row["split"] for row in rows] == ["train", "", ""]


def test_a_label_tables_header_that_is_no_csv_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("image,patient_id," + "x" * 200_000 + "\na,b,1\n")
    before = csv.field_size_limit(131_072)  # as a fresh process has it
    try:
        with pytest.raises(InputError, match=r"can't be read \(Error\)"):
            read_labels(Labels(str(tmp_path / "l.csv")))
    finally:
        csv.field_size_limit(before)


def test_a_letter_that_grows_in_small_spelling_shifts_no_mention() -> None:
    sentence = "Bay İbrahim İnce: no effusion"
    (mention,) = judge(sentence).mentions
    assert sentence[mention.start : mention.end] == "effusion"


# Messages


def test_a_table_without_a_header_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(f"r1,p1,train,No {SECRET}. The lungs are clear.\nr2,p2,test,Clear.\n")
    with pytest.raises(InputError, match=r"it has \['r1', 'p1', 'train'\] and 1 more") as caught:
        rows_of(tmp_path / "r.csv", "csv")
    assert SECRET not in str(caught.value)
    with pytest.raises(InputError) as caught:
        read_labels(Labels(str(tmp_path / "r.csv")))
    assert SECRET not in str(caught.value)
    assert names_to_show(["Patient ID", "Unnamed: 0", "", "a sentence of five words"]) == (
        "['Patient ID', 'Unnamed: 0'] and 1 more"
    )


def test_a_text_in_the_column_of_labels_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(
        f"Image Index,Finding Labels,Patient ID\na.png,Hernja,1\nb.png,No {SECRET},2\nc.png,Hernia,3\n"
    )
    rejected = read_labels(Labels(str(tmp_path / "l.csv"))).rejected["reason"].to_pylist()
    assert rejected == ["unknown label 'Hernja'", "unknown label"]
