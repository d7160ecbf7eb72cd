"""`python jobs/evaluate.py` on finished runs of the other jobs, alone and against another one. Texts were made up."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import ROOT, digests, environment, undisturbed
from sklearn.metrics import average_precision_score

from raymedlt import schema
from raymedlt.evaluation.config import EvaluateConfig
from raymedlt.evaluation.scores import evaluate
from raymedlt.job import main
from raymedlt.judging.running import describe, run
from raymedlt.storage import Storage

QUICK = ["--bootstrap", "50", "--permutations", "99"]
EVIL = "<img src=x onerror=alert(1)> There is a left pleural effusion."


def inside(*words: str | Path) -> int:
    """The job in this process; its exit code."""
    return main(EvaluateConfig, "python jobs/evaluate.py", describe, run, [str(word) for word in words])


def metrics(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "metrics.json").read_text())
    return found


def scores(output: Path) -> dict[tuple[str, str], dict[str, Any]]:
    table = pq.read_table(output / "scores")
    assert table.schema.equals(schema.SCORES)
    return {(row["name"], row["part"]): row for row in table.to_pylist()}


def finished(folder: Path, tables: dict[str, pa.Table], found: dict[str, Any], config: str = "{}") -> Path:
    """A folder as a job leaves it when it has ended."""
    storage = Storage.of(str(folder))
    entries = [
        *(storage.write_table(name, table) for name, table in tables.items()),
        storage.write_bytes("metrics.json", json.dumps(found).encode()),
        storage.write_bytes("config.yaml", config.encode()),
    ]
    files = [entry.to_json() for entry in entries]
    storage.write_bytes("manifest.json", json.dumps({"configuration": "x", "versions": {}, "files": files}).encode())
    return folder


def changed(source: Path, target: Path, name: str, change: Callable[[list[dict[str, Any]]], None]) -> Path:
    """A copy of a finished run in which a table's rows are others, listed in its manifest as they are."""
    shutil.copytree(source, target)
    storage = Storage.of(str(target))
    manifest = json.loads(storage.read_bytes("manifest.json"))
    for entry in manifest["files"]:
        if entry["name"].startswith(f"{name}/"):
            table = storage.read_table(entry["name"])
            rows = table.to_pylist()
            change(rows)
            written = storage.write_table(entry["name"], pa.Table.from_pylist(rows, schema=table.schema))
            entry.update(written.to_json())
    storage.write_bytes("manifest.json", json.dumps(manifest).encode())
    return target


# Written reports


