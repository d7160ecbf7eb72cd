"""Drawing images: a pure function of a row, for one batch shape.

A row is a prompt, a label set and a seed. Its image's bits depend on it, the generator, the settings (the batch shape
among them), the number of threads and the type of device; not on the rows beside it, nor on its place among them.
Batches therefore have one shape: what is missing is filled up with a fixed dummy row and cut off afterwards. Noise
comes from a generator per row, on the CPU.

Shape suffixes: B rows, L tokens of the text, D width, C channels, H and W of the latents, S pixels.

Source: Lu et al. 2022 (arXiv 2211.01095) for DPM-Solver++; Ho and Salimans 2022 (arXiv 2207.12598) for guidance.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from PIL import Image

from raymedlt.errors import InputError, RaymedltError
from raymedlt.synthesis.broken import check_image
from raymedlt.synthesis.generator import Generator, autocast, laid_out
from raymedlt.synthesis.settings import Precision, SamplerSettings
from raymedlt.synthesis.tokens import guided

_DUMMY_SEED = 0


class Drawn(NamedTuple):
    """What `draw` gives."""

    images_BSS: npt.NDArray[np.uint8]
    reasons: list[str]
    """For each image "" or why it can't be used: "not finite" (then it is black), or what `check_image` says."""


def prepare_sampling(generator: Generator, settings: SamplerSettings) -> Generator:
    """The generator with its U-Net compiled, if the settings say so, and on a GPU kernels that repeat to the bit; call
    it once per process."""
    torch.backends.cudnn.deterministic = True
    if settings.compile:
        compiled: Any = torch.compile(generator.unet)
        generator.unet = compiled
    return generator


def prompt_embeddings(
    generator: Generator, prompts: Sequence[str], *, batch: int = 16, precision: Precision = "float32"
) -> dict[str, torch.Tensor]:
    """The text encoder's output [L, D] of each distinct prompt, on the generator's device.

    Prompts for a generator with a textual inversion go through `generator.worded` first.
    """
    distinct = list(dict.fromkeys(prompts))
    found: dict[str, torch.Tensor] = {}
    with torch.inference_mode(), autocast(generator.device, precision):
        for start in range(0, len(distinct), batch):
            part = distinct[start : start + batch]
            ids = generator.token_ids([*part, *[""] * (batch - len(part))]).to(generator.device)
            texts = generator.text_encoder(ids).last_hidden_state.float()
            # clones: a row alone would keep the memory of the whole batch
            found |= {prompt: row.clone() for prompt, row in zip(part, texts.unbind(), strict=False)}
    return found


def draw(
    generator: Generator,
    embeddings_BLD: torch.Tensor,
    empty_1LD: torch.Tensor,
    seeds: Sequence[int],
    settings: SamplerSettings,
    label_sets: Sequence[Sequence[str]] | None = None,
) -> Drawn:
    """One image per row.

    Args:
        embeddings_BLD: from `prompt_embeddings`; B up to settings.batch.
        empty_1LD: that of "".
        seeds: of the rows' noise, 0 to 2^63 - 1.
        label_sets: of the rows; needed for tokens per class alone.

    Returns:
        Grey images [B, S, S] and what is wrong with them.

    Raises:
        InputError: no rows, more than the batch takes, or lists of different lengths.
        RaymedltError: out of memory; names the batch shape to use.
    """
    count, batch = len(seeds), settings.batch
    sets = [()] * count if label_sets is None else list(label_sets)
    if not 0 < count <= batch or len(embeddings_BLD) != count or len(sets) != count:
        raise InputError(
            f"{count} seeds, {len(embeddings_BLD)} embeddings, {len(sets)} label sets for a batch of {batch}",
            f"1 to {batch} of each",
        )
    fill = batch - count
    texts_BLD = torch.cat([embeddings_BLD, empty_1LD.expand(fill, -1, -1)])
    all_seeds = [*seeds, *[_DUMMY_SEED] * fill]
    with torch.inference_mode(), _memory(generator, settings):
        cond_BLD, uncond_BLD = _branches(generator, texts_BLD, empty_1LD, [*sets, *[()] * fill])
        noise = [torch.randn(generator.latent_shape, generator=torch.Generator().manual_seed(s)) for s in all_seeds]
        latents = denoise(generator, torch.stack(noise), cond_BLD, uncond_BLD, settings)
        with autocast(generator.device, settings.settled):
            pixels_BSS = generator.pixels_of(latents)[:count].cpu()
    return _checked(pixels_BSS)


