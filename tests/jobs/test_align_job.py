"""`python jobs/align.py` as its users run it: first and second run, kill, actors, replicas, bad input."""

from __future__ import annotations

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
import safetensors.torch
from runs import QUICK_FINETUNE, ROOT, descendants, digests, environment, wait_for

from raymedlt import finetuning, schema
from raymedlt.alignment.config import AlignConfig
from raymedlt.alignment.running import describe, run
from raymedlt.config import config_hash, hashed_part
from raymedlt.evaluation.config import EvaluateConfig
from raymedlt.finetuning.config import FinetuneConfig
from raymedlt.finetuning.finished import open_finished
from raymedlt.job import main
from raymedlt.judging.running import run as evaluate
from raymedlt.ledger import Ledger
from raymedlt.parsing import parse
from raymedlt.storage import Storage

SHORT = [
    "--rollouts.prompts=2", "--rollouts.generations=4", "--rollouts.max_tokens=24", "--training.steps=6",
    "--training.micro_batch=4", "--training.checkpoint_steps=2", "--training.validation=8", "--bootstrap=50",
    "--training.precision=float32", "--training.rate=1e-2",
]  # fmt: skip
TIMES = ("seconds", "workers", "scored", "shared", "hits", "misses", "deaths")


def script(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "jobs/align.py", *words],
        cwd=ROOT, env=environment(**more), capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip


def measured(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def timeless(folder: Path) -> list[dict]:
    history = measured(folder)["history"]
    return [{key: value for key, value in line.items() if not key.endswith(TIMES)} for line in history]


@pytest.fixture(scope="module")
def base(finetuned: Path) -> Path:
    return finetuned


@pytest.fixture(scope="module")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("align") / "run"
    told = script("--finetuned", str(base), "--output", str(output), *SHORT)
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines() == [str(output / "report.html")]
    assert "Traceback" not in told.stderr
    assert "Warning" not in told.stderr
    return output


def test_table_metrics_page_and_model(base: Path, finished: Path):
    table = pq.read_table(finished / "generations")
    assert table.schema.equals(schema.GENERATIONS)
    before = {row["report_id"]: row for row in pq.read_table(base / "generations").to_pylist()}
    assert {row["report_id"] for row in table.to_pylist()} == set(before)
    found = measured(finished)
    assert [line["step"] for line in found["history"]] == [1, 2, 3, 4, 5, 6]
    assert [each["step"] for each in found["validation"]] == [2, 4, 6]
    for scores in found["compared"].values():
        estimates = [scores[name]["estimate"] for name in ("aligned", "fine-tuned", "difference")]
        if None not in estimates:
            assert estimates[2] == pytest.approx(estimates[0] - estimates[1])
    page = (finished / "report.html").read_text()
    for title in ("Better or not", "How it learnt", "Rewards beside rollouts", "Configuration"):
        assert title in page
    for card in (finished / "README.md", finished / "model" / "README.md"):
        assert card.read_text().startswith("---\n")
        assert "| cluster_f1_strict |" in card.read_text()
        assert not any(row["reference"] in card.read_text() for row in before.values())
    assert sorted(path.name.partition("-")[0] for path in (finished / "_work" / "policy").iterdir()) == [
        "best", "checkpoint", "latest.json",
    ]  # fmt: skip
    written = {row["report_id"]: row["completion"] for row in table.to_pylist()}
    studies = pq.read_table(base / "_work" / "studies" / "all.parquet").to_pylist()
    own = [row for row in studies if row["report_id"] in written][:3]
    images = open_finished(str(base)).pixels().take(np.array([row["image_row"] for row in own]))
    assert finetuning.load(str(finished)).generate(images) == [written[row["report_id"]] for row in own]


def test_the_policy_moved(base: Path, finished: Path):
    before, after = (safetensors.torch.load_file(each / "model" / "model.safetensors") for each in (base, finished))
    changed = {name for name in before if not bool((before[name] == after[name]).all())}
    assert changed
    assert all(name.startswith("language_model") and "_proj" in name for name in changed)


def test_the_same_command_again_does_nothing(base: Path, finished: Path):
    before = digests(finished / "model")
    told = script("--finetuned", str(base), "--output", str(finished), *SHORT)
    assert told.returncode == 0, told.stderr
    assert "already done" in told.stderr
    assert digests(finished / "model") == before


@pytest.mark.slow
def test_killed_and_started_again_ends_the_same(base: Path, finished: Path, tmp_path: Path):
    output = tmp_path / "run"
    words = ["--finetuned", str(base), "--output", str(output), *SHORT]
    process = subprocess.Popen(
        [sys.executable, "jobs/align.py", *words], cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    latest, ends = output / "_work" / "policy" / "latest.json", time.monotonic() + 300
    while not latest.exists():
        assert process.poll() is None
        assert time.monotonic() < ends
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not descendants(process.pid)
    assert not (output / "report.html").exists()
    told = script(*words)
    assert told.returncode == 0, told.stderr
    assert timeless(output) == timeless(finished)
    assert digests(output / "model") == digests(finished / "model")
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        ours, theirs = (next((run / "_work" / "policy").glob(f"best-*/{file}")) for run in (output, finished))
        assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.slow
def test_actors_and_replicas(base: Path, finished: Path, tmp_path: Path):
    """Rewards by Ray actors are those of the threads; two replicas go on from what both left when one is killed."""
    words = ["--finetuned", str(base), *SHORT]
    told = script(*words, "--rewards.pool", "actors", "--output", str(tmp_path / "actors"))
    assert told.returncode == 0, told.stderr
    assert timeless(tmp_path / "actors") == timeless(finished)
    two, log = tmp_path / "two", tmp_path / "log"
    words += ["--training.replicas", "2", "--training.zero", "2", "--output", str(two)]
    with log.open("w") as file:
        job = subprocess.Popen(
            [sys.executable, "jobs/align.py", *words], cwd=ROOT, env=environment(), stdout=file, stderr=file
        )
    wait_for((two / "_work" / "policy" / "latest.json").exists, job, 300)
    replicas = [pid for pid, line in descendants(job.pid).items() if line.startswith("ray::RayTrainWorker")]
    assert len(replicas) == 2
    os.kill(max(replicas), signal.SIGKILL)
    assert job.wait(400) == 0, log.read_text()
    assert [line["step"] for line in measured(two)["history"]] == [1, 2, 3, 4, 5, 6]
    kept = [path.name for path in (two / "_work" / "policy" / "checkpoint-6").iterdir()]
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {*kept}
    for noise in ("PlacementGroupCleaner", "LOAD_GLOBAL", "Reporting training result", "ValueError"):
        assert noise not in log.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--finetuned", "nowhere"], "no finished run of jobs/finetune.py"),
        (["--finetuned", "BASE", "--rewards.use", "[nothing]"], "the reward 'nothing'"),
        (["--finetuned", "BASE", "--rewards.clusters", "nowhere"], "no cluster models"),
        (["--finetuned", "BASE", "--training.micro_batch", "5"], "micro_batch"),
        (["--finetuned", "BASE", "--training.lora_targets", "[nothing]"], "no such layers"),
        (["--finetuned", "BASE", "--rollouts.engine", "vllm"], "the model is composed"),
    ],
)
def test_bad_input_is_a_clear_error(base: Path, tmp_path: Path, words: list[str], message: str, capsys):
    given = [str(base) if word == "BASE" else word for word in words]
    code = main(AlignConfig, "python jobs/align.py", describe, run, [*SHORT, *given, "--output", str(tmp_path / "run")])
    assert code == 2
    assert message in capsys.readouterr().err


