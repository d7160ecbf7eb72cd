"""What TRL needs to know of a fine-tuned model: its prompt and images, in the form of a transformers processor.

TRL renders a chat template and lets the model's own processor read pictures. A policy is asked what it was taught with:
so the tokens and pixels are those of its `Processing`, and an image travels through TRL as its row number.

Shapes: B rows, S pixels a side, P tokens of the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import ProcessorMixin

from raymedlt.finetuning.processing import Processing
from raymedlt.images.examples import Pixels

REMEMBERED = 4096
IMAGE, PROMPT, REFERENCE = "image", "prompt", "reference"
"""Columns of a data set for TRL: the image's row, the prompt as a conversation, the number of the reference."""


class PolicyProcessor(ProcessorMixin):  # type: ignore[misc]
    """Prompts and images of a policy, as TRL 1.16 asks for them.

    Args:
        processing: of the model.
        pixels: prepared images, by row.
    """

    def __init__(self, processing: Processing, pixels: Pixels) -> None:
        self.processing, self.pixels = processing, pixels
        self.tokenizer: Any = processing.tokenizer
        self.chat_template = None
        self._text = lru_cache(REMEMBERED)(self._decoded)  # a completion is asked for when it ends, and by TRL later

    def apply_chat_template(
        self, conversation: Sequence[Any], *args: Any, tokenize: bool = False, **kwargs: Any
    ) -> Any:
        """The prompt of each conversation with its image's fields; where nothing is tokenised, the prompt's words."""
        if not tokenize:
            return self.processing.prompt
        return self.read([_row_of(each) for each in conversation])

    def __call__(self, images: Sequence[Sequence[int]], *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """The fields of prompts with one image each."""
        found = self.read([row for (row,) in images])
        return found | {"input_ids": torch.tensor(found["input_ids"])}

    def read(self, rows: Sequence[int]) -> dict[str, Any]:
        """`input_ids`, list of B lists of P tokens, and the model's fields of the images."""
        batch = self.processing.batch(self.pixels.take(np.asarray(rows, np.int64)))
        return {**batch, "input_ids": batch["input_ids"].tolist()}

    def pictures(self, images: Sequence[Sequence[int]]) -> list[list[Image.Image]]:
        """The images of prompts as vLLM wants them."""
        rows_of = [np.asarray(rows, np.int64) for rows in images]
        return [[Image.fromarray(self.pixels.take(rows)[0]).convert("RGB")] for rows in rows_of]

    def batch_decode(self, tokens: Sequence[Sequence[int]], *args: Any, **kwargs: Any) -> list[str]:
        """Texts of completions, up to the end token."""
        return [self._text(tuple(each)) for each in tokens]

    def _decoded(self, ids: tuple[int, ...]) -> str:
        return self.processing.decode(torch.tensor([ids], dtype=torch.int64))[0]

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> list[str]:
        """Beside a checkpoint's weights."""
        self.processing.save(Path(save_directory))
        return []


def _row_of(conversation: Sequence[Any]) -> int:
    (row,) = [part[IMAGE] for turn in conversation for part in turn["content"] if part["type"] == IMAGE]
    return int(row)
