"""Training of a generator on images with prompts: learnable tokens, textual inversion, LoRA, or all weights.

    tokens, textual_inversion, lora    the generator stays as it is; what is learnt sits on top (adapters.py)
    full                               the U-Net learns, and the text encoder too if asked: for a small model from
                                       scratch (small.py)

Everything random about a step (rows, noise, timesteps, wording, which texts are dropped) follows from the seed and the
step's number. Images are encoded once; their latents stay in memory.

Shape suffixes: N images, B rows of a step, C channels, H and W of the latents, L tokens, K classes and one for none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import nn

from raymedlt.checkpoint import Checkpoints
from raymedlt.errors import InputError
from raymedlt.seeds import generator as keyed
from raymedlt.seeds import keyed_seed
from raymedlt.synthesis.adapters import add_inversion, add_lora, add_tokens
from raymedlt.synthesis.generator import Generator, autocast
from raymedlt.synthesis.loop import Batch, LoopSettings, Said, fit
from raymedlt.synthesis.losses import Schedule, denoising_loss
from raymedlt.synthesis.settings import LearningSettings, Precision


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """Images as latents, beside their texts."""

    mean_NCHW: torch.Tensor
    """Posterior means of the scaled latents, float32."""
    std_NCHW: torch.Tensor
    prompts: Sequence[Sequence[str]]
    """Per image its wordings; a step draws one of them."""
    label_sets: Sequence[Sequence[str]]
    weights_N: npt.NDArray[np.float64] | None = None
    """How often each image is drawn, relative to the others; None: all of them once per epoch."""

    def __post_init__(self) -> None:
        lengths = {len(self.mean_NCHW), len(self.std_NCHW), len(self.prompts), len(self.label_sets)}
        if len(lengths) != 1 or not len(self.prompts) or not all(self.prompts):
            raise InputError(
                f"training rows of lengths {sorted(lengths)}", "one length above 0, and at least one prompt per image"
            )


def encode_images(
    generator: Generator, images_NSS: npt.NDArray[np.uint8], *, batch: int = 32, precision: Precision = "float32"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Posterior mean and deviation of the scaled latents of all images, float32 [N, C, H, W] on the CPU.

    Batches have one shape (the last one is filled up), so that an image's latents don't depend on how many there are.

    Memory: 8 bytes per latent number; 64 px: 8 kB an image, 512 px: 128 kB.

    Raises:
        InputError: images of another size than the generator's.
    """
    if images_NSS.shape[1:] != (generator.size, generator.size):
        raise InputError(
            f"images of {list(images_NSS.shape[1:])} pixels",
            f"{generator.size} x {generator.size}, the generator's size",
        )
    means, deviations = [], []
    with torch.inference_mode(), autocast(generator.device, precision):
        for start in range(0, len(images_NSS), batch):
            part = images_NSS[start : start + batch]
            filled = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
            mean, std = generator.latents_of(filled)
            means.append(mean[: len(part)].cpu())
            deviations.append(std[: len(part)].cpu())
    return torch.cat(means), torch.cat(deviations)


