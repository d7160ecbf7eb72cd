"""A generator small enough for tests, and phantoms to train it on."""

from __future__ import annotations

import numpy as np
import torch

from raymedlt.images.phantom import Finding, draw
from raymedlt.synthesis.generator import Generator
from raymedlt.synthesis.learning import TrainingRows, encode_images
from raymedlt.synthesis.loop import LoopSettings
from raymedlt.synthesis.sampler import Drawn, prompt_embeddings
from raymedlt.synthesis.sampler import draw as draw_images
from raymedlt.synthesis.settings import SamplerSettings, SmallSizes
from raymedlt.synthesis.small import build_small

CLASSES = ("Pleural effusion", "Pacemaker")
WORDS = ["frontal", "chest", "x-ray", "with", "a", "large", "pleural", "effusion", "pacemaker", "and", ",", "."]
SIZES = SmallSizes(
    size=32,
    vae_channels=(16, 16, 16),
    unet_channels=(32, 32),
    text_width=32,
    text_layers=1,
    prompt_tokens=14,
)


def tiny(**changes: object) -> Generator:
    return build_small(WORDS, SmallSizes(**{**_fields(SIZES), **changes}), seed=3)


def _fields(sizes: SmallSizes) -> dict:
    return {name: getattr(sizes, name) for name in sizes.__dataclass_fields__}


def phantoms(count: int) -> tuple[np.ndarray, list[list[str]], list[tuple[str, ...]]]:
    """Images [count, 32, 32], the wordings of each, its label set."""
    sets = [tuple(name for bit, name in enumerate(CLASSES) if number >> bit & 1) for number in range(count)]
    images = [
        draw([Finding(name, "left", severity=0.9) for name in names], seed=5, image_id=f"p{number}_0", size=32)
        for number, names in enumerate(sets)
    ]
    prompts = [["chest x-ray with " + " and ".join(names).lower(), " and ".join(names).lower()] for names in sets]
    return np.stack(images), prompts, sets


def rows_of(generator: Generator, count: int = 64) -> TrainingRows:
    images, prompts, sets = phantoms(count)
    return TrainingRows(*encode_images(generator, images), prompts, sets)


def loop(steps: int, **changes: object) -> LoopSettings:
    return LoopSettings(**{"steps": steps, "batch": 8, "rate": 2e-3, "warmup_steps": 2, "ema": 0.9, **changes})


def draw_rows(generator: Generator, rows: list[tuple[str, tuple[str, ...], int]], settings: SamplerSettings) -> Drawn:
    """Rows are (prompt, label set, seed)."""
    prompts = [generator.worded(prompt, names) for prompt, names, _ in rows]
    found = prompt_embeddings(generator, ["", *prompts])
    texts = torch.stack([found[prompt] for prompt in prompts])
    return draw_images(
        generator, texts, found[""][None], [seed for *_, seed in rows], settings, [names for _, names, _ in rows]
    )