def denoise(
    generator: Generator,
    noise_BCHW: torch.Tensor,
    cond_BLD: torch.Tensor,
    uncond_BLD: torch.Tensor,
    settings: SamplerSettings,
) -> torch.Tensor:
    """From noise to latents, float32 [B, C, H, W]; guidance runs both branches in one batch."""
    solver = _solver(generator, settings)
    solver.set_timesteps(settings.steps, device=generator.device)
    latents: torch.Tensor = noise_BCHW.to(generator.device) * solver.init_noise_sigma
    twofold = settings.guidance != 1
    texts = torch.cat([uncond_BLD, cond_BLD]) if twofold else cond_BLD
    texts = texts.to(generator.unet.dtype)
    for timestep in solver.timesteps:
        inputs = solver.scale_model_input(latents, timestep)
        inputs = torch.cat([inputs, inputs]) if twofold else inputs
        inputs = laid_out(inputs.to(generator.unet.dtype))
        with autocast(generator.device, settings.settled):
            said = generator.unet(inputs, timestep, texts).sample
        said = said.float()
        if twofold:
            uncond, cond = said.chunk(2)
            said = guided(uncond, cond, settings.guidance)
        latents = solver.step(said, timestep, latents, return_dict=False)[0]
    return latents


def encode_png(image_SS: npt.NDArray[np.uint8]) -> bytes:
    """8-bit grey PNG without metadata; the same bytes for the same pixels (for one version of Pillow)."""
    file = io.BytesIO()
    Image.fromarray(image_SS).save(file, "PNG", compress_level=6, optimize=False)
    return file.getvalue()


def _branches(
    generator: Generator, texts_BLD: torch.Tensor, empty_1LD: torch.Tensor, label_sets: Sequence[Sequence[str]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The prompts' branch and the empty one, with the same learnt tokens in both."""
    if generator.tokens is None:
        return texts_BLD, empty_1LD.expand_as(texts_BLD)
    mixture_BK = generator.tokens.mixture(label_sets).to(generator.device)
    return generator.tokens(texts_BLD, mixture_BK), generator.tokens(empty_1LD, mixture_BK)


def _solver(generator: Generator, settings: SamplerSettings) -> Any:
    kind = DPMSolverMultistepScheduler if settings.scheduler == "dpmsolver++" else DDIMScheduler
    known = kind._get_init_keys(kind)
    own = {key: value for key, value in generator.scheduler_config.items() if key in known}
    if settings.scheduler == "dpmsolver++":
        own |= {"algorithm_type": "dpmsolver++", "solver_order": 2, "final_sigmas_type": "zero"}
    else:
        own |= {"clip_sample": False, "set_alpha_to_one": False}
    return kind.from_config(own)


def _checked(pixels_BSS: torch.Tensor) -> Drawn:
    finite = torch.isfinite(pixels_BSS).flatten(1).all(1)
    safe = torch.where(finite[:, None, None], pixels_BSS, torch.zeros(()))
    images = (safe.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    reasons = [
        check_image(image) if good else "not finite" for image, good in zip(images, finite.tolist(), strict=True)
    ]
    return Drawn(images, reasons)


@contextmanager
def _memory(generator: Generator, settings: SamplerSettings) -> Iterator[None]:
    """Out of memory becomes an error that says which batch to use: never a smaller batch behind the user's back."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        cpu = "allocate memory" in str(error) or "not enough memory" in str(error)
        if not (cpu or isinstance(error, torch.OutOfMemoryError | MemoryError)):
            raise
        size = generator.size
        raise RaymedltError(
            f"out of memory at batch shape {settings.batch} x {size} x {size}",
            "a batch that fits",
            f"use --sampling.batch {max(1, settings.batch // 2)} with a new output folder (the batch shape is part of "
            "the result); give it this folder's generator and classifier as --generator.path and --classifier.path",
        ) from None
