"""Hostile report files in every format, made from a random source: by a grammar, and damaged afterwards if wanted.

Every text holds `SECRET` half of the time: no message and no reason may quote it.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SECRET = "zebrafinch nests above hila"

_WORDS = (
    "no", "No", "the", "is", "lungs", "Lungs are clear", "effusion", "pneumothorax", "left", "right", "heart", "normal",
    "without", "or", "and", "but", "may", "possible", "resolved", "XXXX", "___", "[**2101-3-4**]", "FINDINGS:",
    "IMPRESSION:", "Findings -", "HISTORY", "WET READ:", "CHEST TWO VIEWS:", "findings and impression:", "Dr.", "e.g.",
    "No.", "cm.", "T.B.", "1.", "2)", "(3)", "1 . 5 cm", "5.2", "12/15", "T10", "- ", "• ", ".", "..", "...", "?", "!",
    ",", ";", ":", "(", ")", '"', "'", "[", "{", "|", "\\", "&amp;", "<b>", "]]>", "%s", "=1+1", "\t", "\n", "\n\n",
    "\r", "\r\n", "\u2028", "\u0085", "\x0b", "\x1f", "\xa0", "é", "İ", "ﬁ", "ß", "\u0301", "٣", "𝟙", "😀", "\ufeff",
    "\ufffd", "\u202e", "sin derrame", "derram pleural", "no se observ", "silueta cardiaca", "nan", "None", "",
)  # fmt: skip
_TOKENS = (
    b'"', b'""', b"'", b",", b"\t", b"|", b"\n", b"\r", b"\n\n", b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"[", b"[" * 300, b"{", b"]", b"}", b":", b"(" * 200, b"-" * 500, b"<", b">", b"&", b"&#0;", b"&#x110000;",
    b"<![CDATA[",
    b"<!DOCTYPE x>", b"<!--", b"<?xml", b"\\u", b"\\ud800", b"1e999", b"-0", b"9" * 400, b"NaN", b"null", b"true",
    b"report_id", b"findings", b"../", b"/etc/passwd", b"=cmd()", b" ", b"\xe2\x80\xa8", b"PAR1", b"\xff\xff\xff\x7f",
)  # fmt: skip
SPLIT_NAMES = ("", "train", "validate", "test", "fold7", "TRAIN", "a b")


def text_of(draw: Random, most: int = 40) -> str:
    """A report's text: words and marks in any order; now and then one of them very often."""
    words = draw.choices(_WORDS, k=draw.randrange(most))
    if draw.random() < 0.004:
        words += [draw.choice(_WORDS)] * draw.choice((300, 3_000, 30_000))
    if draw.random() < 0.5:
        words.insert(draw.randrange(len(words) + 1), f"No {SECRET}.")
    return draw.choice((" ", " ", " ", "", "\n")).join(words)


