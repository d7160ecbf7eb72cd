"""Images and texts as a model's input tensors: one interface for the composed model and Hugging Face's.

    training      prompt with image slots | target | end token, padded on the right; labels are IGNORED except on the
                  target and its end token
    generation    prompt with image slots: the same tokens in every row, so there is nothing to pad

Shapes: B rows, S pixels a side, L tokens, P tokens of the prompt with its image slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raymedlt.errors import InputError
from raymedlt.finetuning.config import IGNORED
from raymedlt.finetuning.language import IMAGE_TOKEN

Batch = dict[str, Tensor]
Images = npt.NDArray[np.uint8]


class Processing(Protocol):
    """What training and generation ask of it."""

    prompt: str
    """What the model is asked beside the image."""
    image_size: int
    """S."""
    end_ids: tuple[int, ...]
    """Tokens that end a report: `eos_token_id` of generate."""
    pad_id: int
    tokenizer: Any
    """transformers' own."""

    @property
    def prompt_length(self) -> int:
        """P: what generate gives back begins with so many tokens."""

    def batch(self, images_BSS: Images, texts: Sequence[str] | None = None) -> Batch:
        """Input tensors: for training with `labels`, or for generation where there are no texts.

        Raises:
            InputError: images that aren't uint8 squares of the model's size, or another number of texts.
        """

    def token_length(self, text: str) -> int:
        """Tokens of a target, with its end token."""

    def decode(self, tokens_BL: Tensor) -> list[str]:
        """Texts of generated tokens (without the prompt's), up to the end token."""

    def save(self, folder: Path) -> None:
        """Tokenizer or processor files."""


class ComposedProcessing:
    """Processing of the composed model.

    Args:
        tokenizer: transformers' fast tokenizer that knows IMAGE_TOKEN.
        image_tokens: image slots of a row.
        image_size: S.
        prompt: what the model is asked.
    """

    def __init__(self, tokenizer: Any, *, image_tokens: int, image_size: int, prompt: str) -> None:
        self.tokenizer, self.image_tokens, self.image_size, self.prompt = tokenizer, image_tokens, image_size, prompt
        self.image_id: int = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self.pad_id: int = tokenizer.pad_token_id
        self.end_ids: tuple[int, ...] = (tokenizer.eos_token_id,)
        self.prompt_ids = self._prompt_ids()

    @property
    def prompt_length(self) -> int:
        return len(self.prompt_ids)

    def batch(self, images_BSS: Images, texts: Sequence[str] | None = None) -> Batch:
        checked(images_BSS, texts, self.image_size)
        rows = [self.prompt_ids] * len(images_BSS)
        if texts is not None:
            rows = [[*row, *own, self.end_ids[0]] for row, own in zip(rows, self._all_ids(list(texts)), strict=True)]
        lengths_B = np.array([len(row) for row in rows], np.int64)
        padded_BL = np.full((len(rows), int(lengths_B.max(initial=0))), self.pad_id, np.int64)
        for at, row in enumerate(rows):
            padded_BL[at, : len(row)] = row
        ids_BL = torch.from_numpy(padded_BL)
        mask_BL = torch.from_numpy((np.arange(padded_BL.shape[1]) < lengths_B[:, None]).astype(np.int64))
        batch = {
            "input_ids": ids_BL,
            "attention_mask": mask_BL,
            "pixel_values": torch.from_numpy(np.ascontiguousarray(images_BSS)),
        }
        if texts is not None:
            labels_BL = ids_BL.masked_fill(mask_BL == 0, IGNORED)
            labels_BL[:, : self.prompt_length] = IGNORED
            batch["labels"] = labels_BL
        return batch

    def token_length(self, text: str) -> int:
        return len(self._ids(text)) + 1

    def decode(self, tokens_BL: Tensor) -> list[str]:
        return decoded(self.tokenizer, tokens_BL, self.end_ids)

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(str(folder))

    def _ids(self, text: str) -> list[int]:
        return self._all_ids([text])[0]

    def _all_ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        # A text that spells a special token gets the letters, not the token.
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True).input_ids
        return ids

    def _prompt_ids(self) -> list[int]:
        slots = [self.image_id] * self.image_tokens
        if self.tokenizer.chat_template is None:
            begin = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
            return [*begin, *slots, *self._ids(f"{self.prompt}\n")]
        worded: str = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": f"{IMAGE_TOKEN}{self.prompt}"}], add_generation_prompt=True, tokenize=False
        )
        ids: list[int] = self.tokenizer(worded, add_special_tokens=False).input_ids
        if ids.count(self.image_id) != 1:
            raise InputError(
                f"a chat template that puts {ids.count(self.image_id)} image tokens into the prompt",
                "one, where the message has it",
                "choose another language model, or correct its chat template",
            )
        at = ids.index(self.image_id)
        return [*ids[:at], *slots, *ids[at + 1 :]]


def checked(images_BSS: Images, texts: Sequence[str] | None, image_size: int) -> None:
    """Raises InputError: not uint8 squares of this size, or another number of texts."""
    got = f"{images_BSS.dtype} of shape {images_BSS.shape}"
    if images_BSS.dtype != np.uint8 or images_BSS.shape[1:] != (image_size, image_size):
        raise InputError(
            f"images as {got}",
            f"grey uint8 squares [B, {image_size}, {image_size}], the size that the model was built for",
            f"prepare them with images.size {image_size}",
        )
    if texts is not None and len(texts) != len(images_BSS):
        raise InputError(f"{len(images_BSS)} images and {len(texts)} texts", "one text per image")


def decoded(tokenizer: Any, tokens_BL: Tensor, end_ids: Sequence[int]) -> list[str]:
    """Texts of generated tokens, each up to its first end token."""
    texts = []
    for row in tokens_BL.tolist():
        ends = [at for at, token in enumerate(row) if token in end_ids]
        texts.append(str(tokenizer.decode(row[: ends[0]] if ends else row, skip_special_tokens=True)).strip())
    return texts
