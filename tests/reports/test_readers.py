"""Every format, on files written here with sentences of our own, and the real packaged archives."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import pickle
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from raymedlt.errors import ConfigError, InputError
from raymedlt.reports.readers import FORMATS, Reader, open_reader
from raymedlt.reports.readers.openi import views_of
from raymedlt.reports.records import tables
from raymedlt.schema import READ_ROWS


def rows_of(reader: Reader) -> list[dict[str, Any]]:
    """All rows of a reader that was pickled on the way, as it is for a worker."""
    reader = pickle.loads(pickle.dumps(reader))
    found = [table for unit in reader.units() for table in reader.read(unit)]
    assert all(table.schema.equals(READ_ROWS) for table in found)
    rows: list[dict[str, Any]] = [row for table in found for row in table.to_pylist()]
    assert len({row["row_id"] for row in rows}) == len(rows)
    return rows


def xml(report_id: str = "CXR9", findings: str = "Clear lungs.", extra: str = "", prolog: str = "") -> str:
    return (
        f'<?xml version="1.0" encoding="utf-8"?>{prolog}<eCitation><uId id="{report_id}"/><MedlineCitation><Article>'
        f'<Abstract><AbstractText Label="COMPARISON">None.</AbstractText>'
        f'<AbstractText Label="INDICATION">Cough</AbstractText><AbstractText Label="FINDINGS">{findings}</AbstractText>'
        f'<AbstractText Label="IMPRESSION">Normal.</AbstractText></Abstract></Article></MedlineCitation>'
        f"<MeSH><major>Opacity/lung/left</major><automatic>opacity</automatic></MeSH>"
        f'<parentImage id="{report_id}_IM-1"><caption>PA and lateral chest</caption></parentImage>'
        f'<parentImage id="{report_id}_IM-2"><caption>PA and lateral chest</caption></parentImage>{extra}</eCitation>'
    )


def write_csv(path: Path, header: list[str], *rows: list[str]) -> Path:
    buffer = io.StringIO()
    csv.writer(buffer).writerows([header, *rows])
    data = buffer.getvalue().encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


# OpenI


def test_packaged_openi_has_the_known_counts_and_is_fast() -> None:
    reader = open_reader()
    start = time.process_time()
    rows = rows_of(reader)
    seconds = time.process_time() - start
    assert len({row["report_id"] for row in rows}) == len(rows) == 3_955
    counts = {name: sum(bool(row[name]) for row in rows) for name in ("findings", "impression", "indication")}
    assert counts == {"findings": 3_425, "impression": 3_921, "indication": 3_865}
    assert Counter(row["reason"] for row in rows) == {None: 3_927, "no findings and no impression": 28}
    good = [row for row in rows if row["reason"] is None]
    assert {row["split"] for row in good} == {"train"}
    assert {row["language"] for row in good} == {"en"}
    assert all(row["patient_id"] == row["study_id"] == row["report_id"] for row in good)
    assert len({label.split("/")[0] for row in good for label in row["labels"]}) > 100
    assert seconds < 4.0  # 1 s on the machine it was written on, conversion to Python rows included


def test_openi_folder_gives_units_of_fixed_size_in_sorted_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in (3, 1, 2):
        (tmp_path / f"{i}.xml").write_text(xml(f"CXR{i}"))
    monkeypatch.setattr("raymedlt.reports.readers.openi.FILES_PER_UNIT", 2)
    reader = open_reader(str(tmp_path), "openi")
    assert [(unit.name, unit.files, unit.rows_hint) for unit in reader.units()] == [
        ("xml-0000", ("1.xml", "2.xml"), 2),
        ("xml-0001", ("3.xml",), 1),
    ]
    rows = rows_of(reader)
    assert [row["report_id"] for row in rows] == ["CXR1", "CXR2", "CXR3"]
    assert rows[0] == {
        "report_id": "CXR1", "study_id": "CXR1", "patient_id": "CXR1", "split": "train", "findings": "Clear lungs.",
        "impression": "Normal.", "indication": "Cough", "views": ["PA", "LATERAL"],
        "image_ids": ["CXR1_IM-1", "CXR1_IM-2"], "labels": ["Opacity/lung/left"], "language": "en", "row_id": "1.xml",
        "source": "1.xml", "reason": None,
    }  # fmt: skip


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_openi_archive_equals_the_folder(tmp_path: Path, mode: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(5):
        (folder / f"{i}.xml").write_text(xml(f"CXR{i}"))
    archive = tmp_path / ("reports.tgz" if mode == "w:gz" else "reports.tar")
    with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
        for file in sorted(folder.iterdir()):
            tar.add(file, file.name)
    strip = [{k: v for k, v in row.items() if k != "source"} for row in rows_of(open_reader(str(archive), "openi"))]
    assert strip == [
        {k: v for k, v in row.items() if k != "source"} for row in rows_of(open_reader(str(folder), "openi"))
    ]


def test_openi_views_allow_for_redacted_captions() -> None:
    assert views_of(["PA and lateral chest"] * 2) == ["PA", "LATERAL"]
    assert views_of(["Chest XXXX and lateral"]) == ["FRONTAL", "LATERAL"]
    assert views_of(["Lateral chest"]) == ["LATERAL"]
    assert views_of([]) == views_of(["Pacemaker"]) == []


# MIMIC-CXR

_MIMIC = "FINAL REPORT\n INDICATION: Cough.\n\n FINDINGS: Clear lungs of {}.\n\n IMPRESSION: Normal.\n"


def mimic(root: Path) -> Path:
    for patient, study in ((10000032, 50000002), (10000032, 50000001), (11000011, 50000003), (11000011, 50000004)):
        file = root / "files" / f"p{str(patient)[:2]}" / f"p{patient}" / f"s{study}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_MIMIC.format(study))
    (root / "files" / "index.txt").write_text("not a report")
    return root


def test_mimic_without_tables_is_all_training(tmp_path: Path) -> None:
    reader = open_reader(str(mimic(tmp_path)), "mimic")
    assert [(unit.name, unit.rows_hint) for unit in reader.units()] == [("files/p10-000", 2), ("files/p11-000", 2)]
    rows = rows_of(reader)
    assert [row["report_id"] for row in rows] == ["s50000001", "s50000002", "s50000003", "s50000004"]
    assert {row["split"] for row in rows} == {"train"}
    assert rows[0]["patient_id"] == "p10000032"
    assert (rows[0]["findings"], rows[0]["impression"], rows[0]["indication"]) == (
        "Clear lungs of 50000001.", "Normal.", "Cough.",
    )  # fmt: skip


@pytest.mark.parametrize("given", ["", "files"])
def test_mimic_joins_its_tables(tmp_path: Path, given: str) -> None:
    root = mimic(tmp_path)
    write_csv(
        root / "mimic-cxr-2.0.0-split.csv.gz",
        ["dicom_id", "study_id", "subject_id", "split"],
        ["a-1", "50000001", "10000032", "train"],
        ["a-2", "50000002", "10000032", "validate"],
        ["a-3", "50000003", "11000011", "test"],
    )
    write_csv(
        root / "mimic-cxr-2.0.0-metadata.csv",
        ["dicom_id", "subject_id", "study_id", "ViewPosition", "Rows"],
        ["a-1", "10000032", "50000001", "PA", "10"],
        ["a-9", "10000032", "50000001", "LATERAL", "10"],
        ["a-2", "10000032", "50000002", "", "10"],
    )
    write_csv(
        root / "mimic-cxr-2.0.0-chexpert.csv",
        ["subject_id", "study_id", "Edema", "Pneumonia", "No Finding"],
        ["10000032", "50000001", "1.0", "-1.0", ""],
    )
    rows = {row["report_id"]: row for row in rows_of(open_reader(str(root / given), "mimic"))}
    assert [rows[f"s5000000{i}"]["split"] for i in (1, 2, 3)] == ["train", "validation", "test"]
    assert rows["s50000004"]["reason"] == "study is not in the split table"
    assert (rows["s50000001"]["image_ids"], rows["s50000001"]["views"]) == (["a-1", "a-9"], ["PA", "LATERAL"])
    assert rows["s50000001"]["labels"] == ["Edema"]


def test_mimic_unit_changes_with_its_files_and_tables(tmp_path: Path) -> None:
    root = mimic(tmp_path)
    before = open_reader(str(root), "mimic").units()
    assert open_reader(str(root), "mimic").units() == before
    (root / "files/p10/p10000032/s50000001.txt").write_text(_MIMIC.format("another"))
    after = open_reader(str(root), "mimic").units()
    assert after[0].fingerprint != before[0].fingerprint
    assert after[1] == before[1]
    write_csv(root / "mimic-cxr-2.0.0-split.csv", ["study_id", "split"], ["50000003", "test"])
    assert open_reader(str(root), "mimic").units()[1].fingerprint != before[1].fingerprint


# ReXGradient-160K


def rex(study: str = "S1", **changes: Any) -> dict[str, Any]:
    entry = {
        "PatientID": "P1", "StudyInstanceUid": f"1.2.{study}", "Findings": "Clear lungs.", "Impression": "Normal.",
        "Indication": "Cough", "Comparison": float("nan"), "ImageViewPosition": ["PA", "LATERAL"],
        "ImagePath": [f"../deid_png/P1/A1/{study}/1.png", f"../deid_png/P1/A1/{study}/2.png"],
    }  # fmt: skip
    return {**entry, **changes}


def test_rexgradient_json_of_every_shape(tmp_path: Path) -> None:
    entries = {f"k{i}": rex(f"S{i}", Findings=f"Clear lungs {i}. é " + "x" * 500) for i in range(5)}
    (tmp_path / "valid_metadata.json").write_text(json.dumps(entries, indent=1))
    rows = rows_of(open_reader(str(tmp_path), "rexgradient"))
    assert [row["report_id"] for row in rows] == list(entries)
    assert rows[1]["study_id"] == "1.2.S1"
    assert {row["split"] for row in rows} == {"validation"}
    assert rows[0]["image_ids"] == ["deid_png/P1/A1/S0/1.png", "deid_png/P1/A1/S0/2.png"]
    assert rows[0]["views"] == ["PA", "LATERAL"]
    as_list = [{"id": key, **value} for key, value in entries.items()]
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "valid_metadata.json").write_text(json.dumps(as_list))
    assert rows_of(open_reader(str(tmp_path / "list"), "rexgradient")) == rows


def test_rexgradient_json_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.json").write_text(json.dumps({f"k{i}": rex(f"S{i}", split="test") for i in range(40)}))
    whole = rows_of(open_reader(str(tmp_path / "m.json"), "rexgradient"))
    for size in (1, 7, 64):
        monkeypatch.setattr("raymedlt.reports.readers.rows._JSON_CHUNK", size)
        assert rows_of(open_reader(str(tmp_path / "m.json"), "rexgradient")) == whole
    assert len(whole) == 40


def test_rexgradient_csv_groups_images_whatever_the_case(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "test_metadata.csv",
        ["ID", "study_instance_uid", "findings", "Impression", "indication", "image_path"],
        ["k1", "u1", "Clear lungs.", "", "", "../deid_png/P7/A/1.png"],
        ["k2", "u2", "Big heart.", "", "", "['../deid_png/P8/A/1.png', '../deid_png/P8/A/2.png']"],
        ["k1", "u1", "Clear lungs.", "", "", "../deid_png/P7/A/2.png"],
    )
    rows = {row["report_id"]: row for row in rows_of(open_reader(str(path), "rexgradient"))}
    assert sorted(rows) == ["k1", "k2"]
    assert [len(row["image_ids"]) for row in rows.values()] == [2, 2]
    assert (rows["k1"]["patient_id"], rows["k1"]["split"]) == ("P7", "test")


# PadChest

PADCHEST = ["", "ImageID", "StudyID", "PatientID", "Projection", "ReportID", "Report", "Labels"]


def test_padchest_groups_images_by_report(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "padchest.csv.gz",
        PADCHEST,
        ["0", "a.png", "s1", "p1", "PA", "r1", " sin derram .", "['normal']"],
        ["1", "b.png", "s2", "p2", "PA", "r2", " cardiomegali . sin derram .", "['cardiomegaly', ' x ']"],
        ["2", "c.png", "s1", "p1", "L", "r1", " sin derram .", "['normal']"],
        ["3", "d.png", "s3", "p3", "PA", "r3", "nan", "['normal']"],
        ["4", "e.png", "s4", "p4", "PA", "r4", " sin derram .", "__import__('os').system('true')"],
        ["5", "f.png", "s5", "p5", "PA", "r5", " sin derram .", "nan"],
        ["6", "g.png", "s6", "p6"],
    )
    rows = {row["report_id"] or row["row_id"]: row for row in rows_of(open_reader(str(path), "padchest"))}
    assert rows["r1"]["image_ids"] == ["a.png", "c.png"]
    assert rows["r1"]["views"] == ["PA", "L"]
    assert (rows["r1"]["findings"], rows["r1"]["language"], rows["r1"]["patient_id"]) == ("sin derram .", "es", "p1")
    assert rows["r2"]["labels"] == ["cardiomegaly", "x"]
    assert rows["r5"]["labels"] == []
    assert {name: row["reason"] for name, row in rows.items() if row["reason"]} == {
        "r3": "no findings and no impression",
        "r4": "Labels cannot be parsed",
        "padchest.csv.gz:7": "has 4 cells, expected 8",
    }


def test_packaged_padchest_at_full_size() -> None:
    reader = open_reader(None, "padchest")
    start = time.process_time()
    found = pa.concat_tables([table for unit in reader.units() for table in reader.read(unit)])
    seconds = time.process_time() - start
    assert found.num_rows == pc.count_distinct(found["report_id"]).as_py() == 107_783
    assert Counter(found["reason"].to_pylist()) == {None: 107_679, "no findings and no impression": 104}
    assert seconds < 15.0


# CheXpert Plus

CHEXPERT = ["path_to_image", "frontal_lateral", "ap_pa", "deid_patient_id", "report", "section_history",
            "section_clinical_history", "section_findings", "section_impression", "split"]  # fmt: skip


def test_chexpert_plus_groups_images_by_study(tmp_path: Path) -> None:
    study = "train/patient00001/study1"
    path = write_csv(
        tmp_path / "df_chexpert_plus_240401.csv",
        CHEXPERT,
        [f"{study}/view1_frontal.jpg", "Frontal", "AP", "D1", "", "", "Cough", "Clear lungs.", "1. Normal.", "train"],
        [
            "valid/patient2/study1/view1_frontal.jpg",
            "Frontal",
            "PA",
            "",
            "IMPRESSION: Normal.",
            "",
            "",
            "",
            "",
            "valid",
        ],
        [f"{study}/view2_lateral.jpg", "Lateral", "", "D1", "", "", "Cough", "Clear lungs.", "1. Normal.", "train"],
        ["train/patient3/study9/../../../../view1.jpg", "Lateral", "", "D3", "", "", "", "Clear.", "", "train"],
        ["nowhere.jpg", "Lateral", "", "D3", "", "", "", "Clear.", "", "train"],
    )
    rows = rows_of(open_reader(str(path), "chexpert_plus"))
    by_id = {row["report_id"]: row for row in rows if row["reason"] is None}
    assert sorted(by_id) == ["patient00001_study1", "patient2_study1"]
    first, second = by_id["patient00001_study1"], by_id["patient2_study1"]
    assert first["image_ids"] == [f"{study}/view1_frontal.jpg", f"{study}/view2_lateral.jpg"]
    assert (first["views"], first["patient_id"], first["indication"]) == (["AP", "Lateral"], "D1", "Cough")
    assert (second["impression"], second["split"], second["patient_id"]) == ("Normal.", "validation", "patient2")
    assert sorted(row["reason"] for row in rows if row["reason"]) == [
        "image path leaves its root",
        "path_to_image names no study",
    ]


# Plain tables

RECORDS = [
    {"report_id": "a", "patient_id": 7, "findings": "Clear lungs.", "views": ["PA", "L"], "split": "dev"},
    {"report_id": "b", "patient_id": 8, "findings": "Line one\nline two.", "views": [], "split": ""},
    {"report_id": "c", "patient_id": 9, "findings": "=cmd()|'calc'!A1", "views": ["AP"], "split": "Test"},
]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    elif ".jsonl" in path.name:
        data = "".join(json.dumps(record) + "\n" for record in records).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    else:
        cells = [["|".join(v) if isinstance(v, list) else str(v) for v in record.values()] for record in records]
        write_csv(path, list(records[0]), *cells)
    return path


@pytest.mark.parametrize("name", ["r.csv", "r.csv.gz", "r.jsonl", "r.jsonl.gz", "r.parquet"])
def test_plain_tables_agree(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, RECORDS)
    rows = rows_of(open_reader(str(path), name.split(".")[1]))
    assert [row["report_id"] for row in rows] == ["a", "b", "c"]
    assert [row["findings"] for row in rows] == ["Clear lungs.", "Line one\nline two.", "=cmd()|'calc'!A1"]
    assert [row["split"] for row in rows] == ["validation", "train", "test"]
    assert [row["patient_id"] for row in rows] == ["7", "8", "9"]
    assert [row["views"] for row in rows] == [["PA", "L"], [], ["AP"]]
    assert [row["row_id"] for row in rows] == [f"{name}:{i}" for i in (1, 2, 3)]
    assert [row["study_id"] for row in rows] == ["a", "b", "c"]


def test_column_map_and_whole_reports(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", [{"uid": "a", "body": "INDICATION: Cough. FINDINGS: Clear. IMPRESSION: Fine."}])
    row = rows_of(open_reader(str(path), "csv", {"report_id": "uid", "report": "body"}, language="de"))[0]
    assert (row["findings"], row["impression"], row["indication"], row["language"]) == (
        "Clear.",
        "Fine.",
        "Cough.",
        "de",
    )
    path = write(tmp_path / "t.jsonl", [{"report_id": "a", "text": "The lungs are clear."}])
    assert rows_of(open_reader(str(path), "jsonl"))[0]["findings"] == "The lungs are clear."


def test_folder_glob_and_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b/2.csv", "a/1.csv", "a/deep/3.csv", "a/other.txt", "a/.hidden.csv"):
        write(tmp_path / name, [{"report_id": name, "findings": "Clear."}])

    def ids(path: str) -> list[str]:
        return [row["report_id"] for row in rows_of(open_reader(path, "csv"))]

    assert ids(str(tmp_path)) == ["a/1.csv", "a/deep/3.csv", "b/2.csv"]
    assert ids(f"{tmp_path}/*/*.csv") == ["a/1.csv", "b/2.csv"]
    assert ids(f"{tmp_path}/**/*.csv") == ["a/1.csv", "a/deep/3.csv", "b/2.csv"]
    assert ids(f"{tmp_path}/a/?.csv") == ["a/1.csv"]
    assert ids(f"file://{tmp_path}/a/1.csv") == ["a/1.csv"]
    assert ids(f"file://{tmp_path}/b") == ["b/2.csv"]
    monkeypatch.chdir(tmp_path / "a")
    assert ids("*.csv") == ids("1.csv") == ["a/1.csv"]


def test_units_of_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", RECORDS)
    unit = open_reader(str(path), "csv").units()[0]
    assert (unit.name, unit.files) == ("r.csv", ("r.csv",))
    assert open_reader(str(path), "csv").units()[0] == unit


def test_batches_are_bounded_in_rows_and_characters(tmp_path: Path) -> None:
    write(tmp_path / "r.jsonl", [{"report_id": str(i), "findings": "Clear."} for i in range(25_000)])
    reader = open_reader(str(tmp_path / "r.jsonl"), "jsonl")
    assert [t.num_rows for t in reader.read(reader.units()[0])] == [10_000, 10_000, 5_000]
    rows = [row for table in reader.read(reader.units()[0]) for row in table.slice(0, 5).to_pylist()]
    assert [t.num_rows for t in tables(rows, max_rows=100, max_chars=12)] == [2] * 7 + [1]  # type: ignore[arg-type]


# Errors


def test_options_that_do_not_fit_say_what_does(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'xml'.*Expected: one of openi, mimic"):
        open_reader(None, "xml")
    with pytest.raises(ConfigError, match=r"reports.columns is given for the format 'openi'"):
        open_reader(None, "openi", {"report_id": "x"})
    path = write(tmp_path / "r.csv", RECORDS)
    with pytest.raises(ConfigError, match=r"maps \['StudyUID'\].*ours: theirs"):
        open_reader(str(path), "csv", {"StudyUID": "report_id"})


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("openi", "padchest")])
def test_a_path_is_needed(name: str) -> None:
    with pytest.raises(InputError, match=r"no path for the format.*give --reports.path"):
        open_reader(None, name)


@pytest.mark.parametrize("name", FORMATS)
def test_a_path_that_is_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no (file or )?folder.*nowhere"):
        open_reader(str(tmp_path / "nowhere"), name)
    with pytest.raises(InputError, match=r"no .*(file|report)"):
        open_reader(str(tmp_path), name).units()


def test_a_copy_is_the_same_input_and_a_change_of_equal_size_is_not(tmp_path: Path) -> None:
    marks = []
    for number, text in enumerate(("Clear lungs.", "Clear lungs.", "Clear lunga.")):
        path = write(tmp_path / str(number) / "r.csv", [{"report_id": "a", "findings": text}])
        os.utime(path, (number, number))
        marks.append([unit.fingerprint for unit in open_reader(str(path), "csv").units()])
    assert marks[0] == marks[1] != marks[2]


def test_output_folders_among_the_sources_are_no_input(tmp_path: Path) -> None:
    write(tmp_path / "mine" / "r.parquet", RECORDS)
    write(tmp_path / "runs" / "enrich" / "enriched" / "x.parquet", RECORDS)
    assert len(open_reader(str(tmp_path), "parquet").units()) == 2
    (tmp_path / "runs" / "enrich" / "_ledger").mkdir()
    (tmp_path / "runs" / "enrich" / "_ledger" / "run.json").write_text("{}")
    assert [unit.name for unit in open_reader(str(tmp_path), "parquet").units()] == ["mine/r.parquet"]
    assert len(open_reader(str(tmp_path / "runs" / "enrich" / "enriched"), "parquet").units()) == 1


def test_without_patient_ids_each_study_is_another_patients(tmp_path: Path) -> None:
    records = [
        {"report_id": "a", "study_id": "", "patient_id": "", "findings": "Clear."},
        {"report_id": "b", "study_id": "s", "patient_id": "", "findings": "Clear."},
        {"report_id": "c", "study_id": "s", "patient_id": "p", "findings": "Clear."},
    ]
    rows = rows_of(open_reader(str(write(tmp_path / "r.csv", records)), "csv"))
    assert [row["study_id"] for row in rows] == ["a", "s", "s"]
    assert [row["patient_id"] for row in rows] == ["a", "s", "p"]
