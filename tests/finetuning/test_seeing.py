"""The encoder learns what the training texts claim."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from studies_world import SIZE, examples_for, made, world

from raymedlt.checkpoint import Checkpoints
from raymedlt.errors import RaymedltError
from raymedlt.evaluation.findings import every_group
from raymedlt.finetuning.config import TrainingConfig
from raymedlt.finetuning.seeing import claimed, micro_f1, see
from raymedlt.finetuning.studies import Studies, join
from raymedlt.finetuning.vision import VisionEncoder
from raymedlt.images.config import AugmentConfig
from raymedlt.images.examples import PixelShards
from raymedlt.machine import Settings
from raymedlt.schema import TRAIN
from raymedlt.storage import Storage

SETTINGS = Settings("cpu", "float32", 1)
CALM = AugmentConfig(rotate=0, shift=0, scale=0, contrast=0, noise=0, dropout=0, clahe=0)
TRAINING = TrainingConfig(seeing_epochs=6, seeing_batch=8, seeing_rate=3e-3)


def spotted(count: int = 80, spotted_training: bool = True) -> tuple[Studies, PixelShards]:
    """Every other image has a bright square, and its report claims an effusion; a fifth validates."""
    ill = [number % 2 == 0 for number in range(count)]
    texts = [
        "Large left pleural effusion." if each and (spotted_training or number >= count * 4 // 5) else "Clear lungs."
        for number, each in enumerate(ill)
    ]
    splits: list[object] = ["train"] * (count * 4 // 5) + ["validation"] * (count // 5)
    reports = made(count, findings=list(texts), split=splits)
    examples = examples_for(reports, [str(each) for each in splits])
    pixels = np.full((count, SIZE, SIZE), 60, np.uint8)
    pixels[::2, 8:24, 8:24] = 220
    return join(reports, examples, {}, "findings", "made").studies, PixelShards.of([pixels])


def encoder() -> VisionEncoder:
    torch.manual_seed(0)
    return VisionEncoder("test_resnet", SIZE, findings=every_group())


def test_labels_are_what_the_texts_claim() -> None:
    studies, _ = world()
    known = claimed(studies, every_group(), least=5)
    assert "pleural effusion" in {name.replace("_", " ") for name in known.findings}
    column = next(n for n, name in enumerate(known.findings) if name.replace("_", " ") == "pleural effusion")
    for row in studies.of(TRAIN).tolist():
        said = any("ffusion" in each and not each.startswith(("No", "There is no"))
                   for each in studies.targets[row][0].split(". "))  # fmt: skip
        assert said == bool(known.labels_NF[row, column]), studies.targets[row]


def test_findings_of_held_out_texts_are_not_taught() -> None:
    studies, _ = spotted(spotted_training=False)
    labels = claimed(studies, every_group(), least=1).labels_NF
    assert not labels[studies.of(TRAIN)].any()


def test_findings_that_few_texts_claim_are_not_taught() -> None:
    studies, _ = spotted()
    assert claimed(studies, every_group(), least=32).labels_NF.any()
    assert not claimed(studies, every_group(), least=33).labels_NF.any()


def test_it_learns_to_see(tmp_path: object) -> None:
    studies, pixels = spotted()
    network = encoder()
    history = see(network, studies, pixels, TRAINING, CALM, SETTINGS, Checkpoints(Storage.of(str(tmp_path))), seed=0)
    assert [entry["epoch"] for entry in history] == [*range(6)]
    assert history[-1]["micro_f1"] > 0.95
    assert history[-1]["loss"] < history[0]["loss"]


def test_it_goes_on_where_it_stopped(tmp_path: object) -> None:
    studies, pixels = spotted(60)
    whole, cut = encoder(), encoder()
    see(whole, studies, pixels, TRAINING, AugmentConfig(), SETTINGS, Checkpoints(Storage.of(f"{tmp_path}/a")), seed=1)
    said: list[int] = []

    class Killed(Exception):
        pass

    def kill(entry: dict[str, object]) -> None:
        said.append(int(str(entry["epoch"])))
        raise Killed

    folder = Storage.of(f"{tmp_path}/b")
    with pytest.raises(Killed):
        see(cut, studies, pixels, TRAINING, AugmentConfig(), SETTINGS, Checkpoints(folder), seed=1, said=kill)
    again = encoder()
    history = see(again, studies, pixels, TRAINING, AugmentConfig(), SETTINGS, Checkpoints(folder), seed=1)
    assert said == [0]
    assert [entry["epoch"] for entry in history] == [*range(6)]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_texts_that_claim_nothing_teach_nothing(tmp_path: object) -> None:
    studies, pixels = spotted(spotted_training=False)
    network = encoder()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert not see(network, studies, pixels, TRAINING, CALM, SETTINGS, Checkpoints(Storage.of(str(tmp_path))), seed=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_loss_that_isn_t_finite_stops(tmp_path: object) -> None:
    studies, pixels = spotted(60)
    network = encoder()
    with torch.no_grad():
        next(network.network.parameters()).fill_(float("nan"))
    with pytest.raises(RaymedltError, match=r"the encoder's loss is nan .*seeing_rate"):
        see(network, studies, pixels, TRAINING, CALM, SETTINGS, Checkpoints(Storage.of(str(tmp_path))), seed=0)


def test_micro_f1_of_nothing_is_0() -> None:
    studies, pixels = spotted(60)
    studies = studies.take(studies.of(TRAIN))
    known = claimed(studies, every_group())
    assert micro_f1(encoder(), studies, pixels, known, SETTINGS) == 0
