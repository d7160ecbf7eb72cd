"""jobs/evaluate.py as its users run it, on a finished run of jobs/enrich.py. All sentences were made up."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from runs import ROOT, SENTINEL, Undisturbed, digests, environment, undisturbed

from raymedlt import schema
from raymedlt.config import flatten
from raymedlt.evaluation.config import EvaluateConfig
from raymedlt.job import main
from raymedlt.judging.running import describe, run


@pytest.fixture(scope="module")
def done() -> Undisturbed:
    return undisturbed()


def inside(*words: str) -> int:
    """The job in this process; its exit code."""
    return main(EvaluateConfig, "python jobs/evaluate.py", describe, run, list(words))


def script(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "jobs/evaluate.py", *words],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def words(done: Undisturbed, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Labels for every tenth report, and the words of an audit of the undisturbed run."""
    labels = tmp_path_factory.mktemp("labels") / "labels.csv"
    rows = "".join(f"s{number:05d},Pleural Effusion\n" for number in range(8, 400, 10))
    labels.write_text("study_id,labels\n" + rows)
    return ["--what", "enrichment", "--run", str(done.output), "--labels.path", str(labels), "--sheet.items", "40"]


@pytest.fixture(scope="module")
def audit(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished audit, started as a user does."""
    output = tmp_path_factory.mktemp("audit") / "evaluate"
    told = script(*words, "--output", str(output))
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines() == [str(output / "report.html")]
    assert SENTINEL not in told.stderr
    return output


@pytest.fixture
def copy(audit: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(audit, tmp_path / "evaluate"))


def figures(output: Path) -> dict[str, Any]:
    parts: dict[str, Any] = json.loads((output / "evaluation.json").read_text())["parts"]
    return parts


def test_all_parts_leave_figures_tables_and_a_page(audit: Path) -> None:
    parts = figures(audit)
    assert list(parts) == ["recovery", "contradiction", "injection", "sheet"]
    assert parts["recovery"]["guarded"]["hidden"] > 100
    assert parts["contradiction"]["scheme"] == "chexpert"
    assert parts["contradiction"]["reports_with_labels"] == 20  # of 40: the others are not for training
    assert parts["injection"]["errors_refused"]["value"] >= 0.95
    assert parts["sheet"]["items"] == 40
    tables = {"recovery": schema.RECOVERY, "contradictions": schema.CONTRADICTIONS, "injections": schema.INJECTIONS}
    for name, expected in tables.items():
        assert pq.read_table(audit / name / "all.parquet").schema.names == expected.names
    page = (audit / "report.html").read_text()
    for title in ("Hide and recover", "Contradiction with labels", "Error injection", "Audit sheet", "95 % interval"):
        assert title in page
    assert "http" not in page.split("<script")[0].replace("http-equiv", "")


def test_the_figures_are_those_of_the_tables(audit: Path) -> None:
    parts = figures(audit)
    injections = pq.read_table(audit / "injections/all.parquet").to_pylist()
    errors = [row for row in injections if not row["good"]]
    share = parts["injection"]["errors_refused"]
    assert (share["part"], share["whole"]) == (sum(bool(row["reason"]) for row in errors), len(errors))
    recovery = pq.read_table(audit / "recovery/all.parquet").to_pylist()
    found = sum(row["guarded"] and row["outcome"] in ("offered", "already said") for row in recovery)
    assert parts["recovery"]["guarded"]["recovered"]["part"] == found
    pairs = pq.read_table(audit / "contradictions/all.parquet").to_pylist()
    assert {row["labelled"] for row in pairs} == {"pleural_effusion"}


def test_the_manifest_lists_what_does_not_change(audit: Path) -> None:
    listed = {entry["name"]: entry["sha256"] for entry in json.loads((audit / "manifest.json").read_text())["files"]}
    found = digests(audit)
    assert {name: found[name] for name in listed} == listed
    assert {"report.html", "evaluation.json", "config.yaml", "sheet/key.csv", "README.md"} <= listed.keys()
    assert "sheet/sheet.csv" not in listed  # people write into it


def test_the_second_time_nothing_is_done_again(
    words: list[str], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(copy)
    assert inside(*words, "--output", str(copy)) == 0
    told = capsys.readouterr().err
    for part in ("recovery", "contradiction", "injection", "sheet"):
        assert f"{part}: already done" in told
    after = digests(copy)
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"report.html", "manifest.json", "evaluation.json", "config.yaml"}  # these name the folder


def test_a_result_depends_on_run_and_seed_alone(words: list[str], audit: Path, tmp_path: Path) -> None:
    assert inside(*words, "--output", str(tmp_path / "again")) == 0
    for name in ("injections/all.parquet", "recovery/all.parquet", "sheet/sheet.csv", "sheet/key.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (audit / name).read_bytes()
    assert inside(*words, "--seed", "1", "--output", str(tmp_path / "other")) == 0
    assert (tmp_path / "other/sheet/key.csv").read_bytes() != (audit / "sheet/key.csv").read_bytes()


def fill(sheet: Path, second: str = "agree") -> None:
    """Both readers' verdicts, into the sheet itself."""
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["reader_1"], row["reader_2"] = "agree", second
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_a_filled_in_sheet_is_read_back_and_left_alone(words: list[str], copy: Path) -> None:
    sheet = copy / "sheet/sheet.csv"
    fill(sheet, "fine")
    before = sheet.read_bytes()
    assert inside(*words, "--output", str(copy), "--sheet.read", str(sheet)) == 0
    found = figures(copy)["readers"]
    assert found["readers"]["reader_1"]["overall"]["agree"]["value"] == 1
    assert found["readers"]["reader_1"]["decoys_caught"]["part"] == 0
    assert found["cells_rejected"] == len(pq.read_table(copy / "rejected/all.parquet")) > 40
    assert "What the readers found" in (copy / "report.html").read_text()
    assert inside(*words, "--output", str(copy)) == 0
    assert sheet.read_bytes() == before


def test_too_many_bad_cells(words: list[str], copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(copy / "sheet/sheet.csv", "fine")
    more = ["--output", str(copy), "--sheet.read", str(copy / "sheet/sheet.csv"), "--max_rejected", "3"]
    assert inside(*words, *more) == 2
    assert "at most 3 (--max_rejected)" in capsys.readouterr().err


def test_a_sheet_whose_key_is_lost_is_not_written_over(
    words: list[str], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(copy / "sheet/sheet.csv")
    before = (copy / "sheet/sheet.csv").read_bytes()
    (copy / "sheet/key.csv").unlink()
    assert inside(*words, "--output", str(copy)) == 2
    assert "its key is lost" in capsys.readouterr().err
    assert (copy / "sheet/sheet.csv").read_bytes() == before


def test_parts_may_come_one_by_one(words: list[str], tmp_path: Path) -> None:
    output = ["--output", str(tmp_path / "evaluate")]
    assert inside(*words, *output, "--parts", "[recovery]") == 0
    assert list(figures(tmp_path / "evaluate")) == ["recovery"]
    assert inside(*words, *output, "--parts", "[recovery, injection]") == 0
    assert list(figures(tmp_path / "evaluate")) == ["recovery", "injection"]


def test_what_was_done_before_stays_on_the_page(words: list[str], copy: Path) -> None:
    assert inside(*words, "--output", str(copy), "--parts", "[sheet]") == 0
    assert list(figures(copy)) == ["recovery", "contradiction", "injection", "sheet"]
    assert "Hide and recover" in (copy / "report.html").read_text()


def test_a_spanish_run_of_one_patient_says_what_is_left_out(tmp_path: Path) -> None:
    """No known errors in Spanish, no second patient to score: the other parts and the page come all the same."""
    heart = ["siluet cardiac normal", "corazon normal", "corazon de taman normal"]
    pleura = ["sin derram pleural", "no se observ derram pleural", "no hay derram pleural"]
    rows = [
        [str(i), "p", f"{pleura[i % 3]}. {heart[i // 3 % 3]}." if i % 2 else f"{pleura[i % 3]}."] for i in range(60)
    ]
    source = tmp_path / "reports.csv"
    with source.open("w", newline="") as file:
        csv.writer(file).writerows([["report_id", "patient_id", "findings"], *rows])
    clusters = ("--clustering.method", "kmeans", "--clustering.clusters", "2")
    options = ("--reports.path", str(source), "--reports.format", "csv", "--reports.language", "es", *clusters)
    made = subprocess.run(
        [sys.executable, "jobs/enrich.py", *options, "--output", str(tmp_path / "run")],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert inside("--run", str(tmp_path / "run"), "--output", str(tmp_path / "audit")) == 0
    parts = figures(tmp_path / "audit")
    assert "known errors exist for these languages only" in parts["injection"]["left_out"]
    assert "reports of several patients" in parts["recovery"]["left_out"]
    assert parts["sheet"]["items"] == 30  # every report that lacked the heart got it
    assert "Left out: " in (tmp_path / "audit" / "report.html").read_text()


def test_changed_rules_are_another_audit(
    words: list[str], copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raymedlt.enrichment.audit.evaluation.tables_hash", lambda: "other tables")
    assert inside(*words, "--output", str(copy)) == 2
    told = capsys.readouterr().err
    assert "rule tables: " in told
    assert "other tables" in told


def test_without_labels_the_part_says_so(done: Undisturbed, tmp_path: Path) -> None:
    output = tmp_path / "evaluate"
    assert inside("--run", str(done.output), "--parts", "[contradiction]", "--output", str(output)) == 0
    assert "no labels" in figures(output)["contradiction"]["left_out"]
    assert "Left out: the reports have no labels" in (output / "report.html").read_text()


def test_another_seed_is_another_audit(words: list[str], copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inside(*words, "--output", str(copy), "--seed", "3") == 2
    assert "seed: 0 -> 3" in capsys.readouterr().err
    assert inside(*words, "--output", str(copy), "--seed", "3", "--restart", "--parts", "[recovery]") == 0


# What can't be audited


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inside("--run", str(tmp_path / "none"), "--output", str(tmp_path / "out")) == 2
    assert "holds no finished run" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_audit_is_no_enrichment_run(audit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inside("--run", str(audit), "--output", str(tmp_path / "out")) == 2
    assert "is no enrichment run" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["changed", "missing"])
def test_a_changed_run_is_refused(
    done: Undisturbed, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(shutil.copytree(done.output, tmp_path / "run"))
    file = sorted((source / "additions").iterdir())[0]
    file.write_bytes(file.read_bytes() + b" ") if how == "changed" else file.unlink()
    assert inside("--run", str(source), "--output", str(tmp_path / "out")) == 1
    assert f"additions/{file.name}" in capsys.readouterr().err


def test_a_run_without_its_work_folder_will_do(done: Undisturbed, tmp_path: Path) -> None:
    source = Path(shutil.copytree(done.output, tmp_path / "run"))
    shutil.rmtree(source / "_work")
    shutil.rmtree(source / "_ledger")
    assert inside("--run", str(source), "--output", str(tmp_path / "out"), "--parts", "[injection]") == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--parts", "[]"], "parts is []"),
        (["--folds", "1"], "folds is 1. Expected: at least 2"),
        (["--sheet.read", "x.csv", "--restart"], "no --restart together with --sheet.read"),
        (["--labels.format", "mine"], "labels.format"),
        (["--sheet.itms", "3"], "the nearest is 'sheet.items'"),
        (["--run", "s3://key:secret@bucket/run"], "credentials"),
    ],
)
def test_bad_words(more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inside("--output", str(tmp_path / "out"), *more) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "secret" not in told


def test_describe_runs_nothing(
    words: list[str], audit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inside(*words, "--output", str(tmp_path / "out"), "--describe") == 0
    told = capsys.readouterr().out
    for word in ("recovery", "contradiction", "injection", "sheet", "report.html", "policy safe"):
        assert word in told
    assert not (tmp_path / "out").exists()
    assert inside(*words, "--output", str(audit), "--describe") == 0
    assert "[done]" in capsys.readouterr().out


def test_help_teaches() -> None:
    told = " ".join(script("--help").stdout.split())
    for key in flatten(EvaluateConfig()):
        assert f"--{key}" in told
