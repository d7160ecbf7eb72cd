"""A text-conditioned latent diffusion model in memory: its parts, and the steps between texts, images and latents.

Shape suffixes: B rows, L tokens of the text, D width, S pixels, C channels, H and W of the latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from raymedlt.synthesis.inversion import Inversion
from raymedlt.synthesis.settings import Precision
from raymedlt.synthesis.tokens import PromptTokens


@dataclass(eq=False)
class Generator:
    """The parts of a Stable-Diffusion-type model, and what was learnt on top of it."""

    tokenizer: Any
    """A transformers CLIPTokenizer."""
    text_encoder: Any
    """A transformers CLIPTextModel."""
    unet: Any
    """A diffusers UNet2DConditionModel."""
    vae: Any
    """A diffusers AutoencoderKL."""
    scheduler_config: dict[str, Any]
    """The noise schedule: beta_start, beta_end, beta_schedule, num_train_timesteps, prediction_type, ..."""
    size: int
    """Pixels per side of an image."""
    tokens: PromptTokens | None = None
    """Learnt tokens behind the text encoder."""
    inversion: Inversion | None = None
    """Learnt input embeddings in front of it."""
    lora: dict[str, Any] = field(default_factory=dict)
    """Settings of a LoRA that sits in the U-Net; empty when there is none, or when it was merged into the weights."""
    base_hash: str = ""
    """`folder.generator_hash` of the folder that it was loaded from."""

    @property
    def device(self) -> torch.device:
        """Where the U-Net is."""
        device: torch.device = self.unet.device
        return device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        side = self.size // vae_factor(self.vae)
        return int(self.vae.config["latent_channels"]), side, side

    def to(self, device: str | torch.device) -> Generator:
        """Moves every part; returns itself."""
        for part in (self.text_encoder, self.unet, self.vae, self.tokens):
            if part is not None:
                part.to(device)
        for part in (self.unet, self.vae):
            part.to(memory_format=layout(device))
        return self

    def freeze(self) -> None:
        """Nothing learns and nothing drops out any more."""
        for part in (self.text_encoder, self.unet, self.vae, self.tokens):
            if part is not None:
                part.requires_grad_(False)
                part.eval()

    def worded(self, prompt: str, label_set: Sequence[str]) -> str:
        """The prompt as the text encoder gets it: with the placeholders of a textual inversion in front, if any."""
        return prompt if self.inversion is None else self.inversion.worded(prompt, label_set)

    def token_ids(self, prompts: Sequence[str]) -> torch.Tensor:
        """int64 [B, L]; L is the text encoder's longest input, longer prompts are cut."""
        longest = min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
        found = self.tokenizer(
            list(prompts), padding="max_length", max_length=longest, truncation=True, return_tensors="pt"
        )
        ids: torch.Tensor = found.input_ids
        return ids

    def latents_of(self, images_BSS: npt.NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the scaled latents of grey images, float32 [B, C, H, W] each."""
        inputs = images_to_input(images_BSS, int(self.vae.config["in_channels"])).to(self.device, self.vae.dtype)
        found = self.vae.encode(laid_out(inputs)).latent_dist
        shift = self.vae.config.get("shift_factor") or 0.0
        scale = float(self.vae.config["scaling_factor"])
        return (found.mean.float() - shift) * scale, found.std.float() * scale

    def pixels_of(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """Grey images of scaled latents, float32 [B, S, S], about [0, 1] but neither cut nor checked."""
        shift = self.vae.config.get("shift_factor") or 0.0
        unscaled = latents_BCHW / float(self.vae.config["scaling_factor"]) + shift
        decoded: torch.Tensor = self.vae.decode(laid_out(unscaled.to(self.vae.dtype))).sample
        return decoded.float().mean(1) / 2 + 0.5


def vae_factor(vae: Any) -> int:
    """Pixels per latent, along one side."""
    return int(2 ** (len(vae.config["block_out_channels"]) - 1))


def layout(device: str | torch.device) -> torch.memory_format:
    """How networks and their inputs lie in memory: channels last on a GPU.

    On a CPU the backward pass of group normalisation takes 20 to 40 times as long with channels last (torch 2.13,
    bfloat16), and two thirds of an autoencoder's step.
    """
    return torch.channels_last if torch.device(device).type == "cuda" else torch.contiguous_format


def laid_out(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as its device's networks want it."""
    return tensor.contiguous(memory_format=layout(tensor.device))


def images_to_input(images_BSS: npt.NDArray[np.uint8], channels: int) -> torch.Tensor:
    """Grey levels 0..255 as float32 [B, channels, S, S] in [-1, 1]; the grey channel is repeated."""
    inputs = torch.from_numpy(np.ascontiguousarray(images_BSS)).unsqueeze(1).float() / 127.5 - 1
    return inputs.expand(-1, channels, -1, -1)


def autocast(device: str | torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Mixed precision on that device; float32 switches it off."""
    kind = torch.device(device).type
    dtype = torch.float16 if precision == "float16" else torch.bfloat16
    return torch.autocast(kind, dtype, enabled=precision != "float32")
