"""Configuration of `jobs/synthesize.py`: one frozen dataclass, a docstring under each field (see raymedlt/config.py).

The defaults are for a CPU and small images; `configs/roentgen_v2.yaml` holds a recipe for a large generator.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal

from raymedlt.config import refuse_credentials, require
from raymedlt.cpus import cpus
from raymedlt.images.config import DataConfig, ImageLabelsConfig, ImagesConfig, PhantomConfig, SplitConfig
from raymedlt.synthesis.plan import PlanSettings
from raymedlt.synthesis.settings import AutoencoderSettings, GateSettings, LearningSettings, SamplerSettings, SmallSizes


@dataclass(frozen=True, kw_only=True)
class RealClassifierConfig:
    """The classifier that says whether a drawn image shows its labels. It has seen real images only."""

    path: str | None = None
    """Finished run folder of jobs/classify.py on the same images and splits, without synthetic images. Default: one is
    trained first, in the folder `classifier` of the output."""
    epochs: int = 12
    """Of that training."""
    rate: float = 4e-3
    """Its learning rate."""
    backbone: str = "test_resnet"
    """Its backbone: any timm model with feature maps. The default is for small images."""
    weights: str | None = None
    """Start of its backbone, as model.weights of jobs/classify.py."""

    def __post_init__(self) -> None:
        refuse_credentials("classifier.path", self.path)
        require(self.epochs >= 1, "classifier.epochs", self.epochs, "at least 1")
        require(self.rate > 0, "classifier.rate", self.rate, "a positive number")


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """The diffusion model that draws."""

    path: str | None = None
    """Folder, URI or hub name of a generator in diffusers' Stable Diffusion layout, with safetensors weights. Default:
    a small one is trained from scratch on the training images."""
    adapters: str | None = None
    """Folder `adapters` of an earlier run with the same generator.path: what was learnt there is used as it is, and
    nothing is learnt."""
    small: SmallSizes = field(default_factory=SmallSizes)
    """Sizes of the small generator, where generator.path is not given."""
    autoencoder: AutoencoderSettings = field(default_factory=AutoencoderSettings)
    """Training of its autoencoder."""

    def __post_init__(self) -> None:
        refuse_credentials("generator.path", self.path)
        refuse_credentials("generator.adapters", self.adapters)
        require(
            self.adapters is None or self.path is not None,
            "generator.adapters",
            self.adapters,
            "nothing, or adapters beside generator.path, the generator that they were learnt on",
        )


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """Where networks are trained and images drawn."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: GPUs where this machine or the Ray cluster has them."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 arithmetic on a GPU, and on a CPU that has it in hardware; weights stay float32."""
    replicas: int = 1
    """Data-parallel training processes of Ray Train."""
    threads: int = 1
    """CPU threads of each process that draws; a part of the result in its last digits."""

    def __post_init__(self) -> None:
        require(self.replicas >= 1, "machine.replicas", self.replicas, "at least 1")
        require(self.threads >= 1, "machine.threads", self.threads, "at least 1")


@dataclass(frozen=True, kw_only=True)
class SynthesizeConfig:
    """Draw images of rare classes, and keep those that show their labels and copy no patient."""

    images: ImagesConfig = field(default_factory=ImagesConfig)
    """The real images. images.size must be the generator's."""
    phantom: PhantomConfig = field(default_factory=lambda: PhantomConfig(images=12_000, test_images=500))
    """The phantom, where no images are given. So many that the gate has validation images of its rare classes."""
    labels: ImageLabelsConfig = field(default_factory=ImageLabelsConfig)
    """The label table."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """Generators learn from training patients; the gate is tuned on validation patients; test patients are not used."""
    classifier: RealClassifierConfig = field(default_factory=RealClassifierConfig)
    """The gate's classifier."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    """The diffusion model."""
    learning: LearningSettings = field(default_factory=LearningSettings)
    """What it learns from the real images."""
    plan: PlanSettings = field(default_factory=lambda: PlanSettings(overdraw=2.0))
    """What to draw. Twice what is missing, since the gate refuses some."""
    sampling: SamplerSettings = field(default_factory=SamplerSettings)
    """How it is drawn."""
    gate: GateSettings = field(default_factory=GateSettings)
    """What is accepted."""
    machine: MachineConfig = field(default_factory=MachineConfig)
    """Devices, precision, threads."""
    seed: int = 0
    """Seed of every random choice."""
    output: str = "runs/synthesize"
    """Folder or URI (s3://, gs://, abfs://) that receives generator, plan, images and page. The same command again
    resumes."""
    workers: int | None = None
    """Processes that prepare, draw and judge side by side. Default: one per CPU. Results do not depend on it."""
    ray_from: int = 2_000
    """From this many images on, Ray's worker processes prepare, draw and judge them; below, this process does. Training
    is under Ray Train with several replicas. Inside a Ray job or with RAY_ADDRESS set, and with 0, all is on Ray."""
    describe: bool = False
    """Print what would be done and what it costs, from a measured step; draw nothing."""
    restart: bool = False
    """Delete this job's earlier results in `output` and begin anew."""
    max_rejected: int | None = None
    """Fail when more rows of the label table than this are rejected. Default: no limit."""

    def __post_init__(self) -> None:
        refuse_credentials("output", self.output)
        require(
            (self.images.path is None) == (self.labels.path is None),
            "images.path" if self.images.path is None else "labels.path",
            self.images.path if self.images.path is None else self.labels.path,
            "images.path and labels.path together, or neither",
        )
        require(
            self.generator.path is not None or self.images.size == self.generator.small.size,
            "images.size",
            self.images.size,
            f"generator.small.size ({self.generator.small.size})",
        )
        require(
            self.generator.path is not None or self.learning.method in ("auto", "full"),
            "learning.method",
            self.learning.method,
            "full: a generator from scratch has nothing frozen to build on",
        )
        for key, batch in (
            ("learning", self.learning.batch),
            ("generator.autoencoder", self.generator.autoencoder.batch),
        ):
            require(batch % self.machine.replicas == 0, f"{key}.batch", batch, "a multiple of machine.replicas")
        require(self.workers is None or self.workers >= 1, "workers", self.workers, "at least 1")
        require(self.ray_from >= 0, "ray_from", self.ray_from, "0 or more")
        require(self.max_rejected is None or self.max_rejected >= 0, "max_rejected", self.max_rejected, "0 or more")


def data_of(config: SynthesizeConfig) -> DataConfig:
    """The part that decides about the real images."""
    on_ray = bool(os.environ.get("RAY_ADDRESS"))
    return DataConfig(
        images=config.images, phantom=config.phantom, labels=config.labels, split=config.split, seed=config.seed,
        workers=config.workers or cpus(), ray_from=0 if on_ray else config.ray_from,
        max_rejected=config.max_rejected,
    )  # fmt: skip
