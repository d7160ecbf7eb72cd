"""Training of a small generator's autoencoder, and how true its reconstructions are.

Loss: absolute error, absolute error of the edges at three scales, and a little of the Kullback-Leibler divergence from
a unit normal distribution. No adversary: at 64 pixels the fine lines of catheters and ribs come back without one. Then
the latents are scaled to unit variance, as the denoiser expects. Last the decoder learns alone, with the distance to a
frozen network besides (perceptual.py): texture comes back, and the latents stay as they are. (Latents that carry the
texture are harder for the denoiser: with that distance in all steps rare findings were not drawn any more.)

Shape suffixes: N images, B rows, S pixels, H and W.

Source: Rombach et al. 2022 (arXiv 2112.10752), section 3.1, without the adversary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from raymedlt.checkpoint import Checkpoints
from raymedlt.seeds import keyed_seed
from raymedlt.synthesis.generator import Generator, autocast, images_to_input, laid_out
from raymedlt.synthesis.learning import encode_images, rows_of_step
from raymedlt.synthesis.loop import Batch, LoopSettings, Said, fit
from raymedlt.synthesis.perceptual import Perceptual
from raymedlt.synthesis.settings import AutoencoderSettings, Precision


class Autoencoding(nn.Module):
    """From images and noise to the loss, with the perceptual distance or without."""

    def __init__(self, vae: Any, settings: AutoencoderSettings, *, perceptual: bool = False) -> None:
        super().__init__()
        self.vae: Any = vae
        self.settings = settings
        self.perceptual = Perceptual(str(vae.device)) if perceptual else None

    def forward(self, images_B1SS: torch.Tensor, noise_BCHW: torch.Tensor) -> torch.Tensor:
        """Mean loss of the rows; images in [-1, 1]."""
        found = self.vae.encode(laid_out(images_B1SS)).latent_dist
        mean, std, logvar = found.mean.float(), found.std.float(), found.logvar.float()
        decoded: torch.Tensor = self.vae.decode(mean + std * noise_BCHW).sample.float()
        divergence = 0.5 * (mean.square() + std.square() - 1 - logvar).mean()
        own = self.settings
        error: torch.Tensor = (decoded - images_B1SS).abs().mean() + own.kl * divergence
        error = error + own.edges * edge_error(decoded, images_B1SS, own.edge_scales)
        return error if self.perceptual is None else error + own.perceptual * self.perceptual(decoded, images_B1SS)


def edge_error(one_BCHW: torch.Tensor, other_BCHW: torch.Tensor, scales: int) -> torch.Tensor:
    """Mean absolute difference of the two images' horizontal and vertical differences, averaged over scales."""
    difference = one_BCHW - other_BCHW
    total = difference.new_zeros(())
    for _ in range(scales):
        down = (difference[:, :, 1:] - difference[:, :, :-1]).abs().mean()
        right = (difference[:, :, :, 1:] - difference[:, :, :, :-1]).abs().mean()
        total = total + down + right
        difference = nn.functional.avg_pool2d(difference, 2)
    return total / (2 * scales)


def train_autoencoder(
    generator: Generator,
    images_NSS: npt.NDArray[np.uint8],
    settings: AutoencoderSettings,
    loop: LoopSettings,
    checkpoints: Checkpoints,
    said: Said = lambda entry: None,
) -> list[dict[str, Any]]:
    """Train the autoencoder and set its scaling factor, going on from the last checkpoint.

    Args:
        images_NSS: real training images at the generator's size.

    Returns:
        The loop's reports.
    """
    vae = _prepared(generator, loop)
    vae.requires_grad_(True)
    history = fit(
        Autoencoding(vae, settings), _batches(generator, images_NSS, loop, "autoencoder"), loop, checkpoints, said
    )
    generator.freeze()
    set_scaling_factor(generator, images_NSS[:1024])
    return history


def train_decoder(
    generator: Generator,
    images_NSS: npt.NDArray[np.uint8],
    settings: AutoencoderSettings,
    loop: LoopSettings,
    checkpoints: Checkpoints,
    said: Said = lambda entry: None,
) -> list[dict[str, Any]]:
    """Train the decoder alone, with the perceptual distance, going on from the last checkpoint; latents stay the same.

    Arguments and result: as `train_autoencoder`, which comes first.

    Raises:
        MissingDependencyError: the package with the weights of EfficientNet-Lite0 isn't installed.
    """
    vae = _prepared(generator, loop)
    for part in (vae.post_quant_conv, vae.decoder):
        part.requires_grad_(True)
    network = Autoencoding(vae, settings, perceptual=True)
    history = fit(network, _batches(generator, images_NSS, loop, "decoder"), loop, checkpoints, said)
    generator.freeze()
    return history


def _prepared(generator: Generator, loop: LoopSettings) -> Any:
    """The autoencoder in training mode, on its device; nothing learns yet."""
    generator.to(loop.device)
    generator.freeze()
    generator.base_hash = ""  # it is no longer the one that was loaded
    generator.vae.train()
    return generator.vae


def _batches(
    generator: Generator, images_NSS: npt.NDArray[np.uint8], loop: LoopSettings, key: str
) -> Callable[[int], Batch]:
    """Images and noise of a step."""
    channels = int(generator.vae.config["in_channels"])

    def batch_of(step: int) -> Batch:
        rows = rows_of_step(len(images_NSS), None, loop.batch, loop.seed, step)
        random = torch.Generator().manual_seed(keyed_seed(loop.seed, key, step))
        noise = torch.randn(loop.batch, *generator.latent_shape, generator=random)
        return images_to_input(images_NSS[rows], channels), noise

    return batch_of


def set_scaling_factor(generator: Generator, images_NSS: npt.NDArray[np.uint8]) -> float:
    """Scale the latents of these images to unit standard deviation; returns the factor."""
    generator.vae.register_to_config(scaling_factor=1.0)
    mean, std = encode_images(generator, images_NSS)
    variance = mean.double().var() + std.double().square().mean()
    factor = float(f"{float(variance.rsqrt()):.6g}")
    generator.vae.register_to_config(scaling_factor=factor)
    return factor


def reconstruct(
    generator: Generator, images_NSS: npt.NDArray[np.uint8], *, batch: int = 32, precision: Precision = "float32"
) -> npt.NDArray[np.uint8]:
    """Images through the autoencoder and back [N, S, S]: the best that the generator can draw."""
    mean, _ = encode_images(generator, images_NSS, batch=batch, precision=precision)
    parts = []
    with torch.inference_mode(), autocast(generator.device, precision):
        for start in range(0, len(mean), batch):
            decoded = generator.pixels_of(mean[start : start + batch].to(generator.device))
            parts.append((decoded.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
    return np.concatenate(parts)
