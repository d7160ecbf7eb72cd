"""The denoising loss, its min-SNR weights, and the noise schedule they follow.

Shape suffixes: B rows, C channels, H and W of the latents, L tokens, D width, T timesteps.

Source: Ho et al. 2020 (arXiv 2006.11239) for the loss; Salimans and Ho 2022 (arXiv 2202.00512) for the v-prediction;
Hang et al. 2023 (arXiv 2303.09556), eq. 6 and section 3.4, for the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from raymedlt.errors import InputError
from raymedlt.synthesis.generator import laid_out

_OF_SCHEDULE = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)
PREDICTIONS = ("epsilon", "v_prediction")

Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(noisy latents [B, C, H, W], timesteps [B], embeddings [B, L, D]) -> what the model predicts, [B, C, H, W]."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """How much of the image is left at each timestep, and what the model predicts."""

    alphas_cumprod_T: torch.Tensor
    """float32, falling; z_t = sqrt(a_t) z_0 + sqrt(1 - a_t) noise."""
    prediction: str
    """One of PREDICTIONS."""

    @classmethod
    def of(cls, scheduler_config: Mapping[str, Any]) -> Schedule:
        """From the scheduler's configuration in a generator's folder.

        Raises:
            InputError: the model predicts something else.
        """
        prediction = scheduler_config.get("prediction_type", "epsilon")
        if prediction not in PREDICTIONS:
            raise InputError(f"a generator that predicts '{prediction}'", f"one of {list(PREDICTIONS)}")
        own = {key: scheduler_config[key] for key in _OF_SCHEDULE if scheduler_config.get(key) is not None}
        return cls(DDPMScheduler.from_config(own).alphas_cumprod, prediction)

    @property
    def timesteps(self) -> int:
        """How many there are."""
        return len(self.alphas_cumprod_T)

    def at(self, timesteps_B: torch.Tensor) -> torch.Tensor:
        """a_t of each row, [B, 1, 1, 1]."""
        return self.alphas_cumprod_T.to(timesteps_B.device)[timesteps_B].reshape(-1, 1, 1, 1)

    def noisy(self, latents_BCHW: torch.Tensor, noise_BCHW: torch.Tensor, timesteps_B: torch.Tensor) -> torch.Tensor:
        """z_t."""
        left = self.at(timesteps_B)
        return left.sqrt() * latents_BCHW + (1 - left).sqrt() * noise_BCHW

    def target(self, latents_BCHW: torch.Tensor, noise_BCHW: torch.Tensor, timesteps_B: torch.Tensor) -> torch.Tensor:
        """What the model ought to say: the noise, or v = sqrt(a_t) noise - sqrt(1 - a_t) z_0."""
        if self.prediction == "epsilon":
            return noise_BCHW
        left = self.at(timesteps_B)
        return left.sqrt() * noise_BCHW - (1 - left).sqrt() * latents_BCHW

    def min_snr_weights(self, timesteps_B: torch.Tensor, gamma: float) -> torch.Tensor:
        """Weights [B] of the rows' losses: min(SNR, gamma) / SNR, or / (SNR + 1) for the v-prediction.

        SNR = a_t / (1 - a_t). Where a_t is 0 (schedules of zero terminal SNR) the noise can't be told: weight 1.
        """
        left = self.at(timesteps_B).flatten()
        if self.prediction == "v_prediction":  # SNR + 1 = 1 / (1 - a_t)
            return torch.minimum(left, gamma * (1 - left))
        return torch.minimum(torch.ones_like(left), gamma * (1 - left) / left.clamp_min(1e-12))


def denoising_loss(
    predict: Predict,
    schedule: Schedule,
    latents_BCHW: torch.Tensor,
    embeddings_BLD: torch.Tensor,
    noise_BCHW: torch.Tensor,
    timesteps_B: torch.Tensor,
    *,
    min_snr_gamma: float | None = None,
) -> torch.Tensor:
    """Squared error of the prediction per row, float32 [B]: the mean over a row's latents, times its min-SNR weight.

    Args:
        predict: the U-Net.
        latents_BCHW: scaled latents z_0.
        embeddings_BLD: the text, with learnt tokens if there are any.
        min_snr_gamma: 5 in the paper; None for weight 1.
    """
    noisy = laid_out(schedule.noisy(latents_BCHW, noise_BCHW, timesteps_B))
    said = predict(noisy, timesteps_B, embeddings_BLD).float()
    error_B = (said - schedule.target(latents_BCHW, noise_BCHW, timesteps_B)).square().mean(dim=(1, 2, 3))
    return error_B if min_snr_gamma is None else error_B * schedule.min_snr_weights(timesteps_B, min_snr_gamma)
