"""Losses for long-tailed multi-label classification, all of one form: L = mean_i s_i sum_c l(z_ic, y_ic).

The sum runs over the classes whose label is known; s_i is the image's weight (1 real; synthetic images less). Dividing
by the number of images, never by the number of labels or by the sum of weights, makes the mean of the losses of equal
parts of a batch the loss of the whole batch, as data-parallel training needs it. All is computed in float32 (float64
stays float64), also under autocast, and is finite for logits of +-50.

Shapes: B images of a batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from raymedlt.classifier.config import LossConfig
from raymedlt.errors import InputError

Terms = Callable[[Tensor, Tensor], Tensor]
"""(logits_BC, labels_BC) -> l_BC. Labels of unknown entries arrive as 0, and what comes out there is dropped."""

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(logits_BC, labels_BC in {0, 1}, known_BC bool, weights_B) -> scalar."""


def make_loss(config: LossConfig, counts_C: ArrayLike, images: ArrayLike) -> Loss:
    """The loss that `loss.name` names, for classes of these sizes.

    Args:
        config: the section `loss`.
        counts_C: positive training images per class; a class without any counts as if it had one.
        images: training images, or per class those whose label is known.

    Raises:
        InputError: more positive images than images.
    """
    counts = np.maximum(np.asarray(counts_C, np.float64), 1.0)
    total = np.broadcast_to(np.asarray(images, np.float64), counts.shape)
    if (counts > np.maximum(total, 1.0)).any():
        raise InputError("more positive images of a class than images", "counts over the same training images")

    terms: Terms
    match config.name:
        case "db":
            weights = class_balanced_weights(counts, config.beta)
            terms = _db(torch.tensor(np.sqrt(weights)), torch.tensor(margins(weights, config.margin)))
        case "bce":
            terms = _bce
        case "focal":
            terms = focal_terms
        case "asymmetric":
            terms = asymmetric_terms
        case "class_balanced":
            terms = _db(torch.tensor(class_balanced_weights(counts, config.beta)), torch.tensor(np.zeros_like(counts)))
        case "db_2020":
            terms = _db_2020(torch.tensor(counts), torch.tensor(_log_odds(counts, total)))
        case "logit_adjusted":
            terms = _shifted(torch.tensor(_log_odds(counts, total)))

    def loss(logits_BC: Tensor, labels_BC: Tensor, known_BC: Tensor, weights_B: Tensor) -> Tensor:
        with torch.autocast(logits_BC.device.type, enabled=False):
            z_BC = logits_BC if logits_BC.dtype == torch.float64 else logits_BC.float()
            y_BC = torch.where(known_BC, labels_BC, 0).to(z_BC.dtype)  # an unknown label may be a NaN
            terms_BC = torch.where(known_BC, terms(z_BC, y_BC), 0)
            return (weights_B.to(z_BC.dtype) * terms_BC.sum(dim=1)).mean()

    return loss


def class_balanced_weights(counts_C: ArrayLike, beta: float) -> NDArray[np.float64]:
    """w_c = (1 - b) / (1 - b^n_c), divided by the mean over the classes (Cui et al., CVPR 2019, eq. 4).

    1 / w_c is proportional to the effective number of images: n_c for b -> 1, and 1 for b = 0.
    """
    counts = np.asarray(counts_C, np.float64)
    with np.errstate(divide="ignore"):  # b = 0: the logarithm is -inf, which expm1 takes to -1
        weights = (1.0 - beta) / -np.expm1(counts * np.log(np.float64(beta)))
    return np.asarray(weights / weights.mean())


def margins(weights_C: ArrayLike, largest: float) -> NDArray[np.float64]:
    """TRCGL-Net's margins: m_c = largest * minmax_c(1 / (w_c + 1e-6)); the commonest class has the largest margin.

    0 for every class where all weights are equal.
    """
    inverse = 1.0 / (np.asarray(weights_C, np.float64) + 1e-6)
    width = inverse.max() - inverse.min()
    return np.asarray(largest * (inverse - inverse.min()) / width if width > 0 else np.zeros_like(inverse))


