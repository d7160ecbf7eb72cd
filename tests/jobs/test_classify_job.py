"""`python jobs/classify.py` as its users run it: phantom and files, first and second run, kill, bad input."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from runs import ROOT, environment

from raymedlt import schema
from raymedlt.classifier import load
from raymedlt.classifier.config import ClassifyConfig
from raymedlt.classifier.running import describe, run
from raymedlt.errors import InputError
from raymedlt.job import main
from raymedlt.seeds import generator

QUICK = [
    "--model.backbone=test_resnet", "--training.stage2_epochs=2", "--training.batch_images=32", "--images.size=32",
    "--training.precision=float32", "--evaluation.bootstrap=50", "--evaluation.maps=4", "--labels.min_positives=2",
]  # fmt: skip
PHANTOM = [
    *QUICK,
    "--phantom.images=300",
    "--phantom.test_images=80",
    "--phantom.test_positives=5",
    "--phantom.classes=6",
]


def inside(*words: str) -> int:
    """The job in this process; its exit code."""
    return main(ClassifyConfig, "python jobs/classify.py", describe, run, list(words))


def script(*words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "jobs/classify.py", *words],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the phantom with an ablation, started as a user does."""
    output = tmp_path_factory.mktemp("classify") / "run"
    told = script(*PHANTOM, "--ablate", "--output", str(output), timeout=500)
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines() == [str(output / "report.html")]
    return output


def test_the_tables_agree_with_the_model(finished: Path):
    table = pq.read_table(finished / "predictions")
    assert table.schema.names == schema.PREDICTIONS.names
    metrics = json.loads((finished / "metrics.json").read_text())
    test = table.filter(np.array(table["split"].to_pylist()) == "test")
    assert len(set(test["image_id"].to_pylist())) == metrics["images"]
    assert {row["class"] for row in metrics["per_class"]} == set(test["class"].to_pylist())
    for row in metrics["per_class"]:
        assert row["test_positives"] >= 5
    ablation = {row["variant"] for row in metrics["ablation"]}
    assert ablation == {"full", "no-gate", "no-attention", "no-graph", "bce-loss", "uniform-sampling", "plain-bce"}


def test_a_loaded_classifier_gives_the_table(finished: Path):
    table = pq.read_table(finished / "predictions" / "test.parquet")
    model = load(str(finished))
    first = table["image_id"][0].as_py()
    shards = sorted((finished / "_work" / "images").iterdir())
    pixels = {
        row["image_id"]: np.frombuffer(row["pixels"], np.uint8).reshape(32, 32)
        for shard in shards
        for row in pq.read_table(shard).to_pylist()
    }
    probabilities, classes = model.predict([pixels[first]])
    rows = [row for row in table.to_pylist() if row["image_id"] == first]
    assert [row["class"] for row in rows] == list(classes)
    np.testing.assert_allclose(probabilities[0], [row["probability"] for row in rows], atol=1e-6)


def test_a_run_is_a_start_for_another(finished: Path):
    from raymedlt.classifier.backbone import build_backbone
    from raymedlt.classifier.config import ModelConfig

    backbone = build_backbone(ModelConfig(backbone="test_resnet", weights=str(finished)))
    trained = load(str(finished)).members[0].backbone
    for name, tensor in trained.state_dict().items():
        assert (backbone.state_dict()[name] == tensor).all(), name


def test_the_page_says_what_to_distrust(finished: Path):
    page = (finished / "report.html").read_text()
    for words in ("Not for diagnosis", "phantom", "What each part is worth", "Where the classifier looks"):
        assert words in page
    card = (finished / "README.md").read_text()
    assert card.startswith("---\n")
    assert "Not for diagnosis" in card
    manifest = json.loads((finished / "manifest.json").read_text())
    assert {"model/classifier.json", "model/member-0.safetensors", "predictions/test.parquet"} <= {
        entry["name"] for entry in manifest["files"]
    }


