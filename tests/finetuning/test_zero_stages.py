"""DeepSpeed's stages: the losses of plain data parallelism, and a state that any stage and world goes on from."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from language_world import quick, run, tiny

from raymedlt.finetuning.state import put_best
from raymedlt.finetuning.zero import micro_steps, zero_config
from raymedlt.storage import Storage


def losses(history: list[dict]) -> list[tuple[float, float]]:
    return [(line["loss"], line["validation_loss"]) for line in history]


def weights(folder) -> dict[str, torch.Tensor]:
    model = tiny()
    put_best(Storage.of(str(folder)), model)
    return model.state_dict()


def close(one, other) -> None:
    first, second = weights(one), weights(other)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def has_deepspeed() -> bool:
    return "deepspeed" in sys.modules


@pytest.fixture(scope="module")
def plain(single, tmp_path_factory):
    """The training that nothing disturbed, in one process without DeepSpeed."""
    folder = tmp_path_factory.mktemp("plain")
    (history,) = single.run(run, str(folder), {})
    assert single.run(has_deepspeed) == [False]
    assert len(history) == 3
    return folder, history


def test_it_learns_and_two_plain_replicas_do_the_same(plain, pair, tmp_path):
    folder, history = plain
    assert history[-1]["loss"] < history[0]["loss"] - 0.1
    first, second = pair.run(run, str(tmp_path), {"replicas": 2})
    assert losses(first) == losses(second)
    torch.testing.assert_close(torch.tensor(losses(first)), torch.tensor(losses(history)), rtol=1e-4, atol=1e-5)
    close(folder, tmp_path)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_stage_has_the_losses_of_plain_data_parallelism(plain, pair, tmp_path, stage):
    folder, history = plain
    first, _ = pair.run(run, str(tmp_path), {"replicas": 2, "zero": stage})
    torch.testing.assert_close(torch.tensor(losses(first)), torch.tensor(losses(history)), rtol=1e-4, atol=1e-5)
    close(folder, tmp_path)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_replicas_then_one_then_two(plain, pair, single, tmp_path, stage):
    folder, history = plain
    changes = {"zero": stage}
    assert pair.run(run, str(tmp_path), changes | {"replicas": 2}, 2) == [[], []]
    assert json.loads((tmp_path / "latest.json").read_text())["position"]["steps"] == 2
    assert single.run(run, str(tmp_path), changes, 3) == [[]]
    assert json.loads((tmp_path / "latest.json").read_text())["position"]["steps"] == 5
    again, _ = pair.run(run, str(tmp_path), changes | {"replicas": 2})
    assert [line["replicas"] for line in again] == [1, 2, 2]
    torch.testing.assert_close(torch.tensor(losses(again)), torch.tensor(losses(history)), rtol=1e-4, atol=1e-5)
    close(folder, tmp_path)


def test_any_stage_goes_on_from_any_other(plain, pair, single, tmp_path):
    folder, history = plain
    assert pair.run(run, str(tmp_path), {"zero": 3, "replicas": 2}, 2) == [[], []]
    assert single.run(run, str(tmp_path), {"zero": 0}, 2) == [[]]
    assert pair.run(run, str(tmp_path), {"zero": 1, "replicas": 2}, 2) == [[], []]
    again, _ = pair.run(run, str(tmp_path), {"zero": 2, "replicas": 2})
    torch.testing.assert_close(torch.tensor(losses(again)), torch.tensor(losses(history)), rtol=1e-4, atol=1e-5)
    close(folder, tmp_path)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_with_the_same_replicas_it_goes_on_to_the_bit(pair, tmp_path, stage):
    changes = {"zero": stage, "replicas": 2, "offload": stage > 0}
    whole, _ = pair.run(run, str(tmp_path / "whole"), changes)
    assert pair.run(run, str(tmp_path / "killed"), changes, 4) == [[], []]
    again, _ = pair.run(run, str(tmp_path / "killed"), changes)
    assert losses(again) == losses(whole)
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(weights(tmp_path / "killed")[name], tensor), name


def test_a_frozen_language_model_and_bfloat16(single, pair, tmp_path):
    (one,) = single.run(run, str(tmp_path / "one"), {}, adapted=True)
    for stage in (0, 2, 3):
        folder, changes = str(tmp_path / f"two-{stage}"), {"replicas": 2, "zero": stage}
        assert pair.run(run, folder, changes, 2, adapted=True) == [[], []]
        assert single.run(run, folder, {"zero": stage}, 2, adapted=True) == [[]]
        two, _ = pair.run(run, folder, changes, adapted=True)
        torch.testing.assert_close(torch.tensor(losses(two)), torch.tensor(losses(one)), rtol=2e-3, atol=1e-3)


def test_three_micro_batches_for_two_replicas(single, pair, tmp_path):
    (one,) = single.run(run, str(tmp_path / "one"), {"batch": 9, "zero": 1})
    for stage in (0, 2, 3):
        two, _ = pair.run(run, str(tmp_path / f"two-{stage}"), {"batch": 9, "replicas": 2, "zero": stage})
        torch.testing.assert_close(torch.tensor(losses(two)), torch.tensor(losses(one)), rtol=1e-4, atol=1e-5)


def test_the_configuration_of_deepspeed():
    training = quick(zero=3, offload=True, replicas=2, batch=9)
    assert micro_steps(training, 2) == 2
    found = zero_config(training, 2, "cuda")
    assert found["gradient_accumulation_steps"] == 2
    assert found["gradient_clipping"] == training.clip
    assert found["zero_optimization"]["stage"] == 3
    place = {"device": "cpu", "pin_memory": True}
    assert found["zero_optimization"]["offload_param"] == found["zero_optimization"]["offload_optimizer"] == place
    assert "offload_optimizer" not in zero_config(quick(zero=2), 2, "cpu")["zero_optimization"]
    assert json.loads(json.dumps(found)) == found
