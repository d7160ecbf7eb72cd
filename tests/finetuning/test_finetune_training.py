"""The loop: what the loss is, exact continuation, early stop, warnings, what a bad run says."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from language_world import SETTINGS, Batches, Killed, micro_batch, quick, tiny
from torch import nn

from raymedlt.errors import ConfigError, InputError, RaymedltError
from raymedlt.finetuning import training as loop
from raymedlt.finetuning.engines import IGNORED, TokenLosses, World, target_tokens
from raymedlt.finetuning.state import LATEST, put_best
from raymedlt.finetuning.task import TRAINED, Task, do, folder_of, trained_model
from raymedlt.finetuning.training import Trained, numbers_of, rate_factor, train
from raymedlt.ledger import LedgerHandle
from raymedlt.storage import Storage


def go(folder, batches: Batches | None = None, model: nn.Module | None = None, seed: int = 1, more=None, **changes):
    found = batches or Batches()
    return train(
        model or tiny(), found, quick(**changes), SETTINGS, Storage.of(str(folder)), seed=seed, **(more or {})
    )  # fmt: skip


def timeless(trained: Trained) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in ("seconds", "waited_for_data")} for line in trained.history]


def test_rate_rises_and_falls():
    factors = [rate_factor(step, 20, 0.25) for step in range(20)]
    assert factors[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0])
    assert factors[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * 14 / 15)))
    assert rate_factor(0, 20, 0.0) == 1.0


@pytest.mark.parametrize(("count", "replicas"), [(4, 1), (4, 2), (5, 2), (3, 4)])
def test_every_number_once_and_equally_many_each(count, replicas):
    found = [numbers_of(count, World(rank, replicas)) for rank in range(replicas)]
    assert len({len(each) for each in found}) == 1
    assert sorted(number for each in found for number in each if number < count) == list(range(count))


def test_loss_is_the_mean_over_all_target_tokens(tmp_path):
    """Not the mean of micro-batches' means; and the same if one more study that counts nothing fills a batch."""
    model, batches = tiny(0.0), Batches(steps=1)
    parts = [micro_batch("train", 0, number, studies=3 + number) for number in range(4)]
    network = TokenLosses(model, SETTINGS)
    with torch.no_grad():
        expected = sum(float(network(each)) for each in parts) / sum(map(target_tokens, parts))
        held = [micro_batch("validation", number) for number in range(3)]
        before = sum(float(network(each)) for each in held) / sum(map(target_tokens, held))
    still = {"epochs": 1, "rate": 1e-30, "vision_rate": 0.0}
    (line,) = go(tmp_path / "one", batches, tiny(0.0), **still).history
    assert line["loss"] == pytest.approx(expected, rel=1e-6)
    assert line["validation_loss"] == pytest.approx(before, rel=1e-6)
    assert line["tokens"] == sum(map(target_tokens, parts))

    class Filled(Batches):
        def training(self, epoch, first, numbers):
            for micro_batches in super().training(epoch, first, numbers):
                for each in micro_batches:
                    for name, tensor in each.items():
                        each[name] = torch.cat([tensor, tensor[:1]])
                    each["labels"][-1] = IGNORED
                yield micro_batches

    (filled,) = go(tmp_path / "two", Filled(steps=1), tiny(0.0), **still).history
    assert filled["loss"] == pytest.approx(expected, rel=1e-6)
    assert filled["tokens"] == line["tokens"]


def test_how_a_step_is_cut_changes_only_last_digits(tmp_path):
    class Cut(Batches):
        """Every micro-batch as one study after another."""

        def training(self, epoch, first, numbers):
            for micro_batches in Batches(self.steps, 4).training(epoch, first, range(4)):
                rows = [{n: t[row : row + 1] for n, t in each.items()} for each in micro_batches for row in range(3)]
                yield [rows[number] for number in numbers]

    class Three(Batches):
        def training(self, epoch, first, numbers):
            for micro_batches in super().training(epoch, first, numbers):
                yield [{name: tensor[:3] for name, tensor in each.items()} for each in micro_batches]

    one = go(tmp_path / "one", Three(), tiny(0.0)).history
    two = go(tmp_path / "two", Cut(micro_batches=12), tiny(0.0), micro_batch=1).history
    for first, second in zip(one, two, strict=True):
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-5)
        assert second["validation_loss"] == pytest.approx(first["validation_loss"], rel=1e-5)


def test_dropout_follows_from_the_seed(tmp_path):
    torch.manual_seed(1)
    first = timeless(go(tmp_path / "a"))
    torch.manual_seed(2)
    assert timeless(go(tmp_path / "b")) == first
    assert timeless(go(tmp_path / "c", seed=2)) != first


@pytest.mark.parametrize("die_after", [1, 3, 7])
def test_a_killed_run_ends_like_an_undisturbed_one(tmp_path, die_after):
    whole = go(tmp_path / "whole")
    with pytest.raises(Killed):
        go(tmp_path / "killed", Batches(die_after=die_after))
    assert timeless(go(tmp_path / "killed")) == timeless(whole)
    models = tiny(), tiny()
    for model, name in zip(models, ("whole", "killed"), strict=True):
        put_best(Storage.of(str(tmp_path / name)), model)
    for name, tensor in models[0].state_dict().items():
        assert torch.equal(tensor, models[1].state_dict()[name]), name


