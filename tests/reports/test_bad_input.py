"""What is wrong with real files: each fault is one rejected row with a reason, or one clear message. No text leaks."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_readers import PADCHEST, mimic, rex, rows_of, write_csv, xml

from raymedlt.errors import InputError
from raymedlt.reports.readers import open_reader
from raymedlt.reports.records import make_row, path_leaves_root

SECRET = "Zebra fracture"


def reasons(path: Path, format: str, **options: Any) -> list[str | None]:
    return [row["reason"] for row in rows_of(open_reader(str(path), format, **options))]


def csv_file(folder: Path, *lines: bytes) -> Path:
    path = folder / "r.csv"
    path.write_bytes(b"report_id,findings,image_ids,split\n" + b"".join(line + b"\n" for line in lines))
    return path


def test_csv_faults_reject_their_own_row_only(tmp_path: Path) -> None:
    path = csv_file(
        tmp_path,
        b"a,Clear.,x/1.png,train",
        b"b,Cl\xe9ar.,,",
        b"c,Cl\x00ear.,,",
        b"d,Clear.",
        b"e,Clear.,,,surplus",
        b'f,"Two\nlines, quoted.",,',
        b",Clear.,,",
        b"h,Clear.,../../etc/passwd,",
        b"i,Clear.,/etc/passwd,",
        b"j,Clear.,,fold7",
        b"k,Clear.,,Zebra fracture seen here",
        b"l,,,",
        b"",
        b"m," + b"x" * 1_000_000 + b",,",
        b"\xff\xfe,Clear.,,",
        b"o,=cmd(),,",
        b"p,Clear.,C:\\x.png,",
        b"q,Clear.,s3://b/x.png,",
        b"r,Clear.,a/../b.png,",
    )
    rows = rows_of(open_reader(str(path), "csv"))
    assert [row["reason"] for row in rows] == [
        None,
        "not UTF-8",
        "text holds NUL bytes",
        "has 2 cells, expected 4",
        "has 5 cells, expected 4",
        None,
        "report_id is missing",
        "image path leaves its root",
        "image path leaves its root",
        "split 'fold7' is unknown",
        "split is unknown",
        "no findings and no impression",
        "longer than 100000 characters",
        "not UTF-8",
        None,
        "image path leaves its root",
        "image path leaves its root",
        None,
    ]
    for row in rows:
        if row["reason"]:
            assert row["findings"] == row["impression"] == row["indication"] == row["split"] == ""
            assert row["source"] == "r.csv"
    assert [row["report_id"] for row in rows[1:3]] == ["b", "c"]
    assert rows[13]["report_id"] == ""
    assert rows[14]["findings"] == "=cmd()"
    assert rows[5]["findings"] == "Two\nlines, quoted."
    assert len(rows) == 18


def test_a_megabyte_is_fine_if_allowed(tmp_path: Path) -> None:
    path = csv_file(tmp_path, b"a," + b"x" * 1_000_000 + b",,")
    assert reasons(path, "csv", max_chars=2_000_000) == [None]


def test_a_quote_left_open_says_how_many_lines_it_took(tmp_path: Path) -> None:
    path = csv_file(tmp_path, b"a,Clear.,,", b'b,"Clear.,,', b"c,Clear.,,", b"d,Clear.,,")
    assert reasons(path, "csv") == [None, "has 2 cells, expected 4 (over 3 lines: is a quote left open?)"]


def test_a_cell_beyond_any_limit_does_not_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raymedlt.reports.readers.rows.MAX_CELL_CHARS", 1_000)
    before = csv.field_size_limit(1_000)
    try:
        path = csv_file(tmp_path, b"a,Clear.,,", b"b," + b"x" * 2_000 + b",,", b"c,Clear.,,")
        assert reasons(path, "csv") == [None, "CSV cannot be parsed", None]
    finally:
        csv.field_size_limit(before)


def test_jsonl_faults(tmp_path: Path) -> None:
    good = {"report_id": "a", "findings": "Clear."}
    lines = [
        json.dumps(good).encode(),
        b"{not json",
        b"[1, 2]",
        b'{"report_id": "d", "findings": "Cl\xe9ar."}',
        b'{"report_id": "e", "findings": "a\x00b"}',
        json.dumps({**good, "findings": "a\0b"}).encode(),
        json.dumps({**good, "findings": {"a": 1}}).encode(),
        json.dumps({**good, "findings": "\ud800"}).encode(),
        b"[" * 200_000,
        json.dumps({**good, "image_ids": ["ok.png", "../x.png"]}).encode(),
        json.dumps({"report_id": None, "findings": "Clear."}).encode(),
    ]
    (tmp_path / "r.jsonl").write_bytes(b"\n".join(lines))
    assert reasons(tmp_path / "r.jsonl", "jsonl") == [
        None,
        "JSON cannot be parsed",
        "JSON is not an object",
        "not UTF-8",
        "text holds NUL bytes",
        "text holds NUL bytes",
        "'findings' is not text",
        "not UTF-8",
        "JSON cannot be parsed",
        "image path leaves its root",
        "report_id is missing",
    ]


def test_parquet_faults(tmp_path: Path) -> None:
    binary = pa.array([b"Clear.", b"Cl\xe9ar.", b"a\x00b", None], pa.binary())
    findings = pa.StringArray.from_buffers(4, binary.buffers()[1], binary.buffers()[2], binary.buffers()[0])
    table = pa.table({"report_id": pa.array([1.0, 2.0, 3.0, 4.0]), "findings": findings})
    pq.write_table(table, tmp_path / "r.parquet")
    rows = rows_of(open_reader(str(tmp_path / "r.parquet"), "parquet"))
    assert [row["reason"] for row in rows] == [
        None, "not UTF-8", "text holds NUL bytes", "no findings and no impression",
    ]  # fmt: skip
    assert [row["report_id"] for row in rows] == ["1", "2", "3", "4"]


BOMB = '<!DOCTYPE b [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (xml().encode(), None),
        (b"<eCitation><uId id='x'", "XML cannot be parsed"),
        (b"", "XML cannot be parsed"),
        (xml(prolog=BOMB, findings="&b;").encode(), "XML holds a DOCTYPE"),
        (xml(prolog='<!DOCTYPE x SYSTEM "file:///etc/passwd">').encode(), "XML holds a DOCTYPE"),
        (xml(findings="&b;").encode(), "XML cannot be parsed"),
        (xml(findings="é").encode("latin-1"), "not UTF-8"),
        (xml().replace("utf-8", "cp037").encode(), "not UTF-8"),
        (xml().encode("utf-16"), "text holds NUL bytes"),
        (xml(findings="a\0b").encode(), "text holds NUL bytes"),
        (xml(report_id="").encode(), "report_id is missing"),
        (xml(findings="x" * 1_000_000).encode(), "longer than 100000 characters"),
        (b"<a>" * 100_000, "XML cannot be parsed"),
        (b"<eCitation><uId id='x'/></eCitation>", "no findings and no impression"),
    ],
)
def test_xml_faults(tmp_path: Path, data: bytes, reason: str | None) -> None:
    (tmp_path / "0.xml").write_text(xml("good"))
    (tmp_path / "1.xml").write_bytes(data)
    assert reasons(tmp_path, "openi") == [None, reason]


def test_an_xml_file_that_is_too_big_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raymedlt.reports.readers.openi.MAX_XML_BYTES", 100)
    (tmp_path / "1.xml").write_text(xml())
    assert reasons(tmp_path, "openi") == ["longer than 100 bytes"]


def test_mimic_faults(tmp_path: Path) -> None:
    root = mimic(tmp_path)
    folder = root / "files/p10/p10000032"
    (folder / "s50000001.txt").write_bytes(b"FINDINGS: Cl\xe9ar.")
    (folder / "s50000002.txt").write_bytes(b"FINDINGS: Clear.\nRECOMMENDATION: a\x00b")
    (root / "files/p11/p11000011/s50000003.txt").write_bytes(b"x" * 1_000_000)
    (root / "files/p11/p11000011/s50000004.txt").write_bytes(b"")
    assert reasons(root, "mimic") == [
        "not UTF-8", "text holds NUL bytes", "longer than 100000 characters", "no findings and no impression",
    ]  # fmt: skip


def test_rexgradient_faults(tmp_path: Path) -> None:
    entries = {
        "a": rex(),
        "b": rex(ImagePath=["../../x.png"]),
        "c": rex(Findings=None, Impression=float("nan")),
        "d": "no object",
        "e": rex(Findings=["a list"]),
    }
    (tmp_path / "train_metadata.json").write_text(json.dumps(entries))
    assert reasons(tmp_path, "rexgradient") == [
        None, "image path leaves its root", "no findings and no impression", "JSON is not an object",
        "a text column holds something else",
    ]  # fmt: skip


# Files that can't be used at all


@pytest.mark.parametrize(
    ("name", "format", "data", "message"),
    [
        ("r.csv", "csv", b"", r"'r.csv' is empty.*at least one row"),
        ("r.csv", "csv", b"\n\n", r"'r.csv' is empty"),
        ("r.csv", "csv", b"report_id,findings\n", r"'r.csv' has a header and no rows"),
        ("r.csv.gz", "csv", gzip.compress(b"", mtime=0), r"'r.csv.gz' is empty"),
        ("r.csv.gz", "csv", b"no gzip", r"'r.csv.gz' can't be read to its end"),
        ("r.csv", "csv", b"r\xe9port_id,findings\n1,2\n", r"header of 'r.csv' isn't UTF-8"),
        ("r.csv", "csv", b"report_id,a,a\n1,2,3\n", r"columns \['a'\] twice"),
        ("r.jsonl", "jsonl", b"\n", r"'r.jsonl' is empty"),
        ("r.parquet", "parquet", b"", r"'r.parquet' is empty"),
        ("r.parquet", "parquet", b"PAR1 and nothing", r"'r.parquet' can't be read"),
        ("r.xml", "openi", b"", r"'r.xml' is empty"),
        ("r.tgz", "openi", b"", r"'r.tgz' is empty"),
        ("r.tgz", "openi", b"no archive", r"'r.tgz' can't be read to its end"),
        ("r.tgz", "openi", gzip.compress(b"no tar" * 999, mtime=0), r"'r.tgz' can't be read to its end"),
        ("r.csv", "padchest", b"", r"'r.csv' is empty"),
        ("r.csv", "chexpert_plus", b"", r"'r.csv' is empty"),
        ("r.csv", "rexgradient", b"", r"'r.csv' is empty"),
        ("r.json", "rexgradient", b"{}", r"'r.json' is empty"),
        ("r.json", "rexgradient", b"", r"JSON file 'r.json' can't be read behind entry 0"),
        ("r.json", "rexgradient", b'{"a": {"id": "x", "findings": "Zebra fracture"}, oops', r"behind entry 1"),
    ],
)
def test_unusable_files(tmp_path: Path, name: str, format: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        rows_of(open_reader(str(tmp_path / name), format))
    assert SECRET not in str(caught.value)


def test_truncated_archives_say_so(tmp_path: Path) -> None:
    data = gzip.compress(b"report_id,findings\n" + b"".join(b"%d,Clear %d.\n" % (i, i**7) for i in range(9_999)))
    (tmp_path / "r.csv.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"'r.csv.gz' can't be read to its end.*copy or download again"):
        rows_of(open_reader(str(tmp_path / "r.csv.gz"), "csv"))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_wrong_columns_name_found_expected_nearest_and_the_fix(tmp_path: Path, suffix: str) -> None:
    record = {"ReportID": "a", "Finding": SECRET}
    path = tmp_path / f"r.{suffix}"
    if suffix == "csv":
        write_csv(path, list(record), list(record.values()))
    elif suffix == "jsonl":
        path.write_text(json.dumps(record))
    else:
        pq.write_table(pa.Table.from_pylist([record]), path)
    with pytest.raises(InputError) as caught:
        open_reader(str(path), suffix).units()
    message = str(caught.value)
    for part in ("['ReportID', 'Finding']", "'report_id'", "nearest to 'findings': Finding", "--reports.columns"):
        assert part in message
    assert SECRET not in message
    with pytest.raises(InputError, match="Findngs"):
        open_reader(str(path), suffix, {"report_id": "ReportID", "findings": "Findngs"}).units()
    reader = open_reader(str(path), suffix, {"report_id": "ReportID", "findings": "Finding"})
    assert [row["findings"] for row in rows_of(reader)] == [SECRET]


@pytest.mark.parametrize("format", ["padchest", "chexpert_plus", "rexgradient"])
def test_wrong_columns_of_a_known_format(tmp_path: Path, format: str) -> None:
    path = write_csv(tmp_path / "r.csv", ["Reprt", "b"], ["1", "2"])
    with pytest.raises(InputError, match=r"lacks the columns .*it has \['Reprt', 'b'\].*check --reports.format"):
        open_reader(str(path), format).units()


def test_equal_ids_are_left_to_the_job(tmp_path: Path) -> None:
    assert reasons(csv_file(tmp_path, b"a,Clear.,,", b"a,Big heart.,,"), "csv") == [None, None]


def test_padchest_row_without_report_id(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "p.csv", PADCHEST, *([str(i), "a", "s", "p", "PA", "", "x", "[]"] for i in range(2)))
    assert reasons(path, "padchest") == ["report_id is missing"] * 2


@pytest.mark.parametrize(
    "path", ["../a", "a/../../b", "..", "/a", "\\a", "..\\a", "a\\..\\..\\b", "C:\\a", "c:/a", "gs://b/a"]
)
def test_paths_that_leave(path: str) -> None:
    assert path_leaves_root(path)


@pytest.mark.parametrize("path", ["a/b.png", "a/../b.png", "..a/b", "a..b", "./a", "CXR1_1_IM-0001-3001", "a:b"])
def test_paths_that_stay(path: str) -> None:
    assert not path_leaves_root(path)


def test_an_id_that_is_a_text_is_refused() -> None:
    row = make_row(row_id="1", source="s", report_id=SECRET * 100, findings="Clear.")
    assert (row["reason"], row["report_id"]) == ("an id is longer than 512 characters", "")
