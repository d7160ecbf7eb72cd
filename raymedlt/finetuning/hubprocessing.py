"""Processing for Hugging Face's vision-language models: through their own processor and chat template.

The template is asked once what stands before and behind an assistant's words; every report is put in between. So a
template that rewrites what an assistant says (some cut out <think> ... </think>) can't touch a report. That the
prompt's tokens begin every training row is checked on the tokens themselves: else the model would be trained on another
prompt than it is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raymedlt.errors import InputError
from raymedlt.finetuning.config import IGNORED
from raymedlt.finetuning.processing import Batch, Images, checked, decoded

_REPORT = "No pneumothorax"  # any words: a template must repeat them


class HubProcessing:
    """Processing of a Hugging Face image-text-to-text model.

    Args:
        processor: transformers' processor with tokenizer, image processor and chat template.
        image_size: S, of the grey squares that it gets; what the image processor makes of them is its own affair.
        prompt: what the model is asked.
        end_ids: further tokens that end an answer (of the model's generation settings).

    Raises:
        InputError: no chat template, or one that doesn't put the prompt before the answer.
    """

    def __init__(self, processor: Any, *, image_size: int, prompt: str, end_ids: Sequence[int] = ()) -> None:
        self.processor, self.image_size, self.prompt = processor, image_size, prompt
        self.tokenizer: Any = processor.tokenizer
        self.tokenizer.padding_side = "right"
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.pad_id: int = self.tokenizer.pad_token_id
        self._special = _special_tokens(processor)
        self._before, self._lead, self._end = self._template()
        self.end_id: int = self.tokenizer.convert_tokens_to_ids(self._end)
        self.end_ids: tuple[int, ...] = tuple(dict.fromkeys([self.end_id, *end_ids]))
        blank = np.zeros((1, image_size, image_size), np.uint8)
        self.prompt_ids: list[int] = self._processed(blank, [self._before])["input_ids"][0].tolist()

    @property
    def prompt_length(self) -> int:
        return len(self.prompt_ids)

    def batch(self, images_BSS: Images, texts: Sequence[str] | None = None) -> Batch:
        checked(images_BSS, texts, self.image_size)
        if texts is None:
            return self._processed(images_BSS, [self._before] * len(images_BSS))
        batch = self._processed(images_BSS, [self._whole(text) for text in texts])
        ids_BL, mask_BL = batch["input_ids"], batch["attention_mask"]
        prompt_P = torch.tensor(self.prompt_ids)
        if ids_BL.shape[1] <= len(prompt_P) or bool((ids_BL[:, : len(prompt_P)] != prompt_P).any()):
            raise InputError(
                "a training row whose tokens do not begin with those of the prompt",
                "the prompt's tokens, then the target's: else the model learns on another prompt than it is asked",
                "choose another model: its tokenizer joins prompt and answer",
            )
        last_B = ids_BL.gather(1, mask_BL.sum(1, keepdim=True) - 1)[:, 0]
        if bool((last_B != self.end_id).any()):
            raise InputError(
                "a training row that does not end with the end token",
                f"token {self.end_id} at the end of every row",
                "choose another model: its processor cuts texts, or adds tokens behind them",
            )
        labels_BL = ids_BL.masked_fill(mask_BL == 0, IGNORED)
        labels_BL[:, : len(prompt_P)] = IGNORED
        return {**batch, "labels": labels_BL}

    def token_length(self, text: str) -> int:
        # As a difference: the first word's tokens may depend on what stands before it.
        both = self.tokenizer([self._before, self._whole(text)], add_special_tokens=False).input_ids
        return len(both[1]) - len(both[0])

    def decode(self, tokens_BL: Tensor) -> list[str]:
        return decoded(self.tokenizer, tokens_BL, self.end_ids)

    def save(self, folder: Path) -> None:
        self.processor.save_pretrained(str(folder))

    def _whole(self, text: str) -> str:
        for token in self._special:  # a report can't end itself, or claim an image
            text = text.replace(token, "")
        return f"{self._before}{self._lead}{text}{self._end}"

    def _processed(self, images_BSS: Images, texts: list[str]) -> Batch:
        pictures = [[Image.fromarray(image).convert("RGB")] for image in images_BSS]
        begin = self.tokenizer.bos_token
        # As in transformers' own apply_chat_template: no second begin token.
        once = {"add_special_tokens": False} if begin and texts[0].startswith(begin) else {}
        found = self.processor(text=texts, images=pictures, padding=True, return_tensors="pt", **once)
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def _template(self) -> tuple[str, str, str]:
        """What the template puts before an answer, between that and its first word, and the token that ends it."""
        if self.processor.chat_template is None:
            raise InputError(
                f"a {type(self.processor).__name__} without a chat template",
                "one, in chat_template.jinja or the processor's settings",
                "add the template that the model was trained with, or choose an instruction-tuned model",
            )
        user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": self.prompt}]}
        answer = {"role": "assistant", "content": [{"type": "text", "text": _REPORT}]}
        template = self.processor.apply_chat_template
        before = str(template([user], add_generation_prompt=True, tokenize=False))
        whole = str(template([user, answer], add_generation_prompt=False, tokenize=False))
        rest = whole.removeprefix(before)
        if not whole.startswith(before) or _REPORT not in rest:
            raise InputError(
                "a chat template whose prompt is not the beginning of prompt and answer",
                "prompt, then answer",
                "choose another model, or correct its chat template",
            )
        lead, _, tail = rest.partition(_REPORT)
        ends = [(tail.index(token), token) for token in self._special if token in tail]
        return before, lead, min(ends)[1] if ends else str(self.tokenizer.eos_token)


def _special_tokens(processor: Any) -> tuple[str, ...]:
    """Strings that a report may not hold, the longest first."""
    tokenizer = processor.tokenizer
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    named = [getattr(processor, name, None) for name in ("image_token", "video_token")]
    every = {*map(str, tokenizer.all_special_tokens), *added, *(str(token) for token in named if token)}
    return tuple(sorted((token for token in every if token.strip()), key=lambda token: (-len(token), token)))
