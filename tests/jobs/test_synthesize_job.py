"""`python jobs/synthesize.py` as its users run it: first and second run, Ray, kill, the images' use, bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import ROOT, environment

from raymedlt import schema
from raymedlt.classifier.config import ClassifyConfig
from raymedlt.classifier.running import describe as describe_classify
from raymedlt.classifier.running import run as run_classify
from raymedlt.errors import InputError
from raymedlt.images.arranging import check_synthetic
from raymedlt.job import main
from raymedlt.storage import Storage, sha256_of
from raymedlt.synthesis import Gate
from raymedlt.synthesis.config import SynthesizeConfig
from raymedlt.synthesis.measuring import collect, pixels_of
from raymedlt.synthesis.quality import ms_ssim_within
from raymedlt.synthesis.running import describe, run
from raymedlt.synthesis.sampler import encode_png

PHANTOM = [
    "--phantom.images=1100", "--phantom.test_images=60", "--phantom.test_positives=5", "--phantom.classes=6",
    "--images.size=32", "--labels.min_positives=5",
]  # fmt: skip
QUICK = [
    *PHANTOM, "--classifier.epochs=1", "--machine.precision=float32", "--gate.features=classifier",
    "--generator.small.size=32", "--generator.small.unet_channels=[32,64]", "--generator.small.vae_channels=[16,16,32]",
    "--generator.autoencoder.steps=20", "--generator.autoencoder.decoder_steps=10",
    "--generator.autoencoder.batch=16", "--learning.steps=20",
    "--learning.batch=16", "--learning.checkpoint_seconds=0",
    "--plan.groups=all", "--plan.count=40",
    "--plan.overdraw=1", "--sampling.steps=2", "--sampling.batch=8", "--sampling.shard_batches=2",
    "--gate.least_caught=0.5", "--gate.precision=0.05", "--gate.stray=0.5", "--gate.least_positives=2",
]  # fmt: skip


def inside(*words: str) -> int:
    return main(SynthesizeConfig, "python jobs/synthesize.py", describe, run, list(words))


def table(folder: Path, name: str) -> list[dict]:
    return pq.read_table(folder / name).to_pylist()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the phantom, started as a user does."""
    output = tmp_path_factory.mktemp("synthesize") / "run"
    told = subprocess.run(
        [sys.executable, "jobs/synthesize.py", *QUICK, "--output", str(output)],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines() == [str(output / "report.html")]
    return output


def test_tables_agree(finished: Path):
    plan, images = pq.read_table(finished / "plan"), pq.read_table(finished / "images")
    assert plan.schema.equals(schema.PLAN)
    assert images.schema.equals(schema.SYNTHETIC_IMAGES)
    assert plan["row_id"].to_pylist() == images["row_id"].to_pylist()
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["planned"] == metrics["drawn"] == images.num_rows > 40
    assert metrics["accepted"] == sum(images["accepted"].to_pylist())
    for row in images.to_pylist():
        assert sha256_of(row["image"]["bytes"]) == row["sha256"]
        assert row["accepted"] == (not row["reasons"])
        assert row["synthetic"]
    told = [each for each in metrics["classes"].values() if each["threshold"] is not None]
    assert told
    assert all(0 < each["prior"] <= 0.5 and each["threshold"] >= 0 for each in told)


def test_figures_are_of_the_images(finished: Path):
    """Not of black ones: two of them would be alike without end, and far from everything real."""
    shards = sorted(path.stem for path in (finished / "images").glob("*.parquet"))
    found = collect(Storage.of(str(finished)), shards, refused_shown=6, pairs_shown=24)
    assert len(found.images) > 5
    assert ms_ssim_within(np.stack(found.images), seed=0) < 0.999
    likeness = json.loads((finished / "metrics.json").read_text())["likeness"]
    assert likeness["compared"] > 5 or "held-out" in likeness["why"], likeness  # few real images are held out here
    row = next(row for row in table(finished, "images") if row["accepted"])
    pixels = pixels_of(row["image"]["bytes"])
    assert pixels.shape == (32, 32)
    assert pixels.std() > 2
    assert (pixels_of(encode_png(np.zeros((32, 32), np.uint8))) == 0).all()  # an image that shows nothing is none less


def test_held_out_patients_of_a_classifier_are_not_learnt_from(finished: Path, tmp_path: Path):
    arranged = pq.read_table(finished / "_work" / "examples" / "all.parquet")
    storage = Storage.of(str(finished))
    check_synthetic(arranged, storage)
    splits = ["test" if split == "train" else "train" for split in arranged["split"].to_pylist()]
    place = arranged.schema.get_field_index("split")
    swapped = arranged.set_column(place, arranged.schema.field(place), pa.array(splits))
    with pytest.raises(InputError, match="a generator that learnt from"):
        check_synthetic(swapped, storage)


def test_verdicts_are_the_gates(finished: Path):
    """The gate that the run leaves says the same about an image alone."""
    rows = [plan | image for plan, image in zip(table(finished, "plan"), table(finished, "images"), strict=True)][:6]
    gate = Gate.load(str(finished / "gate"))
    found = gate.judge(
        [row["image"]["bytes"] for row in rows], [row["label_set"] for row in rows], [row["target"] for row in rows]
    )
    for row, verdict in zip(rows, found.verdicts, strict=True):
        told = {each["name"]: each["value"] for each in row["scores"]}
        assert verdict.scores == pytest.approx(told, abs=1e-5)
        assert [reason for reason in row["reasons"] if reason != "repeat"] == verdict.reasons


def test_a_second_run_does_nothing(finished: Path):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    began = time.monotonic()
    assert inside(*QUICK, "--output", str(finished)) == 0
    assert time.monotonic() - began < 60
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert {path for path in after if before.get(path) != after[path] and "driver" not in path.name} == set()


@pytest.mark.slow
def test_drawing_on_ray_after_kills_gives_the_same_bytes(finished: Path, tmp_path: Path):
    """Half of the shards are gone, the job is killed while Ray's workers draw them, and goes on."""
    output = tmp_path / "run"
    shutil.copytree(finished, output)
    for stage in ("draw", "judge", "accept", "finish"):
        markers = sorted((output / "_ledger" / stage).glob("*.json"))
        for marker in markers[:: 1 if stage != "draw" else 2]:
            marker.unlink()
    shutil.rmtree(output / "images")
    (output / "report.html").unlink()
    words = [*QUICK, "--ray_from=1", "--workers=2", "--output", str(output)]
    # where the work is done is no part of the configuration's hash
    process = subprocess.Popen(
        [sys.executable, "jobs/synthesize.py", *words], cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    left = len(list((output / "_ledger" / "draw").glob("*.json")))
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if len(list((output / "_ledger" / "draw").glob("*.json"))) > left:
            break
        time.sleep(0.05)
    assert process.poll() is None, "the run ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert inside(*words) == 0
    ours, theirs = table(output, "images"), table(finished, "images")
    assert [row["sha256"] for row in ours] == [row["sha256"] for row in theirs]
    assert [row["accepted"] for row in ours] == [row["accepted"] for row in theirs]
    assert len({row["row_id"] for row in ours}) == len(ours)


def test_a_changed_generator_is_refused(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    output = tmp_path / "run"
    shutil.copytree(finished, output)
    for stage in ("draw", "judge", "accept", "finish"):
        shutil.rmtree(output / "_ledger" / stage)
    config = output / "generator" / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("1000", "2000"))  # of the same length: only its hash tells
    assert inside(*QUICK, "--output", str(output)) == 2
    assert "a plan for the generator" in capsys.readouterr().err


def test_the_folder_loads_as_a_dataset(finished: Path, tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(
        "parquet", data_dir=str(finished / "images"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.num_rows == len(table(finished, "images"))


def test_the_classifier_learns_from_the_images(finished: Path, tmp_path: Path):
    """`jobs/classify.py --synthetic.path` takes the folder, with all images since few were accepted here."""
    words = [
        *PHANTOM, "--training.stage2_epochs=1", "--training.precision=float32", "--evaluation.bootstrap=20",
        "--evaluation.maps=0", "--synthetic.path", str(finished), "--synthetic.accepted_only=false",
        "--synthetic.compare=true", "--evaluation.members=2", "--output", str(tmp_path / "run"),
    ]  # fmt: skip
    assert main(ClassifyConfig, "python jobs/classify.py", describe_classify, run_classify, words) == 0
    examples = pq.read_table(tmp_path / "run" / "_work" / "examples" / "all.parquet")
    assert sum(examples["synthetic"].to_pylist()) == len(table(finished, "images"))
    worth = json.loads((tmp_path / "run" / "metrics.json").read_text())["synthetic"]
    names = ["mix", "pretrain", "real-images-again", "real-images-only"]
    assert [row["variant"] for row in worth["rows"]] == names == list(worth["seeds"])
    tails = [[seed["estimate"] for seed in worth["seeds"][name]] for name in names]
    assert len({value for two in tails for value in two}) == 8  # networks, all different


def test_tokens_are_learnt_on_a_given_generator(finished: Path, tmp_path: Path):
    """Learnable prompt tokens on the frozen generator of the other run, with that run's classifier."""
    output = tmp_path / "run"
    words = [
        *QUICK, "--learning.method=tokens", "--learning.shared=2", "--learning.per_class=1", "--plan.count=30",
        "--generator.path", str(finished / "generator"), "--classifier.path", str(finished / "classifier"),
        "--output", str(output),
    ]  # fmt: skip
    assert inside(*words) == 0
    summary = json.loads((output / "_ledger" / "learn" / "generator.json").read_text())["summary"]
    assert summary["method"] == "tokens"
    assert summary["held_out_before"] > 0
    assert (output / "adapters" / "README.md").exists()
    assert not (output / "generator").exists()
    hashes = {row["checkpoint_hash"] for row in table(output, "plan")}
    assert hashes == {summary["checkpoint_hash"]}
    assert hashes != {row["checkpoint_hash"] for row in table(finished, "plan")}


def test_the_recipes_can_be_described(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Recipes are for large generators; a small one takes their place here."""
    for path in sorted((ROOT / "configs").glob("roentgen*.yaml")):
        words = [
            "--config", str(path), *PHANTOM, "--generator.path", str(finished / "generator"), "--plan.groups=all",
            "--sampling.batch=4", "--describe", "--output", str(tmp_path / "none"),
        ]  # fmt: skip
        assert inside(*words) == 0, capsys.readouterr().err
        assert "tokens" in capsys.readouterr().out
    told = inside("--generator.path", str(finished / "generator"), "--describe", "--output", str(tmp_path / "none"))
    assert told == 2
    assert "the generator draws 32 pixels" in capsys.readouterr().err


def test_describe_says_what_it_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert inside(*QUICK, "--describe", "--output", str(tmp_path / "none")) == 0
    told = capsys.readouterr().out
    assert "nothing was drawn" in told
    assert "CPU-hours to draw" in told
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--generator.path", "/nowhere/generator"], "/nowhere/generator"),
        (["--images.size=64"], "generator.small.size"),
        (["--learning.method=tokens"], "nothing frozen"),
        (["--plan.classes", "[Unicorn]"], "Unicorn"),
        (["--classifier.path", "/nowhere/classifier"], "/nowhere/classifier"),
        (["--machine.device=cuda"], "no GPU"),
        (["--sampling.batch=0"], "sampling.batch"),
    ],
)
def test_bad_arguments_say_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str):
    assert inside(*QUICK, *more, "--describe", "--output", str(tmp_path / "run")) == 2
    assert said in capsys.readouterr().err