def test_a_finished_run_does_nothing_more(tmp_path):
    first = go(tmp_path)
    assert go(tmp_path, Batches(die_after=0)).history == first.history


def test_it_stops_early_and_keeps_the_best(tmp_path):
    trained = go(tmp_path, epochs=40, patience=2, rate=0.3, vision_rate=0.3, warmup=0.0)
    values = [line["validation_loss"] for line in trained.history]
    assert len(values) < 40
    assert trained.best == min(values) == values[-3]
    model = tiny()
    put_best(Storage.of(str(tmp_path)), model)
    network, held = TokenLosses(model.eval(), SETTINGS), [micro_batch("validation", number) for number in range(3)]
    with torch.no_grad():
        again = sum(float(network(each)) for each in held) / sum(map(target_tokens, held))
    assert again == pytest.approx(trained.best, rel=1e-6)


def test_it_keeps_the_last_epoch_where_that_is_asked_for(tmp_path):
    trained = go(tmp_path, epochs=6, patience=1, keep="last", rate=3.0, vision_rate=3.0, warmup=0.0)
    values = [line["validation_loss"] for line in trained.history]
    assert len(values) == 6
    assert trained.best == min(values) < values[-1]
    model = tiny()
    put_best(Storage.of(str(tmp_path)), model)
    network, held = TokenLosses(model.eval(), SETTINGS), [micro_batch("validation", number) for number in range(3)]
    with torch.no_grad():
        again = sum(float(network(each)) for each in held) / sum(map(target_tokens, held))
    assert again == pytest.approx(values[-1], rel=1e-6)


def test_batch_norms_stay_as_they_are(tmp_path):
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.norm = tiny(0.0), nn.BatchNorm1d(5)

        def forward(self, input_ids, pixel_values, attention_mask=None, logits_to_keep=0):
            return self.inner(input_ids, self.norm(pixel_values), attention_mask, logits_to_keep)

    model = Normed()
    go(tmp_path, model=model, epochs=1)
    assert int(model.norm.num_batches_tracked) == 0
    assert not model.norm.running_mean.any()


def test_a_machine_that_vanishes_makes_one_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "WARNING_SECONDS", 0.0)
    answers = iter([False, True, True, False, True])
    steps = []
    more = {"warned": lambda: next(answers, False), "kept": lambda position: steps.append(position.steps)}
    go(tmp_path, Batches(steps=9), epochs=1, checkpoint_seconds=1e6, more=more)
    assert steps == [2, 5, 9]  # the last one is the end of the epoch


def test_checkpoints_wait_for_their_time(tmp_path):
    steps = []
    go(tmp_path, epochs=2, checkpoint_seconds=1e6, more={"kept": lambda position: steps.append(position.steps)})
    assert steps == [3, 6]


def test_what_a_diverged_run_says(tmp_path):
    with pytest.raises(RaymedltError, match=r"the loss is nan after \d+ steps.*lower --training.rate"):
        go(tmp_path, Batches(steps=20), rate=1e20, vision_rate=1e20, warmup=0.0, clip=1e9)
    at = json.loads((tmp_path / LATEST).read_text())["position"]
    assert at["steps"] < 20


class Mute(Batches):
    """Nothing is to be learnt."""

    def training(self, epoch, first, numbers):
        for micro_batches in super().training(epoch, first, numbers):
            yield [loop.blank(each) for each in micro_batches]


def test_nothing_to_learn(tmp_path):
    with pytest.raises(InputError, match="no token to learn in step 0 of epoch 0"):
        go(tmp_path, Mute())
    with pytest.raises(InputError, match="no training studies"):
        go(tmp_path, Batches(steps=0))
    with pytest.raises(InputError, match="no validation studies"):
        go(tmp_path, Batches(validation=0))


def test_too_many_replicas_are_refused():
    with pytest.raises(ConfigError, match=r"replicas is 5.*at most training.batch / training.micro_batch \(4\)"):
        quick(replicas=5)


def test_a_task_commits_the_best_weights(tmp_path):
    handle, said = LedgerHandle(Storage.of(str(tmp_path))), []
    task = Task("sft", quick(), 1, tiny, lambda storage: Batches())
    trained = do(task, SETTINGS, handle, said=said.append)
    marker = handle.done(TRAINED, "sft")
    assert said == trained.history
    assert marker["best"] == trained.best
    assert set(marker["history"][0]) == {"epoch", "steps", "loss", "validation_loss", "tokens", "rate"}
    assert (tmp_path / folder_of("sft")).is_dir()
    assert dataclasses.asdict(trained)["best"] == min(line["validation_loss"] for line in trained.history)
    first = dict(tiny().named_parameters())
    model = trained_model(task, handle.storage)
    assert all(not torch.equal(each, first[name]) for name, each in model.named_parameters())