def _log_odds(counts_C: NDArray[np.float64], images_C: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(p / (1 - p)) of the classes' prevalence p, which is kept half an image away from 0 and 1."""
    prevalence = np.clip(counts_C / images_C, 0.5 / images_C, 1.0 - 0.5 / images_C)
    return np.asarray(np.log(prevalence) - np.log1p(-prevalence))


def _bce(z_BC: Tensor, y_BC: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(z_BC, y_BC, reduction="none")


def _db(weights_C: Tensor, margins_C: Tensor) -> Terms:
    """v_c BCE(z - y m_c, y). db (TRCGL-Net's release): v = sqrt(w). class_balanced (Cui et al.): v = w and no margin.

    Cui et al. weigh an image by its one class. With many labels each class is a problem of its own, and w_c weighs the
    positive and negative images of class c.
    """

    def terms(z_BC: Tensor, y_BC: Tensor) -> Tensor:
        return weights_C.to(z_BC) * _bce(z_BC - y_BC * margins_C.to(z_BC), y_BC)

    return terms


def _shifted(prior_C: Tensor) -> Terms:
    """Logit adjustment (Menon et al., ICLR 2021, eq. 10) for many labels: BCE(z + log(p_c / (1 - p_c)), y).

    The paper adds log priors inside a softmax; for one class against its absence, the difference of the two log priors
    is the log odds. The trained z estimates the log odds as if half of the images were positive: rare classes are no
    longer pushed below a threshold of 0.5. z (without the shift) is what the network gives out.
    """

    def terms(z_BC: Tensor, y_BC: Tensor) -> Tensor:
        return _bce(z_BC + prior_C.to(z_BC), y_BC)

    return terms


def focal_terms(z_BC: Tensor, y_BC: Tensor, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """-alpha_t (1 - p_t)^gamma log p_t (Lin et al., ICCV 2017, eq. 5, with the paper's best gamma and alpha)."""
    toward_BC = torch.where(y_BC > 0.5, z_BC, -z_BC)  # p_t = sigmoid(toward)
    alpha_BC = torch.where(y_BC > 0.5, alpha, 1.0 - alpha)
    return -alpha_BC * torch.sigmoid(-toward_BC) ** gamma * logsigmoid(toward_BC)


def asymmetric_terms(
    z_BC: Tensor, y_BC: Tensor, gamma_positive: float = 0.0, gamma_negative: float = 4.0, clip: float = 0.05
) -> Tensor:
    """ASL (Ridnik et al., ICCV 2021, eq. 5-7): -(1 - p)^g+ log p, and -p_m^g- log(1 - p_m) with p_m = max(p - m, 0).

    The gradient goes through the focusing weights as well, as the equations have it (the authors' program stops it by
    default). A negative with p <= m has neither loss nor gradient.
    """
    positive_BC = -(torch.sigmoid(-z_BC) ** gamma_positive) * logsigmoid(z_BC)
    shifted_BC = (torch.sigmoid(z_BC) - clip).clamp(min=0.0)
    # 1 - p_m >= m where p is close to 1, so the logarithm is finite.
    negative_BC = -(shifted_BC**gamma_negative) * torch.log((torch.sigmoid(-z_BC) + clip).clamp(max=1.0))
    return torch.where(y_BC > 0.5, positive_BC, negative_BC)


def _db_2020(
    counts_C: Tensor,
    log_odds_C: Tensor,
    alpha: float = 0.1,
    beta: float = 10.0,
    mu: float = 0.2,
    kappa: float = 0.05,
    lam: float = 2.0,
) -> Terms:
    """Distribution-balanced loss (Wu et al., ECCV 2020) with the paper's parameters for COCO-MLT.

    Re-balanced weighting (eq. 3-6): r_ic = (1 / n_c) / sum over the image's labels of 1 / n_j, the share of the draws
    that a class-aware sampler gives image i for class c; weight alpha + sigmoid(beta (r - mu)).
    Negative-tolerant regularisation (eq. 7-9): nu_c = kappa log(1 / p_c - 1);
    l = y log(1 + e^-(z - nu)) + (1 - y) / lam log(1 + e^(lam (z - nu))).

    An image without labels has no r; it gets the limit of a vanishing denominator, weight alpha + 1 for every class.
    nu is the paper's; the authors' first program divided it by lam, which they call an error (issue 8 of their
    repository). Their programs also add a focal factor, which is not part of eq. 10 and is left out here.
    """

    def terms(z_BC: Tensor, y_BC: Tensor) -> Tensor:
        inverse_C = (1.0 / counts_C).to(z_BC)
        drawn_B1 = (y_BC * inverse_C).sum(dim=1, keepdim=True)
        share_BC = torch.where(drawn_B1 > 0, inverse_C / drawn_B1.clamp(min=1e-12), torch.inf)
        weight_BC = alpha + torch.sigmoid(beta * (share_BC - mu))
        shifted_BC = z_BC + kappa * log_odds_C.to(z_BC)  # z - nu
        positive_BC, negative_BC = -logsigmoid(shifted_BC), -logsigmoid(-lam * shifted_BC) / lam
        return weight_BC * torch.where(y_BC > 0.5, positive_BC, negative_BC)

    return terms
