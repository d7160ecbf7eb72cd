"""Evidence for each class at each place of a feature map, and what attention makes of it: shared by all who read maps.

Shapes: B images, C classes, D channels, K places of the map.
"""

from __future__ import annotations

import torch
from torch import Tensor


def attended_logits(scores_BCK: Tensor, x_BDK: Tensor, weight_CD: Tensor) -> tuple[Tensor, Tensor]:
    """w_c . v_c with v_c = sum_k a_ck x_k and a_c = softmax over k of the scores; and the maps a [B, C, K].

    Computed as sum_k a_ck (w_c . x_k), which is the same number without an array of B x C x D.
    """
    maps_BCK = scores_BCK.softmax(dim=-1)
    evidence_BCK = torch.einsum("cd,bdk->bck", weight_CD, x_BDK)
    return (maps_BCK * evidence_BCK).sum(dim=-1), maps_BCK