@pytest.fixture(scope="module")
def other(finetuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fine-tuned run as if it had written the original reports, but for one, which is hostile."""

    def as_original(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["completion"] = row["reference"]
        rows[3]["completion"] = EVIL
        rows.pop()  # one report that only the first run has

    return changed(finetuned, tmp_path_factory.mktemp("other") / "run", "generations", as_original)


@pytest.fixture(scope="module")
def compared(finetuned: Path, other: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Started as a user does."""
    output = tmp_path_factory.mktemp("compared") / "evaluate"
    words = ["--what", "generation", "--run", str(other), "--against", str(finetuned), "--output", str(output), *QUICK]
    told = subprocess.run(
        [sys.executable, "jobs/evaluate.py", *words],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines() == [str(output / "report.html")]
    assert "onerror" not in told.stderr
    return output


def test_two_runs_are_compared_on_the_reports_of_both(finetuned: Path, other: Path, compared: Path):
    rows = {row["report_id"]: row for row in pq.read_table(other / "generations").to_pylist()}
    before = {row["report_id"]: row for row in pq.read_table(finetuned / "generations").to_pylist()}
    assert len(before) == len(rows) + 1
    assert metrics(compared)["reports"] == len(rows)
    ids = sorted(rows)
    own, base = (
        evaluate(
            [each[name]["completion"] for name in ids], [rows[name]["reference"] for name in ids],
            [rows[name]["patient_id"] for name in ids],
        )
        for each in (rows, before)
    )  # fmt: skip
    found = scores(compared)
    for name in ("bleu", "micro_f1", "report_f1"):
        row = found[name, ""]
        assert (row["run"], row["against"]) == (own.scores[name].estimate, base.scores[name].estimate)
        assert row["difference"] == pytest.approx(row["run"] - row["against"])
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]
        assert row["p"] == own.randomisation_test(base, name, permutations=99, seed=0)
    assert found["bleu", ""]["p"] == 0.01  # originals against a model that has hardly learnt anything
    assert ("complete_micro_f1", "") in found  # the phantom's texts without omissions were found
    items = pq.read_table(compared / "items")
    assert items.schema.equals(schema.ITEM_SCORES)
    bleu = [row for row in items.to_pylist() if row["name"] == "bleu"]
    assert np.mean([row["run"] for row in bleu]) == pytest.approx(found["bleu", ""]["run"])


def test_the_page_shows_both_reports_and_trusts_none(compared: Path):
    page = (compared / "report.html").read_text()
    for words in ("Two runs that write reports", "Where they differ most", "Finding by finding", "Original report"):
        assert words in page
    assert "&lt;img src=x onerror" in page
    assert "<img src=x" not in page
    assert page.count("data:image/png") >= 6  # the studies' images beside the texts


def test_the_manifest_lists_what_was_left(compared: Path):
    listed = {each["name"]: each["sha256"] for each in json.loads((compared / "manifest.json").read_text())["files"]}
    found = digests(compared)
    assert {name: found[name] for name in listed} == listed
    assert {"report.html", "metrics.json", "scores/all.parquet", "items/all.parquet", "config.yaml"} <= listed.keys()


def test_the_second_time_all_is_done(finetuned: Path, other: Path, compared: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--what", "generation", "--run", other, "--against", finetuned, "--output", compared, *QUICK]
    before = digests(compared)
    assert inside(*words, "--describe") == 0
    assert "[done]" in capsys.readouterr().out
    assert inside(*words) == 0
    assert "judge: already done" in capsys.readouterr().err
    assert digests(compared) == before
    assert inside(*words, "--seed", "1") == 2
    assert "seed: 0 -> 1" in capsys.readouterr().err
    assert inside(*words, "--folds", "3", "--run", finetuned) == 2  # folds are the audit's; the data are others
    assert "other input data" in capsys.readouterr().err


def test_a_run_alone_and_without_its_working_files(finetuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = Path(shutil.copytree(finetuned, tmp_path / "run"))
    shutil.rmtree(source / "_work")
    output = tmp_path / "out"
    assert inside("--what", "generation", "--run", source, "--output", output, *QUICK) == 0
    assert "working files of the fine-tuning run aren't in" in capsys.readouterr().err
    found = scores(output)
    assert ("complete_micro_f1", "") not in found
    assert found["bleu", ""]["against"] is None
    assert "Where they differ most" not in (output / "report.html").read_text()
    assert any("BERTScore: not computed" in line for line in metrics(output)["absent"])


def test_runs_over_other_studies_are_not_compared(finetuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def strangers(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["report_id"] += "x"

    def reworded(rows: list[dict[str, Any]]) -> None:
        rows[0]["reference"] += " No pneumothorax."

    for number, (change, words) in enumerate(((strangers, "none of one study"), (reworded, "1 have another original"))):
        against = changed(finetuned, tmp_path / f"other-{number}", "generations", change)
        more = ["--against", against, "--output", tmp_path / "out", *QUICK]
        assert inside("--what", "generation", "--run", finetuned, *more) == 2
        assert words in capsys.readouterr().err
        shutil.rmtree(tmp_path / "out")


# Classifiers


def classified(folder: Path, *, lift: float, images: int = 60) -> Path:
    """Predictions of three classes whose positives get `lift` on top of noise."""
    rng = np.random.default_rng(5)
    rows, per_class = [], []
    for number, name in enumerate(("Mass", "Nodule", "Effusion")):
        label = rng.random(images) < (0.1, 0.2, 0.4)[number]
        label[:2] = True, False
        noise = rng.random(images)
        for image in range(images):
            known = None if (number, image) == (1, 7) else float(label[image])
            rows.append(
                {
                    "image_id": f"i{image:03d}", "patient_id": f"p{image // 2}", "split": "test", "class": name,
                    "label": known, "probability": float((noise[image] + lift * label[image]) / (1 + lift)),
                }
            )  # fmt: skip
        per_class.append({"class": name, "group": ("tail", "medium", "head")[number], "threshold": 0.5})
    table = pa.Table.from_pylist(rows, schema=schema.PREDICTIONS)
    return finished(folder, {"predictions/test.parquet": table}, {"per_class": per_class})


def test_two_classifiers(tmp_path: Path):
    good, poor = classified(tmp_path / "good", lift=1.0), classified(tmp_path / "poor", lift=0.1)
    output = tmp_path / "out"
    words = ["--what", "classifier", "--run", good, "--against", poor, "--output", output, *QUICK]
    assert inside(*words) == 0
    found = scores(output)
    rows = [row for row in pq.read_table(good / "predictions").to_pylist() if row["class"] == "Mass"]
    expected = average_precision_score([row["label"] for row in rows], [row["probability"] for row in rows])
    assert found["average_precision", "Mass"]["run"] == found["average_precision", "tail"]["run"]
    assert found["average_precision", "Mass"]["run"] == pytest.approx(expected)
    everything = found["roc_auc", "all"]
    assert everything["difference"] > 0.2
    assert everything["p"] == 0.01
    assert found["f1", "all"]["p"] is None  # thresholds can't change places
    assert metrics(output)["verdict"].endswith(": better.")
    assert "Class by class" in (output / "report.html").read_text()
    assert inside("--what", "classifier", "--run", good, "--against", good, "--output", tmp_path / "same", *QUICK) == 0
    assert {row["p"] for row in scores(tmp_path / "same").values()} == {1.0, None}


def test_classifiers_of_other_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    own = classified(tmp_path / "own", lift=1.0)

    def relabelled(rows: list[dict[str, Any]]) -> None:
        rows[0]["label"] = 1 - rows[0]["label"]

    against = changed(own, tmp_path / "other", "predictions", relabelled)
    words = ["--what", "classifier", "--run", own, "--against", against, "--output", tmp_path / "out", *QUICK]
    assert inside(*words) == 2
    assert "1 labels of 60 test images of both runs differ" in capsys.readouterr().err


# Drawn images


def drawn(folder: Path, accepted: int, claimed: int | None = None) -> Path:
    """60 images for two classes, the first `accepted` of the class Mass accepted."""
    plan, images = [], []
    for number in range(60):
        name, target = f"r{number:03d}", ("Mass", "Hernia")[number % 2]
        plan.append({name: None for name in schema.PLAN.names} | {"row_id": name, "target": target, "label_set": []})
        good = target == "Mass" and number // 2 < accepted
        reasons = [] if good else ["not shown"] if number % 3 else ["copy of a training image", "not shown"]
        images.append(
            {"row_id": name, "image": None, "sha256": "", "accepted": good, "reasons": reasons, "scores": [],
             "synthetic": True}
        )  # fmt: skip
    nothing = {
        side: dict.fromkeys(("kid", "precision", "recall", "density", "coverage", "ms_ssim"))
        for side in ("synthetic", "real")
    }
    likeness = {**nothing, "compared": 0, "why": "no accepted image"}
    found = {
        "drawn": 60, "accepted": accepted if claimed is None else claimed, "likeness": likeness,
        "classes": {name: {"likeness": likeness} for name in ("Mass", "Hernia")},
        "memorisation": {"caught": [10, 10], "false_refusals": [1, 40]},
    }  # fmt: skip
    tables = {
        "plan/0.parquet": pa.Table.from_pylist(plan, schema=schema.PLAN),
        "images/0.parquet": pa.Table.from_pylist(images, schema=schema.SYNTHETIC_IMAGES),
    }
    return finished(folder, tables, found)


def test_drawn_images_alone_and_beside_another_run(tmp_path: Path):
    many, few = drawn(tmp_path / "many", 24), drawn(tmp_path / "few", 3)
    output = tmp_path / "out"
    assert inside("--what", "synthesis", "--run", many, "--against", few, "--output", output) == 0
    found = scores(output)
    assert found["accepted", "Mass"]["run"] == pytest.approx(24 / 30)
    assert found["accepted", "Hernia"]["run"] == 0
    assert found["accepted", ""]["difference"] == pytest.approx(21 / 60)
    assert found["accepted", ""]["p"] is None  # other images: nothing is paired
    assert metrics(output)["reasons"] == {"not shown": 36, "copy of a training image": 12}
    page = (output / "report.html").read_text()
    assert "10 of 10" in page
    assert "memorised, or too alike to tell" in page
    assert inside("--what", "synthesis", "--run", many, "--output", tmp_path / "alone") == 0
    assert "The gate accepted 24 of 60 drawn images" in metrics(tmp_path / "alone")["verdict"]


def test_tables_that_disagree_with_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert inside("--what", "synthesis", "--run", drawn(tmp_path / "run", 5, 6), "--output", tmp_path / "out") == 1
    assert "6 of 60, as its metrics.json says" in capsys.readouterr().err


# Enrichment runs


def test_two_enrichment_runs(tmp_path: Path):
    whole = undisturbed().output
    dropped = {row["report_id"] for row in pq.read_table(whole / "additions").to_pylist()[::4]}

    def without(rows: list[dict[str, Any]]) -> None:
        rows[:] = [row for row in rows if row["report_id"] not in dropped]

    fewer = changed(whole, tmp_path / "fewer", "additions", without)
    output = tmp_path / "out"
    assert inside("--what", "enrichment", "--run", whole, "--against", fewer, "--output", output, *QUICK) == 0
    row = scores(output)["enriched", ""]
    assert row["difference"] == pytest.approx(len(dropped) / row["count"])
    assert row["p"] == 0.01
    assert "Where they differ most" in (output / "report.html").read_text()


# What can't be judged


def test_what_is_no_such_run(finetuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = ["--output", tmp_path / "out"]
    assert inside("--what", "generation", "--run", tmp_path / "none", *out) == 2
    assert "holds no finished run" in capsys.readouterr().err
    assert inside("--what", "classifier", "--run", finetuned, *out) == 2
    told = capsys.readouterr().err
    assert "is no run of jobs/classify.py, but a run of jobs/finetune.py or jobs/align.py (--what generation)" in told
    assert inside("--what", "generation", "--run", finetuned, "--against", tmp_path / "none", *out) == 2
    assert "give it with --against" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_changed_table_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = classified(tmp_path / "run", lift=1.0)
    file = source / "predictions" / "test.parquet"
    file.write_bytes(file.read_bytes() + b" ")
    assert inside("--what", "classifier", "--run", source, "--output", tmp_path / "out", *QUICK) == 1
    assert "'predictions/test.parquet'" in capsys.readouterr().err


def test_describe_runs_nothing(finetuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert inside("--what", "generation", "--run", finetuned, "--output", tmp_path / "out", "--describe") == 0
    told = capsys.readouterr().out
    for word in (str(finetuned), "scores/, items/", "report.html", "nothing was run"):
        assert word in told
    assert not (tmp_path / "out").exists()
