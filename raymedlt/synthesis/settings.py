"""Sections of the job's configuration that say how networks learn, draw and judge. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raymedlt.config import require

Method = Literal["tokens", "textual_inversion", "lora", "full"]
Precision = Literal["float32", "bfloat16", "float16"]

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""Layers of the U-Net's attention, by the end of their names."""
_NORM_GROUPS = 16


@dataclass(frozen=True, kw_only=True)
class SmallSizes:
    """Widths and depths of the small model."""

    size: int = 64
    """Pixels per side: a power of two, at least 32."""
    vae_channels: tuple[int, ...] = (16, 32, 64)
    """Of the autoencoder's blocks, multiples of 16; each but the last halves: three give 4 pixels to a latent."""
    vae_layers: int = 1
    """Residual layers per block."""
    latent_channels: int = 8
    """Of the latents: with 8, one number for two pixels. With 4, ribs and lines are lost at 64 pixels."""
    unet_channels: tuple[int, ...] = (64, 128, 192)
    """Of the U-Net's blocks; each but the last halves. Multiples of head_width and of 16."""
    unet_plain_blocks: int = 1
    """So many of the first blocks have no attention: it is dearest where latents are finest."""
    unet_layers: int = 1
    """Residual layers per block."""
    head_width: int = 32
    """Width of an attention head."""
    text_width: int = 128
    """Of the text encoder and of cross attention."""
    text_layers: int = 2
    """Of the text encoder."""
    prompt_tokens: int = 64
    """Longest prompt, in words, with a start and an end; longer ones are cut."""
    prediction: Literal["epsilon", "v_prediction"] = "v_prediction"
    """What the U-Net says: the noise, or v."""

    def __post_init__(self) -> None:
        power = self.size >= 32 and self.size & (self.size - 1) == 0
        require(power, "generator.small.size", self.size, "a power of two, at least 32")
        narrow = [each for each in self.vae_channels if each % _NORM_GROUPS]
        require(not narrow, "generator.small.vae_channels", self.vae_channels, f"multiples of {_NORM_GROUPS}")
        require(
            0 <= self.unet_plain_blocks < len(self.unet_channels),
            "generator.small.unet_plain_blocks", self.unet_plain_blocks, "fewer than blocks: the rest hears the text",
        )  # fmt: skip
        odd = [each for each in (*self.unet_channels, self.text_width) if each % self.head_width]
        require(
            not odd, "generator.small.unet_channels", self.unet_channels, f"multiples of head_width ({self.head_width})"
        )
        require(self.prompt_tokens >= 4, "generator.small.prompt_tokens", self.prompt_tokens, "at least 4")


@dataclass(frozen=True, kw_only=True)
class AutoencoderSettings:
    """How the small generator's autoencoder is trained. The parts of its loss count next to 1 for absolute error."""

    steps: int = 2400
    """Optimizer steps."""
    batch: int = 8
    """Images per step."""
    rate: float = 3e-3
    """Learning rate (AdamW), after a linear rise and along a cosine."""
    edges: float = 1.0
    """Weight of the error of the edges."""
    decoder_steps: int = 1500
    """Steps after these in which the decoder learns alone, with `perceptual`, at a third of the rate; 0: none."""
    perceptual: float = 1.0
    """Weight of the distance in the first maps of EfficientNet-Lite0 (ImageNet weights) in the decoder's steps."""
    kl: float = 1e-3
    """Weight of the Kullback-Leibler divergence, per latent number."""
    edge_scales: int = 3
    """Edges of the image itself, of half its size, of a quarter."""

    @property
    def all_steps(self) -> int:
        """With those of the decoder alone."""
        return self.steps + self.decoder_steps

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "edge_scales"):
            require(getattr(self, name) >= 1, f"generator.autoencoder.{name}", getattr(self, name), "at least 1")
        require(self.rate > 0, "generator.autoencoder.rate", self.rate, "a positive number")
        for name in ("edges", "decoder_steps", "perceptual", "kl"):
            require(getattr(self, name) >= 0, f"generator.autoencoder.{name}", getattr(self, name), "0 or more")