def test_the_folder_loads_as_a_dataset(finished: Path, tmp_path: Path):
    import datasets

    rows = datasets.load_dataset(str(finished), cache_dir=str(tmp_path))["train"]
    assert rows.column_names == schema.PREDICTIONS.names
    assert len(rows) == pq.read_table(finished / "predictions").num_rows


def test_a_second_driver_is_refused(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = [*PHANTOM, "--training.stage2_epochs=500", "--training.patience=500", "--output", str(tmp_path / "run")]
    first = subprocess.Popen(
        [sys.executable, "jobs/classify.py", *words], cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL
    )
    latest = tmp_path / "run" / "_work" / "train" / "member-0" / "latest.json"
    try:
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and first.poll() is None and not latest.exists():
            time.sleep(0.05)
        assert first.poll() is None
        assert inside(*words) == 2
        assert "another driver has" in capsys.readouterr().err
        first.send_signal(signal.SIGTERM)
        assert first.wait(60) == 143
    finally:
        first.kill()


def test_the_recipes_can_be_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recipes = sorted((ROOT / "configs").glob("trcgl*.yaml"))
    assert recipes
    for recipe in recipes:
        assert inside("--config", str(recipe), "--describe", "--output", str(tmp_path / "none")) == 0
    assert "convnextv2_base" in capsys.readouterr().out


def test_checkpoints_go_when_their_network_is_kept(finished: Path):
    assert not list((finished / "_work").glob("train/*"))
    assert len(list((finished / "_work" / "trained").glob("*.safetensors"))) >= 2


def test_a_second_run_does_nothing(finished: Path):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert inside(*PHANTOM, "--ablate", "--output", str(finished)) == 0
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} <= {finished / "_ledger" / "driver.json"}


def test_other_settings_are_refused(finished: Path, capsys: pytest.CaptureFixture[str]):
    assert inside(*PHANTOM, "--ablate", "--seed=1", "--output", str(finished)) == 2
    assert "seed: 0 -> 1" in capsys.readouterr().err


def test_a_killed_run_gives_the_same_numbers(finished: Path, tmp_path: Path):
    """kill -9 in the middle of the training; checkpoints after every step."""
    words = [*PHANTOM, "--training.checkpoint_seconds=0", "--output", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "jobs/classify.py", *words], cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL
    )
    latest = tmp_path / "run" / "_work" / "train" / "member-0" / "latest.json"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if latest.exists() and json.loads(latest.read_text())["position"]["steps"] >= 5:
            break
        time.sleep(0.02)
    assert process.poll() is None, "the run ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run" / "report.html").exists()
    assert inside(*words) == 0
    ours = json.loads((tmp_path / "run" / "metrics.json").read_text())
    theirs = json.loads((finished / "metrics.json").read_text())
    assert ours["per_class"] == theirs["per_class"]


def test_describe_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert inside("--describe", "--ablate", "--output", str(tmp_path / "none")) == 0
    told = capsys.readouterr().out
    assert "nothing was run" in told
    assert "no-attention" in told
    assert not (tmp_path / "none").exists()


