"""A tiny model with transformers' own `generate` that stands for a finished one: its words follow from its image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from raymedlt.finetuning.generation import Writer

SIZE = 8
WORDS = ["<pad>", "<end>", "<ask>", *(f"w{number}" for number in range(20))]


class Processing:
    """Two tokens of prompt; words parted by blanks."""

    end_ids: tuple[int, ...] = (1,)
    pad_id = 0
    prompt_length = 2

    def batch(self, images: np.ndarray, texts: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
        assert images.dtype == np.uint8
        assert images.shape[1:] == (SIZE, SIZE)
        ids = torch.full((len(images), self.prompt_length), 2)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.from_numpy(images)}

    def decode(self, tokens: torch.Tensor) -> list[str]:
        return [" ".join(WORDS[token] for token in row if token > 2) for row in tokens.tolist()]


class Model(LlamaForCausalLM):
    """Adds the image to the first position of the prompt."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.look = torch.nn.Linear(SIZE * SIZE, config.hidden_size)

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        past_key_values: Any = None,
        pixel_values: Any = None,
        **kwargs: Any,
    ) -> Any:
        inputs_embeds = self.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            seen = self.look(pixel_values.flatten(1).float() / 255 - 0.5)
            inputs_embeds = torch.cat([inputs_embeds[:, :1] + seen[:, None], inputs_embeds[:, 1:]], 1)
        return super().forward(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, position_ids=position_ids,
            past_key_values=past_key_values, **kwargs,
        )  # fmt: skip

    def prepare_inputs_for_generation(self, input_ids: Any, is_first_iteration: bool = False, **kwargs: Any) -> Any:
        pixels = kwargs.pop("pixel_values", None)
        inputs = super().prepare_inputs_for_generation(input_ids, is_first_iteration=is_first_iteration, **kwargs)
        return inputs | {"pixel_values": pixels if is_first_iteration else None}


@lru_cache
def model() -> Model:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    made = Model(config).eval()
    with torch.no_grad():
        made.look.weight.mul_(12)  # what is seen outweighs the prompt
        made.lm_head.weight[1] *= 1.5  # reports end now and then
    return made


def writer() -> Writer:
    """Picklable by name: shards load it like a real one."""
    return Writer(model(), Processing())


def images(count: int) -> np.ndarray:
    """uint8 [count, SIZE, SIZE]."""
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE), dtype=np.uint8)
