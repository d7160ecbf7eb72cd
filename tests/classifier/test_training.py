"""The loop: exact continuation from any step, phases, early stop, what a diverged run says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from classifier_world import quick, world

from raymedlt.checkpoint import LATEST, Checkpoints
from raymedlt.classifier.config import ClassifyConfig, SyntheticConfig
from raymedlt.classifier.feed import Batch, thread_feed
from raymedlt.classifier.metrics import score
from raymedlt.classifier.scoring import logits_of
from raymedlt.classifier.task import start_model
from raymedlt.classifier.training import Average, Trained, phases_of, rate_factor, train
from raymedlt.errors import ConsistencyError, InputError, RaymedltError
from raymedlt.images.examples import Examples
from raymedlt.machine import Settings
from raymedlt.schema import TRAIN, VALIDATION
from raymedlt.storage import Storage

SETTINGS = Settings("cpu", "float32", 1)


class Killed(Exception):
    """Stands for a process that dies."""


def run(examples: Examples, config: ClassifyConfig, folder: str, die_after: int | None = None) -> Trained:
    made = 0

    def feed(steps, weight):
        nonlocal made
        for batch in thread_feed(examples, config.augment)(steps, weight):
            if made == die_after:
                raise Killed
            made += 1
            yield batch

    return train(start_model(examples, config), examples, config, SETTINGS, Checkpoints(Storage.of(folder)), feed)


def timeless(trained: Trained) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in ("seconds", "waited_for_data")} for line in trained.history]


@pytest.mark.parametrize("die_after", [1, 7, 13])
def test_a_killed_run_ends_like_an_undisturbed_one(tmp_path, die_after):
    examples, config = world(), quick(checkpoint_seconds=0.0)
    whole = run(examples, config, str(tmp_path / "whole"))
    with pytest.raises(Killed):
        run(examples, config, str(tmp_path / "killed"), die_after)
    resumed = run(examples, config, str(tmp_path / "killed"))
    assert timeless(resumed) == timeless(whole)
    for name, tensor in whole.weights.items():
        assert torch.equal(tensor, resumed.weights[name]), name


def test_it_learns(tmp_path):
    trained = run(world(240), quick(stage2_epochs=8), str(tmp_path))
    assert trained.best > 0.9
    assert trained.history[-1]["loss"] < trained.history[0]["loss"]


def test_a_frozen_backbone_stays_as_it_was(tmp_path):
    examples, config = world(), quick(stage1_epochs=2, stage2_epochs=0)
    before = {k: v.clone() for k, v in start_model(examples, config).state_dict().items()}
    trained = run(examples, config, str(tmp_path))
    changed = {name for name, tensor in trained.weights.items() if not torch.equal(tensor, before[name])}
    assert changed
    assert not {name for name in changed if name.startswith("backbone.")}


def test_it_stops_early(tmp_path):
    config = quick(stage1_epochs=0, stage2_epochs=30, patience=2, backbone_rate=1e-9, rate=1e-9)
    trained = run(world(), config, str(tmp_path))
    assert len(trained.history) < 30
    assert trained.best == max(line["validation_map"] for line in trained.history)


def test_synthetic_images_have_no_weight_in_warm_up_and_none_in_validation():
    examples = world()
    synthetic = dataclasses.replace(examples, synthetic=np.arange(len(examples)) % 6 == 0)
    config = dataclasses.replace(quick(warmup_epochs=1.0), synthetic=SyntheticConfig(path="x", weight=0.5))
    first, second = phases_of(synthetic, config)
    assert (first.synthetic_weight(0), second.synthetic_weight(0), second.synthetic_weight(1)) == (0.0, 0.0, 0.5)
    assert synthetic.synthetic[first.rows].any()
    assert not synthetic.synthetic[synthetic.rows(VALIDATION)].any()
    pretrain = dataclasses.replace(config, synthetic=SyntheticConfig(path="x", use="pretrain"))
    phases = phases_of(synthetic, pretrain)
    assert [phase.name for phase in phases] == ["pretrain", "stage 1", "stage 2"]
    assert synthetic.synthetic[phases[0].rows].all()
    assert not synthetic.synthetic[phases[2].rows].any()


def test_copies_of_real_images_take_the_place_of_synthetic_ones():
    examples = world()
    synthetic = dataclasses.replace(examples, synthetic=np.arange(len(examples)) % 6 == 0)
    oversample = dataclasses.replace(quick(), synthetic=SyntheticConfig(path="x", use="oversample"))
    rows = phases_of(synthetic, oversample)[-1].rows
    real = synthetic.rows(TRAIN)
    shown = synthetic.labels_NC * synthetic.known_NC
    replaced = synthetic.rows(TRAIN, synthetic=True)
    assert (rows[: len(real)] == real).all()
    assert not synthetic.synthetic[rows].any()
    assert len(rows) == len(real) + int((shown[replaced].sum(1) > 0).sum())
    alone = dataclasses.replace(oversample, synthetic=SyntheticConfig(use="oversample"))
    assert (phases_of(synthetic, alone)[-1].rows == real).all()


def test_the_rate_rises_and_falls():
    phase = phases_of(world(), quick(stage1_epochs=0, stage2_epochs=10, warmup_epochs=2.0))[0]
    factors = [rate_factor(phase, step, 5) for step in range(50)]
    assert np.argmax(factors) == 10
    assert factors[0] == pytest.approx(1 / 11)
    assert factors[10] == 1.0
    assert 0 < factors[-1] < 0.01


def test_a_loss_that_is_no_number_is_an_error(tmp_path):
    examples, config = world(), quick()

    def feed(steps, weight):
        for batch in thread_feed(examples, config.augment)(steps, weight):
            yield Batch(batch.images_B1SS * float("nan"), *batch[1:])

    with pytest.raises(RaymedltError, match="the loss is nan"):
        train(start_model(examples, config), examples, config, SETTINGS, Checkpoints(Storage.of(str(tmp_path))), feed)


def test_no_validation_images_is_an_error(tmp_path):
    examples = world()
    none = dataclasses.replace(examples, splits=np.where(examples.splits == VALIDATION, "train", examples.splits))
    with pytest.raises(InputError, match="no real validation images"):
        run(none, quick(), str(tmp_path))


def test_a_changed_checkpoint_is_refused(tmp_path):
    examples, config = world(), quick()
    run(examples, config, str(tmp_path))
    file = next(path for path in tmp_path.iterdir() if path.name.startswith("best"))
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ConsistencyError, match="differs from its sha256"):
        run(examples, config, str(tmp_path))


def test_only_the_latest_checkpoint_is_kept(tmp_path):
    run(world(), quick(checkpoint_seconds=0.0), str(tmp_path))
    names = sorted(path.name.split("-")[0] for path in tmp_path.iterdir())
    assert names == ["best", LATEST, "state"]


def _moved(trained: Trained, examples: Examples, config: ClassifyConfig) -> dict[str, float]:
    """Largest change of each tensor since the start."""
    before = start_model(examples, config).state_dict()
    return {name: float((tensor - before[name]).abs().max()) for name, tensor in trained.weights.items()}


def test_frozen_norms_keep_their_statistics_and_learn_their_scale(tmp_path):
    examples, config = world(), quick(freeze_norms=True)
    moved = _moved(run(examples, config, str(tmp_path)), examples, config)
    statistics = [name for name in moved if name.endswith(("running_mean", "running_var"))]
    assert statistics
    assert all(moved[name] == 0 for name in statistics)
    assert any(moved[name.replace("running_mean", "weight")] > 0 for name in statistics if name.endswith("mean"))


def test_the_best_epoch_counts_not_the_last(tmp_path):
    """Training stops after an epoch that isn't better: the weights kept are those of the one that scored best."""
    examples = world(240)
    config = quick(stage1_epochs=0, stage2_epochs=30, rate=0.05, backbone_rate=0.05, ema=0.0, patience=1)
    trained = run(examples, config, str(tmp_path))
    values = [line["validation_map"] for line in trained.history]
    assert np.argmax(values) < len(values) - 1
    model = start_model(examples, config)
    model.load_state_dict(trained.weights)
    rows = examples.rows(VALIDATION)
    logits = logits_of(model, examples.pixels, rows, 16, "cpu", "float32")
    scores = score(logits, examples.labels_NC[rows], examples.known_NC[rows])
    assert scores.average("average_precision").value == pytest.approx(max(values), abs=1e-9)