class Denoiser(nn.Module):
    """The parts that take part in a training step, from token ids and latents to the loss."""

    def __init__(self, generator: Generator, settings: LearningSettings) -> None:
        super().__init__()
        self.unet, self.text_encoder, self.tokens = generator.unet, generator.text_encoder, generator.tokens
        self.schedule = Schedule.of(generator.scheduler_config)
        self.gamma = settings.min_snr_gamma

    def embeddings(self, ids_BL: torch.Tensor, mixture_BK: torch.Tensor) -> torch.Tensor:
        """What the U-Net's cross attention sees, [B, L + M, D]."""
        learns = any(parameter.requires_grad for parameter in self.text_encoder.parameters())
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            texts_BLD: torch.Tensor = self.text_encoder(ids_BL).last_hidden_state
        return texts_BLD if self.tokens is None else self.tokens(texts_BLD, mixture_BK)

    def forward(
        self,
        latents_BCHW: torch.Tensor,
        noise_BCHW: torch.Tensor,
        timesteps_B: torch.Tensor,
        ids_BL: torch.Tensor,
        mixture_BK: torch.Tensor,
    ) -> torch.Tensor:
        """Mean weighted loss of the rows."""
        return self.losses(latents_BCHW, noise_BCHW, timesteps_B, ids_BL, mixture_BK, self.gamma).mean()

    def losses(
        self,
        latents_BCHW: torch.Tensor,
        noise_BCHW: torch.Tensor,
        timesteps_B: torch.Tensor,
        ids_BL: torch.Tensor,
        mixture_BK: torch.Tensor,
        gamma: float | None,
    ) -> torch.Tensor:
        """Loss of each row, [B]."""

        def predict(noisy: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
            said: torch.Tensor = self.unet(noisy, timesteps, embeddings).sample
            return said

        return denoising_loss(
            predict, self.schedule, latents_BCHW, self.embeddings(ids_BL, mixture_BK), noise_BCHW, timesteps_B,
            min_snr_gamma=gamma,
        )  # fmt: skip


def prepare(generator: Generator, settings: LearningSettings, seed: int) -> list[nn.Parameter]:
    """Put on the generator what the method learns, and switch gradients on there and nowhere else.

    Returns:
        The parameters that learn.
    """
    generator.freeze()
    own = {"shared": settings.shared, "per_class": settings.per_class, "class_names": settings.class_names}
    learning: list[nn.Parameter] = []
    if settings.method == "tokens":
        learning = list(add_tokens(generator, seed=seed, **own).parameters())  # type: ignore[arg-type]
    elif settings.method == "textual_inversion":
        learning = [add_inversion(generator, seed=seed, **own).learnt_ND]  # type: ignore[arg-type]
    elif settings.method == "lora":
        add_lora(
            generator, rank=settings.lora_rank, alpha=settings.lora_alpha, targets=settings.lora_targets, seed=seed
        )
        learning = [each for name, each in generator.unet.named_parameters() if "lora_" in name]
    else:
        generator.base_hash = ""  # it is no longer the one that was loaded
        learning = list(generator.unet.parameters())
        if settings.train_text_encoder:
            learning += list(generator.text_encoder.parameters())
    for parameter in learning:
        parameter.requires_grad_(True)
    if settings.gradient_checkpointing:
        generator.unet.enable_gradient_checkpointing()
    generator.unet.train()  # nothing drops out at the models' settings; checkpointing works in this mode alone
    return learning


def learn(
    generator: Generator,
    rows: TrainingRows,
    settings: LearningSettings,
    loop: LoopSettings,
    checkpoints: Checkpoints,
    said: Said = lambda entry: None,
) -> list[dict[str, Any]]:
    """Train a generator, going on from the last checkpoint; it ends with the moving average of what was learnt.

    Args:
        generator: as it was loaded (or built), with nothing on top, the same on every replica.
        checkpoints: of this training alone.

    Returns:
        The loop's reports.

    Raises:
        InputError, RaymedltError: see `loop.fit`.
    """
    generator.to(loop.device)
    prepare(generator, settings, loop.seed)
    denoiser = Denoiser(generator, settings)

    def batch_of(step: int) -> Batch:
        return training_batch(generator, rows, settings, denoiser.schedule.timesteps, loop.batch, loop.seed, step)

    if loop.device == "cpu":  # the backward pass of fused attention is slow there: steps take 1.3 to 1.6 times as long
        generator.unet.set_attn_processor(AttnProcessor())
        generator.text_encoder.set_attn_implementation("eager")
    history = fit(denoiser, batch_of, loop, checkpoints, said)
    if loop.device == "cpu":
        generator.unet.set_attn_processor(AttnProcessor2_0())  # type: ignore[no-untyped-call]
        generator.text_encoder.set_attn_implementation("sdpa")
    if settings.gradient_checkpointing:
        generator.unet.disable_gradient_checkpointing()
    generator.freeze()
    return history


def training_batch(
    generator: Generator,
    rows: TrainingRows,
    settings: LearningSettings,
    timesteps: int,
    batch: int,
    seed: int,
    step: int,
) -> Batch:
    """What `Denoiser.forward` sees at a step: latents, noise, timesteps, token ids, class shares."""
    chosen_B = rows_of_step(len(rows.prompts), rows.weights_N, batch, seed, step)
    random = torch.Generator().manual_seed(keyed_seed(seed, "denoising", step))
    shape = (batch, *rows.mean_NCHW.shape[1:])
    latents = rows.mean_NCHW[chosen_B] + rows.std_NCHW[chosen_B] * torch.randn(shape, generator=random)
    noise = torch.randn(shape, generator=random)
    times = torch.randint(timesteps, (batch,), generator=random)
    pick_B, drop_B = torch.rand(2, batch, generator=random).tolist()
    label_sets = [rows.label_sets[row] for row in chosen_B]
    texts = []
    for row, label_set, pick, drop in zip(chosen_B, label_sets, pick_B, drop_B, strict=True):
        wordings = rows.prompts[row]
        prompt = generator.worded(wordings[int(pick * len(wordings))], label_set)
        texts.append("" if drop < settings.drop_text else prompt)
    return latents, noise, times, generator.token_ids(texts), _mixture(generator, label_sets)


def rows_of_step(
    count: int, weights_N: npt.NDArray[np.float64] | None, batch: int, seed: int, step: int
) -> npt.NDArray[np.int64]:
    """The rows of a step [batch]: all rows once per epoch in keyed order, or drawn by their weights."""
    if weights_N is not None:
        shares = weights_N / weights_N.sum()
        return keyed(seed, "rows", step).choice(count, batch, p=shares).astype(np.int64)
    first = step * batch
    epochs = range(first // count, (first + batch - 1) // count + 1)
    order = np.concatenate([keyed(seed, "epoch", epoch).permutation(count) for epoch in epochs])
    start = first - epochs[0] * count
    return np.asarray(order[start : start + batch], np.int64)


def held_out_losses(
    generator: Generator,
    rows: TrainingRows,
    *,
    seed: int,
    timesteps: int = 8,
    batch: int = 16,
    precision: Precision = "float32",
    min_snr_gamma: float | None = None,
) -> npt.NDArray[np.float64]:
    """E || eps - eps_theta(z_t, t, c) ||^2 per image [N], over keyed noise at `timesteps` stratified timesteps.

    Noise and timesteps are those of the row's number and the seed, so that two generators see the same: their
    difference per image is what training has changed. The first wording counts; latents are posterior means.

    Args:
        min_snr_gamma: None for the plain squared error, in which the formula is written.
    """
    settings = LearningSettings(method="full", min_snr_gamma=min_snr_gamma)
    denoiser = Denoiser(generator, settings)
    count, device = len(rows.prompts), generator.device
    texts = [
        generator.worded(wordings[0], names) for wordings, names in zip(rows.prompts, rows.label_sets, strict=True)
    ]
    losses = np.zeros((timesteps, count))
    with torch.inference_mode(), autocast(device, precision):
        for start in range(0, count, batch):
            # the last batch is filled up with its last row: one shape for all
            part = [min(row, count - 1) for row in range(start, start + batch)]
            kept = min(batch, count - start)
            drawn = [_held_out_noise(row, rows.mean_NCHW.shape[1:], timesteps, denoiser.schedule, seed) for row in part]
            noise, times = torch.stack([each for each, _ in drawn], 1), torch.stack([each for _, each in drawn], 1)
            ids = generator.token_ids([texts[row] for row in part]).to(device)
            mixture = _mixture(generator, [rows.label_sets[row] for row in part]).to(device)
            for number in range(timesteps):
                found = denoiser.losses(
                    rows.mean_NCHW[part].to(device), noise[number].to(device), times[number].to(device),
                    ids, mixture, min_snr_gamma,
                )  # fmt: skip
                losses[number, start : start + kept] = found[:kept].double().cpu().numpy()
    return np.asarray(losses.mean(0), np.float64)


def _held_out_noise(
    row: int, shape: Sequence[int], draws: int, schedule: Schedule, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A row's noise [draws, C, H, W] and its timesteps [draws], one in each stratum of the schedule."""
    random = torch.Generator().manual_seed(keyed_seed(seed, "held out", row))
    noise = torch.randn(draws, *shape, generator=random)
    strata = (torch.arange(draws) + torch.rand(draws, generator=random)) / draws
    return noise, (strata * schedule.timesteps).long().clamp_max(schedule.timesteps - 1)


def _mixture(generator: Generator, label_sets: Sequence[Sequence[str]]) -> torch.Tensor:
    if generator.tokens is None:
        return torch.ones(len(label_sets), 1)
    return generator.tokens.mixture(label_sets)