def test_without_a_finished_run_one_is_made_beside_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a newcomer's first command, but for the size of the fine-tuning."""

    def small(output: str, seed: int) -> FinetuneConfig:
        return parse(FinetuneConfig, [*QUICK_FINETUNE, "--output", output, "--seed", str(seed)])

    monkeypatch.setattr("raymedlt.alignment.running.FinetuneConfig", small)
    words = [*SHORT, "--output", str(tmp_path / "align")]
    assert main(AlignConfig, "python jobs/align.py", describe, run, words) == 0
    assert "fine-tuning there first" in capsys.readouterr().err
    assert (tmp_path / "align" / "report.html").exists()
    made = digests(tmp_path / "finetune")
    assert "report.html" in made

    judged = EvaluateConfig(
        what="generation", run=str(tmp_path / "align"), output=str(tmp_path / "judged"), bootstrap=50
    )
    evaluate(judged)
    assert "fine-tuning run aren't in" not in capsys.readouterr().err

    other = ["--rewards.use", "[exact_f1]", "--output", str(tmp_path / "other")]  # and the next one finds it
    assert main(AlignConfig, "python jobs/align.py", describe, run, [*SHORT, *other]) == 0
    assert "fine-tuning there first" not in capsys.readouterr().err
    assert digests(tmp_path / "finetune") == made


def test_an_unfinished_run_of_another_configuration_is_not_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = FinetuneConfig(output=str(tmp_path / "finetune"), seed=3)
    Ledger.open(
        Storage.of(own.output), config_hash=config_hash(own), config=hashed_part(own), data_hash="d"
    ).__exit__(None, None, None)  # fmt: skip
    words = [*SHORT, "--output", str(tmp_path / "align")]
    assert main(AlignConfig, "python jobs/align.py", describe, run, words) == 2
    told = capsys.readouterr().err
    assert "none can be made there" in told
    assert "name a finished one by --finetuned" in told


def test_describe_runs_nothing(base: Path, tmp_path: Path, capsys):
    words = ["--describe", "--finetuned", str(base), "--output", str(tmp_path / "run")]
    assert main(AlignConfig, "python jobs/align.py", describe, run, words) == 0
    assert "64 completions: 8 of 8 studies each" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
