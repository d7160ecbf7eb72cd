"""What the engines share: the loss, parameter groups, refusals."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from language_world import SETTINGS, micro_batch, quick, tiny
from torch import nn
from torch.nn import functional

from raymedlt.errors import InputError
from raymedlt.finetuning.engines import (
    IGNORED,
    PlainEngine,
    TokenLosses,
    World,
    parameter_groups,
    target_tokens,
)
from raymedlt.finetuning.training import blank
from raymedlt.finetuning.zero import ZeroEngine

ALONE = World(0, 1)


class WholeLogits(nn.Module):
    """A model that knows no logits_to_keep."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids, pixel_values, attention_mask=None):
        return self.model(input_ids, pixel_values, attention_mask)


def test_the_loss_counts_target_tokens_alone():
    model, batch = tiny(0.0), micro_batch("loss")
    ids = batch["input_ids"]
    logits = model(ids, batch["pixel_values"], batch["attention_mask"]).logits.detach()
    expected, count = 0.0, 0
    for study in range(len(ids)):
        for place in range(1, ids.shape[1]):  # the word at a place follows from what is before it
            if batch["labels"][study, place] != IGNORED:
                expected -= float(functional.log_softmax(logits[study, place - 1], -1)[ids[study, place]])
                count += 1
    assert target_tokens(batch) == count > 0
    for way in (model, WholeLogits(model)):
        assert TokenLosses(way, SETTINGS)(batch).item() == pytest.approx(expected, rel=1e-5)


def test_logits_are_computed_where_targets_are():
    asked = []

    def logits(model, inputs, positions_P):
        asked.append((sorted(inputs), positions_P.tolist()))
        return torch.zeros(3, len(positions_P), 5, requires_grad=True)

    labels = torch.full((3, 6), IGNORED)
    labels[0, 3], labels[2, 5] = 1, 2
    batch = {"input_ids": torch.ones(3, 6, dtype=torch.long), "labels": labels, "weights": torch.ones(3)}
    loss = TokenLosses(tiny(), SETTINGS, logits)(batch)
    assert asked == [(["input_ids"], [2, 4])]
    assert float(loss) == pytest.approx(2 * torch.tensor(5.0).log().item())


def test_a_blank_micro_batch_counts_nothing_and_reaches_every_parameter():
    model = tiny()
    loss = TokenLosses(model, SETTINGS)(blank(micro_batch("blank")))
    loss.backward()
    assert float(loss) == 0.0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_bfloat16_changes_the_arithmetic_and_not_the_weights():
    model, batch = tiny(0.0), micro_batch("low")
    whole = float(TokenLosses(model, SETTINGS)(batch))
    low = TokenLosses(model, dataclasses.replace(SETTINGS, precision="bfloat16"))(batch)
    low.backward()
    assert low.dtype == torch.float32
    assert 0 < abs(float(low) - whole) < 0.05 * whole
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())


def test_rates_and_decay_by_kind():
    model = tiny()
    model.language.model.norm.weight.requires_grad_(False)
    groups = {(each.rate, each.decay): set(each.names) for each in parameter_groups(model, quick())}
    assert groups[3e-3, 0.1] == {"vision.0.weight", "vision.2.weight"}
    assert groups[3e-3, 0.0] == {"vision.0.bias", "vision.2.bias"}
    plain = groups[1e-2, 0.0]
    assert "language.model.embed_tokens.weight" in plain  # tied with the head: once
    assert "language.model.layers.0.input_layernorm.weight" in plain
    assert "language.model.norm.weight" not in set().union(*groups.values())
    assert "language.model.layers.1.mlp.up_proj.weight" in groups[1e-2, 0.1]
    assert len(groups) == 4


def test_nothing_learns_or_not_in_float32():
    with pytest.raises(InputError, match="a model in which nothing learns"):
        parameter_groups(tiny().requires_grad_(False), quick())
    with pytest.raises(InputError, match=r"'vision.0.weight' in bfloat16. Expected: float32"):
        parameter_groups(tiny().bfloat16(), quick())


def test_deepspeed_keeps_weights_of_one_kind():
    model = tiny()
    model.language.requires_grad_(False).bfloat16()
    training = quick(zero=1)
    with pytest.raises(InputError, match=r"in bfloat16 under DeepSpeed.*--training.zero 0"):
        ZeroEngine(TokenLosses(model, SETTINGS), parameter_groups(model, training), training, SETTINGS, ALONE)


def test_what_learns_must_take_part():
    model = tiny()
    model.seeing_head = nn.Linear(3, 3)
    network = TokenLosses(model, SETTINGS)
    engine = PlainEngine(network, parameter_groups(model, quick()), quick(), SETTINGS, ALONE)
    engine.learn(micro_batch("part"), 1.0, last=True)
    with pytest.raises(InputError, match=r"2 learning parameters that the loss .* on, such as 'seeing_head"):
        engine.step(1.0)


def test_plain_pieces_of_all_replicas_are_the_whole():
    model = tiny()
    engine = PlainEngine(TokenLosses(model, SETTINGS), parameter_groups(model, quick()), quick(), SETTINGS, ALONE)
    engine.learn(micro_batch("pieces"), 0.1, last=True)
    engine.step(1.0)
    found: dict[tuple[str, str], list[torch.Tensor]] = {}
    for rank in range(3):
        engine.world = World(rank, 3)
        for piece in engine.pieces():
            parts = found.setdefault((piece.kind, piece.name), [])
            assert piece.start == sum(map(len, parts))
            parts.append(piece.values)
    for name, parameter in model.named_parameters():
        assert torch.equal(torch.cat(found["weight", name]), parameter.detach().reshape(-1))
        assert torch.cat(found["exp_avg", name]).any()