# Files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 48 patients with a bright square ("Square") or a dark bar ("Bar"), some of them unusable."""
    root = tmp_path_factory.mktemp("files")
    (root / "images").mkdir()
    rng = generator(0, "files")
    rows = []
    for number in range(96):
        pixels = rng.integers(60, 120, (40, 40)).astype(np.uint8)
        labels = [name for name, share in (("Square", 0.5), ("Bar", 0.4)) if rng.random() < share]
        if "Square" in labels:
            pixels[5:20, 5:20] = 230
        if "Bar" in labels:
            pixels[:, 25:29] = 10
        image = Image.fromarray(pixels)
        if number % 3 == 1:
            image = image.convert("RGB")
        if number % 3 == 2:
            image = Image.fromarray(pixels.astype(np.uint16) * 257)
        image.save(root / "images" / f"{number:03d}.png")
        rows.append([f"{number:03d}.png", f"p{number // 2:03d}", "|".join(labels) or "No Finding"])
    (root / "images" / "broken.png").write_bytes((root / "images" / "000.png").read_bytes()[:60])
    rows += [
        ["broken.png", "p900", "Bar"],
        ["missing.png", "p901", "Bar"],
        ["../labels.csv", "p902", "Bar"],
        ["", "p903", "Bar"],
        ["000.png", "p904", "Bar"],
        ["001.png.txt", "", "Bar"],
        ["005.png ", "p905", ""],
    ]
    with open(root / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([["image", "patient_id", "labels"], *rows])
    return root


def words_of(folder: Path, output: Path, *more: str) -> list[str]:
    return [
        *QUICK, "--images.path", str(folder / "images"), "--labels.path", str(folder / "labels.csv"),
        "--output", str(output), *more,
    ]  # fmt: skip


def test_files_train_and_bad_rows_are_kept_with_reasons(folder: Path, tmp_path: Path, capsys):
    output = tmp_path / "run"
    assert inside(*words_of(folder, output)) == 0
    rejected = {row["source"] + row["row_id"]: row["reason"] for row in pq.read_table(output / "rejected").to_pylist()}
    assert len(rejected) == 7
    reasons = " | ".join(sorted(rejected.values()))
    for words in ("corrupt", "file not found", "path leaves the folder", "no labels", "duplicate", "patient", "image"):
        assert words in reasons, reasons
    metrics = json.loads((output / "metrics.json").read_text())
    assert [row["class"] for row in metrics["per_class"]] == ["Bar", "Square"]
    assert "7 rows were rejected" in (output / "report.html").read_text()
    model = load(str(output))
    with pytest.raises(InputError, match="1 of 2 images can't be read"):
        model.predict([str(folder / "images" / "000.png"), str(folder / "images" / "broken.png")])
    probabilities, _ = model.predict([str(folder / "images" / "000.png"), (folder / "images" / "001.png").read_bytes()])
    assert probabilities.shape == (2, 2)


def test_too_many_rejected_rows_fail_the_run(folder: Path, tmp_path: Path, capsys):
    assert inside(*words_of(folder, tmp_path / "run", "--max_rejected=6")) == 2
    assert "7 rows were rejected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--labels.classes", "[Sqare]"], "Square"),
        (["--labels.min_positives", "1000"], "none of 2 classes has 1000 positive training images"),
        (["--model.backbone", "resnet11"], "such as resnet10"),
        (["--images.path", "/nowhere/at/all"], "does not exist"),
        (["--labels.path", "/nowhere/labels.csv"], "no file '/nowhere/labels.csv'"),
        (["--model.weights", "/nowhere/weights.safetensors"], "where there is no weights.safetensors"),
        (["--training.device", "cuda"], "no GPU"),
        (["--synthetic.path", "/nowhere/synthetic"], "holds no Parquet files"),
        (["--training.batch_images", "7", "--training.replicas", "2"], "a multiple of training.replicas"),
    ],
)
def test_bad_arguments_say_what_to_do(folder: Path, tmp_path: Path, capsys, more: list[str], said: str):
    assert inside(*words_of(folder, tmp_path / "run", *more)) == 2
    assert said in capsys.readouterr().err


def test_a_patient_in_two_splits_fails_the_run(folder: Path, tmp_path: Path, capsys):
    with open(folder / "labels.csv") as file:
        rows = list(csv.reader(file))[1:97]
    table = tmp_path / "labels.csv"
    with open(table, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "patient_id", "labels", "split"])
        writer.writerows([*row, "test" if number % 5 == 0 else "train"] for number, row in enumerate(rows))
    words = words_of(folder, tmp_path / "run", "--labels.path", str(table))
    assert inside(*words) == 2
    assert "patients have images in more than one split" in capsys.readouterr().err
