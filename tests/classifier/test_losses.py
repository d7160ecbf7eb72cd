"""Losses: the specification's vectors, each paper's formula written plainly, masks, stability, gradients."""

from __future__ import annotations

import math
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor

from raymedlt.classifier.config import LossConfig
from raymedlt.classifier.losses import Loss, class_balanced_weights, make_loss, margins
from raymedlt.errors import InputError

NAMES = get_args(get_type_hints(LossConfig)["name"])
COUNTS, IMAGES = [20000, 2000, 200, 20], 30000
Z, Y = [1.0, 0.0, -1.0, -2.0], [1.0, 0.0, 0.0, 1.0]


def loss_of(name: str, **settings: float) -> Loss:
    return make_loss(LossConfig(name=name, **settings), COUNTS, IMAGES)  # type: ignore[arg-type]


def value(loss: Loss, z: list[list[float]], y: list[list[float]], s: list[float] | None = None) -> float:
    labels = torch.tensor(y)
    weights = torch.ones(len(y)) if s is None else torch.tensor(s)
    return float(loss(torch.tensor(z), labels, torch.ones_like(labels, dtype=torch.bool), weights))


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def bce(z: float, y: float) -> float:
    return -(y * math.log(sigmoid(z)) + (1 - y) * math.log(1 - sigmoid(z)))


def test_vectors_of_the_specification() -> None:
    weights = class_balanced_weights(COUNTS, 0.9999)
    assert weights == pytest.approx([0.008296, 0.039569, 0.362230, 3.589905], abs=1e-6)
    assert margins(weights, 0.2) == pytest.approx([0.2, 0.041567, 0.004128, 0], abs=1e-6)
    assert value(loss_of("db"), [Z], [Y]) == pytest.approx(4.390119, abs=2e-6)
    assert value(loss_of("db"), [Z], [Y], [0.5]) == pytest.approx(2.195060, abs=2e-6)
    assert value(loss_of("db"), [Z], [Y], [0.0]) == 0  # a synthetic image in warm-up


def by_hand(name: str, z: float, y: float, c: int) -> float:
    p, n = sigmoid(z), COUNTS[c]
    raw = [(1 - 0.9999) / (1 - 0.9999**k) for k in COUNTS]
    w = raw[c] / (sum(raw) / 4)
    pi = n / IMAGES
    match name:
        case "bce":
            return bce(z, y)
        case "class_balanced":
            return w * bce(z, y)
        case "focal":
            return -0.25 * (1 - p) ** 2 * math.log(p) if y else -0.75 * p**2 * math.log(1 - p)
        case "asymmetric":
            m = max(p - 0.05, 0)
            return -math.log(p) if y else -(m**4) * math.log(1 - m)
        case "logit_adjusted":
            return bce(z + math.log(pi / (1 - pi)), y)
        case "db_2020":
            share = (1 / n) / sum(1 / k for k, label in zip(COUNTS, Y, strict=True) if label)
            weight = 0.1 + sigmoid(10 * (share - 0.2))
            nu = 0.05 * math.log(1 / pi - 1)
            return weight * (math.log(1 + math.exp(-(z - nu))) if y else math.log(1 + math.exp(2 * (z - nu))) / 2)
        case _:
            inverse = [1 / (r / (sum(raw) / 4) + 1e-6) for r in raw]
            m = 0.2 * (inverse[c] - min(inverse)) / (max(inverse) - min(inverse))
            return math.sqrt(w) * bce(z - y * m, y)


@pytest.mark.parametrize("name", NAMES)
def test_each_loss_is_its_papers_formula(name: str) -> None:
    expected = sum(by_hand(name, z, y, c) for c, (z, y) in enumerate(zip(Z, Y, strict=True)))
    assert value(loss_of(name), [Z], [Y]) == pytest.approx(expected, rel=1e-5)


def test_an_image_without_labels_under_db_2020() -> None:
    shifted = [z - 0.05 * math.log(IMAGES / n - 1) for z, n in zip(Z, COUNTS, strict=True)]
    expected = sum(1.1 * math.log(1 + math.exp(2 * z)) / 2 for z in shifted)
    assert value(loss_of("db_2020"), [Z], [[0, 0, 0, 0]]) == pytest.approx(expected, rel=1e-5)


