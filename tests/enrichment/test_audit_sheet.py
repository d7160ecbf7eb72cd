"""The audit sheet and its way back. All sentences are written for these tests."""

from __future__ import annotations

import csv
import io
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from enrichment_world import report_table

from raymedlt.enrichment.audit.errors import NEGATION, SIDE_SWAPPED
from raymedlt.enrichment.audit.finished import ADDED
from raymedlt.enrichment.audit.readback import NOT_A_VERDICT, TWICE, UNKNOWN_ITEM, read_key, read_sheet
from raymedlt.enrichment.audit.sheet import (
    COLUMNS,
    Sheet,
    bands,
    group_of,
    key_csv,
    make_sheet,
    quotas,
    safe_cell,
    sheet_csv,
    sheet_page,
    strata_of,
)
from raymedlt.errors import InputError
from raymedlt.runreport.page import render
from raymedlt.schema import INJECTIONS

DONORS = ["No pneumothorax.", "Heart size is normal.", "No acute bony abnormality.", "The trachea is midline."]


def world(reports: int = 200) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Reports, additions (cluster c is added to every 4^c-th report) and injected errors."""
    texts = [f"Small effusion number {number}." for number in range(reports)]
    texts[0] = '=HYPERLINK("x")'
    table = report_table(texts, impression=["Effusion."] * reports)
    ids = table["report_id"].to_pylist()
    added = [
        {"report_id": report, "variant": 0, "position": c, "sentence": donor, "sentence_key": donor.lower().rstrip(".")}
        | {"cluster_id": c}
        for number, report in enumerate(ids)
        for c, donor in enumerate(DONORS)
        if number % 4**c == 0
    ]
    wrong: list[dict[str, Any]] = [
        {"report_id": report, "kind": kind, "good": False, "finding": "", "sentence": text, "origin": "", "reason": ""}
        for report in ids
        for kind, text in ((NEGATION, "No effusion."), (SIDE_SWAPPED, "Small right effusion."))
    ]
    return table, pa.Table.from_pylist(added, schema=ADDED), pa.Table.from_pylist(wrong, schema=INJECTIONS)


def drawn(items: int = 60, decoys: int = 12, seed: int = 0) -> Sheet:
    return make_sheet(*world(), "en", items, decoys, seed)


def test_bands_follow_how_often_a_cluster_was_added():
    assert bands({7: 50, 3: 30, 4: 12, 9: 5, 1: 3}) == {7: "common", 3: "middle", 4: "middle", 9: "rare", 1: "rare"}
    assert bands({2: 1}) == {2: "common"}
    assert bands({}) == {}


@pytest.mark.parametrize(
    ("sizes", "items", "expected"),
    [
        ({"a": 100, "b": 100, "c": 100}, 30, {"a": 10, "b": 10, "c": 10}),
        ({"a": 100, "b": 5, "c": 100}, 31, {"a": 13, "b": 5, "c": 13}),
        ({"a": 2, "b": 0, "c": 1}, 50, {"a": 2, "b": 0, "c": 1}),
        ({"a": 9, "b": 9, "c": 9}, 2, {"a": 1, "b": 1, "c": 0}),
        ({"a": 0}, 3, {"a": 0}),
    ],
)
def test_quotas(sizes: dict[str, int], items: int, expected: dict[str, int]):
    assert quotas(sizes, items) == expected


@pytest.mark.parametrize(
    ("sentence", "group"),
    [
        ("no pneumothorax", "pleura"),
        ("heart size is normal", "heart"),
        ("no acute bony abnormality", "bones"),
        ("no consolidation or pneumothorax", "several"),
        ("comparison with nothing", "other"),
    ],
)
def test_groups(sentence: str, group: str):
    assert group_of(sentence, "en") == group


def test_the_draw_is_stratified_and_seeded():
    sheet = drawn()
    key = sheet.key.to_pylist()
    counts = Counter(row["band"] for row in key if not row["decoy"])
    assert sum(counts.values()) == 60
    assert max(counts.values()) - min(counts.values()) <= 1 or counts["rare"] == sheet.strata["rare"]
    assert sheet.strata == strata_of(world()[1]) == {"common": 200, "middle": 50, "rare": 17}
    assert sum(bool(row["decoy"]) for row in key) == 12
    assert {row["decoy"] for row in key} == {"", NEGATION}  # what doesn't read like an addition is no decoy
    pairs = [(row["report_id"], row["sentence_key"]) for row in key if not row["decoy"]]
    assert len(set(pairs)) == 60
    assert sheet == drawn()
    assert sheet.rows != drawn(seed=1).rows


def test_decoys_are_scattered():
    places = [
        number for seed in range(8) for number, row in enumerate(drawn(seed=seed).key.to_pylist()) if row["decoy"]
    ]
    assert sum(places) / len(places) == pytest.approx(35.5, abs=6)
    assert min(places) < 12
    assert max(places) > 60


def test_the_sheet_gives_nothing_away():
    sheet = drawn()
    text = sheet_csv(sheet).decode("utf-8-sig") + render(sheet_page(sheet))
    for word in (NEGATION, "decoy", "r001", "common", "rare", "cluster"):
        assert word not in text
    assert sheet_csv(sheet).decode("utf-8-sig").splitlines()[0] == ",".join(COLUMNS)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", " =1", "\n=1", "\r1"])
def test_cells_start_no_formula(text: str):
    assert safe_cell(text) == f"'{text}"
    assert safe_cell(f"a{text}") == f"a{text}"


def test_a_report_that_looks_like_a_formula():
    sheet = drawn(items=267)
    cells = [cell for row in csv.reader(io.StringIO(sheet_csv(sheet).decode("utf-8-sig"))) for cell in row]
    assert any(cell.startswith("'=HYPERLINK") for cell in cells)
    assert not any(cell.lstrip().startswith(("=", "+", "-", "@")) for cell in cells)


def fill(path: Path, sheet: Sheet, first: Any, second: Any, delimiter: str = ",") -> str:
    """Write the sheet with verdicts: functions of (number, key row)."""
    rows = list(csv.DictReader(io.StringIO(sheet_csv(sheet).decode("utf-8-sig"))))
    for number, (row, key) in enumerate(zip(rows, sheet.key.to_pylist(), strict=True)):
        row["reader_1"], row["reader_2"] = first(number, key), second(number, key)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def awake(_: int, key: dict[str, Any]) -> str:
    return "contradicts" if key["decoy"] else "agree"


def asleep(number: int, _: dict[str, Any]) -> str:
    return "agree" if number % 10 else " Unsure "


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_there_and_back(tmp_path: Path, delimiter: str):
    sheet = drawn()
    (tmp_path / "key.csv").write_bytes(key_csv(sheet.key))
    key = read_key(str(tmp_path / "key.csv"))
    assert key == sheet.key
    read = read_sheet(fill(tmp_path / "sheet.csv", sheet, awake, asleep, delimiter), key)
    figures = read.figures(sheet.strata)
    assert (figures["cells"], figures["cells_rejected"]) == (144, 0)
    first, second = figures["readers"]["reader_1"], figures["readers"]["reader_2"]
    assert first["additions_read"] == 60
    assert first["overall"]["agree"]["value"] == 1
    assert first["decoys_caught"]["value"] == 1
    assert second["decoys_caught"]["value"] == 0
    assert sum(share["agree"]["whole"] for share in first["by_band"].values()) == 60
    assert sum(share["agree"]["whole"] for share in first["by_group"].values()) == 60
    assert figures["agreement"]["pairs"] == 60
    assert sum(count for _, _, count in figures["pairs"]) == 60


def test_bands_are_weighed(tmp_path: Path):
    sheet = drawn()
    path = fill(tmp_path / "s.csv", sheet, lambda _, key: "contradicts" if key["band"] == "rare" else "agree", asleep)
    figures = read_sheet(path, sheet.key).figures(sheet.strata)
    rare = sheet.strata["rare"] / sum(sheet.strata.values())
    assert figures["readers"]["reader_1"]["overall"]["contradicts"]["value"] == pytest.approx(rare, abs=1e-5)


def test_one_reader_and_half_a_sheet(tmp_path: Path):
    sheet = drawn()
    path = fill(tmp_path / "s.csv", sheet, lambda number, _: "agree" if number < 30 else "", lambda *_: "")
    figures = read_sheet(path, sheet.key).figures(sheet.strata)
    assert list(figures["readers"]) == ["reader_1"]
    assert figures["cells"] == 30
    assert figures["agreement"]["kappa"] is None


def test_bad_cells_are_rejected_with_reasons(tmp_path: Path):
    path = tmp_path / "s.csv"
    path.write_text("item,reader_1,reader_2\n1,agree,fine\n0002,AGREE,\n0002,agree,\n9999,agree,\nx,unsure,\n,,agree\n")
    read = read_sheet(str(path), drawn().key)
    assert [(row["item"], row["verdict"]) for row in read.verdicts.to_pylist()] == [
        ("0001", "agree"),
        ("0002", "agree"),
    ]
    assert [(row["row_id"], row["reason"]) for row in read.rejected.to_pylist()] == [
        ("row 2, reader_2", NOT_A_VERDICT),
        ("row 4, reader_1", TWICE),
        ("row 5, reader_1", UNKNOWN_ITEM),
        ("row 6, reader_1", UNKNOWN_ITEM),
        ("row 7, reader_2", UNKNOWN_ITEM),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks 'item'"),
        ("item,other\n0001,agree\n", "lacks 'item'"),
        ("item,reader_1,reader_2\n0001,,\n", "no verdict"),
        ("item,reader_1,reader_2\n0001,yes,no\n", r"no verdict in the file of --sheet.read \(2 cells rejected\)"),
    ],
)
def test_unusable_sheets(tmp_path: Path, text: str, message: str):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_sheet(str(tmp_path / "s.csv"), drawn().key)


def test_a_wrong_key(tmp_path: Path):
    (tmp_path / "key.csv").write_text("item,reader_1\n0001,agree\n")
    with pytest.raises(InputError, match="no key file"):
        read_key(str(tmp_path / "key.csv"))


def test_cells_in_any_bytes_never_crash(tmp_path: Path):
    rng = random.Random(0)
    for _ in range(200):
        body = bytes(rng.choices(b'agre",;\n\r\t=0189\x00\xff\xc3 ', k=60))
        (tmp_path / "s.csv").write_bytes(b"item,reader_1,reader_2\n0001,agree,\n" + body)
        try:
            read_sheet(str(tmp_path / "s.csv"), KEY)
        except InputError:
            continue


KEY = drawn(5, 0).key
