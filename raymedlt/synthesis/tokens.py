"""Learnable prompt tokens: vectors put behind the text encoder's output, in the prompt's branch and the empty one.

    c = [E(text); P],  c0 = [E(""); P],  eps_hat = eps(z_t, t, c0) + s (eps(z_t, t, c) - eps(z_t, t, c0))

P stands in both branches, so guidance amplifies the text alone: P carries domain and style, the text the disease. P is
shared by all prompts, or a class's own, or both. A label set of several classes takes the mean of their tokens, so
that the number of tokens is the same for every row; a set without any of the classes has tokens of its own.

Shape suffixes: B rows, L tokens of the text, M learnt tokens, D width, K classes and one for "none of them".

Source: TRCGL-Net (arXiv 2607.00975), figure (b) and its text; ../shared/spec/synthesis.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from raymedlt.errors import InputError


class PromptTokens(nn.Module):
    """The learnt vectors: `shared_MD` for every prompt and `own_KMD` by class.

    Args:
        shared_MD: float32; M may be 0.
        own_KMD: float32, one block per class and a last one for label sets without any of them; its M may be 0.
        class_names: of the blocks but the last.

    Raises:
        InputError: shapes that don't belong together.
    """

    def __init__(self, shared_MD: torch.Tensor, own_KMD: torch.Tensor, class_names: Sequence[str]) -> None:
        super().__init__()
        fits = shared_MD.ndim == 2 and own_KMD.ndim == 3 and shared_MD.shape[-1] == own_KMD.shape[-1]
        if not fits or len(own_KMD) != len(class_names) + 1:
            raise InputError(
                f"prompt tokens of shapes {list(shared_MD.shape)} and {list(own_KMD.shape)}, {len(class_names)} names",
                "shapes [m, d] and [classes + 1, m, d]",
            )
        self.shared_MD = nn.Parameter(shared_MD.clone())
        self.own_KMD = nn.Parameter(own_KMD.clone())
        self.class_names = tuple(class_names)

    @property
    def count(self) -> int:
        """Tokens that are put behind a text: shared ones and one class's worth."""
        return len(self.shared_MD) + self.own_KMD.shape[1]

    def mixture(self, label_sets: Sequence[Sequence[str]]) -> torch.Tensor:
        """Each row's shares of the blocks of `own_KMD`, float32 [B, K]; rows sum to 1. Unknown names count as none."""
        place = {name: number for number, name in enumerate(self.class_names)}
        shares = torch.zeros(len(label_sets), len(self.class_names) + 1)
        for row, names in enumerate(label_sets):
            known = sorted({place[name] for name in names if name in place})
            if known:
                shares[row, known] = 1 / len(known)
            else:
                shares[row, -1] = 1
        return shares

    def forward(self, embeddings_BLD: torch.Tensor, mixture_BK: torch.Tensor) -> torch.Tensor:
        """`embeddings_BLD` (or [1, L, D] for all rows) with the tokens behind it, [B, L + M, D], in its dtype."""
        rows = len(mixture_BK)
        shared_BMD = self.shared_MD.expand(rows, -1, -1)
        own_BMD = (mixture_BK[:, :, None, None] * self.own_KMD).sum(1)  # elementwise: a row's digits are its own
        texts = embeddings_BLD.expand(rows, -1, -1)
        return torch.cat([texts, shared_BMD.to(texts.dtype), own_BMD.to(texts.dtype)], dim=1)


def guided(eps_uncond: torch.Tensor, eps_cond: torch.Tensor, scale: float) -> torch.Tensor:
    """Classifier-free guidance: eps_uncond + scale (eps_cond - eps_uncond). Scale 1 is the plain conditional model.

    Source: Ho and Salimans 2022 (arXiv 2207.12598), eq. 6, with scale = 1 + w.
    """
    return eps_uncond + scale * (eps_cond - eps_uncond)
