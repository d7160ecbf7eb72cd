"""A policy of a few thousand weights at its first steps of GRPO, with rewards that read its words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tiny_vlms import PROMPT, TINY, composed, images
from trl import GRPOConfig

from raymedlt.alignment.learning import lora_modules
from raymedlt.alignment.policy import PolicyProcessor
from raymedlt.finetuning.hubprocessing import HubProcessing
from raymedlt.images.examples import PixelShards

STUDIES, GENERATIONS = 4, 4
REFERENCES = ["The heart size is normal.", "No pleural effusion.", "Mild right consolidation.", "A left pacemaker."]
NAMES = ["shared", "length"]


def score(completions: Sequence[str], references: Sequence[str]) -> list[tuple[float, float]]:
    """Shared words, and a little for each word."""
    pairs = zip(completions, references, strict=True)
    return [(float(len(set(c.split()) & set(r.split()))), len(c.split()) / 7) for c, r in pairs]


class Pool:
    """Scores at once, and remembers how it was asked."""

    def __init__(self) -> None:
        self.values: dict[int, Any] = {}
        self.asked: list[int] = []

    def submit(self, completions: Sequence[str], references: Sequence[str]) -> list[int]:
        tickets = list(range(len(self.values), len(self.values) + len(completions)))
        self.values |= zip(tickets, score(completions, references), strict=True)
        self.asked.append(len(completions))
        return tickets

    def gather(self, tickets: Sequence[int], seconds: float | None = None) -> list[Any]:
        return [self.values.pop(each) for each in tickets]


def parts(name: str, folder: str, steps: int = 2, **more: Any) -> dict[str, Any]:
    """Arguments of a GRPO trainer but for its rewards."""
    if name == "composed":
        model, processing, _ = composed()
    else:
        model, processor = TINY[name]()
        processing = HubProcessing(processor, image_size=64, prompt=PROMPT)
    rows = {
        "prompt": [[{"role": "user", "content": PROMPT}]] * STUDIES,
        "image": list(range(STUDIES)),
        "reference": list(range(STUDIES)),
    }
    config = {
        "output_dir": folder, "use_cpu": True, "bf16": False, "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2, "num_generations": GENERATIONS, "max_completion_length": 12,
        "max_steps": steps, "beta": 0.04, "learning_rate": 1e-2, "report_to": [], "save_strategy": "no", "seed": 3,
        "gradient_checkpointing": False, "remove_unused_columns": False, "disable_tqdm": True, "logging_steps": 1,
    }  # fmt: skip
    return {
        "model": model,
        "args": GRPOConfig(**{**config, **more}),
        "train_dataset": Dataset.from_dict(rows),
        "processing_class": PolicyProcessor(processing, PixelShards.of([images(STUDIES)])),
        "peft_config": LoraConfig(
            r=4, lora_alpha=8, lora_dropout=0.0, target_modules=lora_modules(model, ("q_proj", "v_proj"))
        ),
    }


def learnt(trainer: Any) -> dict[str, torch.Tensor]:
    """The LoRA."""
    return {name: each.detach().clone() for name, each in trainer.model.named_parameters() if each.requires_grad}
