"""The heads on the feature map: channel reweighting, class-aware attention and CSRA.

Shapes: B images, C classes, D channels, H x W positions of the feature map, K = H * W.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raymedlt.images.attention import attended_logits


def strength(value: float, learnable: bool) -> nn.Parameter:
    """How much a module counts: a scalar float32 parameter.

    Fixed at `value`; or learnable from 0, where the module does nothing: at 0 the gradient reaches the strength alone,
    and the module's own weights as soon as it has left 0.
    """
    return nn.Parameter(torch.tensor(0.0 if learnable else value), requires_grad=learnable)


class ChannelReweighting(nn.Module):
    """TRCGL-Net's gate on channels: g = sigmoid(W2 relu(W1 GAP(x))), x' = x + r (x * g).

    The squeeze and excitation of Hu et al. (CVPR 2018) with a residual path and a strength r; no biases.
    Since 0 < g < 1, no feature changes by more than a share of |r|.

    Args:
        channels: D.
        strength_value: r (the paper's release: 0.05).
        learnable: r is learnt from 0.
        reduction: D over the width of the hidden layer, which has at least one unit.

    Shapes:
        x_BDHW -> x_BDHW
    """

    def __init__(self, channels: int, strength_value: float, learnable: bool, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.squeeze = nn.Linear(channels, hidden, bias=False)
        self.excite = nn.Linear(hidden, channels, bias=False)
        self.strength = strength(strength_value, learnable)

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """x' of the class docstring."""
        gate_BD = torch.sigmoid(self.excite(torch.relu(self.squeeze(x_BDHW.mean(dim=(2, 3))))))
        return x_BDHW + self.strength * (x_BDHW * gate_BD[:, :, None, None])


class ClassAwareAttention(nn.Module):
    """TRCGL-Net's spatial attention: a_ck = softmax_k(u_c . x'_k), v_c = sum_k a_ck x'_k, logit_c = w_c . v_c + b_c.

    u is this module's own; w and b are the classifier's, which also scores the mean over the positions.

    Args:
        classes: C.
        channels: D.
        strength_value: lam, the weight of the logit in the sum that the network forms (the release: 0.1).
        learnable: lam is learnt from 0.

    Shapes:
        x_BDK, weight_CD, bias_C -> logits_BC, maps_BCK (each map sums to 1)
    """

    def __init__(self, classes: int, channels: int, strength_value: float, learnable: bool) -> None:
        super().__init__()
        # Features have unit variance after the batch norm, and so have the scores with this start.
        self.query_CD = nn.Parameter(torch.randn(classes, channels) * channels**-0.5)
        self.strength = strength(strength_value, learnable)

    def forward(self, x_BDK: Tensor, weight_CD: Tensor, bias_C: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and maps of the class docstring; the logits are not yet multiplied by lam."""
        scores_BCK = torch.einsum("cd,bdk->bck", self.query_CD, x_BDK)
        logits_BC, maps_BCK = attended_logits(scores_BCK, x_BDK, weight_CD)
        return logits_BC + bias_C, maps_BCK


class ClassSpecificResidualAttention(nn.Module):
    """CSRA (Zhu and Wu, ICCV 2021, eq. 2-6, one head): s_ck = softmax_k(T w_c . x_k), logit_c = w_c . sum_k s_ck x_k.

    The classifier itself asks, so there is nothing to learn but lam: logit = w . mean_k(x_k) + lam w . a (eq. 5). The
    residual part has no bias, as in the paper.

    Args:
        strength_value: lam (the paper's for one head: 0.1 to 0.4).
        learnable: lam is learnt from 0.
        temperature: T (the paper's for one head: 1).

    Shapes:
        as in `ClassAwareAttention`; bias_C is not used
    """

    def __init__(self, strength_value: float, learnable: bool, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.strength = strength(strength_value, learnable)

    def forward(self, x_BDK: Tensor, weight_CD: Tensor, bias_C: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and maps of the class docstring; the logits are not yet multiplied by lam."""
        scores_BCK = self.temperature * torch.einsum("cd,bdk->bck", weight_CD, x_BDK)
        return attended_logits(scores_BCK, x_BDK, weight_CD)
