"""The vision encoder learns to see before the language model speaks: findings that the training texts claim.

An encoder from scratch hardly learns through a language model's loss: most of what a text says can be guessed without
the image. So it first learns to name findings, from labels that nobody had to give: those that the assertion rules read
in the training texts (evaluation.findings). What a text leaves out counts as absent, as in its report. Rare findings
are drawn more often (repeat-factor sampling).

N studies, F findings, B studies per step, S pixels a side.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from raymedlt.ahead import made_ahead
from raymedlt.checkpoint import Checkpoints, Position, Tensors
from raymedlt.cpus import use_threads
from raymedlt.errors import RaymedltError
from raymedlt.evaluation.answers import split_answer
from raymedlt.evaluation.findings import claims_of
from raymedlt.finetuning.config import TrainingConfig
from raymedlt.finetuning.studies import Studies
from raymedlt.finetuning.vision import VisionEncoder
from raymedlt.images.augment import augment
from raymedlt.images.config import AugmentConfig
from raymedlt.images.examples import Pixels, Rows
from raymedlt.images.sampling import epoch_order, expected_length, global_batches, repeat_factors
from raymedlt.machine import Settings
from raymedlt.schema import TRAIN, VALIDATION
from raymedlt.seeds import keyed_seed

LEAST_STUDIES = 20
"""A finding that fewer training texts claim is not taught."""
REPEAT_THRESHOLD = 0.1
"""Findings below this share of all claims are drawn more often."""
WEIGHT_DECAY, WARM_STEPS, AHEAD, SCORED_TOGETHER = 0.01, 300, 4, 256
_THRESHOLDS = np.linspace(0.1, 0.9, 81)

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Claimed:
    """What the texts claim of the images."""

    findings: tuple[str, ...]
    """All that the encoder knows."""
    labels_NF: Floats
    """1 where the study's text claims the finding; rows in the order of the studies. 0 for a finding that too few
    training texts claim."""


def claimed(studies: Studies, findings: Sequence[str], least: int = LEAST_STUDIES) -> Claimed:
    """Which of these findings the studies' texts claim; of a training study what any of its texts claims.

    Held-out studies get the claims of their reference: to say how well the encoder sees, never to learn from.
    """
    claims = [
        {
            group
            for text in texts
            for group in claims_of(split_answer(text)[0], language).groups
        }
        for texts, language in zip(studies.targets, studies.languages.tolist(), strict=True)
    ]  # fmt: skip
    labels = np.array([[name in own for name in findings] for own in claims], np.float32)
    labels[:, labels[studies.of(TRAIN)].sum(0) < least] = 0
    return Claimed(tuple(findings), labels)


def see(
    encoder: VisionEncoder,
    studies: Studies,
    pixels: Pixels,
    training: TrainingConfig,
    changes: AugmentConfig,
    settings: Settings,
    checkpoints: Checkpoints,
    *,
    seed: int,
    said: Callable[[dict[str, Any]], None] = lambda entry: None,
) -> list[dict[str, Any]]:
    """Teach the encoder, going on from the last checkpoint; it holds the learnt weights afterwards.

    One process does it: the encoder is small beside the language model.

    Returns:
        One entry per epoch: epoch, loss, micro_f1 (of the claims of the validation texts, at the best one threshold for
        all findings), rate, seconds. None where the training texts claim no finding often enough.

    Raises:
        RaymedltError: the loss isn't finite.
    """
    use_threads(settings.threads)
    known, rows = claimed(studies, encoder.findings), studies.of(TRAIN)
    if not known.labels_NF[rows].any():
        return []
    encoder.to(memory_format=torch.channels_last).to(settings.device)
    factors = repeat_factors(known.labels_NF[rows], REPEAT_THRESHOLD)
    length = expected_length(factors)
    encoder.settling = True
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=training.seeing_rate, weight_decay=WEIGHT_DECAY)
    position = Position()
    found = checkpoints.read()
    if found is not None:
        position, state = found
        _restore(encoder, optimizer, state)
    for epoch in range(position.epoch, training.seeing_epochs):
        began = time.monotonic()
        order = rows[epoch_order(factors, seed=keyed_seed(seed, "seeing"), epoch=epoch, length=length)]
        steps = order[global_batches(np.arange(len(order)), training.seeing_batch)]
        total = training.seeing_epochs * len(steps)
        loss_sum, rate = 0.0, 0.0
        encoder.train()
        for images_BSS, labels_BF in _batches(studies, pixels, known, steps, changes, seed, epoch):
            rate = training.seeing_rate * _factor(position.steps, total)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss_sum += _step(encoder, optimizer, images_BSS, labels_BF, training.clip, settings, position.steps)
            position.steps += 1
        score = micro_f1(encoder, studies, pixels, known, settings)
        entry = {
            "epoch": epoch, "loss": loss_sum / len(steps), "micro_f1": score, "rate": rate,
            "seconds": time.monotonic() - began,
        }  # fmt: skip
        position.epoch = epoch + 1
        position.history.append(entry)
        checkpoints.write(position, _state(encoder, optimizer), None)
        said(entry)
    encoder.settling = False
    return position.history


def _factor(step: int, steps: int) -> float:
    """Share of the learning rate: a linear rise, then half a cosine to 0."""
    warm = min(WARM_STEPS, steps // 10)
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _batches(
    studies: Studies, pixels: Pixels, known: Claimed, steps: Rows, changes: AugmentConfig, seed: int, epoch: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    def make(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        own = steps[number]
        keys = [
            keyed_seed(seed, "seeing", epoch, number, place, str(studies.image_ids[row]))
            for place, row in enumerate(own.tolist())
        ]
        images_B1SS = augment(torch.from_numpy(pixels.take(studies.image_rows[own])), keys, changes)
        return images_B1SS[:, 0], torch.from_numpy(known.labels_NF[own])

    return made_ahead(make, range(len(steps)), AHEAD)


def _step(
    encoder: VisionEncoder,
    optimizer: torch.optim.Optimizer,
    images_BSS: torch.Tensor,
    labels_BF: torch.Tensor,
    clip: float,
    settings: Settings,
    number: int,
) -> float:
    torch.manual_seed(number)  # for encoders with dropout
    with torch.autocast(settings.device, torch.bfloat16, enabled=settings.precision == "bfloat16"):
        logits_BF = encoder.logits(images_BSS.to(settings.device))
    loss = binary_cross_entropy_with_logits(logits_BF.float(), labels_BF.to(settings.device))
    value = float(loss.detach())
    if not math.isfinite(value):
        raise RaymedltError(
            f"the encoder's loss is {value} after {number} steps", "a finite number", "lower --training.seeing_rate"
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(encoder.parameters(), clip)
    optimizer.step()
    return value


def micro_f1(encoder: VisionEncoder, studies: Studies, pixels: Pixels, known: Claimed, settings: Settings) -> float:
    """Of the validation studies, at the one threshold that is best for all findings; NaN-free: 0 without studies."""
    rows = studies.of(VALIDATION)
    truth = known.labels_NF[rows] > 0
    if not len(rows) or not truth.any():
        return 0.0
    encoder.eval()
    parts = []
    with (
        torch.inference_mode(),
        torch.autocast(settings.device, torch.bfloat16, enabled=settings.precision == "bfloat16"),
    ):
        for start in range(0, len(rows), SCORED_TOGETHER):
            images = pixels.take(studies.image_rows[rows[start : start + SCORED_TOGETHER]])
            parts.append(encoder.logits(torch.from_numpy(images).to(settings.device)).float().sigmoid().cpu())
    said = torch.cat(parts).numpy()
    return max(float(2 * (truth & (said >= each)).sum() / ((said >= each).sum() + truth.sum())) for each in _THRESHOLDS)


def _state(encoder: VisionEncoder, optimizer: torch.optim.Optimizer) -> Tensors:
    state = {f"model.{name}": tensor for name, tensor in encoder.state_dict().items()}
    for number, own in optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{number}.{name}": tensor for name, tensor in own.items()}
    return state


def _restore(encoder: VisionEncoder, optimizer: torch.optim.Optimizer, state: Tensors) -> None:
    encoder.load_state_dict({n.removeprefix("model."): t for n, t in state.items() if n.startswith("model.")})
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in state.items():
        if name.startswith("optimizer."):
            _, number, kind = name.split(".", 2)
            moments.setdefault(int(number), {})[kind] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
