"""Textual inversion: new input embeddings in front of a frozen text encoder, as words that prompts can use.

The embeddings lie beside the encoder's own table, which stays as it is. Shared placeholders stand in front of every
prompt, a class's own ones in front of the prompts of label sets with this class; the empty prompt has none, so that
guidance amplifies them (unlike the tokens of tokens.py).

Source: Gal et al. 2023 (arXiv 2208.01618).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from raymedlt.errors import InputError


class Inversion(nn.Module):
    """A text encoder's input table, extended by learnt rows.

    Args:
        table: the encoder's own embedding.
        learnt_ND: N = shared + len(class_names) * per_class rows, float32.
        first_id: token id of the first row.
        shared: placeholders in front of every prompt.
        per_class: placeholders per class.
        class_names: which classes have some.
    """

    def __init__(
        self,
        table: nn.Embedding,
        learnt_ND: torch.Tensor,
        first_id: int,
        *,
        shared: int,
        per_class: int,
        class_names: Sequence[str],
    ) -> None:
        super().__init__()
        if learnt_ND.shape != (shared + per_class * len(class_names), table.embedding_dim):
            raise InputError(
                f"textual inversion of shape {list(learnt_ND.shape)}",
                f"[{shared} + {per_class} x {len(class_names)} classes, {table.embedding_dim}]",
            )
        self.table = table
        self.learnt_ND = nn.Parameter(learnt_ND.clone())
        self.first_id, self.shared, self.per_class = first_id, shared, per_class
        self.class_names = tuple(class_names)

    @property
    def weight(self) -> torch.Tensor:
        """The encoder's own table (transformers asks its dtype and device)."""
        return self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings of token ids, [..., D]."""
        last = len(self.learnt_ND) - 1
        own = nn.functional.embedding((ids - self.first_id).clamp(0, last), self.learnt_ND)
        known = self.table(ids.clamp_max(self.first_id - 1))
        return torch.where((ids >= self.first_id).unsqueeze(-1), own.to(known.dtype), known)

    def placeholders(self, label_set: Sequence[str]) -> list[str]:
        """The words in front of a prompt of this label set."""
        words = [f"<learnt-{number}>" for number in range(self.shared)]
        for number, name in enumerate(self.class_names):
            if name in label_set:
                words += [f"<learnt-{self.shared + number * self.per_class + i}>" for i in range(self.per_class)]
        return words

    def worded(self, prompt: str, label_set: Sequence[str]) -> str:
        """`prompt` with the placeholders of `label_set` in front."""
        return " ".join([*self.placeholders(label_set), prompt])


def install(
    tokenizer: Any,
    text_encoder: Any,
    learnt_ND: torch.Tensor,
    *,
    shared: int,
    per_class: int,
    class_names: Sequence[str],
) -> Inversion:
    """Put learnt rows into a text encoder and their placeholders into its tokenizer; both are changed.

    Raises:
        InputError: the encoder already has some, or shapes that don't belong together.
    """
    table = text_encoder.get_input_embeddings()
    if isinstance(table, Inversion):
        raise InputError("a text encoder that already has a textual inversion", "one without", "load it again")
    first_id = len(tokenizer)
    inversion = Inversion(
        table, learnt_ND.to(table.weight.device), first_id, shared=shared, per_class=per_class, class_names=class_names
    )
    tokenizer.add_tokens([f"<learnt-{number}>" for number in range(len(learnt_ND))])
    text_encoder.set_input_embeddings(inversion)
    return inversion
