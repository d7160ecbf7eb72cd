"""Additions against labels: counts that can be checked on paper."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from enrichment_world import report_table

from raymedlt.enrichment.audit.contradiction import judge_additions, labels_of, scheme_for
from raymedlt.enrichment.audit.finished import ADDED
from raymedlt.errors import InputError
from raymedlt.reports.sentences import sentence_key


def additions(*pairs: tuple[str, str]) -> pa.Table:
    rows = [
        {"report_id": report, "variant": 0, "position": 0, "sentence": text, "sentence_key": sentence_key(text)}
        for report, text in pairs
    ]
    return pa.Table.from_pylist([{**row, "cluster_id": 0} for row in rows], schema=ADDED)


def test_counts_of_additions_and_of_the_human_floor():
    reports = report_table(["Heart size is normal. No pneumothorax.", "No pleural effusion.", "Lungs are clear."])
    labels = {"r000": ["Cardiomegaly"], "r001": ["Pneumothorax"], "r002": []}
    added = additions(
        ("r000", "No pleural effusion."),
        ("r001", "No pneumothorax."),
        ("r001", "Heart size is normal."),
        ("r002", "No pneumothorax."),  # no labels: left out
    )
    found = judge_additions(reports, added, labels, "chexpert", "en")
    figures = found.figures()
    assert figures["reports_with_labels"] == 2
    assert figures["additions"]["sentences"] == 3
    assert figures["additions"]["contradicting"] == 1
    assert figures["additions"]["pairs"] == [["pneumothorax", "pneumothorax", 1]]
    assert figures["additions"]["by_denied"]["pneumothorax"]["part"] == 1
    assert (figures["human_floor"]["sentences"], figures["human_floor"]["contradicting"]) == (3, 1)
    assert sorted(found.table["source"].to_pylist()) == ["addition", "human"]


def test_what_no_label_could_contradict_is_not_checkable():
    reports = report_table(["No pneumothorax."])
    added = additions(("r000", "The spine is straight."), ("r000", "No pleural effusion."))
    figures = judge_additions(reports, added, {"r000": ["No Finding"]}, "chexpert", "en").figures()["additions"]
    assert figures["sentences"] == 2
    assert figures["checkable"] == 1
    assert figures["of_checkable"]["value"] == 0


@pytest.mark.parametrize(
    "table",
    [
        "report_id,labels\nr000,Edema|Pneumonia\nr009,Edema\n",
        "study_id;labels\nr000;Edema|Pneumonia\n",
        "\ufeffreport_id,labels\nr000,\"['Edema', 'Pneumonia']\"\n",
        "report_id,labels\nr000,Edema\nr000,Pneumonia\n",
    ],
)
def test_label_files(tmp_path: Path, table: str):
    (tmp_path / "labels.csv").write_text(table, encoding="utf-8")
    found = labels_of(report_table(["A."]), str(tmp_path / "labels.csv"))
    assert found == {"r000": ["Edema", "Pneumonia"]}
    assert scheme_for(found, "auto") == "chexpert" or scheme_for(found, "auto") == "nih14"
    assert scheme_for(found, "padchest") == "padchest"


def test_own_labels_unless_a_file_is_given():
    reports = report_table(["A.", "B."], labels=[["Cardiomegaly"], []])
    assert labels_of(reports, None) == {"r000": ["Cardiomegaly"]}
    assert scheme_for({"r000": ["my own words", "and others"]}, "auto") is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("id,labels\nr000,Edema\n", "report_id or study_id, and labels"),
        ("report_id,labels\nx,Edema\n", "none of the 1 ids of --labels.path is a report_id"),
        ("", "report_id or study_id, and labels"),
    ],
)
def test_unusable_label_files(tmp_path: Path, table: str, message: str):
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        labels_of(report_table(["A."]), str(tmp_path / "labels.csv"))


def test_missing_and_binary_label_files(tmp_path: Path):
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    for name, message in (("none.csv", "can't be read"), ("binary.csv", "not UTF-8")):
        with pytest.raises(InputError, match=message):
            labels_of(report_table(["A."]), str(tmp_path / name))


def test_code_in_a_cell_is_never_run(tmp_path: Path):
    (tmp_path / "labels.csv").write_text("report_id,labels\nr000,[__import__('os').getcwd()]\n")
    assert labels_of(report_table(["A."]), str(tmp_path / "labels.csv")) == {"r000": ["[__import__('os').getcwd()]"]}
