"""A tiny model that reads a "picture" (five numbers) and writes a rule's next words, and numbered batches for it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from raymedlt.finetuning.config import TrainingConfig
from raymedlt.finetuning.engines import IGNORED, MicroBatch
from raymedlt.machine import Settings
from raymedlt.seeds import keyed_seed

WORDS, PICTURE = 29, 5
SETTINGS = Settings("cpu", "float32", 1)


class Killed(Exception):
    """Stands for a process that dies."""


class TinyReporter(nn.Module):
    """Picture -> first embedding of a small Llama; sizes that two replicas can't share evenly."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM

        self.vision = nn.Sequential(nn.Linear(PICTURE, 11), nn.GELU(), nn.Linear(11, 12))
        self.dropout = nn.Dropout(dropout)
        self.language = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=WORDS, hidden_size=12, intermediate_size=21, num_hidden_layers=2, num_attention_heads=2,
                num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=True,
            )
        )  # fmt: skip

    def forward(self, input_ids, pixel_values, attention_mask=None, logits_to_keep=0):
        words = self.language.get_input_embeddings()(input_ids)
        seen = self.dropout(self.vision(pixel_values))[:, None]
        embeddings = torch.cat([words[:, :1] + seen, words[:, 1:]], 1)
        return self.language(
            inputs_embeds=embeddings, attention_mask=attention_mask, logits_to_keep=logits_to_keep, use_cache=False
        )


def tiny(dropout: float = 0.1) -> TinyReporter:
    """With its starting weights."""
    torch.manual_seed(7)
    return TinyReporter(dropout)


def micro_batch(*keys: str | int, studies: int = 3) -> MicroBatch:
    """Texts of different lengths; two words of prompt; a word follows from the one before and the picture."""
    random = torch.Generator().manual_seed(keyed_seed(3, *keys))
    pictures = torch.randn(studies, PICTURE, generator=random)
    lengths = torch.randint(5, 14, (studies,), generator=random)
    jumps = 1 + (pictures[:, 0] > 0).long()
    words = torch.randint(WORDS, (studies, 1), generator=random)
    ids = (words + jumps[:, None] * torch.arange(int(lengths.max()))) % WORDS
    inside = torch.arange(ids.shape[1]) < lengths[:, None]
    labels = ids.clone()
    labels[:, :2] = IGNORED
    labels[~inside] = IGNORED
    return {"input_ids": ids, "attention_mask": inside.long(), "pixel_values": pictures, "labels": labels}


@dataclass
class Batches:
    """`micro_batches` of them per step; may stop in the middle."""

    steps: int = 3
    micro_batches: int = 4
    validation: int = 3
    die_after: int | None = None
    """Steps given out before the end."""
    slow: float = 0.0
    """Seconds per step."""
    given: int = field(default=0, init=False)

    def training(self, epoch: int, first: int, numbers: Sequence[int]) -> Iterator[list[MicroBatch]]:
        for step in range(first, self.steps):
            if self.given == self.die_after:
                raise Killed
            self.given += 1
            time.sleep(self.slow)
            assert all(0 <= number < self.micro_batches for number in numbers)
            yield [micro_batch("train", step, number, studies=3 + number) for number in numbers]

    def validating(self, numbers: Sequence[int]) -> Iterator[MicroBatch]:
        assert all(0 <= number < self.validation for number in numbers)
        yield from (micro_batch("validation", number) for number in numbers)


def quick(**changes: Any) -> TrainingConfig:
    """Three studies in a micro-batch (by name), a checkpoint after every step."""
    values: dict[str, Any] = {
        "epochs": 3, "rate": 1e-2, "vision_rate": 3e-3, "weight_decay": 0.1, "warmup": 0.1, "batch": 12,
        "micro_batch": 3, "clip": 0.5, "checkpoint_seconds": 0.0,
    }  # fmt: skip
    return TrainingConfig(**(values | changes))


def run(
    folder: str, changes: dict[str, Any], die_after: int | None = None, *, adapted: bool = False
) -> list[dict[str, Any]]:
    """One training in this process; its history. A training that dies gives [].

    Args:
        adapted: most of the language model is frozen, and the arithmetic bfloat16.
    """
    from raymedlt.finetuning.training import train
    from raymedlt.storage import Storage

    training = quick(**changes)
    feed = Batches(micro_batches=training.batch // training.micro_batch, die_after=die_after)
    model, settings = tiny(), SETTINGS
    if adapted:
        model.language.requires_grad_(False)
        model.language.model.layers[1].self_attn.q_proj.requires_grad_(True)
        settings = replace(SETTINGS, precision="bfloat16")
    try:
        return train(model, feed, training, settings, Storage.of(folder), seed=1).history
    except Killed:
        return []