def test_the_average_lags_behind_the_weights():
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
        average = Average(model, decay=0.9)
        model.weight.fill_(1.0)
    average.update(model, steps=1)
    assert float(average.tensors["weight"]) == pytest.approx(9 / 11)  # decay (1 + 1) / (10 + 1)
    average.update(model, steps=1000)
    assert float(average.tensors["weight"]) == pytest.approx(9 / 11 + 0.1 * 2 / 11)


def test_gradients_are_clipped_and_rates_applied(tmp_path, monkeypatch):
    """The first step of AdamW moves a weight by its rate, whatever the gradient; so the rate is seen in the change."""
    examples = world()
    plain = {"stage1_epochs": 0, "stage2_epochs": 1, "warmup_epochs": 0.0, "weight_decay": 0.0, "ema": 0.0}
    large = quick(**plain, backbone_rate=1e-3, rate=1e-3)
    small = quick(**plain, backbone_rate=1e-5, rate=1e-5)
    changes = [
        max(
            value
            for name, value in _moved(run(examples, each, str(tmp_path / str(n))), examples, each).items()
            if name.endswith("weight")
        )
        for n, each in enumerate((large, small))
    ]
    assert changes[0] > 20 * changes[1]
    norms: list[float] = []

    class Looking(torch.optim.AdamW):
        def step(self, closure=None):
            gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
            norms.append(float(torch.nn.utils.get_total_norm(gradients)))
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "AdamW", Looking)
    run(examples, quick(**plain, clip=1e-3), str(tmp_path / "clipped"))
    assert norms
    assert max(norms) <= 1.001e-3


def test_views_of_an_image_are_averaged():
    examples, config = world(), quick()
    model, rows = start_model(examples, config), examples.rows(VALIDATION)
    one = logits_of(model, examples.pixels, rows, 16, "cpu", "float32")
    several = logits_of(model, examples.pixels, rows, 16, "cpu", "float32", tta=True)
    assert one.shape == several.shape
    assert np.abs(one - several).max() > 1e-6