def damaged(draw: Random, data: bytes) -> bytes:
    """`data` after one to four changes."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        at, end = sorted((draw.randrange(len(data) + 1), draw.randrange(len(data) + 1)))
        end = min(end, at + draw.choice((1, 8, 80, 8_000)))
        kind = draw.randrange(6)
        if kind == 0 and data:
            at = min(at, len(data) - 1)
            data = data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + data[end:]
        elif kind == 2:
            data = data[:at] + data[at:end] * draw.choice((2, 2, 3, 50)) + data[end:]
        elif kind == 3:
            data = data[:at] + draw.choice(_TOKENS) + data[end if draw.random() < 0.3 else at :]
        elif kind == 4:
            data = data[:at]
        else:
            data = data[:at] + draw.choice(_TOKENS) * draw.choice((1, 2, 100)) + data[at:]
        data = data[:2_000_000]
    return data


@dataclass
class Source:
    """Files below one folder, and how they are to be read."""

    files: dict[str, bytes]
    path: str = ""
    """Relative to the folder; "" is the folder itself."""
    rows: int | None = None
    """Records that the files hold, where the grammar knows."""
    columns: dict[str, str] = field(default_factory=dict)


def table_bytes(draw: Random, header: list[str], rows: Iterable[list[str]], tab: bool = False) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(
        out,
        delimiter="\t" if tab else ",",
        quoting=draw.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)),
        lineterminator="\r\n",  # the csv module quotes line breaks of the kinds that it is told here
    )
    writer.writerow(header)
    writer.writerows(rows)
    return draw.choice(("", "\ufeff")).encode() + out.getvalue().encode("utf-8", "surrogatepass")


def _id(draw: Random, number: int) -> str:
    return draw.choice((f"r{number}", f"r{number}", f"r{number}", f" r{number} ", "", "é" * 5, "x" * 600, str(number)))


def _path(draw: Random) -> str:
    return draw.choice(("a.png", "p1/s1/a.png", "", "../x.png", "/etc/passwd", "a/../b", "C:\\x", "s3://b/x", "a|b"))


def packed(draw: Random, name: str, data: bytes, *, damage: bool) -> dict[str, bytes]:
    """The file, damaged if wanted; one of ten is gzipped (and may be damaged after that).

    Without the time in the header: the number of a case gives the same bytes each time.
    """
    late = draw.random() < 0.2
    if damage and not late:
        data = damaged(draw, data)
    if draw.random() < 0.1 and name.endswith((".csv", ".tsv", ".jsonl", ".json")):
        data, name = gzip.compress(data, 1, mtime=0), f"{name}.gz"
    if damage and late:
        data = damaged(draw, data)
    return {name: data}


_OWN = ("study_id", "patient_id", "split", "impression", "indication", "views", "image_ids", "labels", "language",
        "report", "text", "other")  # fmt: skip


def _cells(draw: Random, number: int, header: list[str]) -> dict[str, str]:
    made: dict[str, str] = {}
    for name in header:
        if name in ("report_id", "study_id", "patient_id"):
            made[name] = _id(draw, number)
        elif name == "split":
            made[name] = draw.choice(SPLIT_NAMES)
        elif name == "image_ids":
            made[name] = _path(draw)
        elif name == "language":
            made[name] = draw.choice(("", "en", "es", "xx"))
        else:
            made[name] = text_of(draw, 12)
    return made


def _header(draw: Random) -> list[str]:
    header = ["report_id", "findings", *draw.sample(_OWN, draw.randrange(len(_OWN)))]
    draw.shuffle(header)
    return header


def _csv(draw: Random, damage: bool) -> Source:
    header, count, tab = _header(draw), draw.randrange(1, 5), draw.random() < 0.1
    rows = [list(_cells(draw, number, header).values()) for number in range(count)]
    data = table_bytes(draw, header, rows, tab)
    return Source(packed(draw, "r.tsv" if tab else "r.csv", data, damage=damage), rows=count)


def _json_value(draw: Random, text: str) -> Any:
    odd = (
        None,
        1,
        1.0,
        1e300,
        float("nan"),
        float("inf"),
        True,
        10**30,
        [text, 1, None],
        {"a": text},
        [[text]],
        "",
        "\ud800",
    )
    return draw.choice(odd) if draw.random() < 0.08 else text


def _jsonl(draw: Random, damage: bool) -> Source:
    header, count = _header(draw), draw.randrange(1, 5)
    lines = []
    for number in range(count):
        row = {name: _json_value(draw, text) for name, text in _cells(draw, number, header).items()}
        lines.append(json.dumps(row, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass"))
    return Source(packed(draw, "r.jsonl", b"\n".join(lines), damage=damage), rows=count)


def arrow_column(draw: Random, texts: list[str]) -> pa.Array:
    raw = [text.encode("utf-8", "surrogatepass") for text in texts]
    kind = draw.randrange(24)
    if kind == 0:
        bad = pa.array([data + draw.choice((b"", b"\xff", b"\0")) for data in raw], pa.binary())
        return pa.StringArray.from_buffers(len(bad), bad.buffers()[1], bad.buffers()[2])
    if kind == 1:
        return pa.array(raw, draw.choice((pa.binary(), pa.large_binary())))
    if kind == 2:
        return pa.array(texts).dictionary_encode()
    if kind == 3:
        values = [draw.choice((0, 7, -1, 2**52, 2**62, -(2**63))) for _ in raw]
        return pa.array(values, pa.int64()).cast(
            draw.choice((pa.int64(), pa.timestamp("ns"), pa.timestamp("us"), pa.timestamp("us", "Nowhere/Town"),
                         pa.duration("us"), pa.time64("us"))), safe=False,
        )  # fmt: skip
    if kind == 4:
        return pa.array([draw.choice((0, 10**6, -(10**9))) for _ in raw], pa.int32()).cast(pa.date32())
    if kind == 5:
        return pa.array([draw.choice((1.0, float("nan"), 1e300)) for _ in raw])
    if kind == 6:
        bad = pa.array([data + draw.choice((b"", b"\xff")) for data in raw], pa.binary())
        strings = pa.StringArray.from_buffers(len(bad), bad.buffers()[1], bad.buffers()[2])
        offsets = list(range(len(raw) + 1))
        return draw.choice((
            pa.ListArray.from_arrays(offsets, strings), pa.LargeListArray.from_arrays(offsets, strings),
            pa.StructArray.from_arrays([strings], ["a"]), pa.ListArray.from_arrays(offsets, strings.cast(pa.binary())),
        ))  # fmt: skip
    if kind == 7:
        return pa.nulls(len(raw))
    if kind == 8:
        return pa.array([draw.random() < 0.5 for _ in raw])
    if kind == 9:
        return pa.array(texts, draw.choice((pa.large_string(), pa.string_view())))
    return pa.array(texts, pa.string())


def _parquet(draw: Random, damage: bool) -> Source:
    header, count = _header(draw), draw.randrange(1, 5)
    rows = [_cells(draw, number, header) for number in range(count)]
    names, columns = list(header), [arrow_column(draw, [row[name] for row in rows]) for name in header]
    if draw.random() < 0.02:
        names.append(draw.choice(header))
        columns.append(columns[0])
    out = io.BytesIO()
    pq.write_table(
        pa.Table.from_arrays(columns, names), out, compression=draw.choice(("none", "snappy", "zstd")),
        row_group_size=draw.choice((1, 2, 100)), use_dictionary=draw.random() < 0.5,
    )  # fmt: skip
    data = out.getvalue()
    known = None if len(set(names)) < len(names) else count
    return Source({"r.parquet": damaged(draw, data) if damage else data}, rows=known)


def _escaped(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return text.replace("\x0b", " ").replace("\x1f", " ")


def _xml(draw: Random, number: int) -> bytes:
    parts = [
        f'<AbstractText Label="{draw.choice(("FINDINGS", "IMPRESSION", "INDICATION", "findings", "X"))}">'
        f"{_escaped(text_of(draw, 12))}</AbstractText>"
        for _ in range(draw.randrange(4))
    ]
    images = "".join(
        f'<parentImage id="{_path(draw)}"><caption>{_escaped(text_of(draw, 4))}</caption></parentImage>'
        for _ in range(draw.randrange(3))
    )
    head = draw.choice(('<?xml version="1.0" encoding="utf-8"?>', '<?xml version="1.0"?>', ""))
    major = f"<MeSH><major>{_escaped(text_of(draw, 4))}</major></MeSH>" * draw.randrange(2)
    return f'{head}<e><uId id="{_id(draw, number)}"/>{"".join(parts)}{images}{major}</e>'.encode()


def _openi(draw: Random, damage: bool) -> Source:
    count = draw.randrange(1, 4)
    files = {f"{number}.xml": _xml(draw, number) for number in range(count)}
    late = draw.random() < 0.3
    if damage and not late:
        files["0.xml"] = damaged(draw, files["0.xml"]) or b" "
    if not late:
        return Source(files, rows=count)
    out = io.BytesIO()
    packed = draw.random() < 0.5
    with tarfile.open(fileobj=out, mode="w", format=draw.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"ecgen/{draw.choice(('', 'ü' * 80))}{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    data = out.getvalue()
    if damage and packed and draw.random() < 0.5:
        data, damage = damaged(draw, data), False
    data = gzip.compress(data, 1, mtime=0) if packed else data
    return Source({"r.tgz" if packed else "r.tar": damaged(draw, data) if damage else data}, rows=count)


def _mimic(draw: Random, damage: bool) -> Source:
    count = draw.randrange(1, 4)
    files = {
        f"files/p10/p100/s{50 + number}{'0' * draw.choice((0, 0, 0, 0, 30))}.txt": text_of(draw, 60).encode()
        for number in range(count)
    }
    studies = [str(50 + number) for number in range(count)]
    odd = ("", "x", "1.5", "2020-01-01", "99999999999999999999", "12:00")

    def study() -> str:
        return draw.choice(odd) if draw.random() < 0.03 else draw.choice(studies)

    if draw.random() < 0.4:
        rows = [["10", study(), draw.choice(SPLIT_NAMES)] for _ in range(draw.randrange(4))]
        files["mimic-cxr-2.0.0-split.csv"] = table_bytes(draw, ["subject_id", "study_id", "split"], rows)
    if draw.random() < 0.4:
        rows = [[f"d{number}", study(), draw.choice(("PA", "LL", ""))] for number in range(draw.randrange(4))]
        files["mimic-cxr-2.0.0-metadata.csv.gz"] = gzip.compress(
            table_bytes(draw, ["dicom_id", "study_id", "ViewPosition"], rows), 1, mtime=0
        )
    if draw.random() < 0.4:
        rows = [["10", study(), draw.choice(("1.0", "-1.0", "", "x"))] for _ in range(draw.randrange(4))]
        files["mimic-cxr-2.0.0-chexpert.csv"] = table_bytes(draw, ["subject_id", "study_id", "Edema"], rows)
    if damage:
        name = draw.choice(sorted(files))
        files[name] = damaged(draw, files[name])
    return Source(files, rows=count)


def _rexgradient(draw: Random, damage: bool) -> Source:
    count, kind = draw.randrange(1, 5), draw.choice(("csv", "json", "jsonl"))
    header = ["id", "Findings", "Impression", "Indication", "PatientID", "ImagePath", "ImageViewPosition", "split"]
    header = header[: draw.randrange(3, len(header) + 1)]
    rows = []
    for number in range(count):
        row = [f"r{number}", *(text_of(draw, 10) for _ in header[1:])]
        if len(header) > 5:
            row[5] = draw.choice(("['../deid_png/p1/a.png']", "../deid_png/p1/a.png", "[1, 2]", "[[", "../../x.png"))
        if len(header) > 7:
            row[7] = draw.choice(SPLIT_NAMES)
        rows.append(row)
    if kind == "csv":
        data = table_bytes(draw, header, rows)
    else:
        values = [dict(zip(header, (_json_value(draw, cell) for cell in row), strict=True)) for row in rows]
        if kind == "jsonl":
            data = b"\n".join(json.dumps(value).encode() for value in values)
        else:
            whole: Any = values if draw.random() < 0.5 else {f"r{n}": value for n, value in enumerate(values)}
            data = json.dumps(whole, indent=draw.choice((None, 1))).encode()
    return Source(packed(draw, f"train_metadata.{kind}", data, damage=damage), rows=count)


def _grouped_rows(draw: Random, row: Callable[[str, int], list[str]]) -> tuple[list[list[str]], int]:
    """Rows of images, some of one report; and the number of records: one per id, one per row without an id."""
    names = [draw.choice(("r0", "r1", "r2", "")) for _ in range(draw.randrange(1, 6))]
    return [row(name, number) for number, name in enumerate(names)], len(set(names) - {""}) + names.count("")


def _padchest(draw: Random, damage: bool) -> Source:
    header = ["", "ImageID", "StudyID", "PatientID", "Projection", "ReportID", "Report", "Labels"]

    def row(name: str, number: int) -> list[str]:
        labels = draw.choice(("['normal']", "['a', 'b']", "nan", "", "[1]", "['a'", "-" * 5_000 + "1", "[" * 150))
        return [str(number), "a.png", "s", "p", "PA", name or draw.choice(("", "nan")), text_of(draw, 12), labels]

    rows, records = _grouped_rows(draw, row)
    return Source(packed(draw, "p.csv", table_bytes(draw, header, rows), damage=damage), rows=records)


def _chexpert_plus(draw: Random, damage: bool) -> Source:
    header = ["path_to_image", "section_findings", "section_impression", "report", "split", "ap_pa", "deid_patient_id"]
    header = header[: draw.randrange(3, len(header) + 1)]

    def row(name: str, _: int) -> list[str]:
        path = f"train/patient{name}/study1/view1.jpg" if name else draw.choice(("", "x.jpg", "/etc/passwd"))
        return [path, *(text_of(draw, 12) for _ in header[1:])]

    rows, records = _grouped_rows(draw, row)
    return Source(packed(draw, "c.csv", table_bytes(draw, header, rows), damage=damage), rows=records)


MAKERS: dict[str, Callable[[Random, bool], Source]] = {
    "openi": _openi, "mimic": _mimic, "rexgradient": _rexgradient, "padchest": _padchest,
    "chexpert_plus": _chexpert_plus, "csv": _csv, "jsonl": _jsonl, "parquet": _parquet,
}  # fmt: skip