@dataclass(frozen=True, kw_only=True)
class LearningSettings:
    """What the generator learns, and from which loss."""

    method: Literal["auto"] | Method = "auto"
    """tokens: vectors behind the text encoder (TRCGL-Net's learnable prompt); textual_inversion: in front of it; lora:
    matrices in the U-Net; full: all weights. auto: tokens on top of generator.path, full for the small generator."""
    steps: int = 4000
    """Optimizer steps."""
    batch: int = 32
    """Images per step, over all replicas."""
    rate: float | None = None
    """Learning rate (AdamW), after a linear rise and along a cosine. Default: 1e-2 for tokens and textual inversion,
    1e-4 for LoRA, 1e-5 for a given generator in full, 1e-3 for the small one from scratch."""
    ema: float = 0.999
    """Decay of the moving average of what is learnt, which is what is kept."""
    wordings: int = 4
    """Wordings of each image's prompt; a step draws one."""
    repeat_threshold: float = 0.3
    """Images of a class below this share of all labels are drawn more often, up to ten times; 0: never."""
    shared: int = 8
    """Learnt vectors for all prompts: m (tokens, textual_inversion)."""
    per_class: int = 0
    """Learnt vectors per class (tokens, textual_inversion)."""
    class_names: tuple[str, ...] = ()
    """Classes that get vectors of their own. Default: all, where per_class is above 0."""
    lora_rank: int = 8
    """Of the LoRA's matrices."""
    lora_alpha: float = 8.0
    """The product of the two matrices counts alpha / rank times."""
    lora_targets: tuple[str, ...] = LORA_TARGETS
    """Layers of the U-Net with LoRA matrices, by the end of their names."""
    train_text_encoder: bool = False
    """The text encoder learns as well (full); it always does in the small generator."""
    min_snr_gamma: float | None = 5.0
    """Weights of the timesteps (Hang et al., ICCV 2023); null for the plain loss."""
    drop_text: float = 0.1
    """Share of rows whose text is left out, so that guidance has something to compare with."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: for large models on a GPU."""
    checkpoint_seconds: float = 120.0
    """At least so long between two checkpoints."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "wordings", "lora_rank"):
            require(getattr(self, name) >= 1, f"learning.{name}", getattr(self, name), "at least 1")
        require(self.rate is None or self.rate > 0, "learning.rate", self.rate, "a positive number")
        require(0 <= self.ema < 1, "learning.ema", self.ema, "a decay in [0, 1)")
        require(0 <= self.repeat_threshold < 1, "learning.repeat_threshold", self.repeat_threshold, "a share in [0, 1)")
        needs = self.method in ("tokens", "textual_inversion")
        require(
            not needs or self.shared + self.per_class > 0,
            "learning.shared", self.shared, "at least one learnt vector, shared or per class",
        )  # fmt: skip
        require(0 <= self.drop_text < 1, "learning.drop_text", self.drop_text, "a share in [0, 1)")
        gamma = self.min_snr_gamma
        require(gamma is None or gamma > 0, "learning.min_snr_gamma", gamma, "above 0, or null")


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """How images are drawn; all of it is part of the result."""

    batch: int = 16
    """Rows that are computed together: the batch shape."""
    steps: int = 20
    """Denoising steps."""
    guidance: float = 3.0
    """Scale of the text; 1 is the plain conditional model, at half the cost."""
    scheduler: Literal["dpmsolver++", "ddim"] = "dpmsolver++"
    """Solver of the denoising."""
    precision: Literal["auto"] | Precision = "auto"
    """Of the networks; the steps between them are float32. auto: the run's (machine.precision)."""
    compile: bool = False
    """torch.compile for the U-Net: minutes at the start, faster steps on a GPU."""
    shard_batches: int = 8
    """Batches per shard: the unit that is written, resumed and retried."""

    @property
    def settled(self) -> Precision:
        """The precision; float32 where nothing has settled "auto" yet."""
        return "float32" if self.precision == "auto" else self.precision

    def __post_init__(self) -> None:
        require(self.batch >= 1, "sampling.batch", self.batch, "at least 1")
        require(self.steps >= 1, "sampling.steps", self.steps, "at least 1")
        require(self.guidance >= 1, "sampling.guidance", self.guidance, "at least 1")
        require(self.shard_batches >= 1, "sampling.shard_batches", self.shard_batches, "at least 1")


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """How strict the gate is."""

    precision: float = 0.9
    """Share of the images above a class's threshold that really show it, as far as validation tells."""
    prior: float = 0.5
    """Share of the images drawn for a class that is taken to show it before the gate, at most: where the drawn images
    say that it is smaller, the threshold rises."""
    missed: float = 0.1
    """Share of the real images of a class that its threshold as a companion of the target may miss."""
    stray: float = 0.02
    """Share of real images that may be refused for showing a class that their labels don't name."""
    least_positives: int = 5
    """Validation images that a class needs to be a target."""
    false_copies: float = 0.02
    """Share of held-out real images that may be taken for copies of training images."""
    least_caught: float = 0.99
    """Share of planted copies that must be caught, or there is no gate."""
    fingerprint: int = 128
    """Length of an image's fingerprint."""
    false_outliers: float = 0.01
    """Share of held-out real images that may be taken for unlike real ones."""
    neighbours: int = 5
    """The distance to real images is that to the so-many-th nearest."""
    features: Literal["lite0", "classifier"] = "lite0"
    """Encoder of that distance: EfficientNet-Lite0 (ImageNet weights), or the classifier's backbone."""

    def __post_init__(self) -> None:
        for name in ("precision", "prior", "least_caught"):
            require(0 < getattr(self, name) < 1, f"gate.{name}", getattr(self, name), "a share in (0, 1)")
        for name in ("missed", "stray"):
            require(0 <= getattr(self, name) < 1, f"gate.{name}", getattr(self, name), "a share in [0, 1)")
        for name in ("false_copies", "false_outliers"):
            require(0 < getattr(self, name) <= 0.2, f"gate.{name}", getattr(self, name), "a share in (0, 0.2]")
        for name in ("least_positives", "fingerprint", "neighbours"):
            require(getattr(self, name) >= 1, f"gate.{name}", getattr(self, name), "at least 1")
