"""One GRPO training: what it keeps, and how it goes on."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import partial

import pytest
from peft.utils import load_peft_weights
from studies_world import world
from tiny_vlms import composed, images

from raymedlt.alignment.account import FOLDER, history_of
from raymedlt.alignment.config import AlignConfig, PolicyConfig, RolloutsConfig
from raymedlt.alignment.learning import LEARN, NAME, PolicyTask, arguments, balanced, learn, lora_modules
from raymedlt.alignment.monitors import alarms, signs
from raymedlt.alignment.pool import ThreadRewardPool
from raymedlt.alignment.scoring import Rewards
from raymedlt.errors import ConfigError, ConsistencyError, RaymedltError
from raymedlt.evaluation.findings import claims_of
from raymedlt.finetuning.generation import Writer
from raymedlt.images.examples import PixelShards
from raymedlt.ledger import LedgerHandle
from raymedlt.machine import Settings
from raymedlt.storage import Storage

SETTINGS = Settings("cpu", "float32", 1)
CONFIG = AlignConfig(
    rollouts=RolloutsConfig(prompts=2, generations=4, max_tokens=10),
    training=PolicyConfig(steps=4, micro_batch=4, checkpoint_steps=2, validation=4, rate=1e-2),
)


@dataclass(frozen=True)
class Base:
    """A finished run of a tiny model on the cohort of the tests."""

    def writer(self, device):
        model, processing, _ = composed()
        return Writer(model, processing, device)

    def studies(self):
        return world()[0]

    def pixels(self):
        return PixelShards.of([images(len(world()[1]))])


def task(config=CONFIG):
    rewards = Rewards(("bleu", "length_penalty", "exact_f1"))
    names = AlignConfig(
        rollouts=config.rollouts, training=config.training,
        rewards=type(config.rewards)(use=("bleu", "length_penalty")),
    )  # fmt: skip
    return PolicyTask(names, Base(), partial(ThreadRewardPool, rewards), SETTINGS)


def timeless(history):
    """Without what depends on the machine, and on what the pool remembers."""
    left_out = ("workers", "scored", "shared", "hits", "misses")
    return [
        {name: value for name, value in line.items() if not name.endswith("seconds") and name not in left_out}
        for line in history
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    storage = Storage.of(str(tmp_path_factory.mktemp("whole")))
    lines = []
    learn(task(), LedgerHandle(storage), said=lines.append)
    return storage, lines


def test_a_line_per_step_and_the_best_checkpoint(finished):
    storage, lines = finished
    history = history_of(storage)
    assert history == lines
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert line["scored"] + line["shared"] >= 8
        assert {"reward", "reward_bleu", "reward_length_penalty", "kl", "normal", "distinct", "flat"} <= line.keys()
        assert line["reward"] == pytest.approx(line["reward_bleu"] + line["reward_length_penalty"])
    done = LedgerHandle(storage).done(LEARN, NAME)
    assert [each["step"] for each in done["validation"]] == [2, 4]
    best = max(done["validation"], key=lambda each: each["reward"])
    assert done["best"] == best["reward"]
    assert done["best_step"] == best["step"]
    names = storage.list_files(FOLDER)
    assert f"best-{best['step']}/adapter_model.safetensors" in {name.removeprefix(f"{FOLDER}/") for name in names}
    assert not any("checkpoint-2/" in name for name in names)  # the earlier one is gone


def weights_of(storage):
    return load_peft_weights(storage.path(f"{FOLDER}/checkpoint-4"), device="cpu")


def test_a_stopped_training_goes_on_to_the_same_result(finished, tmp_path):
    class Stopped(Exception):
        pass

    def stop_after_three(line):
        if line["step"] == 3:
            raise Stopped

    storage = Storage.of(str(tmp_path))
    with pytest.raises(Stopped):
        learn(task(), LedgerHandle(storage), said=stop_after_three)
    assert LedgerHandle(storage).done(LEARN, NAME) is None
    lines = []
    learn(task(), LedgerHandle(storage), said=lines.append)
    assert [line["step"] for line in lines] == [3, 4]  # steps since the last checkpoint are done again, others are not
    whole = finished[0]
    assert timeless(history_of(storage)) == timeless(history_of(whole))
    ours, theirs = weights_of(storage), weights_of(whole)
    assert ours.keys() == theirs.keys()
    assert all(bool((ours[name] == theirs[name]).all()) for name in ours)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    storage = Storage.of(str(tmp_path))

    def stop(line):
        if line["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(task(), LedgerHandle(storage), said=stop)
    latest = json.loads(storage.read_bytes(f"{FOLDER}/latest.json"))
    name = next(each["name"] for each in latest["files"] if each["name"].endswith("optimizer.pt"))
    data = bytearray(storage.read_bytes(f"{FOLDER}/{name}"))
    data[100] ^= 1
    storage.write_bytes(f"{FOLDER}/{name}", bytes(data))
    with pytest.raises(ConsistencyError, match="sha256"):
        learn(task(), LedgerHandle(storage))


def test_dead_workers_stop_the_training(tmp_path):
    storage = Storage.of(str(tmp_path))
    own = task()
    with pytest.raises(RaymedltError):
        learn(PolicyTask(own.config, Base(), partial(ThreadRewardPool, AlwaysDead()), SETTINGS), LedgerHandle(storage))


class AlwaysDead:
    def __call__(self):
        def score(completions, references):
            raise SystemExit

        return score


def test_lora_sits_in_the_language_part_alone():
    model = composed().model
    names = lora_modules(model, ("q_proj", "v_proj"))
    assert names
    assert all("language_model" in name for name in names)
    with pytest.raises(ConfigError, match="no such layers"):
        lora_modules(model, ("nothing",))


def test_arguments_share_a_step_over_replicas():
    config = AlignConfig(
        rollouts=RolloutsConfig(prompts=4, generations=4),
        training=PolicyConfig(replicas=2, micro_batch=4, zero=2),
    )
    found = arguments(config, SETTINGS, "folder")
    assert found["per_device_train_batch_size"] * found["gradient_accumulation_steps"] * 2 == 16
    assert found["deepspeed"]["zero_optimization"] == {"stage": 2}
    assert found["beta"] == 0.04
    with pytest.raises(ConfigError, match="micro_batch"):
        AlignConfig(rollouts=RolloutsConfig(prompts=3, generations=3))


def test_studies_with_findings_are_asked_for_as_often_as_wanted():
    studies = world()[0]
    with_findings = {
        row for row in studies.of("train").tolist() if claims_of(studies.reference_findings[row], "en").present
    }
    plain = balanced(studies, None, 0)
    assert sorted(plain) == sorted(studies.of("train").tolist())
    for share in (0.25, 0.5, 1.0):
        rows = balanced(studies, share, 0)
        assert sum(row in with_findings for row in rows) / len(rows) == pytest.approx(share, abs=0.01)
        assert len(rows) == pytest.approx(len(plain), abs=1)
        counts = Counter(row for row in rows if row in with_findings)
        assert max(counts.values()) - min(counts.values()) <= 1  # none is repeated twice before all are once
    assert balanced(studies, 0.5, 0) == balanced(studies, 0.5, 0) != balanced(studies, 0.5, 1)


def test_signs_of_a_collapse():
    normal, effusion = "The lungs are clear.", "There is a left pleural effusion."
    found = signs([normal, normal, effusion, effusion], [1.0, 1.0, 0.5, None], [0.0, 0.5, None, 0.0], 2)
    assert found == {
        "normal": 0.5, "distinct": 0.5, "flat": 1.0, "none": 0.25, "words": 5.0,
        "unmapped": pytest.approx(1 / 6),
    }  # fmt: skip
    start = {"normal": 0.5, "distinct": 0.3, "flat": 0.1, "none": 0.0, "words": 30.0, "unmapped": 0.1}
    end = {"normal": 1.0, "distinct": 0.02, "flat": 0.95, "none": 0.0, "words": 8.0, "unmapped": 0.1}
    assert alarms([start] * 30) == []
    assert len(alarms([start] * 10 + [end] * 10)) == 4