def random_batch(images: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    known = torch.rand(images, 4) < 0.8
    return torch.randn(images, 4) * 3, (torch.rand(images, 4) < 0.4).float(), known, torch.rand(images)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_labels_have_no_part(name: str) -> None:
    loss = loss_of(name)
    z, y, known, s = random_batch()
    z.requires_grad_()
    first = loss(z, y, known, s)
    first.backward()
    assert z.grad is not None
    assert torch.equal(z.grad[~known], torch.zeros_like(z.grad[~known]))
    other = torch.where(known, y, torch.nan)
    changed = torch.where(known, z.detach(), 40.0)
    assert loss(changed, other, known, s) == first
    assert loss(changed, 1 - y, known, s) != first  # known labels do have a part
    assert loss(z, y, torch.zeros_like(known), s) == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_mean_of_equal_parts_is_the_loss_of_the_batch(name: str) -> None:
    loss = loss_of(name)
    z, y, known, s = random_batch(12)
    s[:5] = 0  # parts with different sums of weights
    known[:6, :2] = False  # and of known labels
    parts = [loss(z[i : i + 4], y[i : i + 4], known[i : i + 4], s[i : i + 4]) for i in (0, 4, 8)]
    torch.testing.assert_close(sum(parts) / 3, loss(z, y, known, s))


@pytest.mark.parametrize("name", NAMES)
def test_finite_at_large_logits_and_in_bfloat16(name: str) -> None:
    loss = loss_of(name)
    for logit in (-50.0, 50.0, 0.0):
        for label in (0.0, 1.0):
            z = torch.full((2, 4), logit, requires_grad=True)
            y = torch.full((2, 4), label)
            out = loss(z, y, torch.ones(2, 4, dtype=torch.bool), torch.ones(2))
            out.backward()
            assert torch.isfinite(out)
            assert z.grad is not None
            assert torch.isfinite(z.grad).all()
    z, y, known, s = random_batch()
    with torch.autocast("cpu", torch.bfloat16):
        low = loss(z.bfloat16(), y, known, s)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, loss(z.bfloat16().float(), y, known, s), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name: str) -> None:
    loss = loss_of(name)
    z, y, known, s = random_batch(4)

    def of_logits(values: Tensor) -> Tensor:
        return loss(values, y, known, s)

    assert torch.autograd.gradcheck(of_logits, (z.double().requires_grad_(),))


@pytest.mark.parametrize("name", NAMES)
def test_a_positive_pushes_up_and_a_negative_down(name: str) -> None:
    z = torch.zeros(1, 4, requires_grad=True)
    y = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    loss_of(name)(z, y, torch.ones(1, 4, dtype=torch.bool), torch.ones(1)).backward()
    assert z.grad is not None
    assert (z.grad * (1 - 2 * y) > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_sizes_at_the_edge(name: str) -> None:
    loss = make_loss(LossConfig(name=name), [0, 100, 100, 1], 100)  # type: ignore[arg-type]
    assert math.isfinite(value(loss, [Z], [Y]))


def test_prevalence_is_of_the_images_that_speak_of_the_class() -> None:
    config = LossConfig(name="logit_adjusted")
    loss = make_loss(config, [50, 50, 50, 50], [100, 1000, 1000, 1000])
    assert value(loss, [[0.0] * 4], [[1.0] * 4]) == pytest.approx(bce(0, 1) + 3 * bce(math.log(0.05 / 0.95), 1))


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999999])
def test_effective_numbers_at_the_ends(beta: float) -> None:
    weights = class_balanced_weights(COUNTS, beta)
    assert weights.mean() == pytest.approx(1)
    if beta == 0:
        assert weights == pytest.approx(np.ones(4))
        assert margins(weights, 0.2) == pytest.approx(np.zeros(4))
    raw = [(1 - beta) / (1 - beta**n) for n in COUNTS]
    assert weights == pytest.approx(np.array(raw) / np.mean(raw), rel=1e-6)


def test_more_positives_than_images() -> None:
    with pytest.raises(InputError, match="counts over the same training images"):
        make_loss(LossConfig(), [10, 20], 15)
