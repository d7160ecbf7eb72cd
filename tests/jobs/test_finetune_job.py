"""`python jobs/finetune.py` as its users run it: first and second run, kill, Ray, own reports, control, bad input."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from runs import QUICK_FINETUNE as QUICK
from runs import ROOT, environment

from raymedlt import finetuning, schema
from raymedlt.config import EnrichConfig
from raymedlt.enrichment.distributed import describe as describe_enrich
from raymedlt.enrichment.distributed import run as run_enrich
from raymedlt.finetuning.config import FinetuneConfig, ModelConfig
from raymedlt.finetuning.finish import data_hash
from raymedlt.finetuning.running import describe, run
from raymedlt.images.phantom import draw
from raymedlt.images.phantom_cohort import cohort, findings_of
from raymedlt.job import main
from raymedlt.synthesis.sampler import encode_png


def inside(*words: str) -> int:
    return main(FinetuneConfig, "python jobs/finetune.py", describe, run, list(words))


def rows(folder: Path) -> list[dict]:
    return pq.read_table(folder / "generations").to_pylist()


@pytest.fixture(scope="module")
def finished(finetuned: Path) -> Path:
    """A finished run on the phantom, started as a user does."""
    return finetuned


def test_table_metrics_and_page_agree(finished: Path):
    table = pq.read_table(finished / "generations")
    assert table.schema.equals(schema.GENERATIONS)
    studies = pq.read_table(finished / "_work" / "studies" / "all.parquet").to_pylist()
    held_out = {row["report_id"]: row for row in studies if row["split"] == "test"}
    assert {row["report_id"] for row in table.to_pylist()} == set(held_out)
    for row in table.to_pylist():
        assert row["reference"] == held_out[row["report_id"]]["reference_findings"]
        assert row["split"] == "test"
    metrics = json.loads((finished / "metrics.json").read_text())
    scored = metrics["scored"]["test"]
    assert scored["reports"] == table.num_rows > 20
    assert {"micro_f1", "complete_micro_f1", "bleu", "chrf"} <= set(scored["scores"])
    assert [line["epoch"] for line in metrics["history"]] == [0, 1]
    assert metrics["history"][1]["validation_loss"] < metrics["history"][0]["validation_loss"]
    page = (finished / "report.html").read_text()
    assert "Finding by finding" in page
    manifest = json.loads((finished / "manifest.json").read_text())
    named = {each["name"] for each in manifest["files"]}
    assert {"report.html", "README.md", "model/README.md", "model/raymedlt.json", "model/model.safetensors"} <= named
    assert not list(finished.rglob("*.bin"))
    assert not list(finished.rglob("*.pt"))


def test_the_exported_encoder_keeps_the_statistics_that_it_settled_while_it_learnt_to_see(finished: Path):
    seen = safetensors.torch.load_file(finished / "_work" / "seen" / "encoder.safetensors")
    exported = safetensors.torch.load_file(finished / "model" / "model.safetensors")
    names = [name for name in seen if name.endswith(("running_mean", "running_var"))]
    assert "network.bn1.running_mean" in names
    assert seen["network.bn1.running_mean"].abs().sum() > 0
    for name in names:
        assert torch.equal(exported[f"vision.{name}"], seen[name]), name


def test_the_model_writes_what_the_table_holds(finished: Path):
    table = rows(finished)
    sets = cohort(240, seed=0, classes=6, test_images=24, test_positives=0, pick="spread").table.to_pylist()
    shown = {row["image_id"]: findings_of(row["findings"]) for row in sets}
    images = [draw(shown[row["image_id"]], seed=0, image_id=row["image_id"], size=32) for row in table[:8]]
    model = finetuning.load(str(finished))
    assert model.generate(images) == [row["completion"] for row in table[:8]]
    assert model.generate([encode_png(images[0])]) == [table[0]["completion"]]


def test_second_run_does_nothing(finished: Path, capsys):
    began = time.monotonic()
    assert inside(*QUICK, "--output", str(finished)) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [str(finished / "report.html")]
    for stage in ("see", "train", "export", "write"):
        assert f"{stage}: already done" in said.err
    assert time.monotonic() - began < 20


@pytest.mark.slow
def test_killed_while_it_trains(finished: Path, tmp_path: Path):
    command = [sys.executable, "jobs/finetune.py", *QUICK, "--output", str(tmp_path / "run")]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as job:  # fmt: skip
        latest = tmp_path / "run" / "_work" / "train" / "model" / "latest.json"
        limit = time.monotonic() + 200
        while time.monotonic() < limit:
            try:
                if json.loads(latest.read_text())["position"]["steps"] >= 3:
                    break
            except (OSError, ValueError):
                pass
            time.sleep(0.02)
        os.killpg(job.pid, signal.SIGKILL)
    assert not (tmp_path / "run" / "report.html").exists()
    subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, check=True, timeout=300)
    assert rows(tmp_path / "run") == rows(finished) or _same(rows(tmp_path / "run"), rows(finished))
    for name in ("model/model.safetensors", "model/config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


def _same(first: list[dict], second: list[dict]) -> bool:
    """Equal but for NaN, which is not equal to itself."""
    return json.dumps(first) == json.dumps(second)


@pytest.mark.slow
def test_on_ray_with_two_replicas(finished: Path, tmp_path: Path):
    """The images, the training and the writing on Ray: the losses are those of one process, the reports too."""
    # Ray Train takes two seconds for each checkpoint that it is told of
    words = [*QUICK, "--training.checkpoint_seconds=60", "--ray_from=0", "--training.replicas=2", "--workers=2"]
    words += ["--output", str(tmp_path / "run")]
    told = subprocess.run(
        [sys.executable, "jobs/finetune.py", *words], cwd=ROOT, env=environment(), capture_output=True, text=True,
        timeout=500, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    alone, both = (json.loads((each / "metrics.json").read_text()) for each in (finished, tmp_path / "run"))
    for one, two in zip(alone["history"], both["history"], strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
        assert two["validation_loss"] == pytest.approx(one["validation_loss"], rel=1e-3)
    assert both["scored"]["test"]["reports"] == alone["scored"]["test"]["reports"]


def test_the_control_sees_no_image(finished: Path, tmp_path: Path):
    words = ["--blind=true", "--model.method=lora", "--training.epochs=1", "--output", str(tmp_path / "run")]
    assert inside(*QUICK, *words) == 0
    assert (tmp_path / "run" / "adapter" / "adapter.safetensors").exists()
    assert len({row["completion"] for row in rows(tmp_path / "run")}) == 1
    assert "control" in (tmp_path / "run" / "report.html").read_text()


def test_own_reports_and_images(tmp_path: Path):
    """jobs/enrich.py over a table of reports, then jobs/finetune.py over its run and the image files."""
    made = cohort(200, seed=3, classes=6, test_images=20, test_positives=0).table.to_pylist()
    (tmp_path / "images").mkdir()
    with open(tmp_path / "reports.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["report_id", "study_id", "patient_id", "split", "findings", "impression", "image_ids"])
        for number, row in enumerate(made):
            name = f"image{number}"
            split = {"train": "train", "validation": "validation"}.get(row["split"], "test")
            writer.writerow(
                [f"r{number}", f"s{number}", row["patient_id"], split, row["text_findings"], "", name]
            )  # fmt: skip
            if number != 5:
                pixels = draw(findings_of(row["findings"]), seed=3, image_id=row["image_id"], size=32)
                (tmp_path / "images" / f"{name}.png").write_bytes(encode_png(pixels))
    words = ["--reports.path", str(tmp_path / "reports.csv"), "--reports.format", "csv", "--output"]
    enriched = str(tmp_path / "enriched")
    assert main(EnrichConfig, "python jobs/enrich.py", describe_enrich, run_enrich, [*words, enriched]) == 0
    own = [word for word in QUICK if not word.startswith("--phantom")]
    output = tmp_path / "run"
    common = [*own, "--images.path", str(tmp_path / "images"), "--text.enriched", enriched]
    assert inside(*common, "--text.use=enriched", "--training.epochs=1", "--output", str(output)) == 0
    written = rows(output)
    assert {row["split"] for row in written} == {"test"}
    assert all(row["image_id"].startswith("image") for row in written)
    rejected = pq.read_table(output / "rejected").to_pylist()
    assert any(row["row_id"] == "r5" and "no image file" in row["reason"] for row in rejected)
    assert inside(*common, "--text.use=random", "--output", str(tmp_path / "other")) == 2


def test_other_weights_are_another_run(tmp_path: Path):
    folder, file = tmp_path / "model", tmp_path / "vision.safetensors"
    folder.mkdir()
    seen = set()
    for name, key in ((file, "vision_weights"), (folder / "model.safetensors", "path")):
        for content in (b"12", b"123"):
            name.write_bytes(content)
            given = str(name if key == "vision_weights" else folder)
            seen.add(data_hash(FinetuneConfig(model=ModelConfig(**{key: given})), None))
    file.write_bytes(b"321")  # as long as before
    seen.add(data_hash(FinetuneConfig(model=ModelConfig(vision_weights=str(file))), None))
    assert len(seen) == 5


def test_bad_input(tmp_path: Path, capsys):
    output = ["--output", str(tmp_path / "run")]
    (tmp_path / "empty.csv").touch()
    for words, message in (
        (["--model.language=no/such-model"], "model.language is 'no/such-model', neither a folder nor in the hub's"),
        (["--model.path=no/such-model"], "model.path is 'no/such-model', neither a folder nor in the hub's"),
        (["--model.vision=resnet_of_nobody"], "model.vision is 'resnet_of_nobody', which timm"),
        (["--images.path", str(tmp_path)], "text.enriched is None"),
        (["--text.enriched", str(tmp_path), "--images.path", str(tmp_path)], "holds no finished run"),
        (["--text.enriched", str(tmp_path / "empty.csv"), "--images.path", str(tmp_path)], "holds no finished run"),
        (["--training.batch=10", "--training.micro_batch=4"], "training.batch is 10"),
        (
            ["--text.max_tokens=8", "--text.use=complete", *QUICK],
            "every training study has a text of more than 8 tokens",
        ),
    ):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        assert inside(*words, *output) == 2, words
        assert message in capsys.readouterr().err, words


def test_describe(tmp_path: Path, capsys):
    assert inside(*QUICK, "--describe=true", "--output", str(tmp_path / "run")) == 0
    said = capsys.readouterr().out
    assert "nothing was run" in said
    assert "2 epochs at most" in said
    assert not (tmp_path / "run").exists()
